"""A run in any state, with what pages derive from it."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from statistics import harmonic_mean
from typing import Any

from torch import nn

from plainfit.common.errors import ModelError, RunError
from plainfit.common.plots import NOT_METRICS
from plainfit.models.summary import count_parameters
from plainfit.runs.folder import WEIGHTS, Row, Run, read_record
from plainfit.runs.settings import RunConfig
from plainfit.training.history import best_epoch


class RunLog(Run):
    """A run, and the values that a page derives from its record and its logs."""

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings as they were recorded, even those of another version."""
        return {**RunConfig().to_dict(), **self.record["config"]}

    @property
    def metrics(self) -> list[str]:
        return [name for name in (self.epochs[0] if self.epochs else ()) if name not in NOT_METRICS]

    @property
    def last(self) -> Row | None:
        return self.epochs[-1] if self.epochs else None

    @property
    def best(self) -> Row | None:
        """The row of the epoch that `best.safetensors` holds: the lowest validation loss."""
        best = best_epoch(self.epochs)
        return None if best is None else self.epochs[best]

    @property
    def seconds(self) -> float:
        """The time of all epochs, validation included."""
        return float(sum(row["seconds"] for row in self.epochs))

    @property
    def speed(self) -> float | None:
        """Samples a second over all epochs."""
        rates = [row["samples_per_second"] for row in self.epochs]
        return harmonic_mean(rates) if rates else None

    @cached_property
    def built_model(self) -> nn.Module:
        """The trained model, or an untrained one if the run has no weights yet."""
        if (self.folder / WEIGHTS).exists():
            return self.model
        return self.factory.build_quietly().eval()

    @cached_property
    def parameters(self) -> int | None:
        """The number of parameters; None if the model can no longer be built."""
        if "parameters" in self.record:
            return int(self.record["parameters"])
        try:
            return count_parameters(self.built_model)
        except (ModelError, RunError):
            return None


def read_log(folder: Path) -> RunLog:
    """Open a run folder, finished or not."""
    return RunLog(folder, read_record(folder))


def labels_for(logs: Sequence[RunLog]) -> list[str]:
    """Return the name of each run's folder, or its path where two have the same name."""
    names = [log.name for log in logs]
    return [log.name if names.count(log.name) == 1 else str(log.folder) for log in logs]
