"""When to stop, and whether the model can learn at all."""

import math
import time
from typing import Any

from torch import Tensor

from plainfit.common.errors import ConfigError, near_miss
from plainfit.training.hooks import Callback, Context

DOWN = ("loss", "error", "mse", "mae", "rmse", "perplexity")  # names of what is better when lower


def is_lower_better(name: str) -> bool:
    """Return whether a figure of that name is a loss or an error.

    >>> is_lower_better("valid_loss"), is_lower_better("accuracy")
    (True, False)
    """
    return any(word in name.lower() for word in DOWN)


def figure(row: dict[str, Any], name: str) -> float:
    """Return what is monitored from a row of the history.

    Raises:
        ConfigError: if the history has no such column.
    """
    if name not in row:
        raise ConfigError(
            f"what is monitored must be a column of the history ({', '.join(row)}), got "
            f"{name!r}{near_miss(name, row)}"
        )
    return float(row[name])


class Best:
    """The best figure so far.

    Args:
        monitor: a column of the history; the validation loss where there is one, by default.
        lower_is_better: by default, so for losses and errors and not for the rest.
    """

    def __init__(self, monitor: str | None = None, lower_is_better: bool | None = None) -> None:
        self.monitor = monitor
        self.lower_is_better = lower_is_better
        self.value = math.nan
        self.epoch = -1

    def forget(self) -> None:
        """Begin again, for another training."""
        self.value, self.epoch = math.nan, -1

    def improved(self, context: Context) -> bool:
        """Take in the last epoch's figure; return whether it is the best so far.

        Raises:
            ConfigError: if the history has no such column.
        """
        row = context.history[-1]
        name = self.monitor or ("valid_loss" if "valid_loss" in row else "train_loss")
        value, lower = figure(row, name), self.lower_is_better
        if lower is None:
            lower = is_lower_better(name)
        is_best = not math.isnan(value) and (
            math.isnan(self.value) or (value < self.value if lower else value > self.value)
        )
        if is_best:
            self.value, self.epoch = value, context.epoch
        return is_best

    def state_dict(self) -> dict[str, Any]:
        """Return the figure and its epoch."""
        return {"value": self.value, "epoch": self.epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.value, self.epoch = state["value"], state["epoch"]


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
        self.waited = 0

    def on_fit_start(self, context: Context) -> None:
        """Stop again, where a training is resumed that had stopped here; else count from 0."""
        if context.global_step == 0:
            self.best.forget()
            self.waited = 0
        self.check(context)

    def on_epoch_end(self, context: Context) -> None:
        """Count the epochs since the best one."""
        self.waited = 0 if self.best.improved(context) else self.waited + 1
        self.check(context)

    def check(self, context: Context) -> None:
        """Stop, if it has been long enough."""
        if self.waited >= self.patience:
            loss = "validation loss" if "valid_loss" in context.history[-1] else "training loss"
            context.stop = f"no better {self.best.monitor or loss} for {self.waited} epochs"

    def state_dict(self) -> dict[str, Any]:
        """Return the best figure, and how long ago it was."""
        return {"best": self.best.state_dict(), "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.best.load_state_dict(state["best"])
        self.waited = state["waited"]


class BestInMemory(Callback):
    """Hold the weights of the best epoch, for who wants to go back to them after `fit`."""

    def __init__(self) -> None:
        self.best = Best()
        self.weights: dict[str, Tensor] = {}

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
