"""What a run wrote down, read back as far as it goes: a run may still be going on."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import harmonic_mean
from typing import Any, NamedTuple, TypeVar

from plainfit.common.plots import NOT_METRICS
from plainfit.runs.folder import METRICS, STEPS, read_record
from plainfit.runs.settings import RunConfig
from plainfit.training.history import HEADINGS, SHAPES

T = TypeVar("T")
Row = dict[str, Any]
NOTHING = "-"  # what a cell without a figure shows


class Step(NamedTuple):
    """One line of `steps.csv`."""

    loss: float
    lr: float


@dataclass(frozen=True)
class RunLog:
    """The record and the figures of a run in any state."""

    folder: Path
    record: dict[str, Any]
    epochs: list[Row]
    steps: list[Step]
    notes: list[str]
    """What could not be read."""

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.resolve().name

    @property
    def metrics(self) -> list[str]:
        """The names of the figures beside losses and times."""
        return [name for name in (self.epochs[0] if self.epochs else ()) if name not in NOT_METRICS]

    @property
    def last(self) -> Row | None:
        """The figures of the last epoch."""
        return self.epochs[-1] if self.epochs else None

    @property
    def best(self) -> Row | None:
        """The figures of the epoch that `best.safetensors` is of: the lowest validation loss."""
        name = "valid_loss" if self.epochs and "valid_loss" in self.epochs[0] else "train_loss"
        rows = [row for row in self.epochs if not math.isnan(row.get(name, math.nan))]
        return min(rows, key=lambda row: float(row[name]), default=None)

    @property
    def seconds(self) -> float:
        """How long the epochs took, validation included."""
        return float(sum(row["seconds"] for row in self.epochs))

    @property
    def speed(self) -> float | None:
        """Samples a second over all epochs, which have as many samples each."""
        rates = [row["samples_per_second"] for row in self.epochs]
        return harmonic_mean(rates) if rates else None


def read_log(folder: Path) -> RunLog:
    """Read a run folder, finished or not.

    Raises:
        RunError: if it is no run folder.
    """
    record, notes = read_record(folder), list[str]()
    record["config"] = RunConfig().to_dict() | record["config"]  # an older run lacks newer settings
    epochs = read_lines(folder / METRICS, parse_epoch, notes)
    steps = read_lines(folder / STEPS, parse_step, notes, heading=True)
    return RunLog(folder, record, epochs, steps, notes)


def read_lines(
    path: Path, parse: Callable[[str], T], notes: list[str], *, heading: bool = False
) -> list[T]:
    """Return the lines of a log, without those that were cut off by a crash; note how many."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[heading:]
    except OSError:
        return []
    good = []
    for line in lines:
        try:
            good.append(parse(line))
        except (ValueError, KeyError, TypeError, IndexError):
            continue
    if bad := len(lines) - len(good):
        notes.append(f"{bad} of the {len(lines)} lines of {path.name} cannot be read: left out.")
    return good


def parse_epoch(line: str) -> Row:
    """Return one line of `metrics.jsonl`."""
    row = {name: float(value) for name, value in json.loads(line).items()}
    return {**row, "epoch": int(row["epoch"]), "seconds": row["seconds"],
            "samples_per_second": row["samples_per_second"]}  # fmt: skip


def parse_step(line: str) -> Step:
    """Return one line of `steps.csv`: step, epoch, loss, lr."""
    cells = line.split(",")
    return Step(float(cells[2]), float(cells[3]))


def figure_text(name: str, value: float | None) -> str:
    """Return a figure as the command line prints it.

    >>> figure_text("accuracy", 0.5), figure_text("epoch", 3), figure_text("test_loss", None)
    ('0.5000', '3', '-')
    """
    return NOTHING if value is None else format(value, SHAPES.get(name, ".4f"))


def heading_text(name: str) -> str:
    """Return the heading of a column of figures.

    >>> heading_text("best_valid_loss"), heading_text("samples_per_second")
    ('best valid loss', 'samples/s')
    """
    return HEADINGS.get(name, name).replace("_", " ")


def plain_text(value: Any) -> str:
    """Return a setting as a reader would write it.

    >>> plain_text(None), plain_text(True), plain_text({"a": 1}), plain_text(0.1)
    ('-', 'yes', 'a=1', '0.1')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name}={plain_text(item)}" for name, item in value.items()) or NOTHING
    if isinstance(value, list | tuple):
        return ", ".join(map(plain_text, value)) or NOTHING
    return NOTHING if value is None else str(value)


def duration(seconds: float) -> str:
    """Return a time in two units at most.

    >>> duration(1.234), duration(192), duration(7380)
    ('1.23 s', '3 min 12 s', '2 h 3 min')
    """
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def labels_for(logs: Sequence[RunLog]) -> list[str]:
    """Return a name for each run: that of its folder, or the path where two share one."""
    names = [log.name for log in logs]
    return [log.name if names.count(log.name) == 1 else str(log.folder) for log in logs]
