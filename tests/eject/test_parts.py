"""The parts that scripts are made with: the evaluator, the layout, imports, lifting, pruning."""

import ast

import pytest

from plainfit.common.errors import EjectError
from plainfit.eject.imports import Imports
from plainfit.eject.layout import one_line, wrapped
from plainfit.eject.lifting import Lifter
from plainfit.eject.pruning import pruned
from plainfit.eject.sources import is_liftable
from plainfit.eject.specialise import Facts, Specialiser
from plainfit.eject.splicing import Edit, replaced
from plainfit.training.schedules import Cosine, OneCycle, WarmupCosine


def hook(self, context, items):
    """Everything that the evaluator knows."""
    # kept with its statement
    context.value = self.rate * context.value  # and this
    if context.stop:
        items.clear()
    if self.start is None and not context.done:
        items.append("none")
    elif context.open or self.start > 2:
        items.append("open")
    is_due = context.step if self.start is None else items
    if is_due and context.done:
        items.append("due")
    if not items:
        raise ValueError("a check")
    with context.cast:
        items.sort()
    if context.early:
        items.pop()
        return
    items.extend(
        [
            1,
            2,
        ]
    )


def lines(**facts):
    return Specialiser(hook, Facts(**facts)).body()


def test_what_is_not_known_stays():
    text = lines()
    assert text[:2] == ["# kept with its statement", "context.value = self.rate * context.value"]
    assert "elif context.open or self.start > 2:" not in text  # an else with an if in it
    assert "    if context.open or self.start > 2:" in text
    assert text[-4:] == [
        "if context.early:", "    items.pop()", "else:", "    items.extend([1, 2])",
    ]  # fmt: skip


def test_what_is_known_is_put_in():
    text = lines(
        values={"context.stop": False, "self.start": None, "context.done": True, "self.rate": 0.5},
        texts={"context.value": "value", "context.step": "step", "context.cast": ""},
        statements={"items.sort()": ["items = sorted(items)"]},
    )
    assert text == [
        "# kept with its statement",
        "value = 0.5 * value",
        "if context.open or self.start > 2:",  # None > 2 is not known
        '    items.append("open")',
        "if step:",
        '    items.append("due")',
        "items = sorted(items)",
        "if context.early:",
        "    items.pop()",
        "else:",
        "    items.extend([1, 2])",
    ]


def leaves(a, b, items):
    """Is left early, with nothing done."""
    if a or b:
        return
    items.clear()


def test_a_test_of_which_nothing_but_the_end_follows_is_turned_round():
    assert Specialiser(leaves, Facts()).body() == ["if not (a or b):", "    items.clear()"]
    known = Facts(values={"a": False})
    assert Specialiser(leaves, known).body() == ["if not b:", "    items.clear()"]


def test_an_edit_counts_bytes_and_not_characters():
    text = 'name = "é", value  # ü'
    (node,) = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Name) and n.id == "value"]
    assert replaced(text, [Edit.of(node, "v")]) == 'name = "é", v  # ü'


def test_lines_are_joined_and_broken_as_ruff_has_them():
    assert one_line("f(\n    a,\n    b,\n)") == "f(a, b)"
    assert wrapped("x = 1") == ["x = 1"]
    long = f"model = build({', '.join(f'argument_{n}={n}' for n in range(9))})"
    assert wrapped(long) == [
        "model = build(",
        *(f"    argument_{n}={n}," for n in range(9)),
        ")",
    ]
    inner = f"{'a' * 40}, g(b, {'c' * 40})"
    assert wrapped(f"    value = f({inner})") == ["    value = f(", f"        {inner}", "    )"]


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


def test_pruning():
    text = '''class Rate(Schedule):
    """First.

    Second.
    """

    def __init__(self, steps):
        check_steps(steps)
        if steps > 9:
            raise ValueError(steps)
        self.steps = steps
        self.unread = unread

    def plot(self):
        return 1

    def __call__(self, step):
        return step / self.steps
'''
    assert (
        pruned(text, {"plot", "momentum"})
        == '''class Rate:
    """First."""

    def __init__(self, steps):
        self.steps = steps

    def __call__(self, step):
        return step / self.steps'''
    )


def test_what_is_imported_and_what_is_copied():
    assert is_liftable("plainfit.models.networks")
    assert is_liftable(__name__)
    for module in ("torch.nn", "math", "collections.abc", "numpy", "safetensors.torch"):
        assert not is_liftable(module), module


def test_two_things_of_one_name():
    lifter = Lifter()
    lifter.is_new("Net", "a:Net")
    with pytest.raises(EjectError, match="'Net' is a:Net and b:Net; rename one of them"):
        lifter.is_new("Net", "b:Net")
