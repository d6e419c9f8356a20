"""What the tutorial says of each rung, from its notebooks, and the numbers that it prints."""

import csv
import json
import re
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from plainfit.ladder.catalog import RUNGS, Rung
from plainfit.ladder.climb import installed_notebook

LANGUAGES = {"en": "en", "zh": "zh-CN"}  # and the notebook of each
HEADING = re.compile(r"## (?:Rung|第) (\d\d)(?: 级)?[:\uff1a] ?(.*)")
DIFF = "```diff"
PLOTS = "from plainfit.common.plots import"  # begins code that draws


@dataclass
class Lesson:
    """A section of the notebook; a cell is `text`, `code`, `diff` or `picture`, and its content."""

    title: str
    cells: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Figure:
    """A number that the tutorial prints for MNIST, and those of 20 seeds of ours."""

    rung: str  # its label, and `as listed` where it is the tutorial's listing
    name: str
    tutorial: float
    least: float
    median: float
    greatest: float


@cache
def lessons(language: str) -> dict[str, Lesson]:
    """Return the sections by the label of their rung; `first` and `last` are around them."""
    notebook = json.loads(installed_notebook(LANGUAGES[language]).read_text(encoding="utf-8"))
    found: dict[str, Lesson] = {}
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if heading := HEADING.match(text):
            lesson = found[heading[1]] = Lesson(heading[2])
            text = text[heading.end() :].strip()
        elif text.startswith("#") and cell["cell_type"] == "markdown":
            title, _, text = text.partition("\n\n")
            lesson = found["last" if found else "first"] = Lesson(title.lstrip("# "))
        kind = "code" if cell["cell_type"] == "code" else "text"
        kind = "diff" if text.startswith(DIFF) else "picture" if PLOTS in text else kind
        lesson.cells.append((kind, text))
    for rung in RUNGS:  # their programs are shown whole, so the last pieces need not be
        lines = set(rung.source.splitlines())
        cells = found[rung.label].cells
        while cells and cells[-1][0] == "code" and lines.issuperset(cells[-1][1].splitlines()):
            cells.pop()
    return found


def before(rung: Rung) -> Rung | None:
    """Return the rung from which to explain this one: rung 14 has nothing that 15 could change."""
    return RUNGS[rung.number - 2 if rung.number == 15 else rung.number - 1] if rung.number else None


@cache
def figures() -> tuple[Figure, ...]:
    text = (files("plainfit.ladder") / "tutorial.csv").read_text(encoding="utf-8")
    return tuple(
        Figure(rung, name, *map(float, numbers))
        for rung, name, *numbers in list(csv.reader(text.splitlines()))[1:]
    )
