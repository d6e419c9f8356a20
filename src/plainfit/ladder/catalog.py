"""The rungs: where each is, what it adds, its relation to the one before, and the change."""

import ast
import difflib
from dataclasses import dataclass
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path

from plainfit.common.errors import ConfigError, near_miss

RUNGS_FOLDER = Path(str(files("plainfit.ladder") / "rungs"))
LESSON = "# --- The lesson ---"  # ends what is the same in every rung

# What two neighbours have in common, given the same data, initial values and order of samples.
# Measured on MNIST and on the digits: docs/decisions/0009-ladder.md has the numbers.
BITWISE = "bitwise"  # every loss and every parameter is equal at every step
FLOAT64 = "float64"  # the same mathematics, rounded differently: close in float64
CHANGED = "changed"  # something new, so the rung has to show that it learns
FIRST = "first"  # the rung only reads data, which the others share


@dataclass(frozen=True)
class Rung:
    number: int
    name: str
    relation: str
    what_changed: str = ""  # for the relation `changed`
    alike: tuple[str, str] | None = None  # an edit that changes no bits, which is proved too
    edit: tuple[str, str] = ("", "")  # of the program: a text, and what takes its place

    @property
    def label(self) -> str:
        return f"{self.number:02}"

    @property
    def path(self) -> Path:
        return RUNGS_FOLDER / f"r{self.label}_{self.name}.py"

    @property
    def source(self) -> str:
        return self.path.read_text(encoding="utf-8").replace(*self.edit)

    @property
    def adds(self) -> str:
        docstring = ast.get_docstring(ast.parse(self.source)) or ""
        return docstring.split("\n")[0].partition(": ")[2].rstrip(".")

    @property
    def lines(self) -> int:
        """Lines of code in the lesson, without blank lines, comments and the shared beginning."""
        lesson = self.source.partition(LESSON)[2]
        lines = [line.strip() for line in lesson.splitlines()]
        return sum(bool(line) and not line.startswith("#") for line in lines)


RUNGS = (
    Rung(0, "data", FIRST),
    Rung(1, "tensors", CHANGED, "a model on the same data"),
    Rung(2, "functional", FLOAT64),
    Rung(3, "module", BITWISE),
    Rung(4, "linear", FLOAT64),
    Rung(5, "optim", BITWISE),
    Rung(6, "dataset", BITWISE),
    Rung(7, "dataloader", BITWISE),
    Rung(8, "validation", CHANGED, "the order of the samples"),
    Rung(9, "fit", BITWISE),
    Rung(10, "cnn", CHANGED, "the model"),
    Rung(11, "sequential", BITWISE),
    Rung(12, "wrapped", FLOAT64),
    Rung(13, "device", BITWISE),
    Rung(14, "plainfit", BITWISE),
    Rung(15, "distributed", FLOAT64, alike=("processes = 2", "processes = 1")),
)  # in order: RUNGS[5] is rung 05


def find_rung(name: str) -> Rung:
    for rung in RUNGS:
        if name.lower() in (str(rung.number), rung.label, rung.name):
            return rung
    names = ", ".join(f"{rung.label} {rung.name}" for rung in RUNGS)
    hint = near_miss(name, [rung.name for rung in RUNGS])
    raise ConfigError(f"unknown rung {name!r}: choose from {names}{hint}")


def select(text: str) -> tuple[Rung, ...]:
    """Return the rungs of a selection such as `3-7` or `1,4,8-10`.

    >>> [rung.name for rung in select("2,13-14")]
    ['functional', 'device', 'plainfit']
    """
    numbers: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        start = find_rung(first).number
        stop = find_rung(last).number if dash else start
        if start > stop:
            raise ConfigError(f"rungs must be in ascending order, as in 3-7, got {text!r}")
        numbers.update(range(start, stop + 1))
    return tuple(rung for rung in RUNGS if rung.number in numbers)


def unified(before: Rung, after: Rung) -> str:
    old, new = before.source.splitlines(), after.source.splitlines()
    names = before.path.name, after.path.name
    return "\n".join(difflib.unified_diff(old, new, *names, lineterm=""))


def side_by_side(before: Rung, after: Rung, width: int) -> list[tuple[str, str, str]]:
    """Return the change as rows (left, sign, right), with sides `width` characters wide.

    The sign is `<` for a removed line, `>` for an added one and `|` for a replaced one. Unchanged
    lines are left out, except for three around each change.
    """
    old, new = before.source.splitlines(), after.source.splitlines()
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    rows = [(before.path.name, " ", after.path.name)]
    for group in matcher.get_grouped_opcodes(3):
        rows.append(("...", " ", "..."))
        for kind, old_start, old_end, new_start, new_end in group:
            sign = {"equal": " ", "replace": "|", "delete": "<", "insert": ">"}[kind]
            pairs = zip_longest(old[old_start:old_end], new[new_start:new_end], fillvalue="")
            rows += [(left, sign, right) for left, right in pairs]
    return [(fitted(left, width), sign, fitted(right, width)) for left, sign, right in rows]


def fitted(text: str, width: int) -> str:
    return text.ljust(width) if len(text) <= width else text[: width - 1] + "…"
