"""`lower`: schedules, clipping, averages and frozen parts; a mutation of its result is noticed."""

import pytest

from eject.running import assert_same, run
from eject.scripts import MLP, PERCEPTRON, VECTORS, script
from plainfit.eject.levels.float64 import in_float64
from plainfit.eject.levels.lower import lower
from plainfit.eject.levels.float64 import SWITCH

ADAMW = "optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)"
MOMENTUM = "optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.05)"
CYCLE = '''
def factor(step, steps=6):
    """Up, then down."""
    return 1 - abs(2 * step / steps - 1)
'''
SET_RATES = """
for group in opt.param_groups:
    group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor(step)
    if "betas" in group:
        group["betas"] = (0.95 - 0.1 * factor(step), *group["betas"][1:])
    elif group.setdefault("initial_momentum", group.get("momentum")):
        group["momentum"] = 0.95 - 0.1 * factor(step)
"""
AVERAGE = """
from copy import deepcopy

ema = torch.optim.swa_utils.AveragedModel(
    model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9), use_buffers=True
)
"""
NORMED = """nn.Sequential(
    nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 4)
)"""
EMA = {
    "before": AVERAGE.replace("from copy import deepcopy\n\n", ""),
    "after": "ema.update_parameters(model)",
    "end": "model.load_state_dict(ema.module.state_dict())",
}

TRAININGS = {
    "cycle-sgd": script(CYCLE, **PERCEPTRON, opt=MOMENTUM, start=SET_RATES),
    "cycle-adamw": script(CYCLE, **PERCEPTRON, opt=ADAMW, start=SET_RATES),
    "cycle-plain": script(CYCLE, **PERCEPTRON, start=SET_RATES),
    "clipping": script(
        **PERCEPTRON, clip="norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)"
    ),
    "clipping-values": script(
        **PERCEPTRON, clip="torch.nn.utils.clip_grad_value_(model.parameters(), clip_value=0.01)"
    ),
    "averages": script(make=NORMED, data=VECTORS, opt=ADAMW, **EMA),
    "swa": script(make=NORMED, data=VECTORS, opt=ADAMW, **EMA).replace(
        "get_ema_multi_avg_fn(0.9)", "get_swa_multi_avg_fn()"
    ).replace("use_buffers=True", "use_buffers=False"),
    "everything": script(
        CYCLE, make=NORMED, data=VECTORS, opt=ADAMW, start=SET_RATES,
        clip="nn.utils.clip_grad_norm_(model.parameters(), 0.5)", **EMA,
    ),
    "loss-function": script(
        **PERCEPTRON, before="loss_func = F.cross_entropy", loss="loss_func(model(xb), yb)"
    ),
    "zero-grad": script(**PERCEPTRON).replace(
        "opt.zero_grad()", "opt.zero_grad(set_to_none=False)\n        model.zero_grad()"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TRAININGS)
def test_losses_and_weights_are_the_same(name):
    expected = run(TRAININGS[name])
    for rung in ("optim", "layers", "tensors"):
        assert_same(TRAININGS[name], rung, expected)
    losses, _ = run(lower(TRAININGS[name], "math"))
    others, _ = run(in_float64(TRAININGS[name]))
    assert max(abs(a - b) for a, b in zip(losses, others, strict=True)) < 1e-12


def test_loop_and_data_are_the_script_itself():
    assert lower("x = 1\n", "loop") == lower("x = 1\n", "data") == "x = 1\n"


def test_math_says_that_it_computes_in_float64():
    assert SWITCH in lower(TRAININGS["clipping"], "math")


def test_data_read_from_a_file_is_made_float64(tmp_path):
    text = script(
        **PERCEPTRON | {"data": f'''
from safetensors.torch import load_file, save_file

save_file(
    {{"x": torch.randn(40, 12, generator=g).float(), "y": torch.arange(40) % 4}},
    "{tmp_path / "data.safetensors"}",
)
data = load_file("{tmp_path / "data.safetensors"}")
x_train, y_train = data["x"], data["y"]
'''}
    )  # fmt: skip
    losses, state = run(lower(text, "math"))
    others, _ = run(in_float64(text))
    assert max(abs(a - b) for a, b in zip(losses, others, strict=True)) < 1e-12
    assert {str(value.dtype) for value in state.values()} == {"torch.float64"}


def test_comments_and_layout_of_the_user_survive():
    text = script(
        "# A number that matters\nWIDTH = 8  # of the hidden layer",
        make="nn.Sequential(\n    nn.Linear(12, WIDTH),  # in\n    nn.Linear(WIDTH, 4),  # out\n)",
        data=VECTORS,
    )
    lowered = lower(text, "tensors")
    for line in text.splitlines():
        if "#" in line:
            assert line.replace("nn.", "").replace("F.", "") in lowered


LONG = script(CYCLE, make=NORMED, data=VECTORS, opt=MOMENTUM, start=SET_RATES)
ADAM = script(CYCLE, make=NORMED, data=VECTORS, opt=ADAMW, start=SET_RATES,
              clip="nn.utils.clip_grad_norm_(model.parameters(), 0.5)", **EMA)  # fmt: skip
MUTATIONS = [
    (LONG, "g = g.add(p, alpha=group[\"weight_decay\"])", "pass"),
    (LONG, 'g = state["v"]\n        p.sub_(g, alpha=group["lr"])',
     'p.sub_(state["v"], alpha=group["lr"])\n        p.mul_(0.9999)'),
    (LONG, 'state["v"] = g.clone()', 'state["v"] = g * 0.9'),
    (LONG, 'state["v"].mul_(group["momentum"]).add_(g)',
     'state["v"].add_(g).mul_(group["momentum"])'),
    (LONG, "factor(step)\n", "factor(step + 1)\n"),
    (LONG, "empty_like(input).bernoulli_(1 - self.p)", "empty_like(input).bernoulli_(self.p)"),
    (LONG, ".div_(1 - self.p)", ""),
    (LONG, "torch.addmm(self.bias, rows, self.weight.t())", "torch.mm(rows, self.weight.t())"),
    (LONG, "self.bias = uniform(out_features, fan_in=in_features)",
     "self.bias = Parameter(torch.zeros(out_features))"),
    (LONG, "        self.weight = uniform(out_features, in_features, fan_in=in_features)\n"
     "        self.bias = uniform(out_features, fan_in=in_features)\n",
     "        self.bias = uniform(out_features, fan_in=in_features)\n"
     "        self.weight = uniform(out_features, in_features, fan_in=in_features)\n"),
    (LONG, "self.num_batches_tracked += 1", "pass"),
    (LONG, "target]) / len(target)", "target]) / 16"),
    (ADAM, "(v.sqrt() / correction2**0.5).add_(group[\"eps\"])",
     "((v / correction2).add(group[\"eps\"])).sqrt()"),
    (ADAM, "p.mul_(1 - group[\"lr\"] * group[\"weight_decay\"])",
     "g = g.add(p, alpha=group[\"weight_decay\"])"),
    (ADAM, "m.lerp_(g, 1 - beta1)", "m.lerp_(g, beta1)"),
    (ADAM, "-lr / correction1", "-lr"),
    (ADAM, "norm + 1e-6", "norm + 1e-2"),
    (ADAM, "average.lerp_(value, 1 - decay)", "average.lerp_(value, decay)"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(MUTATIONS)))
def test_a_mutation_changes_losses_or_weights(number):
    text, old, new = MUTATIONS[number]
    losses, state = run(text)
    lowered = lower(text, "tensors")
    assert old in lowered
    other_losses, other_state = run(lowered.replace(old, new))
    is_same_state = all(other_state[name].equal(value) for name, value in state.items())
    worst = max(abs(a - b) for a, b in zip(losses, other_losses, strict=True))
    assert not is_same_state or worst > 1e-6


def test_hidden_layers_of_any_name_are_lowered():
    text = script(make=MLP.format(inputs=12), data=VECTORS).replace(
        "from torch import nn, optim",
        "import torch.nn as tnn\nfrom torch import optim\nfrom torch.nn import Linear, ReLU",
    )
    text = text.replace("nn.Linear", "Linear").replace("nn.ReLU", "ReLU")
    text = text.replace("nn.Sequential", "tnn.Sequential").replace("nn.Flatten", "tnn.Flatten")
    for rung in ("layers", "tensors"):
        assert_same(text, rung)
