"""Deprecated names say since when, until when and what to use instead, and are gone when due."""

import ast
import re
from pathlib import Path

import pytest

from plainfit.common import __version__

SOURCE = Path(__file__).parents[2] / "src" / "plainfit"
TEXT = re.compile(r"is deprecated since plainfit ([\d.]+), and goes in ([\d.]+); \S")


def numbers(version):
    assert re.fullmatch(r"\d+\.\d+\.\d+", version), version
    return tuple(map(int, version.split(".")))


def overdue(source, version):
    """The lines of a source that deprecate what this version must no longer have."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "deprecated":
            said = TEXT.search(ast.literal_eval(node.args[0]))
            assert said, f"line {node.lineno} must say {TEXT.pattern}"
            since, gone_in = map(numbers, said.groups())
            assert since < gone_in
            found += [node.lineno] if gone_in <= numbers(version) else []
    return found


@pytest.mark.parametrize(("version", "found"), [("0.3.9", []), ("0.4.0", [1]), ("0.10.0", [1])])
def test_what_is_overdue_is_found(version, found):
    text = "old_rate is deprecated since plainfit 0.2.0, and goes in 0.4.0; call new_rate(lr)"
    source = f'@deprecated("{text}", category=FutureWarning)\ndef old_rate(): ...'
    assert overdue(source, version) == found


@pytest.mark.parametrize(
    "text",
    [
        "old_rate is deprecated",
        "is deprecated since plainfit 0.2, and goes in 0.4.0; call new_rate(lr)",
        "is deprecated since plainfit 0.4.0, and goes in 0.2.0; call new_rate(lr)",
    ],
)
def test_a_text_without_versions_or_a_remedy_is_refused(text):
    with pytest.raises(AssertionError):
        overdue(f'@deprecated("{text}")\ndef old_rate(): ...', "0.1.0")


def test_nothing_in_the_source_is_overdue():
    for path in SOURCE.rglob("*.py"):
        lines = overdue(path.read_text(encoding="utf-8"), __version__)
        assert lines == [], f"{path} has names that version {__version__} must no longer have"
