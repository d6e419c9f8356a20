"""The rungs: where each is, what it adds, and its relation to the one before."""

import ast
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from plainfit.common.errors import ConfigError, near_miss

RUNGS_FOLDER = Path(str(files("plainfit.ladder") / "rungs"))
LESSON = "# --- The lesson ---"
"""The line that ends what is the same in every rung."""

# How a rung stands to the one before, given the same initial values and the same order. Measured
# on MNIST and on the digits; docs/decisions/0009-ladder.md has the figures.
BITWISE = "bitwise"
"""Every loss `==`, every parameter `torch.equal`, at every step."""
FLOAT64 = "float64"
"""The same mathematics, rounded otherwise: within `TOLERANCE` in float64 over `STEPS` steps."""
CHANGED = "changed"
"""Something else is computed, so the rung has to show that it learns."""
FIRST = "first"
"""As `changed`: there is none before."""

TOLERANCE, STEPS = 1e-12, 100


@dataclass(frozen=True)
class Rung:
    """One program of the ladder."""

    number: int
    name: str
    relation: str
    what_changed: str = ""
    """For the relation `changed`."""

    @property
    def label(self) -> str:
        """The number as it is written: `05`."""
        return f"{self.number:02}"

    @property
    def path(self) -> Path:
        """The program's file."""
        return RUNGS_FOLDER / f"r{self.label}_{self.name}.py"

    @property
    def source(self) -> str:
        """The program's text."""
        return self.path.read_text(encoding="utf-8")

    @property
    def adds(self) -> str:
        """What the rung adds: the first line of its docstring, after the colon."""
        docstring = ast.get_docstring(ast.parse(self.source)) or ""
        return docstring.split("\n")[0].partition(": ")[2].rstrip(".")

    @property
    def lines(self) -> int:
        """Lines of code in the lesson: neither blank, nor comments, nor the shared beginning."""
        lesson = self.source.partition(LESSON)[2]
        lines = [line.strip() for line in lesson.splitlines()]
        return sum(bool(line) and not line.startswith("#") for line in lines)


RUNGS = (
    Rung(1, "tensors", FIRST),
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
)


def rung(name: str) -> Rung:
    """Return the rung of a number (`5`, `05`) or name (`optim`).

    Raises:
        ConfigError: if there is none.
    """
    for candidate in RUNGS:
        if name.lower() in (str(candidate.number), candidate.label, candidate.name):
            return candidate
    names = ", ".join(f"{known.label} {known.name}" for known in RUNGS)
    hint = near_miss(name, [known.name for known in RUNGS])
    raise ConfigError(f"unknown rung {name!r}: choose from {names}{hint}")


def select(text: str) -> tuple[Rung, ...]:
    """Return the rungs of a selection such as `3-7` or `1,4,8-10`.

    >>> [chosen.name for chosen in select("2,13-14")]
    ['functional', 'device', 'plainfit']
    """
    chosen: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        numbers = [rung(end).number for end in ((first, last) if dash else (first,))]
        if numbers[0] > numbers[-1]:
            raise ConfigError(f"--rungs must go upwards, as in 3-7, got {text!r}")
        chosen.update(range(numbers[0], numbers[-1] + 1))
    return tuple(candidate for candidate in RUNGS if candidate.number in chosen)
