"""The parts that scripts are made with: literals, layout, imports, copied definitions."""

import ast
import importlib
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from plainfit.eject.lifting import Lifter, is_liftable, shortened
from plainfit.eject.recipe import from_folder
from plainfit.eject.script import Script
from plainfit.eject.source import Imports, docstring, literal, wrapped
from plainfit.eject.values import call
from plainfit.runs.settings import RunConfig
from plainfit.runs.train import train
from plainfit.training.schedules import Cosine, OneCycle, WarmupCosine

TEXTS = [
    "", "plain", "it's", 'a "quoted" one', "both ' and \"", "a\nb", "\\", "end\\", '"""',
    "é\u202e", "\udc80",
    "{x}", "# no comment", "'; import os; '", "%s", "{% raw %}",
]  # fmt: skip
VALUES = [
    None, True, 3, -1.5, float("inf"), float("-inf"), b"a'b", (), (1,), [],
    ["a", (2, 3)], set(), {1}, {}, {"it's": [1.0, None]}, numpy.float64(0.1), Path("a b/c'd"),
]  # fmt: skip


ANY_TEXT = st.text() | st.text("\"'\\\n\r{}%#") | st.text(st.characters(categories=["Cs", "Cc"]))
ANY_VALUE = st.recursive(
    ANY_TEXT | st.binary() | st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(ANY_TEXT, inner),
)


def check_literal(value):
    again = eval(literal(value), {"Path": Path})
    assert again == value
    assert "\n" not in literal(value)


@pytest.mark.parametrize("value", [*TEXTS, *VALUES], ids=ascii)
def test_a_literal_gives_the_value_back(value):
    check_literal(value)


@settings(max_examples=25)
@given(ANY_VALUE)
def test_every_literal_gives_the_value_back(value):
    check_literal(value)


class Titled(nn.Linear):
    """A model with a text among its arguments."""

    def __init__(self, in_features, classes, title):
        super().__init__(in_features, classes)
        self.title = title

    def forward(self, xb):
        return super().forward(xb.flatten(1))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Of a training with that model."""
    folder = tmp_path_factory.mktemp("titled") / "run"
    model = f"{Titled.__module__}:Titled"
    train(RunConfig(model=model, model_args="title='plain'", epochs=1, out=folder), echo=None)
    return from_folder(folder)


@settings(max_examples=20)
@given(text=ANY_TEXT)
@example(text='"""\n__import__("os").system("touch pwned")\n"""')
@example(text="\\")
def test_no_text_of_a_run_leaves_its_place_in_a_script(recipe, text):
    arguments = recipe.arguments | {"title": text}
    fingerprint = recipe.fingerprint | {"torch": text, "cpu_capability": text, "threads": text}
    changed = replace(
        recipe, name=text, origin=text, command=text, arguments=arguments, fingerprint=fingerprint,
        data=("mnist", Path(f"a{text}")),
    )  # fmt: skip
    plain, tree = (
        ast.parse(Script(each, "loop", "data.safetensors").text()) for each in
        (replace(changed, name="", arguments=recipe.arguments, data=("mnist", Path("a"))), changed)
    )  # fmt: skip
    assert [type(node) for node in plain.body] == [type(node) for node in tree.body]
    strings = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    assert text in strings
    assert Path(f"a{text}").as_posix() in strings


def test_nan_is_a_literal_too():
    assert literal(float("nan")) == 'float("nan")'


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_no_text_ends_a_docstring(text):
    lines = docstring(f"Train {text}.", f"The run {text} (`{text}`).")
    (node,) = ast.parse("\n".join(lines).encode("utf-8")).body
    assert isinstance(node, ast.Expr)
    printed = text.isprintable() and " ".join(text.split()) == text
    assert not printed or f"The run {text} (`{text}`)." in node.value.value


def test_keywords_that_are_no_names():
    assert call("f", ["1"], {"a": "2", "b c": "3", "in": "4"}) == 'f(1, a=2, **{"b c": 3, "in": 4})'


def test_lines_are_broken_as_ruff_breaks_them():
    assert wrapped("x = 1") == ["x = 1"]
    long = f"model = build({', '.join(f'argument_{n}={n}' for n in range(9))})"
    assert wrapped(long) == [
        "model = build(",
        *(f"    argument_{n}={n}," for n in range(9)),
        ")",
    ]
    inner = f"{'a' * 40}, g(b, {'c' * 40})"
    assert wrapped(f"    value = f({inner})") == ["    value = f(", f"        {inner}", "    )"]
    rows = [f"        float(metric_{n}(outputs))," for n in range(9)]
    several = " ".join(row.strip() for row in rows)[:-1]
    assert wrapped(f"    return {several}") == ["    return (", *rows, "    )"]
    names = [f"valid_metric_{n}" for n in range(9)]
    assert wrapped(f"{', '.join(names)} = validate(model)") == [
        "(",
        *(f"    {name}," for name in names),
        ") = validate(model)",
    ]


def test_imports_are_merged_and_sorted():
    imports = Imports()
    for statement in (
        "from torch import nn", "import torch", "from torch import Tensor", "import math",
        "import torch.nn.functional as F", "from collections.abc import Callable",
    ):  # fmt: skip
        imports.add(statement)
    assert imports.lines() == [
        "import math",
        "from collections.abc import Callable",
        "",
        "import torch",
        "import torch.nn.functional as F",
        "from torch import Tensor, nn",
    ]


def test_a_definition_comes_after_those_that_it_needs():
    lifter = Lifter()
    lifter.unused.add("momentum")
    assert lifter.lift(WarmupCosine) == "WarmupCosine"
    names = list(lifter.definitions)
    assert names.index("part_of") < names.index("Linear") < names.index("WarmupCosine")
    assert names.index("Chain") < names.index("WarmupCosine")
    compile("\n".join([*lifter.imports.lines(), *lifter.definitions.values()]), "", "exec")


@pytest.mark.parametrize("schedule", [Cosine(7), OneCycle(9), WarmupCosine(11)])
def test_a_lifted_schedule_is_the_same_function(schedule):
    lifter = Lifter()
    name = lifter.lift(type(schedule))
    names = {}
    exec("\n".join([*lifter.imports.lines(), *lifter.definitions.values()]), names)
    again = names[name](schedule.steps)
    assert [again(step) for step in range(12)] == [schedule(step) for step in range(12)]
    assert "ConfigError" not in names
    assert not hasattr(again, "plot")


def test_our_definitions_are_shortened():
    text = '''class Rate(Schedule):
    """First.

    Second.
    """

    def __init__(self, steps):
        check_steps(steps)
        if steps > 9:
            raise ValueError(steps)
        self.steps = steps

    def plot(self):
        if self.steps > 9:
            raise ValueError(steps)
        return 1

    def __call__(self, step):
        step = whole(step)
        return step / self.steps
'''
    assert (
        shortened(text, frozenset({"plot", "whole"}))
        == '''class Rate(Schedule):
    """First."""

    def __init__(self, steps):
        self.steps = steps

    def __call__(self, step):
        return step / self.steps'''
    )


def test_a_method_of_checks_alone_is_left_out():
    text = """class Share:
    p: float

    def __post_init__(self):
        if self.p > 1:
            raise ValueError("too large")
        check_options(self)

    def half(self):
        return self.p / 2
"""
    expected = "class Share:\n    p: float\n\n    def half(self):\n        return self.p / 2"
    assert shortened(text) == expected


def test_a_reloaded_module_is_read_again(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    for value in (1, 22):
        (tmp_path / "reloaded.py").write_text(f"def value():\n    return {value}\n")
        module = importlib.import_module("reloaded")
        importlib.reload(module)
        lifter = Lifter()
        lifter.lift(module.value)
        assert lifter.definitions["value"] == f"def value():\n    return {value}"


def test_what_is_imported_and_what_is_copied():
    assert is_liftable("plainfit.models.networks")
    assert is_liftable(__name__)
    for module in ("torch.nn", "math", "collections.abc", "numpy", "safetensors.torch"):
        assert not is_liftable(module), module


def test_two_things_of_one_name():
    lifter = Lifter({"nn": "torch.nn", "loss": ""})
    given = [
        ("Net", "a"),
        ("Net", "b"),
        ("Net", "a"),
        ("loss", "a"),
        ("nn", "torch.nn"),
        ("nn", "a"),
    ]
    named = [lifter.name_for(*each) for each in given]
    assert named == ["Net", "OwnNet", "Net", "own_loss", "nn", "own_nn"]
