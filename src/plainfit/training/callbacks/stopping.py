"""When to stop, and whether the model can learn at all."""

import math
import time
from typing import Any

from torch import Tensor

from plainfit.common.errors import ConfigError
from plainfit.training.history import best_epoch
from plainfit.training.hooks import Callback, Context


class Best:
    """The best epoch of a training so far, by `best_epoch`.

    Args:
        monitor: a column of the history; by default the validation loss, or the training loss
            without validation.
        lower_is_better: by default True for losses and errors, by the name of the column.
    """

    def __init__(self, monitor: str | None = None, lower_is_better: bool | None = None) -> None:
        self.monitor = monitor
        self.mode = {None: None, True: "min", False: "max"}[lower_is_better]
        self.epoch: int | None = None

    def start(self, context: Context) -> None:
        """Find the best epoch of a resumed training."""
        self.epoch = best_epoch(context.history.epochs, self.monitor, self.mode)

    def improved(self, context: Context) -> bool:
        """Return whether the last epoch is the best so far."""
        rows = context.history.epochs
        rivals = [*([] if self.epoch is None else [rows[self.epoch]]), rows[-1]]
        is_best = best_epoch(rivals, self.monitor, self.mode) == len(rivals) - 1
        if is_best:
            self.epoch = len(rows) - 1
        return is_best


class EarlyStopping(Callback):
    """Stop when a figure has not improved for `patience` epochs (Prechelt 1998).

    Args:
        patience: epochs to wait after the best one.
        monitor: see `Best`.
        lower_is_better: see `Best`.
    """

    def __init__(
        self, patience: int = 5, monitor: str | None = None, lower_is_better: bool | None = None
    ) -> None:
        if patience < 1:
            raise ConfigError(f"patience must be at least 1 epoch, got {patience}")
        self.patience = patience
        self.best = Best(monitor, lower_is_better)

    def on_fit_start(self, context: Context) -> None:
        """Stop again, where a training is resumed that had stopped here."""
        self.best.start(context)
        self.check(context)

    def on_epoch_end(self, context: Context) -> None:
        self.best.improved(context)
        self.check(context)

    def check(self, context: Context) -> None:
        """Stop if too many epochs have passed since the best one."""
        best = -1 if self.best.epoch is None else self.best.epoch
        waited = len(context.history) - 1 - best
        if waited >= self.patience:
            loss = "validation loss" if "valid_loss" in context.history[-1] else "training loss"
            context.stop = f"no better {self.best.monitor or loss} for {waited} epochs"


class BestInMemory(Callback):
    """Hold the weights of the best epoch, for who wants to go back to them after `fit`."""

    def __init__(self) -> None:
        self.best = Best()
        self.weights: dict[str, Tensor] = {}

    def on_fit_start(self, context: Context) -> None:
        self.best.start(context)

    def on_epoch_end(self, context: Context) -> None:
        """Copy them, if this epoch is the best so far."""
        if self.best.improved(context):
            state = context.valid_model.state_dict()
            self.weights = {name: value.clone() for name, value in state.items()}


class TimeLimit(Callback):
    """Stop after so many seconds of this process, within an epoch too; resume goes on there."""

    def __init__(self, seconds: float) -> None:
        if not seconds > 0:
            raise ConfigError(f"a time limit must be a positive number of seconds, got {seconds}")
        self.seconds = seconds
        self.end = math.inf

    def on_fit_start(self, context: Context) -> None:
        """Look at the clock."""
        self.end = time.perf_counter() + self.seconds

    def on_step_end(self, context: Context) -> None:
        """Stop, if the time is over."""
        if time.perf_counter() >= self.end:
            context.stop = f"the time limit of {self.seconds:g} s"


class OverfitOneBatch(Callback):
    """Train on the first batch alone: a model that cannot learn it by heart has a fault.

    Look at the training loss: it must go to about 0 in some tens of steps. It changes the
    training's result, of course.
    """

    def __init__(self) -> None:
        self.batch: tuple[Any, Any] | None = None

    def on_fit_start(self, context: Context) -> None:
        """Forget the batch of an earlier training."""
        if context.global_step == 0:
            self.batch = None

    def on_batch_start(self, context: Context) -> None:
        """Put the first batch in place of every other."""
        if self.batch is None:
            self.batch = (context.xb, context.yb)
        context.xb, context.yb = self.batch

    def state_dict(self) -> dict[str, Any]:
        """Return the batch."""
        return {"batch": self.batch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self.batch = state["batch"]
