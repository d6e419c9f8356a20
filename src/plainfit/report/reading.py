"""A run in any state, as a page needs it: what cannot be read is left out and noted."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import harmonic_mean
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from plainfit.common.errors import DataError, ModelError, RunError
from plainfit.common.plots import NOT_METRICS
from plainfit.data.open_data import open_data
from plainfit.data.splits import DataSplits
from plainfit.models.build import Factory
from plainfit.models.summary import count_parameters
from plainfit.runs.folder import METRICS, STEPS, WEIGHTS, read_record, read_run
from plainfit.runs.settings import DATA_FIELDS, RunConfig
from plainfit.training.history import best_epoch

T = TypeVar("T")
Row = dict[str, Any]


class Step(NamedTuple):
    """A line of `steps.csv`."""

    loss: float
    lr: float


@dataclass
class RunLog:
    """The record of a run and the rows of its logs."""

    folder: Path
    record: dict[str, Any]
    epochs: list[Row]
    steps: list[Step]
    notes: list[str]
    """What could not be read."""

    @property
    def name(self) -> str:
        return self.folder.resolve().name

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
    def model(self) -> nn.Module:
        """The model, with the weights that the run ended with, if it did."""
        if (self.folder / WEIGHTS).exists():
            return read_run(self.folder).model
        with torch.random.fork_rng(devices=[]):  # initial values are random numbers
            return Factory(**self.record["model"]).build().eval()

    @cached_property
    def parameters(self) -> int | None:
        """The number of parameters; None if the model can no longer be built."""
        if "parameters" in self.record:
            return int(self.record["parameters"])
        try:
            return count_parameters(self.model)
        except (ModelError, RunError):
            return None

    def open_data(self) -> DataSplits:
        """Open the data of the run again.

        Raises:
            DataError: if it cannot be opened, or has changed.
            ConfigError: if the settings are those of another version.
        """
        config = RunConfig.from_dict(self.record["config"])
        data = open_data(config.data, **{name: getattr(config, name) for name in DATA_FIELDS})
        if data.fingerprint != self.record["data"]["fingerprint"]:
            raise DataError(
                f"the data must be what the run was trained on, and {config.data} has changed "
                "since; restore it"
            )
        return data


def read_log(folder: Path) -> RunLog:
    """Read a run folder, finished or not.

    Raises:
        RunError: if it is not a run folder.
    """
    record, notes = read_record(folder), list[str]()
    record["config"] = RunConfig().to_dict() | record["config"]  # an older run lacks newer settings
    epochs = read_lines(folder / METRICS, parse_epoch, notes)
    steps = read_lines(folder / STEPS, parse_step, notes, header=True)
    return RunLog(folder, record, epochs, steps, notes)


def read_lines(
    path: Path, parse: Callable[[str], T], notes: list[str], *, header: bool = False
) -> list[T]:
    """Return the lines of a log, without those that a crash cut off; note how many."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[header:]
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
    row = {name: float(value) for name, value in json.loads(line).items()}
    return {**row, "epoch": int(row["epoch"]), "seconds": row["seconds"],
            "samples_per_second": row["samples_per_second"]}  # fmt: skip


def parse_step(line: str) -> Step:
    cells = line.split(",")  # step, epoch, loss, lr
    return Step(float(cells[2]), float(cells[3]))


def labels_for(logs: Sequence[RunLog]) -> list[str]:
    """Return the name of each run's folder, or its path where two have the same name."""
    names = [log.name for log in logs]
    return [log.name if names.count(log.name) == 1 else str(log.folder) for log in logs]
