"""Each level of a script keeps its promise, for layers, losses, optimizers, modules and loops."""

import ast
import subprocess
import sys
from functools import cache
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from eject.modules import MODULES
from eject.running import assert_same, run
from eject.scripts import IMAGES, LAYERS, LOSSES, MLP, OPTIMIZERS, PERCEPTRON, VECTORS, script
from plainfit.common.errors import EjectError
from plainfit.eject.lower import SWITCH, in_float64, lower
from plainfit.eject.replacements import ELEMENTARY, references
from plainfit.eject.source import Source

CNN = (Path(__file__).parent / "scripts" / "cnn.py").read_text(encoding="utf-8")
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
ema = torch.optim.swa_utils.AveragedModel(
    model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9), use_buffers=True
)
"""
NORMED = """nn.Sequential(
    nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 4)
)"""
EMA = {
    "before": AVERAGE,
    "after": "ema.update_parameters(model)",
    "end": "model.load_state_dict(ema.module.state_dict())",
}
CLIP = "nn.utils.clip_grad_norm_(model.parameters(), 0.5)"
LOOPS = {
    "cycle-sgd": script(CYCLE, **PERCEPTRON, opt=MOMENTUM, start=SET_RATES),
    "cycle-adamw": script(CYCLE, **PERCEPTRON, opt=ADAMW, start=SET_RATES),
    "cycle-plain": script(CYCLE, **PERCEPTRON, start=SET_RATES),
    "clipping": script(**PERCEPTRON, clip=f"norm = {CLIP}"),
    "clipping-values": script(
        **PERCEPTRON, clip="torch.nn.utils.clip_grad_value_(model.parameters(), clip_value=0.01)"
    ),
    "averages": script(make=NORMED, data=VECTORS, opt=ADAMW, **EMA),
    "swa": script(make=NORMED, data=VECTORS, opt=ADAMW, **EMA).replace(
        "get_ema_multi_avg_fn(0.9)", "get_swa_multi_avg_fn()"
    ).replace("use_buffers=True", "use_buffers=False"),
    "everything": script(
        CYCLE, make=NORMED, data=VECTORS, opt=ADAMW, start=SET_RATES, clip=CLIP, **EMA
    ),
    "loss-function": script(
        **PERCEPTRON, before="loss_func = F.cross_entropy", loss="loss_func(model(xb), yb)"
    ),
    "zero-grad": script(**PERCEPTRON).replace(
        "opt.zero_grad()", "opt.zero_grad(set_to_none=False)\n        model.zero_grad()"
    ),
}  # fmt: skip
SCRIPTS = {
    **{f"layer-{name}": text for name, text in LAYERS.items()},
    **{f"optimizer-{n}": script(**PERCEPTRON, opt=opt) for n, opt in OPTIMIZERS.items()},
    **{
        f"loss-{name}": script(**{**PERCEPTRON, "data": data}, loss=loss)
        for name, (loss, data) in LOSSES.items()
    },
    **{f"module-{name}": text for name, text in MODULES.items()},
    **{f"loop-{name}": text for name, text in LOOPS.items()},
    "cnn": CNN,
}
LEVELS_OF = {  # where each kind of script changes; the others are in `make soak`
    "layer": ("layers", "tensors"),
    "optimizer": ("optim",),
    "loss": ("layers", "tensors"),
    "module": ("tensors",),
    "loop": ("optim", "tensors"),
    "cnn": ("optim", "layers", "tensors"),
}
LONG = ("layer-batch-norm", "optimizer-adamw", "module-nested")
"""The scripts that run for more than 100 steps at level math; the others for six."""
IN_FLOAT64 = [
    name for name in SCRIPTS if name.startswith(("layer", "loss", "loop", "cnn")) or name in LONG
]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", SCRIPTS)
def test_losses_and_weights_are_the_same(name):
    check_levels(SCRIPTS[name], LEVELS_OF[name.split("-")[0]])


@pytest.mark.soak
@pytest.mark.parametrize("name", SCRIPTS)
def test_losses_and_weights_are_the_same_at_every_level(name):
    check_levels(SCRIPTS[name], ("optim", "layers", "tensors"))


def check_levels(script_text, levels):
    expected = run(script_text)
    for level in levels:
        text = assert_same(script_text, level, expected)
        assert not [name for name in names_in(text) if is_banned(name, level)]


@pytest.mark.parametrize("name", IN_FLOAT64)
def test_math_agrees_in_float64(name):
    check_math(SCRIPTS[name], epochs=34 if name in LONG else 2)


# The gradient of a bias before batch norm is rounding, which Adam divides by its own size. What is
# computed in eval() shows it after some steps, in float64 as well.
SHOW_ROUNDING = ("loop-averages", "loop-swa", "loop-everything")


@pytest.mark.soak
@pytest.mark.parametrize("name", [name for name in SCRIPTS if name not in SHOW_ROUNDING])
def test_math_agrees_in_float64_over_100_steps(name):
    check_math(SCRIPTS[name], epochs=34)


def check_math(text, epochs):
    """Compare level math with the script in float64; an epoch has three steps or more."""
    text = text.replace("epochs = 2", f"epochs = {epochs}")
    lowered = lower(text, "math")
    assert not [name for name in names_in(lowered) if is_banned(name, "math")]
    losses, state = run(lowered)
    expected, other = run(in_float64(text))
    assert len(losses) == len(expected) > 3 * epochs
    pairs = zip(losses, expected, strict=True)
    assert max(abs(a - b) / max(1.0, abs(b)) for a, b in pairs) < 1e-12  # some of them diverge
    assert list(state) == list(other)
    assert all(value.dtype in (torch.float64, torch.int64) for value in state.values())


def names_in(text):
    return [ref.name for ref in references(Source(text))]


def is_banned(name, level):
    family, _, rest = name.partition(".")
    if family == "optim" or name == "torch.optim":
        return True
    if level == "layers":
        return family == "nn" and rest.split(".")[0] not in (
            "Module", "Sequential", "ModuleList", "Parameter", "init", "utils",
        )  # fmt: skip
    if level in ("tensors", "math") and family in ("nn", "F"):
        return True
    kernels = set(dir(torch.nn.functional)) & set(dir(torch)) - ELEMENTARY
    return level == "math" and rest in kernels and rest.islower()


def test_the_bans_are_those_of_the_text_too():
    text = lower(CNN, "tensors")
    assert "nn" not in {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    assert "torch.nn" not in text
    assert "torch.optim" not in lower(CNN, "optim")


def test_loop_and_data_are_the_script_itself():
    for level in ("loop", "data"):
        assert lower(CNN, level) == CNN
    assert lower("x = 1\n", "tensors") == "x = 1\n"


def test_math_says_that_it_computes_in_float64():
    assert SWITCH in lower(LOOPS["clipping"], "math")


def test_ruff_finds_nothing(tmp_path):
    """With the repository's rules, except that a script may print and lack docstrings."""
    root = Path(__file__).parents[2]
    names = [*[*SCRIPTS][::13], "cnn", "loop-everything", "module-own-names"]
    paths = {name: tmp_path / f"{name.replace('-', '_')}.py" for name in names}
    lowered = tmp_path / "lowered"
    lowered.mkdir()

    def ruff(*command):
        command = [sys.executable, "-m", "ruff", *command, "--isolated", "--line-length=100"]
        done = subprocess.run(
            [*command, tmp_path], capture_output=True, text=True, check=False, cwd=root
        )
        assert done.returncode == 0, done.stdout + done.stderr

    for name, path in paths.items():
        path.write_text(SCRIPTS[name])
    ruff("format")
    for path, level in product(paths.values(), ("optim", "layers", "tensors", "math")):
        (lowered / f"{path.stem}_{level}.py").write_text(lower(path.read_text(), level))
    ruff("check", "--select=E,F,W,I,N,B,UP,SIM,PT,RET,C4,PIE,RUF,PTH", "--ignore=N812,RUF001")


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
    check_math(text, epochs=2)


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


def test_a_script_has_the_methods_that_it_calls_and_no_others():
    lowered = lower(script(**PERCEPTRON), "tensors")
    for method in ("forward", "parameters", "state_dict", "zero_grad", "eval"):
        assert f"def {method}(" in lowered
    for method in ("register_buffer", "load_state_dict", "apply", "to", "float", "__setattr__"):
        assert f"def {method}(" not in lowered
    assert "raise ValueError" not in lowered


def test_parts_imported_under_other_names_are_lowered():
    text = script(make=MLP.format(inputs=12), data=VECTORS).replace(
        "from torch import nn, optim",
        "import torch.nn as tnn\nfrom torch import optim\nfrom torch.nn import Linear, ReLU",
    )
    text = text.replace("nn.Linear", "Linear").replace("nn.ReLU", "ReLU")
    text = text.replace("nn.Sequential", "tnn.Sequential").replace("nn.Flatten", "tnn.Flatten")
    for level in ("layers", "tensors"):
        assert_same(text, level)


def test_a_name_that_a_definition_imports_must_be_free():
    text = script("math = 3", make="nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten())")
    with pytest.raises(EjectError, match=r"needs the name 'math' for math, .*rename it"):
        lower(text, "layers")


CYCLED = script(CYCLE, make=NORMED, data=VECTORS, opt=MOMENTUM, start=SET_RATES)
AVERAGED = LOOPS["everything"]
MUTATIONS = [
    (CYCLED, 'g = g.add(p, alpha=group["weight_decay"])', "pass"),
    (CYCLED, 'p.sub_(g, alpha=group["lr"])', 'p.sub_(g, alpha=group["lr"]).mul_(0.9999)'),
    (CYCLED, 'state["v"] = g.clone()', 'state["v"] = g * 0.9'),
    (CYCLED, 'state["v"].mul_(group["momentum"]).add_(g, alpha=1 - group["dampening"])',
     'state["v"].add_(g).mul_(group["momentum"])'),
    (CYCLED, "factor(step)\n", "factor(step + 1)\n"),
    (CYCLED, "empty_like(input).bernoulli_(1 - p)", "empty_like(input).bernoulli_(p)"),
    (CYCLED, ".div_(1 - p)", ""),
    (CYCLED, "torch.addmm(bias, rows, weight.t())", "torch.mm(rows, weight.t())"),
    (CYCLED, "self.bias = uniform(out_features, fan_in=in_features)",
     "self.bias = Parameter(torch.zeros(out_features))"),
    (CYCLED, "fan_in=in_features) if bias else None\n",
     "fan_in=in_features)\n        self.weight = uniform(out_features, in_features, "
     "fan_in=in_features)\n"),
    (CYCLED, "self.num_batches_tracked += 1", "pass"),
    (CYCLED, "target]) / len(target)", "target]) / 16"),
    (AVERAGED, '(v.sqrt() / correction2**0.5).add_(group["eps"])',
     '((v / correction2).add(group["eps"])).sqrt()'),
    (AVERAGED, 'p.mul_(1 - group["lr"] * group["weight_decay"])',
     'g = g.add(p, alpha=group["weight_decay"])'),
    (AVERAGED, "m.lerp_(g, 1 - beta1)", "m.lerp_(g, beta1)"),
    (AVERAGED, "-lr / correction1", "-lr"),
    (AVERAGED, "norm + 1e-6", "norm + 1e-2"),
    (AVERAGED, "average.lerp_(value, 1 - decay)", "average.lerp_(value, decay)"),
]  # fmt: skip


@cache
def in_double(text, *change):
    """Run level tensors of a script in float64, where rounding is small."""
    lowered = lower(text, "tensors")
    assert not change or change[0] in lowered
    return run(in_float64(lowered.replace(*change) if change else lowered))


@pytest.mark.parametrize("number", range(len(MUTATIONS)))
def test_a_mutation_changes_the_mathematics(number):
    text, *change = MUTATIONS[number]
    losses, state = in_double(text)
    others, other = in_double(text, *change)
    apart = [abs(a - b) for a, b in zip(losses, others, strict=True)]
    apart += [(state[name] - other[name]).abs().max().item() for name in state]
    assert max(apart) > 1e-8


ACTIVATIONS = ("ReLU()", "Tanh()", "Sigmoid()", "LeakyReLU(0.1)", "Identity()", "Dropout(0.3)")
FLAT = st.sampled_from([f"nn.{name}" for name in ACTIVATIONS])
WIDTHS = st.integers(1, 6)


@st.composite
def perceptrons(draw):
    layers, width = [], 12
    for _ in range(draw(st.integers(0, 3))):
        after = draw(WIDTHS)
        layers.append(f"nn.Linear({width}, {after}, bias={draw(st.booleans())})")
        width = after
        if draw(st.booleans()):
            norms = [f"nn.BatchNorm1d({width})", f"nn.LayerNorm({width})"]
            layers.append(draw(st.sampled_from(norms)))
        layers.append(draw(FLAT))
    return [*layers, f"nn.Linear({width}, 4)"], VECTORS


@st.composite
def convolutional(draw):
    layers, width = [], 1
    for block in range(draw(st.integers(1, 2))):
        after = draw(st.integers(1, 4))
        stride, padding = draw(st.integers(1, 2)), draw(st.integers(1, 2))
        layers.append(f"nn.Conv2d({width}, {after}, 3, stride={stride}, padding={padding})")
        width = after
        if draw(st.booleans()):
            layers.append(f"nn.BatchNorm2d({width})")
        layers.append(draw(FLAT))
        if block == 0:
            layers.append(draw(st.sampled_from(["nn.MaxPool2d(2)", "nn.AvgPool2d(2)"])))
    layers += ["nn.AdaptiveAvgPool2d(1)", "nn.Flatten()", f"nn.Linear({width}, 4)"]
    return layers, IMAGES


@st.composite
def random_scripts(draw):
    layers, data = draw(st.one_of(perceptrons(), convolutional()))
    lines = "".join(f"    {layer},\n" for layer in layers)
    text = script(
        CYCLE,
        make=f"nn.Sequential(\n{lines})",
        opt=draw(st.sampled_from(sorted(OPTIMIZERS.values()))),
        start=draw(st.sampled_from(["", SET_RATES])),
        data=data.replace("40", "41"),
    )
    size = draw(st.sampled_from([3, 7, 14, 16, 19, 41]))  # batch norm needs two in the last one
    return text.replace("bs = 16", f"bs = {size}").replace("epochs = 2", "epochs = 1")


OPTIONS = {
    "deadline": None,
    "database": None,
    "suppress_health_check": [HealthCheck.too_slow],
    "phases": [Phase.generate],
}


@settings(**OPTIONS, max_examples=6, derandomize=True)
@given(random_scripts())
def test_some_random_scripts(text):
    check_levels(text, ("layers", "tensors"))


@pytest.mark.soak
@settings(**OPTIONS, max_examples=200)
@given(random_scripts())
def test_many_random_scripts(text):
    check_levels(text, ("optim", "layers", "tensors"))
