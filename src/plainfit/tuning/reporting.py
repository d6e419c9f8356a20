"""From a training to its trial: the figure of each epoch, and when to stop."""

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from plainfit.common.errors import ConfigError
from plainfit.training.history import History, monitored
from plainfit.training.hooks import Callback, Context

if TYPE_CHECKING:
    from optuna import Trial

PRUNED = "pruned: other trials did better by this epoch"


class Report(Callback):
    """Tells a study how a training goes, and stops it where that is not worth its time.

    `tune` makes one for each training; give it to `fit`: `callbacks=[report]`.

    Args:
        monitor: a column of the history.
        deadline: when to stop, by `time.monotonic`, to go on another time.
        trial: whose training it is; None for one that is not pruned.
        changed: called after each epoch.
    """

    observer = True

    def __init__(
        self,
        monitor: str,
        deadline: float = math.inf,
        trial: "Trial | None" = None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.monitor = monitor
        self.deadline = deadline
        self.trial = trial
        self.changed = changed
        self.pruned = False
        self.out_of_time = False
        self.told = set[int]()
        if trial is not None:  # a trial that goes on has told some epochs before
            self.told |= trial.study.get_trials()[trial.number].intermediate_values.keys()

    def on_fit_start(self, context: Context) -> None:
        """Stop again, where a training is resumed that was pruned here."""
        if context.step == 0:
            self.prune(context)

    def on_step_end(self, context: Context) -> None:
        """Stop, if the time is over."""
        if time.monotonic() >= self.deadline:
            self.out_of_time = True
            context.stop = "the time limit of the study"

    def on_epoch_end(self, context: Context) -> None:
        """Tell the epoch's figure."""
        value = monitored(context.history[-1], self.monitor)
        if self.trial is not None and context.epoch not in self.told:
            self.trial.report(value, context.epoch)
        self.changed()
        self.prune(context)

    def prune(self, context: Context) -> None:
        """Stop, if the pruner says so and there are epochs left."""
        if self.trial is None or not 0 < len(context.history) < context.epochs:
            return
        if self.trial.should_prune():
            self.pruned = True
            context.stop = PRUNED


def value_of(result: Any, monitor: str) -> float:
    """Return the figure that a training has come to.

    Args:
        result: a history, whose last epoch counts, as that is what its weights are; or a number.
        monitor: a column of the history.

    Raises:
        ConfigError: if it is neither.
    """
    if isinstance(result, History):
        return monitored(result[-1], monitor) if len(result) else math.nan
    try:
        return float(result)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"train must return a History or a number, got {type(result).__name__}"
        ) from error
