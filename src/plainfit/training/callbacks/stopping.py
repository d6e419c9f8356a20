"""When to stop: no progress, no time left, a loss that is not finite; training on one batch."""

import copy
import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from plainfit.common.errors import CheckpointError, ConfigError, NonFiniteError, plural
from plainfit.data.batches import tensors_in
from plainfit.models.weights import whole
from plainfit.training.history import best_epoch, mode_of, monitored, read
from plainfit.training.hooks import Callback, Context
from plainfit.training.metrics import lacks_labels, metric_name

NO_BETTER = "no better "  # the start of why early stopping stopped
HOW_TO_FIND = "find it with detect_anomaly or torch.autograd.set_detect_anomaly(True)"


class Best:
    """The best epoch of a training so far; arguments as for `EarlyStopping`."""

    def __init__(self, monitor: str | None = None, mode: str | None = None) -> None:
        self.monitor = monitor
        self.mode = mode
        self.epoch: int | None = None

    def start(self, context: Context) -> None:
        """Look at the epochs so far; refuse what can be no column, or has no known mode."""
        if self.monitor is not None:
            check_column(self.monitor, context)
            declared = context.history.modes.get(self.monitor)
            self.mode = mode_of(self.monitor, self.mode or declared)
        self.epoch = best_epoch(context.history.epochs, self.monitor, self.mode)

    def improved(self, context: Context) -> bool:
        rows = context.history.epochs
        rivals = [*([] if self.epoch is None else [rows[self.epoch]]), rows[-1]]
        is_best = best_epoch(rivals, self.monitor, self.mode) == len(rivals) - 1
        if is_best:
            self.epoch = len(rows) - 1
        return is_best


def check_column(monitor: str, context: Context) -> None:
    """Refuse what no epoch of this training will have, where every column is known before."""
    call: Any = context.history.run
    makers = [call.loss_func, *call.metrics, *context.callbacks]  # of further columns
    homes = {(getattr(m, "__module__", None) or "torch").partition(".")[0] for m in makers}
    is_plain = not (isinstance(call.valid_dl, Mapping) or monitor.startswith(("train_", "valid_")))
    if (is_plain and homes <= {"plainfit", "torch"}) or monitor == "valid_loss":
        valid = [] if call.valid_dl is None else ["valid_loss", *map(metric_name, call.metrics)]
        columns = ["epoch", "train_loss", *valid, "seconds", "samples_per_second"]
        monitored(dict.fromkeys(columns, 0), monitor)


class EarlyStopping(Callback):
    """Stop when a metric has not improved for `patience` epochs (Prechelt 1998).

    Args:
        patience: epochs to wait after the best one.
        monitor: a column of the history; by default the validation loss, or the training loss
            without validation.
        mode: `min` or `max`, which values of the column are better; by default what the metric
            says (`higher_is_better`), or what is known of its name. For others it must be given.
        restore_best: give the model the weights of the best epoch when `fit` returns. Until then,
            they are kept in memory and in each checkpoint.
    """

    def __init__(
        self,
        patience: int = 5,
        monitor: str | None = None,
        mode: str | None = None,
        *,
        restore_best: bool = False,
    ) -> None:
        if patience < 1:
            raise ConfigError(f"patience must be at least 1 epoch, got {patience}")
        self.patience = patience
        self.best = Best(monitor, mode)
        self.restore_best = restore_best
        self.saved = ("weights", "weights_epoch") if restore_best else ()
        self.weights: list[dict[str, Any]] = []
        self.weights_epoch: int | None = None

    def on_fit_start(self, context: Context) -> None:
        if context.global_step == 0:
            self.weights, self.weights_epoch = [], None
        self.best.start(context)
        if self.restore_best and self.weights_epoch != self.best.epoch:
            raise CheckpointError(
                f"restore_best needs the weights of epoch {self.best.epoch}, the best so far, and "
                "the checkpoint does not have them; resume with the EarlyStopping that it was made "
                "with, or without restore_best"
            )
        self.check(context)

    def on_epoch_end(self, context: Context) -> None:
        if self.best.improved(context) and self.restore_best:
            self.weights = [copy.deepcopy(dict(each.state_dict())) for each in trained(context)]
            self.weights_epoch = self.best.epoch
        self.check(context)

    def on_fit_end(self, context: Context) -> None:
        if self.weights:
            context.model.load_state_dict(self.weights[0])
            for module, weights in zip(trained(context), self.weights, strict=True):
                module.load_state_dict(weights)  # of the average too, which is copied later

    def check(self, context: Context) -> None:
        """Stop if too many epochs have passed since the best one."""
        best = -1 if self.best.epoch is None else self.best.epoch
        waited = len(context.history) - 1 - best
        if waited >= self.patience:
            loss = "validation loss" if "valid_loss" in context.history[-1] else "training loss"
            context.stop = f"{NO_BETTER}{self.best.monitor or loss} for {plural(waited, 'epoch')}"


def trained(context: Context) -> list[nn.Module]:
    """Return the model that is validated, and the loss, if it is a module."""
    loss = context.loss_func
    return [context.valid_model, *([loss] if isinstance(loss, nn.Module) else [])]


class TimeLimit(Callback):
    """Stop after a number of seconds of this process, even within an epoch; resume ends it."""

    in_program = "after"

    def __init__(self, seconds: float) -> None:
        if not seconds > 0:
            raise ConfigError(f"a time limit must be a positive number of seconds, got {seconds}")
        self.seconds = seconds
        self.end = math.inf

    def on_fit_start(self, context: Context) -> None:
        self.end = time.perf_counter() + self.seconds

    def on_step_end(self, context: Context) -> None:
        if time.perf_counter() >= self.end:
            context.stop = f"the time limit of {self.seconds:g} s"


class OverfitOneBatch(Callback):
    """Train on the first batch alone: a model that cannot learn it by heart has a fault.

    The training loss must fall to about 0 within some tens of steps. It changes the training's
    result, of course.
    """

    saved = ("batch",)

    def __init__(self) -> None:
        self.batch: tuple[Any, Any] | None = None

    def on_fit_start(self, context: Context) -> None:
        if context.global_step == 0:
            self.batch = None

    def on_batch_start(self, context: Context) -> None:
        if self.batch is None:
            self.batch = (context.xb, context.yb)
        context.xb, context.yb = self.batch


class NonFiniteGuard(Callback):
    """Stop before the update of a step whose loss is NaN or infinite. `fit` adds one by default.

    The parameters are then those of the step before; batch norm has already seen the batch.
    Gradients that are not finite show in the next step's loss, or at the end of the epoch, before a
    checkpoint is written; `GradientClipping` sees them at once. A batch whose labels are all
    ignored has the loss 0 / 0 and gradients of 0: it stops nothing, nor counts in `train_loss`.

    Args:
        every: check only every `every` steps, all losses since. A check waits for the device, so
            on an accelerator `fit` checks every 100 steps; the steps since the bad one are lost.

    Raises:
        NonFiniteError: with the epoch, the step and the batch, and the source of the value.
    """

    observer = True
    in_program = "after"

    def __init__(self, every: int = 1) -> None:
        self.every = every
        self.lacks_labels = False
        self.has_checked = False

    def on_loss(self, context: Context) -> None:
        if self.every > 1:
            return
        loss = context.loss.item()
        call: Any = context.history.run
        self.lacks_labels = math.isnan(loss) and (
            lacks_labels(context.model, call.loss_func, context.xb, context.yb)
            if context.sharding is None
            else not context.sharding.weight
        )
        if not (math.isfinite(loss) or self.lacks_labels):
            raise NonFiniteError(
                f"the loss must be finite, and is {loss} in epoch {context.epoch}, "
                f"step {context.step} (batch {context.step} of that epoch, from 0); "
                f"{cause(context)}"
            )
        self.has_checked = True

    def on_step_end(self, context: Context) -> None:
        if self.lacks_labels:
            context.sizes[-1], self.lacks_labels = 0, False
        if self.has_checked or (context.step % self.every and context.step != context.steps):
            self.has_checked = False
            return
        recent = context.pending[-self.every :]
        bad = [(i, loss) for i, loss in enumerate(read(recent)) if not math.isfinite(loss)]
        if bad:
            step = context.step - len(recent) + bad[0][0]
            raise NonFiniteError(
                f"the loss must be finite, and is {bad[0][1]} in epoch "
                f"{context.epoch}, step {step}; seen after step {context.step - 1}, whose update "
                "is done; go on from the last checkpoint, with a lower learning rate or clipped "
                "gradients, and without batches whose labels are all ignored"
            )

    def on_epoch_end(self, context: Context) -> None:
        if broken := broken_parameter(context):
            raise NonFiniteError(
                f"the parameters must be finite, and {broken} is not after the last step of epoch "
                f"{context.epoch}, whose gradients were not; {HOW_TO_FIND}"
            )


def cause(context: Context) -> str:
    for name, batch in (("inputs", context.xb), ("targets", context.yb)):
        if not all(torch.isfinite(tensor).all() for tensor in tensors_in(batch)):
            return f"the {name} of the batch hold NaN or infinite values: fix the data"
    if broken := broken_parameter(context):
        return (
            f"the parameter {broken} holds such values since an earlier step, whose gradients "
            f"had them; {HOW_TO_FIND}"
        )
    hint = "the data and the parameters are finite: lower the learning rate, or clip gradients"
    labels = context.yb
    if context.loss.isnan() and isinstance(labels, Tensor) and len(labels.unique()) == 1:
        hint += f"; or leave out such batches, if the loss ignores their only label, {labels.max()}"
    return hint


def broken_parameter(context: Context) -> str:
    """Return the name of the first trained parameter that is not finite, or an empty string."""
    loss, named = context.loss_func, list(context.model.named_parameters())
    if isinstance(loss, nn.Module):
        named += loss.named_parameters("the loss")
    trained = ((name, p) for name, p in named if p.requires_grad)
    return next((name for name, p in trained if not torch.isfinite(whole(p)).all()), "")
