"""`lower`: each rung keeps its promise, for layers, optimizers, losses and users' own modules."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from eject.modules import MODULES
from eject.running import assert_same, run
from eject.scripts import LAYERS, LOSSES, OPTIMIZERS, PERCEPTRON, VECTORS, script
from plainfit.eject.levels.float64 import in_float64
from plainfit.eject.levels.lower import lower
from plainfit.eject.levels.torch_names import ELEMENTARY
from plainfit.eject.levels.torch_names import references
from plainfit.eject.source import Source

SCRIPTS = {
    **{f"layer-{name}": text for name, text in LAYERS.items()},
    **{f"optimizer-{n}": script(**PERCEPTRON, opt=opt) for n, opt in OPTIMIZERS.items()},
    **{
        f"loss-{name}": script(**{**PERCEPTRON, "data": data}, loss=loss)
        for name, (loss, data) in LOSSES.items()
    },
    **{f"module-{name}": text for name, text in MODULES.items()},
}
CNN = (Path(__file__).parent / "scripts" / "cnn.py").read_text(encoding="utf-8")
SCRIPTS["cnn"] = CNN
MATH_STEPS = 34
"""So many epochs of three steps are more than 100 steps."""


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", SCRIPTS)
def test_losses_and_weights_are_the_same(name):
    expected = run(SCRIPTS[name])
    for rung in ("optim", "layers", "tensors"):
        text = assert_same(SCRIPTS[name], rung, expected)
        assert not [n for n in names_in(text) if is_banned(n, rung)]


@pytest.mark.parametrize("name", SCRIPTS)
def test_math_agrees_in_float64(name):
    long = SCRIPTS[name].replace("epochs = 2", f"epochs = {MATH_STEPS}")
    text = lower(long, "math")
    assert not [each for each in names_in(text) if is_banned(each, "math")]
    losses, state = run(text)
    expected, other = run(in_float64(long))
    assert len(losses) == len(expected) > 100
    assert max(abs(a - b) for a, b in zip(losses, expected, strict=True)) < 1e-12
    assert list(state) == list(other)
    assert all(value.dtype in (torch.float64, torch.int64) for value in state.values())


def names_in(text):
    return [ref.name for ref in references(Source(text))]


def is_banned(name, rung):
    family, _, rest = name.partition(".")
    if family == "optim" or name == "torch.optim":
        return True
    if rung == "layers":
        return family == "nn" and rest.split(".")[0] not in (
            "Module", "Sequential", "ModuleList", "Parameter", "init", "utils",
        )  # fmt: skip
    if rung in ("tensors", "math") and family in ("nn", "F"):
        return True
    kernels = set(dir(torch.nn.functional)) & set(dir(torch)) - ELEMENTARY
    return rung == "math" and rest in kernels and rest.islower()


def test_the_bans_are_those_of_the_text_too():
    text = lower(CNN, "tensors")
    assert "nn" not in {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    assert "torch.nn" not in text
    assert "torch.optim" not in lower(CNN, "optim")


@pytest.mark.parametrize("rung", ["optim", "layers", "tensors", "math"])
def test_ruff_is_content(rung, tmp_path):
    """With the repository's rules, but that a script may print and need not have docstrings."""
    for name in (*[*SCRIPTS][::6], "cnn"):
        (tmp_path / f"{name.replace('-', '_')}.py").write_text(lower(SCRIPTS[name], rung))
    root = Path(__file__).parents[2]
    rules = "E,F,W,I,N,B,UP,SIM,PT,RET,C4,PIE,RUF,PTH"
    options = ["--isolated", "--line-length", "100"]
    ignored = "N812,RUF001"
    for command in (
        ["check", *options, "--select", rules, "--ignore", ignored],
        ["format", "--check", *options],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, str(tmp_path)],
            capture_output=True, text=True, check=False, cwd=root,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


HEIR = """
class Shifted(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size, 12))
        self.bias = nn.Parameter(torch.randn(size))

    def forward(self, xb):
        return F.linear(xb, self.weight, self.bias)


class Plain(Shifted):
    def __init__(self, size):
        super().__init__(size)
        self.bias = None
"""


def test_a_function_with_one_caller_is_joined_to_it_for_what_it_is_passed():
    text = lower(script(make="nn.Linear(12, 4)", data=VECTORS), "tensors")
    assert "def linear" not in text
    assert "is None" not in text
    assert "torch.addmm(self.bias, rows, self.weight.t())" in text


def test_what_an_heir_sets_to_none_is_tested():
    text = script(HEIR, make="Plain(4)", data=VECTORS)
    assert "is None" in assert_same(text, "tensors")
