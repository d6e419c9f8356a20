"""The work of one process for a study: trial after trial."""

import inspect
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from errno import EDQUOT, EFBIG, ENOSPC
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from plainfit.common.errors import NonFiniteError, reason
from plainfit.common.files import FileLock
from plainfit.training.processes import LostError, join
from plainfit.tuning.results import NOTE, VALUES, StudyResult, result_of, write_page
from plainfit.tuning.space import StudyConfig, brought_up_to_date
from plainfit.tuning.storage import (
    DESCRIPTION,
    Queue,
    folder_of,
    open_storage,
    study_name,
    whole_study,
)
from plainfit.tuning.trials import Report, value_of

REPEATED = "repeat {} seed "  # the name of an attribute of the study; the seed follows


class OutOfTime(Exception):  # noqa: N818  # not an error
    """The time limit of the study stopped a training."""


@dataclass
class Work:
    """A study and this process's part in it; `tune` documents the fields."""

    config: StudyConfig
    train: Callable[..., Any]
    folder: Path
    url: str | None
    trials: int
    end: float
    """When the time limit is reached, by `time.monotonic`."""
    echo: Callable[[str], None]
    watch: Callable[[StudyResult], None] | None

    def __post_init__(self) -> None:
        config, folder, url = self.config, self.folder, self.url
        with whole_study(folder), FileLock(folder / ".begin.lock"):
            storage = open_storage(folder, url)
            self.study = optuna.create_study(
                storage=storage,
                study_name=study_name(folder, url),
                direction="minimize" if config.mode == "min" else "maximize",
                pruner=make_pruner(config),
                load_if_exists=True,
            )
            known = brought_up_to_date(self.study.user_attrs.get(DESCRIPTION))
            if known is not None:
                config.check_against(known, folder)
            self.study.set_user_attr(DESCRIPTION, config.to_dict() | {"trials": self.trials})
        self.queue = Queue(self.study, storage, config.space, folder, config.seed)

    def run(self, repeat: int) -> None:
        """Work until there are enough trials, then train the best settings again."""
        try:
            with self.queue.joined():
                while time.monotonic() < self.end and (trial := self.queue.take(self.trials)):
                    with self.queue.alive(trial):
                        self.run_trial(trial)
                    self.changed()
                    self.echo(self.result().trial_line(trial.number))
                if repeat:
                    self.repeat(repeat)
        except OutOfTime:
            self.echo("note   the time limit is reached; the same call continues")
        except (KeyboardInterrupt, SystemExit):
            self.echo(f"stopped; the same call continues the study in {self.folder}")
            raise
        with whole_study(self.folder):
            write_page(self.result(), self.study, self.config)

    def run_trial(self, trial: optuna.Trial) -> None:
        """Train with each seed of a trial and store the values; if interrupted, let it wait."""
        report = Report(self.config.monitor, self.end, trial, self.changed)
        try:
            values = [self.value(trial.params, folder_of(trial), 0, report)]
            for number in range(1, self.config.seeds):
                values.append(self.value(trial.params, folder_of(trial), number))
        except (KeyboardInterrupt, SystemExit, OutOfTime):
            self.queue.put_back(trial)
            raise
        except optuna.TrialPruned:
            self.study.tell(trial, state=TrialState.PRUNED)
        except Exception as error:
            if is_of_machine(error):
                self.queue.put_back(trial)
                raise
            self.fail(trial, error)
        else:
            trial.set_user_attr(VALUES, values)
            self.study.tell(trial, statistics.fmean(values))

    def value(
        self, settings: Mapping[str, Any], name: str, number: int, report: Report | None = None
    ) -> float:
        seed = self.config.seed + number
        report = report or Report(self.config.monitor, self.end)
        folder = self.folder / (f"{name}-seed-{seed}" if number else name)
        folder.mkdir(exist_ok=True)
        offered = {"seed": seed, "report": report, "folder": folder}
        named = inspect.signature(self.train).parameters
        asked = {name: value for name, value in offered.items() if name in named}
        result = self.train(**self.config.fixed, **settings, **asked)
        if report.out_of_time:
            raise OutOfTime
        if report.pruned:
            raise optuna.TrialPruned
        value = value_of(result, self.config.monitor)
        if not math.isfinite(value):
            raise NonFiniteError(f"{self.config.monitor} must be finite, got {value}")
        return value

    def fail(self, trial: optuna.Trial, error: Exception) -> None:
        """Note why a trial failed; diverging counts as a bad value, other failures do not count.

        Other processes that train with this one end with such a failure, and so does this one.
        """
        diverged = isinstance(error, NonFiniteError) or isinstance(error.__cause__, NonFiniteError)
        trial.set_user_attr(NOTE, reason(error))
        self.study.tell(trial, state=TrialState.PRUNED if diverged else TrialState.FAIL)
        if not diverged and (join().world > 1 or self.result().best is None):
            raise error

    def repeat(self, count: int) -> None:
        """Train the best settings with seeds that the search has not seen."""
        result = self.result()
        if (best := result.best) is None or result.count("running") or result.count("waiting"):
            self.echo("note   the last process repeats the best settings, or the same call later")
            return
        with FileLock(self.folder / ".repeat.lock"):
            for number in range(self.config.seeds, self.config.seeds + count):
                name = REPEATED.format(best.number) + str(self.config.seed + number)
                if name not in self.study.user_attrs:
                    value = self.value(best.settings, best.folder.name, number)
                    self.study.set_user_attr(name, value)

    def result(self) -> StudyResult:
        known = {folder_of(trial): trial for trial in self.study.get_trials(deepcopy=False)}
        with whole_study(self.folder):
            trials = [result_of(trial, self.folder / name) for name, trial in known.items()]
        config = self.config
        result = StudyResult(self.folder, config.monitor, config.mode, trials)
        if result.best is not None:
            name = REPEATED.format(result.best.number)
            attributes = self.study.user_attrs
            result.repeated.extend(v for n, v in attributes.items() if n.startswith(name))
        return result

    def changed(self) -> None:
        if self.watch is not None:
            self.watch(self.result())


def is_of_machine(error: BaseException | None) -> bool:
    """Return whether the cause is a full disk, a quota or a lost process, and not the settings."""
    codes = (ENOSPC, EDQUOT, EFBIG)
    if error is None or isinstance(error, LostError) or getattr(error, "errno", None) in codes:
        return error is not None
    return is_of_machine(error.__cause__)


def make_pruner(config: StudyConfig) -> optuna.pruners.BasePruner:
    if config.pruner == "median":
        return optuna.pruners.MedianPruner()
    if config.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(max_resource=config.fixed.get("epochs", "auto"))
    return optuna.pruners.NopPruner()
