"""The optimizers of `plainfit.ladder.scratch` against torch's, and whole trainings on it."""

import sys

import pytest
import torch
from torch import optim

from plainfit.ladder import scratch

SGD_OPTIONS = [
    {"lr": 0.1},
    {"lr": 0.1, "momentum": 0.9},
    {"lr": 0.1, "momentum": 0.9, "dampening": 0.3},
    {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    {"lr": 0.1, "weight_decay": 0.1},
    {},
]
ADAMW_OPTIONS = [
    {},
    {"lr": 0.01, "betas": (0.5, 0.9), "eps": 1e-3},
    {"lr": 0.01, "weight_decay": 0.0},
    {"lr": 0.01, "weight_decay": 0.3},
    {"betas": (0.0, 0.0)},
]
OPTIONS = [*(("SGD", o) for o in SGD_OPTIONS), *(("AdamW", o) for o in ADAMW_OPTIONS)]
BOTH = (scratch.optim, optim)


def parameters(seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=g).requires_grad_() for shape in ((5, 3), (7,), ())]


def give_gradients(parameters, step):
    g = torch.Generator().manual_seed(100 + step)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=g) / (1 + step % 7)


def assert_same(ours, theirs):
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine, other)


def take_steps(name, options, groups=lambda ps: ps, steps=50):
    """Train both sides on the same gradients, comparing at each step; return the optimizers."""
    sides = [parameters(), parameters()]
    opts = [
        getattr(module, name)(groups(side), **options)
        for module, side in zip(BOTH, sides, strict=True)
    ]
    before = [p.detach().clone() for p in sides[0]]
    for step in range(steps):
        for side, opt in zip(sides, opts, strict=True):
            give_gradients(side, step)
            opt.step()
        assert_same(*sides)
    assert all(not torch.equal(p, old) for p, old in zip(sides[0], before, strict=True))
    return opts


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_50_steps_have_the_same_bits(name, options):
    ours, theirs = take_steps(name, options)
    for mine, other in zip(ours.state.values(), theirs.state.values(), strict=False):
        for key, torchs in (
            ("m", "exp_avg"),
            ("v", "exp_avg_sq" if "m" in mine else "momentum_buffer"),
        ):
            assert (key in mine) == (other.get(torchs) is not None)
            assert key not in mine or torch.equal(mine[key], other[torchs])


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_groups_have_options_of_their_own(name):
    def two_groups(ps):
        return [{"params": ps[:2], "lr": 0.02}, {"params": ps[2:], "weight_decay": 0.2}]

    ours, theirs = take_steps(name, {"lr": 0.05}, two_groups)
    assert [g["lr"] for g in ours.param_groups] == [g["lr"] for g in theirs.param_groups]
    assert [g["lr"] for g in ours.param_groups] == [0.02, 0.05]
    assert [len(g["params"]) for g in ours.param_groups] == [2, 1]


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_a_generator_and_a_learning_rate_changed_between_steps(name):
    sides = [parameters(), parameters()]
    opts = [
        getattr(m, name)((p for p in side), lr=0.1) for m, side in zip(BOTH, sides, strict=True)
    ]
    for step in range(5):
        for side, opt in zip(sides, opts, strict=True):
            opt.param_groups[0]["lr"] = 0.1 / (step + 1)
            give_gradients(side, step)
            opt.step()
        assert_same(*sides)


def test_parameters_without_gradient_stay():
    p, q = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    p.grad = torch.ones(2)
    opt = scratch.optim.AdamW([p, q], lr=0.1)
    opt.step()
    assert p[0] < 1
    assert torch.equal(q, torch.ones(2))
    assert q not in opt.state


@pytest.mark.parametrize("module", BOTH)
def test_zero_grad(module):
    p = torch.ones(2, requires_grad=True)
    opt = module.SGD([p], lr=0.1)
    opt.zero_grad(set_to_none=False)
    assert p.grad is None
    p.grad = torch.ones(2)
    opt.zero_grad(set_to_none=False)
    assert torch.equal(p.grad, torch.zeros(2))
    opt.zero_grad()
    assert p.grad is None


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("SGD", {"lr": -0.1}, r"lr must be at least 0, got -0\.1"),
        ("SGD", {"momentum": -1}, "momentum must be at least 0, got -1"),
        ("SGD", {"weight_decay": -1}, "weight_decay must be at least 0, got -1"),
        ("SGD", {"nesterov": True}, "nesterov needs momentum above 0 .* got momentum 0"),
        (
            "SGD",
            {"nesterov": True, "momentum": 0.9, "dampening": 0.1},
            r"got momentum 0\.9 and dampening 0\.1",
        ),
        ("AdamW", {"lr": -1}, "lr must be at least 0, got -1"),
        ("AdamW", {"eps": -1}, "eps must be at least 0, got -1"),
        ("AdamW", {"weight_decay": -1}, "weight_decay must be at least 0, got -1"),
        (
            "AdamW",
            {"betas": (0.9, 1.0)},
            r"betas must be at least 0 and below 1, got \(0\.9, 1\.0\)",
        ),
    ],
)
def test_errors_of_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(scratch.optim, name)(parameters(), **options)
    with pytest.raises(ValueError, match=r"."):
        getattr(optim, name)(parameters(), **options)


def test_no_parameters():
    with pytest.raises(ValueError, match="must be given parameters, got an empty list"):
        scratch.SGD([])


ON_TORCH = """
import torch.nn.functional as F
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset
"""
ON_SCRATCH = "from plainfit.ladder.scratch import F, nn, optim, DataLoader, TensorDataset"

PERCEPTRON = """
model = nn.Sequential(
    nn.Flatten(), nn.Linear(36, 20), nn.ReLU(), nn.Dropout(0.3), nn.Linear(20, 5)
)
"""
CONVOLUTIONAL = """
model = nn.Sequential(
    nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d(2),
    nn.Conv2d(6, 8, 3, stride=2, groups=2), nn.ReLU(),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(8, 5),
)
"""
TRAINING = """
opt = optim.{optimizer}
train_dl = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
history = []
for epoch in range(10):
    model.train()
    for xb, yb in train_dl:
        loss = F.cross_entropy(model(xb), yb)
        loss.backward()
        opt.step()
        opt.zero_grad()
        history.append((loss.detach(), [p.detach().clone() for p in model.parameters()]))
    model.eval()
    with torch.no_grad():
        state = [value.clone() for value in model.state_dict().values()]
        history.append((F.cross_entropy(model(x), y), state))
"""
OPTIMIZERS = [
    "SGD(model.parameters(), lr=0.03, momentum=0.9)",
    "AdamW(model.parameters(), lr=0.01)",
]


def train(imports, network, optimizer, dtype):
    """Run a program of 10 epochs of 10 steps, and return its history."""
    torch.manual_seed(0)
    x = torch.randn(80, 1, 6, 6)
    y = (x.flatten(1)[:, :5]).argmax(1)
    program = imports + network + "model.to(dtype)" + TRAINING.format(optimizer=optimizer)
    namespace = {"torch": torch, "x": x.to(dtype), "y": y, "dtype": dtype}
    exec(program, namespace)
    history = namespace["history"]
    assert len(history) == 110
    assert history[-1][0] < 0.9 * history[10][0]  # it does learn
    return history


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_100_steps_of_a_perceptron_have_the_same_weights(optimizer):
    pairs = [train(lines, PERCEPTRON, optimizer, torch.float32) for lines in (ON_SCRATCH, ON_TORCH)]
    for (loss, values), (other_loss, other_values) in zip(*pairs, strict=True):
        assert torch.equal(loss, other_loss)
        for value, other in zip(values, other_values, strict=True):
            assert torch.equal(value, other)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_100_steps_of_a_convolutional_network_in_float64(optimizer):
    """Losses, parameters and running statistics; measured: 3e-15."""
    ours, theirs = (
        train(lines, CONVOLUTIONAL, optimizer, torch.float64) for lines in (ON_SCRATCH, ON_TORCH)
    )
    worst = 0.0
    for (loss, values), (other_loss, other_values) in zip(ours, theirs, strict=True):
        for mine, other in zip([loss, *values], [other_loss, *other_values], strict=True):
            assert mine.dtype == other.dtype
            worst = max(worst, float((mine - other).abs().max()))
    assert worst < 1e-13


def test_the_scratch_program_does_not_use_torchs_parts(monkeypatch):
    for part in ("torch.nn", "torch.nn.functional", "torch.optim", "torch.utils.data"):
        monkeypatch.setitem(sys.modules, part, None)  # importing one now raises
    for part in ("nn", "optim", "utils"):
        monkeypatch.delattr(torch, part)
    train(ON_SCRATCH, CONVOLUTIONAL, OPTIMIZERS[0], torch.float64)
    assert scratch.nn is scratch
