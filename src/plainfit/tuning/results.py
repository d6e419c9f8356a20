"""The results of a study so far, and the same as text: a table of trials, single lines."""

import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plainfit.common.errors import plural
from plainfit.report.rendering import NOTHING, plain_text, value_text

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial
    from rich.console import Console

NOTE, VALUES = "note", "values"  # attributes of a trial
MAX_ROWS = 10  # trials in a table
REFRESH = 0.2  # seconds between two drawings


@dataclass(frozen=True)
class TrialResult:
    """A combination of settings and its results so far."""

    number: int
    state: str
    """complete, pruned, diverged, failed, running, or waiting for a process to resume it."""
    settings: dict[str, Any]
    value: float | None
    """The mean over the seeds of the monitored value after the last epoch; None before."""
    values: list[float]
    """The value of each seed."""
    intermediate_values: list[float]
    """The value after each epoch of the first seed."""
    seconds: float | None
    """From when a process last took it to its end; None before."""
    folder: Path
    note: str
    """Why it diverged or failed."""

    @property
    def last(self) -> float | None:
        """The value, or the last intermediate value of a trial that has no value."""
        return next(reversed(self.intermediate_values), None) if self.value is None else self.value

    @property
    def settings_text(self) -> str:
        return ", ".join(f"{name} {setting_text(value)}" for name, value in self.settings.items())


@dataclass(frozen=True)
class StudyResult:
    """The results of a study so far; it prints as a table.

    Attributes:
        folder: with the journal, the page `study.html`, and a folder for each trial.
        monitor: the name of the value.
        mode: `min` or `max`, which values are better.
        trials: in the order in which they were drawn.
        repeated: values of the best trial's settings with seeds that the search had not seen.
    """

    folder: Path
    monitor: str
    mode: str
    trials: list[TrialResult]
    repeated: list[float] = field(default_factory=list)

    @property
    def best(self) -> TrialResult | None:
        """The trial with the best value; None before one is complete."""
        return next(iter(self.ranked()), None)

    def ranked(self) -> list[TrialResult]:
        """Return the complete trials, the best first."""
        sign = 1 if self.mode == "min" else -1
        done = [(sign * t.value, t) for t in self.trials if t.value is not None]
        return [trial for _, trial in sorted(done, key=lambda pair: pair[0])]

    def count(self, state: str) -> int:
        """Return the number of trials in a state."""
        return sum(trial.state == state for trial in self.trials)

    def mean_repeated(self) -> tuple[float, float]:
        """Return mean and standard deviation of `repeated`; the deviation of one value is 0."""
        deviation = statistics.stdev(self.repeated) if len(self.repeated) > 1 else 0.0
        return statistics.fmean(self.repeated), deviation

    def to_dict(self) -> dict[str, Any]:
        """Return the results as JSON takes them."""
        return {
            "study": str(self.folder),
            "monitor": self.monitor,
            "best": self.best and self.best.number,
            "trials": [asdict(trial) | {"folder": str(trial.folder)} for trial in self.trials],
            "repeated": self.repeated,
        }

    def __str__(self) -> str:
        rows = self.table(self.shown())
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.rjust, row, widths)) for row in rows]
        return "\n".join([*lines, f"trials {self.counts()}"])

    def table(self, trials: Iterable[TrialResult]) -> list[list[str]]:
        names = list(dict.fromkeys(name for trial in self.trials for name in trial.settings))
        rows = [["trial", self.monitor, *names, "epochs", "seconds", "state"]]
        for trial in trials:
            epochs = len(trial.intermediate_values)
            rows.append([
                str(trial.number),
                value_text(self.monitor, trial.last),
                *(setting_text(trial.settings.get(name)) for name in names),
                str(epochs) if epochs else NOTHING,
                NOTHING if trial.seconds is None else f"{trial.seconds:.1f}",
                trial.state,
            ])  # fmt: skip
        return rows

    def shown(self) -> list[TrialResult]:
        return self.ranked()[:MAX_ROWS] + [t for t in self.trials if t.state == "running"]

    def counts(self) -> str:
        counts = Counter(trial.state for trial in self.trials)
        return ", ".join(f"{n} {state}" for state, n in counts.items()) or "no trials yet"

    def trial_line(self, number: int) -> str:
        trial = next(trial for trial in self.trials if trial.number == number)
        value = value_text(self.monitor, trial.last)
        best = " (the best so far)" if self.best is trial else ""
        note = f": {trial.note}" if trial.note else ""
        start = f"trial {number:4} {trial.state:8} {self.monitor} {value}"
        return f"{start}  {trial.settings_text}{best}{note}"

    def best_line(self) -> str:
        if (best := self.best) is None:
            return "no trial is complete yet"
        value = value_text(self.monitor, best.value)
        return f"trial {best.number}: {self.monitor} {value} with {best.settings_text}"

    def repeated_line(self) -> str:
        values = [*self.mean_repeated(), min(self.repeated), max(self.repeated)]
        summary = "{} ± {} ({} to {})".format(*(value_text(self.monitor, x) for x in values))
        return f"{self.monitor} {summary} with {plural(len(self.repeated), 'further seed')}"


def result_of(trial: "FrozenTrial", folder: Path) -> TrialResult:
    note = str(trial.user_attrs.get(NOTE, ""))
    state = trial.state.name.lower()
    return TrialResult(
        trial.number,
        "failed" if state == "fail" else "diverged" if state == "pruned" and note else state,
        dict(trial.params),
        float(trial.value) if state == "complete" else None,  # type: ignore[arg-type]  # or damaged
        list(trial.user_attrs.get(VALUES, [])),
        [float(value) for _, value in sorted(trial.intermediate_values.items())],
        trial.duration.total_seconds() if trial.duration else None,
        folder,
        note,
    )


def setting_text(value: Any) -> str:
    """Return a setting's value, short.

    >>> setting_text(0.012345678), setting_text(None), setting_text("mlp")
    ('0.01235', '-', 'mlp')
    """
    return f"{value:.4g}" if isinstance(value, float) else plain_text(value)


@contextmanager
def live_table(console: "Console", trials: int) -> Iterator[Callable[[StudyResult], None]]:
    """Show the table on a terminal; give what draws it again, as `tune(watch=...)` takes it."""
    from rich.live import Live
    from rich.table import Column, Table

    drawn = 0.0

    def draw(study: StudyResult) -> None:
        nonlocal drawn
        if time.monotonic() - drawn < REFRESH:
            return
        drawn = time.monotonic()
        title = f"{study.folder}: {len(study.trials)} of {trials} trials, {study.counts()}"
        head, *rows = study.table(study.shown())
        table = Table(*(Column(name, justify="right") for name in head),
                      title=title, title_justify="left")  # fmt: skip
        for trial, row in zip(study.shown(), rows, strict=True):
            style = "bold green" if trial is study.best else "dim" if trial.value is None else None
            table.add_row(*row, style=style)
        live.update(table, refresh=True)

    redirect = sys.stdout.isatty()  # lines for a file must reach it
    live = Live(console=console, auto_refresh=False, transient=True, redirect_stdout=redirect)
    with live:
        yield draw
