"""What a study has come to so far."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

NOTE, VALUES = "note", "values"  # attributes of a trial


@dataclass(frozen=True)
class TrialResult:
    """One combination of settings, and how far it has come."""

    number: int
    state: str
    """complete, pruned, diverged, failed, running, or waiting: for a process to go on with it."""
    settings: dict[str, Any]
    value: float | None
    """What counts: the mean over the seeds of the last epoch's figure; None before."""
    values: list[float]
    """The figure of each seed."""
    figures: list[float]
    """That of each epoch of the first seed."""
    seconds: float | None
    """Since it was last taken up, until its end; None before."""
    folder: Path
    note: str
    """Why it diverged or failed."""

    @property
    def last(self) -> float | None:
        """The value, or the last figure of one that has none."""
        return self.value if self.value is not None else next(reversed(self.figures), None)


@dataclass(frozen=True)
class StudyResult:
    """A study, as it stands; it prints as a table.

    Attributes:
        folder: with the journal, the page `study.html`, and a folder for each trial.
        monitor: the name of the figure.
        lower_is_better: whether low figures are good.
        trials: in the order in which they were drawn.
        repeated: the figures of the best trial's settings with seeds that the search had not seen.
    """

    folder: Path
    monitor: str
    lower_is_better: bool
    trials: list[TrialResult]
    repeated: list[float] = field(default_factory=list)

    @property
    def best(self) -> TrialResult | None:
        """The trial with the best value; None before one is complete."""
        return next(iter(self.ranked()), None)

    def ranked(self) -> list[TrialResult]:
        """Return the complete trials, the best first."""
        sign = 1 if self.lower_is_better else -1
        done = [(sign * t.value, t) for t in self.trials if t.value is not None]
        return [trial for _, trial in sorted(done, key=lambda pair: pair[0])]

    def count(self, state: str) -> int:
        """Return how many trials are in a state."""
        return sum(trial.state == state for trial in self.trials)

    def to_dict(self) -> dict[str, Any]:
        """Return the result for machines."""
        trials = [asdict(trial) | {"folder": str(trial.folder)} for trial in self.trials]
        return {
            "study": str(self.folder),
            "monitor": self.monitor,
            "best": self.best and self.best.number,
            "trials": trials,
            "repeated": self.repeated,
        }

    def __str__(self) -> str:
        from plainfit.tuning.table import lines

        return "\n".join(lines(self))


def result_of(trial: "FrozenTrial", folder: Path) -> TrialResult:
    """Return a trial of Optuna's as one of ours, with its folder."""
    note = str(trial.user_attrs.get(NOTE, ""))
    state = trial.state.name.lower()
    return TrialResult(
        trial.number,
        "failed" if state == "fail" else "diverged" if state == "pruned" and note else state,
        dict(trial.params),
        trial.value if state == "complete" else None,
        list(trial.user_attrs.get(VALUES, [])),
        [figure for _, figure in sorted(trial.intermediate_values.items())],
        trial.duration.total_seconds() if trial.duration else None,
        folder,
        note,
    )


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the standard deviation, which is 0 of one value.

    >>> spread([1.0, 3.0])
    (2.0, 1.4142135623730951)
    """
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
