"""A training of a trial: its callback, its value, and the runs that `plainfit tune` makes of it."""

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plainfit.common.errors import ConfigError, NonFiniteError, TrainingError, unknown_name
from plainfit.common.files import RECORD
from plainfit.runs.folder import read_record
from plainfit.runs.prepare import check_outputs, prepare
from plainfit.runs.settings import RunConfig
from plainfit.runs.tasks import metrics_of
from plainfit.runs.train import PRUNED, resume, train
from plainfit.training.history import History, monitored
from plainfit.training.hooks import Callback, Context
from plainfit.training.metrics import metric_name
from plainfit.training.processes import LostError, join
from plainfit.tuning.space import Choices, Spec

if TYPE_CHECKING:
    from optuna import Trial


@dataclass(eq=False)
class Report(Callback):
    """Reports the monitored value of each epoch to a study, and stops a training that it prunes.

    `tune` makes one for each training; pass it to `fit`: `callbacks=[report]`.

    Args:
        monitor: a column of the history.
        deadline: when to stop, by `time.monotonic`, and to continue another time.
        trial: the trial of the training; None if it must not be pruned.
        changed: called after each epoch.
    """

    observer = True
    in_program = "after"

    monitor: str
    deadline: float = math.inf
    trial: "Trial | None" = None
    changed: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.pruned = self.out_of_time = False
        self.reported: Collection[int] = ()
        if self.trial is not None:  # a resumed trial has reported some epochs before
            trials = self.trial.study.get_trials()
            self.reported = trials[self.trial.number].intermediate_values

    def on_fit_start(self, context: Context) -> None:
        if context.step == 0:  # a resumed training may have been pruned at this epoch
            self.prune(context)

    def on_step_end(self, context: Context) -> None:
        if time.monotonic() >= self.deadline:
            self.out_of_time = True
            context.stop = "the time limit of the study"

    def on_epoch_end(self, context: Context) -> None:
        value = monitored(context.history[-1], self.monitor)
        if self.trial is not None and context.epoch not in self.reported:
            self.trial.report(value, context.epoch)
        self.changed()
        self.prune(context)

    def prune(self, context: Context) -> None:
        is_within = 0 < len(context.history) < context.epochs
        if self.trial is not None and is_within and self.trial.should_prune():
            self.pruned = True
            context.stop = PRUNED


def value_of(result: Any, monitor: str) -> float:
    # The last epoch of a history counts, because its weights are kept.
    if isinstance(result, History):
        return monitored(result[-1], monitor) if len(result) else math.nan
    try:
        return float(result)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"train must return a History or a number, got {type(result).__name__}"
        ) from error


@dataclass
class RunTraining:
    """What `plainfit tune` calls for each trial: train a run or resume it, and return its value."""

    monitor: str

    def __call__(self, *, seed: int, report: Report, folder: Path, **settings: Any) -> float:
        is_new = not (folder / RECORD).exists()
        if is_new or read_record(folder)["state"] not in ("finished", "pruned"):
            config = RunConfig.from_dict(settings, seed=seed, out=folder) if is_new else None
            run_together(join().share((folder, config)), [report])
        record = read_record(folder)
        report.pruned = record["state"] == "pruned"
        return monitored(record["last"], self.monitor) if record["last"] else math.nan


def run_together(task: tuple[Path, RunConfig | None], callbacks: Sequence[Callback] = ()) -> None:
    """Train with settings, or go on with the run of a folder where there are none."""
    folder, config = task
    if config is None:
        resume(folder, echo=None, callbacks=callbacks)
    else:
        train(config, echo=None, callbacks=callbacks)


def follow() -> None:
    """Take part in the trainings of the first process, until it has ended.

    A training that diverges ends in all processes alike. Any other error ends this process.
    """
    while True:
        try:
            task = join().share(None)
        except LostError:
            return
        try:
            run_together(task)
        except TrainingError as error:
            if not isinstance(error.__cause__, NonFiniteError):
                raise


def check_runs(fixed: dict[str, Any], space: dict[str, Spec], monitor: str) -> None:
    """Check data and models before a study starts: each choice, with the first of the others."""
    first = {name: spec.values[0] for name, spec in space.items()}
    tries = [{name: v} for name, spec in space.items() if isinstance(spec, Choices)
             for v in spec.values[1:]]  # fmt: skip
    for changes in [{}, *tries]:
        parts = prepare(RunConfig.from_dict(fixed | first | changes))
        metrics = metrics_of(parts.config, parts.data.target)
        names = [each if isinstance(each, str) else metric_name(each) for each in metrics]
        if monitor not in (known := ["valid_loss", "train_loss", *names]):
            raise ConfigError(unknown_name("metric", monitor, known))
        check_outputs(parts.model, parts.valid_dl, parts.data.target.names)
