"""Deprecated names warn where they are called, and are gone when they should be."""

import ast
import re
import warnings
from pathlib import Path

import pytest

from plainfit.common import __version__, deprecated

SOURCE = Path(__file__).parents[2] / "src" / "plainfit"


@deprecated("0.2.0", "0.4.0", "call new_rate(lr) instead")
def old_rate(lr, *, factor=1):
    """Return a rate."""
    return lr * factor


class OldSchedule:
    @deprecated("0.2.0", "0.4.0", "use Cosine instead")
    def __init__(self, steps):
        self.steps = steps


def numbers(version):
    assert re.fullmatch(r"\d+\.\d+\.\d+", version), version
    return tuple(map(int, version.split(".")))


def overdue(source, version):
    """The lines of a source that deprecate what this version must no longer have."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    marks = [call for call in calls if ast.unparse(call.func) == "deprecated"]
    versions = [tuple(numbers(ast.literal_eval(each)) for each in mark.args[:2]) for mark in marks]
    assert all(since < gone_in for since, gone_in in versions)
    return [
        mark.lineno
        for mark, (_, gone_in) in zip(marks, versions, strict=True)
        if gone_in <= numbers(version)
    ]


def test_a_call_warns_with_the_remedy_and_does_what_it_did():
    text = (
        "old_rate is deprecated since plainfit 0.2.0, and goes in 0.4.0; call new_rate(lr) instead"
    )
    with pytest.warns(FutureWarning, match=f"^{re.escape(text)}$") as said:
        assert old_rate(0.1, factor=2) == 0.2
    assert said[0].filename == __file__
    assert (old_rate.__name__, old_rate.__doc__) == ("old_rate", "Return a rate.")
    with pytest.warns(FutureWarning, match="^OldSchedule is deprecated"):
        assert OldSchedule(3).steps == 3


def test_each_place_is_told_once():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for _ in range(3):
            old_rate(0.1)
        old_rate(0.1)
    first = said[0].lineno
    assert [warning.lineno for warning in said] == [first, first + 1]


@pytest.mark.parametrize(("version", "found"), [("0.3.9", []), ("0.4.0", [1]), ("0.10.0", [1])])
def test_what_is_overdue_is_found(version, found):
    assert overdue('@deprecated("0.2.0", "0.4.0", "x")\ndef call(): ...', version) == found


def test_nothing_in_the_source_is_overdue():
    for path in SOURCE.rglob("*.py"):
        lines = overdue(path.read_text(encoding="utf-8"), __version__)
        assert lines == [], f"{path} has names that version {__version__} must no longer have"
