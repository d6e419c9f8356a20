"""Programs that run on torch or on `plainfit.ladder.on_scratch` after a change of one line."""

import sys

import pytest
import torch

from plainfit.ladder import on_scratch as scratch

ON_TORCH = """
import torch.nn.functional as F
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset
"""
ON_SCRATCH = "from plainfit.ladder.on_scratch import F, nn, optim, DataLoader, TensorDataset"

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
