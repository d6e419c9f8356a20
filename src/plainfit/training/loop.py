"""The loop: `fit -> loss_batch -> model(xb)`, the tutorial's functions and no more hops.

This module is named for what it holds because a module `plainfit.fit` would hide the function
`plainfit.fit` (docs/decisions/0002-lazy-package.md).
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from plainfit.common.devices import device_of
from plainfit.data.batches import Batches, batch_size, length, no_batches, pairs
from plainfit.training.callbacks.checkpointing import Checkpointing
from plainfit.training.callbacks.finite import NonFiniteGuard
from plainfit.training.callbacks.precision import LossScaling, autocast, within
from plainfit.training.callbacks.rates import rates_by
from plainfit.training.callbacks.tracking import Tracking
from plainfit.training.compiling import CompiledLoss
from plainfit.training.history import History, epoch_line, heading_line, read, weighted_mean
from plainfit.training.hooks import Callback, Context, NoHooks
from plainfit.training.memory import kept_memory
from plainfit.training.metrics import Metric, WholeSet
from plainfit.training.position import rest_of_epoch
from plainfit.training.record import FitRecord
from plainfit.training.schedules import Factor
from plainfit.training.session import LeaveValidation, UntilStopped, mixed_labels_explained, session
from plainfit.training.trackers import Tracker

LossFunction = Callable[[Any, Any], Tensor]


def loss_batch(
    model: nn.Module,
    loss_func: LossFunction,
    xb: Any,
    yb: Any,
    opt: Optimizer | None = None,
    context: Context | None = None,
) -> tuple[Tensor, int]:
    """Compute the loss of a batch and, if there is an optimizer, take a step.

    Args:
        model: called as `model(xb)`.
        loss_func: called as `loss_func(model(xb), yb)`; returns the mean over the batch.
        xb: the inputs: a tensor with the batch as its first dimension, or a dict or tuple of them.
        yb: the targets, likewise.
        opt: with it, the model is trained on the batch; without, nothing changes.
        context: with it, the hooks of its callbacks are called.

    Returns:
        The loss (detached, without dimensions, on the model's device: reading it with `float()`
        waits for the device, so `fit` reads once an epoch) and the number of samples.
    """
    if isinstance(opt, LBFGS):  # the one optimizer of torch that evaluates the loss itself
        return _step_by_closure(model, loss_func, xb, yb, opt, context), batch_size(xb)
    watch = context or NoHooks()
    loss = loss_func(model(xb), yb)
    detached = loss.detach()
    if opt is not None:
        watch.loss, watch.take_step = loss, True
        watch.call("on_loss")
        watch.loss.backward()
        watch.call("on_backward_end")
        if watch.take_step:
            watch.call("on_step_start")
            opt.step()
            opt.zero_grad()
        watch.loss = detached
    return detached, batch_size(xb)


def _step_by_closure(
    model: nn.Module,
    loss_func: LossFunction,
    xb: Any,
    yb: Any,
    opt: LBFGS,
    context: Context | None,
) -> Tensor:
    """Take a step of an optimizer that calls the model several times; return the first loss."""

    watch = context or NoHooks()
    losses: list[Tensor] = []

    def closure() -> Tensor:
        opt.zero_grad()
        watch.loss = loss_func(model(xb), yb)
        losses.append(watch.loss.detach())
        watch.call("on_loss")
        watch.loss.backward()
        loss: Tensor = watch.loss
        return loss

    opt.step(closure)
    opt.zero_grad()
    watch.loss = losses[0]
    return losses[0]


def validate(
    model: nn.Module,
    loss_func: LossFunction,
    valid_dl: Batches,
    *,
    metrics: Sequence[Metric] = (),
) -> dict[str, float]:
    """Return the mean loss (`loss`) and the metrics (by name) over a loader's samples.

    The losses of batches count by their size, and a metric is computed once over the whole set, so
    unequal batches distort nothing. The model is put in `eval()` mode, no gradients are kept, and
    no random number is drawn.

    Args:
        model: called as `model(xb)`.
        loss_func: `(model(xb), yb) -> mean loss`.
        valid_dl: as `fit` takes it.
        metrics: functions `(model(xb), yb) -> tensor`, given the predictions of the whole set, or
            objects with `reset`, `update` and `compute`, such as those of torchmetrics.

    Raises:
        ValueError: if the loader is empty, or two metrics have one name.
    """
    device = device_of(model)
    whole = WholeSet(metrics, device)
    losses, sizes = [], []
    model.eval()
    with torch.no_grad():
        for xb, yb in pairs(valid_dl, device):
            out = model(xb)
            losses.append(loss_func(out, yb))
            sizes.append(batch_size(xb))
            whole.update(out, yb)
        if not sizes:
            raise ValueError(f"a validation loader must give batches, got none from {valid_dl!r}")
        return {"loss": weighted_mean(read(losses), sizes), **whole.compute()}


def fit(
    epochs: int,
    model: nn.Module,
    loss_func: LossFunction,
    opt: Optimizer,
    train_dl: Batches,
    valid_dl: Batches | None,
    *,
    metrics: Sequence[Metric] = (),
    callbacks: Sequence[Callback] = (),
    schedule: Factor | LRScheduler | str | None = None,
    checkpoint: str | Path | Checkpointing | None = None,
    resume: bool = False,
    track: str | Tracker | None = None,
    check_finite: bool = True,
    precision: str = "fp32",
    compile: bool = False,
    keep_memory: bool = True,
    echo: Callable[[str], None] | None = print,
) -> History:
    """Train a model for some epochs, validating after each, and return the history.

    Args:
        epochs: passes over the training data.
        model: any module; batches are moved to its device, the model itself is left where it is.
        loss_func: `(model(xb), yb) -> mean loss`, such as `F.cross_entropy`.
        opt: any `torch.optim` optimizer over the model's parameters.
        train_dl: any iterable of `(xb, yb)`, or a function that returns a fresh one each epoch.
            A batch that is no pair is passed whole: `loss_func(model(batch), batch)`.
        valid_dl: likewise; None to train without validation.
        metrics: functions `(predictions, targets) -> tensor`, such as `accuracy`, or objects of
            torchmetrics; computed over the whole validation set.
        callbacks: called at each hook in this order.
        schedule: the learning rate by step: a function `step -> factor` (see
            `plainfit.training.schedules`), the name of one, such as `one-cycle`, or a scheduler
            of torch.
        checkpoint: a folder to keep checkpoints in: after each epoch, and each minute within one.
        resume: go on from the newest valid checkpoint there, if there is one; the bits are those
            of a training that was never stopped.
        track: `tensorboard`, `mlflow`, `wandb` or `trackio`, which write to `runs/tracked` (for
            another folder, pass the callback `Tracking`), or a `Tracker`.
        check_finite: stop before the update of a step whose loss is not finite; on an accelerator,
            which this would hold up, within 100 steps.
        precision: `fp32`, or `bf16` or `fp16` for autocast; it changes the bits.
        compile: run forward pass, loss and backward pass through `torch.compile`, as one graph. It
            costs seconds at the start, pays in long trainings, and changes the bits.
        keep_memory: let the process keep freed memory until `fit` returns, where the C library is
            glibc: fewer page faults, the same bits.
        echo: is given the table's heading and then each epoch's line; None for silence.

    Raises:
        ValueError: if the optimizer has none of the model's parameters, or a loader is empty.
        NonFiniteError: if a loss is not finite.
        KeyboardInterrupt: after Ctrl-C, when the current step is done and saved; in a notebook,
            `fit` returns instead.
    """
    check_optimizer(model, opt)
    steps, device = length(train_dl), device_of(model)
    keeper = Checkpointing.at(checkpoint)
    guard = [NonFiniteGuard(1 if device.type == "cpu" else 100)] if check_finite else []
    cast = autocast(precision, device)
    scaling = [LossScaling()] if precision == "fp16" else []
    rates = rates_by(schedule, opt, epochs, steps)
    tracking = [Tracking(track)] if track is not None else []
    everyone = [*guard, *scaling, *rates, *callbacks, *tracking, *([keeper] if keeper else [])]
    context = Context(model, opt, train_dl, everyone, epochs, steps)
    given = (epochs, model, loss_func, opt, train_dl, valid_dl, metrics, everyone)
    context.history.run = FitRecord(*given, precision, compile)
    context.history.run.losses = context.history.step_losses
    step_model, step_loss = model, loss_func
    if compile:
        step_model, step_loss = nn.Identity(), CompiledLoss(model, loss_func, context, echo)
    if precision != "fp32":
        step_model, step_loss = nn.Identity(), within(cast, step_model, step_loss)
    if keeper:
        keeper.begin(context, resume)
        if echo is not None and context.global_step:
            echo(f"resumed in epoch {context.epoch}, after {context.step} of its steps")
    with kept_memory(keep_memory), mixed_labels_explained(context), session(context):
        while context.goes_on():
            context.began = time.perf_counter() - context.seconds
            batches = rest_of_epoch(context)
            model.train()
            if context.step == 0:
                context.call("on_epoch_start")
            for context.xb, context.yb in pairs(batches, device):
                context.call("on_batch_start")
                loss, n = loss_batch(step_model, step_loss, context.xb, context.yb, opt, context)
                context.count(loss, n)
                context.call("on_step_end")
                if context.stop:
                    break
            if context.stop:
                break
            if not context.sizes:
                raise ValueError(no_batches(train_dl, context.epoch))
            context.read_losses()
            trained = time.perf_counter() - context.began
            if valid_dl is not None:
                try:
                    dl = UntilStopped(valid_dl, context)
                    with cast:
                        valid_model = context.valid_model
                        context.result = validate(valid_model, loss_func, dl, metrics=metrics)
                except LeaveValidation:
                    break
                context.call("on_validate_end")
            end_epoch(context, trained, echo)
    return context.history


def end_epoch(context: Context, trained: float, echo: Callable[[str], None] | None) -> None:
    """Add the epoch's row to the history, show it, and move on to the next epoch.

    Args:
        context: of the training; `context.result` has the figures of the validation, if any.
        trained: seconds spent on the epoch's steps.
        echo: as in `fit`.
    """
    losses = context.history.step_losses[-len(context.sizes) :]
    row = {"epoch": context.epoch, "train_loss": weighted_mean(losses, context.sizes)}
    row |= {"valid_loss" if k == "loss" else k: value for k, value in context.result.items()}
    row["seconds"] = time.perf_counter() - context.began
    row["samples_per_second"] = sum(context.sizes) / trained
    context.history.epochs.append(row)
    if echo is not None:
        is_first = context.epoch == context.first_epoch
        echo(f"{heading_line(row)}\n{epoch_line(row)}" if is_first else epoch_line(row))
    context.call("on_epoch_end")
    context.epoch += 1
    context.step, context.sizes, context.seconds, context.result = 0, [], 0.0, {}


def check_optimizer(model: nn.Module, opt: Optimizer) -> None:
    """Catch an optimizer that was made for another model: it would train nothing, silently."""
    mine = {id(parameter) for parameter in model.parameters()}
    if not any(id(p) in mine for group in opt.param_groups for p in group["params"]):
        raise ValueError(
            "the optimizer must hold the model's parameters, and it holds none of them; "
            "make it from this model: optim.SGD(model.parameters(), lr=...)"
        )
