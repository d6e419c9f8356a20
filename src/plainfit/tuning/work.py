"""What a process does for a study: trial after trial."""

import inspect
import math
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from plainfit.common.errors import NonFiniteError, PlainfitError
from plainfit.tuning.locks import FileLock
from plainfit.tuning.page import write_page
from plainfit.tuning.plan import Plan
from plainfit.tuning.queue import Queue, folder_of
from plainfit.tuning.reporting import Report, value_of
from plainfit.tuning.results import NOTE, VALUES, StudyResult, result_of
from plainfit.tuning.storage import DESCRIPTION, open_storage, study_name
from plainfit.tuning.table import trial_line


class OutOfTime(Exception):  # noqa: N818  # not an error
    """The study's time is over within a training."""


class Pruned(Exception):  # noqa: N818  # not an error
    """A training is not worth going on with."""


class Work:
    """A study, and this process's part in it; see `tune` for what it is made of."""

    def __init__(
        self,
        plan: Plan,
        train: Callable[..., Any],
        folder: Path,
        url: str | None,
        trials: int,
        end: float,
        echo: Callable[[str], None] | None,
        watch: Callable[[StudyResult], None] | None,
    ) -> None:
        self.plan = plan
        self.train = train
        self.folder = folder
        self.trials = trials
        self.end = end
        self.say = echo or (lambda line: None)
        self.watch = watch
        with FileLock(folder / ".begin.lock"):
            storage = open_storage(folder, url)
            self.study = optuna.create_study(
                storage=storage,
                study_name=study_name(folder, url),
                direction="minimize" if plan.lower_is_better else "maximize",
                pruner=make_pruner(plan),
                load_if_exists=True,
            )
            known = self.study.user_attrs.get(DESCRIPTION)
            if known is not None:
                plan.check_against(known, folder)
            self.study.set_user_attr(DESCRIPTION, plan.to_dict() | {"trials": trials})
        distributions = {name: spec.distribution() for name, spec in plan.space.items()}
        self.queue = Queue(self.study, storage, distributions, folder, plan.seed)

    def run(self, repeat: int) -> None:
        """Work until there are enough trials, then train with the best settings again."""
        try:
            with self.queue.joined():
                while time.monotonic() < self.end and (trial := self.queue.take(self.trials)):
                    with self.queue.alive(trial):
                        self.carry_out(trial)
                    self.changed()
                    self.say(trial_line(self.result(), trial.number))
                if repeat:
                    self.repeat(repeat)
        except OutOfTime:
            self.say("note   the time is over; the same call goes on")
        except (KeyboardInterrupt, SystemExit):
            self.say(f"stopped; everything is saved in {self.folder}; the same call goes on")
            raise
        write_page(self.result(), self.study, self.plan)

    def carry_out(self, trial: optuna.Trial) -> None:
        """Train as often as a trial has seeds, and write down what comes of it.

        Raises:
            OutOfTime: if the time is over, likewise KeyboardInterrupt: the trial waits then.
            Exception: what the training raises, if no trial is complete that could do without.
        """
        report = Report(self.plan.monitor, self.end, trial, self.changed)
        try:
            values = [self.value(trial.params, folder_of(trial), 0, report)]
            for number in range(1, self.plan.seeds):
                values.append(self.value(trial.params, folder_of(trial), number))
        except (KeyboardInterrupt, SystemExit, OutOfTime):
            self.queue.put_back(trial)
            raise
        except Pruned:
            self.study.tell(trial, state=TrialState.PRUNED)
        except Exception as error:
            self.fail(trial, error)
        else:
            trial.set_user_attr(VALUES, values)
            self.study.tell(trial, statistics.fmean(values))

    def value(
        self, settings: Mapping[str, Any], name: str, number: int, report: Report | None = None
    ) -> float:
        """Train once, with the seed of that number, and return the figure."""
        seed = self.plan.seed + number
        report = report or Report(self.plan.monitor, self.end)
        folder = self.folder / (f"{name}-seed-{seed}" if number else name)
        folder.mkdir(exist_ok=True)
        offered = {"seed": seed, "report": report, "folder": folder}
        named = inspect.signature(self.train).parameters
        asked = {name: value for name, value in offered.items() if name in named}
        result = self.train(**self.plan.fixed, **settings, **asked)
        if report.out_of_time:
            raise OutOfTime
        if report.pruned:
            raise Pruned
        value = value_of(result, self.plan.monitor)
        if not math.isfinite(value):
            raise NonFiniteError(f"{self.plan.monitor} must be finite, and is {value}")
        return value

    def fail(self, trial: optuna.Trial, error: Exception) -> None:
        """Note why a trial failed; settings that diverge count as bad, others are not counted."""
        diverged = isinstance(error, NonFiniteError) or isinstance(error.__cause__, NonFiniteError)
        kind = "" if isinstance(error, PlainfitError) else f"{type(error).__name__}: "
        trial.set_user_attr(NOTE, f"{kind}{error}")
        self.study.tell(trial, state=TrialState.PRUNED if diverged else TrialState.FAIL)
        if not diverged and self.result().best is None:
            raise error

    def repeat(self, count: int) -> None:
        """Train with the best settings and seeds that the search has not seen."""
        result = self.result()
        if result.best is None or result.count("running") or result.count("waiting"):
            self.say(
                "note   repeated by the process that ends last; if none is left, by the same call"
            )
            return
        best = result.best
        with FileLock(self.folder / ".repeat.lock"):
            for number in range(self.plan.seeds, self.plan.seeds + count):
                name = f"{repeat_name(best.number)}{self.plan.seed + number}"
                if name not in self.study.user_attrs:
                    value = self.value(best.settings, best.folder.name, number)
                    self.study.set_user_attr(name, value)

    def result(self) -> StudyResult:
        """Return the study as it stands."""
        known = {folder_of(trial): trial for trial in self.study.get_trials(deepcopy=False)}
        trials = [result_of(trial, self.folder / name) for name, trial in known.items()]
        plan = self.plan
        result = StudyResult(self.folder, plan.monitor, plan.lower_is_better, trials)
        if result.best is not None:
            name = repeat_name(result.best.number)
            attributes = self.study.user_attrs
            result.repeated.extend(v for n, v in attributes.items() if n.startswith(name))
        return result

    def changed(self) -> None:
        """Show how things stand to who watches."""
        if self.watch is not None:
            self.watch(self.result())


def repeat_name(trial: int) -> str:
    """Return what the names of a trial's repeated figures begin with; the seed follows."""
    return f"repeat {trial} seed "


def make_pruner(plan: Plan) -> optuna.pruners.BasePruner:
    """Return the pruner of a plan; both need the figures of some trials before they prune."""
    if plan.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(max_resource=plan.fixed.get("epochs", "auto"))
    return optuna.pruners.MedianPruner() if plan.pruner == "median" else optuna.pruners.NopPruner()
