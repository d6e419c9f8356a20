"""Every number that a command takes has limits: beyond them, one line that names the option."""

from typing import get_args, get_type_hints

import pytest
from typer.main import get_command

from plainfit.cli import app

NEVER = ("1e300", "inf", "nan", "1,99999,99999")
VALUES = ("0", "-1", str(2**70), *NEVER)


def commands(command, words=()):
    """Yield every command, with its words."""
    yield words, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*words, name))


def numbers(command):
    """Yield the option of each number."""
    hints = get_type_hints(command.callback)
    for option in command.params:
        kind = hints.get(option.name)
        if {int, float} & {kind, *get_args(kind)} or option.name in ("lr", "input_shape"):
            yield option.opts[0]


def calls(command, words):
    """Yield calls that end where the data, the run or the model is looked for: there is none."""
    names = [option.name for option in command.params]
    missing = ["missing" for p in command.params if p.param_type_name == "argument" and p.required]
    data = ["--data", "missing.npz"] if "data" in names else []
    search = ["--search", "schedule=linear,cosine"] if "search" in names else []
    for option in numbers(command):
        for value in VALUES[words == ("app",) :]:  # which serves a page at any free port, 0
            yield [*words, *missing, *data, *search, f"{option}={value}"], option, value


ALL = [call for words, command in commands(get_command(app)) for call in calls(command, words)]
OFTEN = ALL[::23]


@pytest.mark.parametrize("tried", [OFTEN, pytest.param(ALL, marks=pytest.mark.soak)])
def test_numbers_out_of_range_are_one_line(plainfit, tmp_path, tried):
    wrong = []
    for words, option, value in tried:
        code, out, error = plainfit(*words)
        if (code, out, error.count("\n")) != (2, "", 1) or (value in NEVER and option not in error):
            wrong.append(f"{' '.join(words)}: {code} {out}{error}")
    assert wrong == []
    assert list(tmp_path.iterdir()) == []
