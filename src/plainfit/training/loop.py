"""The loop: `fit -> loss_batch -> model(xb)`, the tutorial's functions and no more hops.

The module is not called `fit`, as that would hide the function `plainfit.fit`
(docs/decisions/0002-lazy-package.md).
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from plainfit.common.devices import device_of
from plainfit.common.errors import ConfigError, NonFiniteError
from plainfit.data.batches import Batches, Size, batch_size, called, length, no_batches, pairs
from plainfit.training.callbacks.checkpointing import Checkpointing
from plainfit.training.callbacks.optimization import LossScaling, rates_by
from plainfit.training.callbacks.stopping import NonFiniteGuard
from plainfit.training.callbacks.tracking import Tracker, Tracking
from plainfit.training.compiling import LossFunction as LossFunction
from plainfit.training.compiling import autocast, loss_computation
from plainfit.training.fit_call import FitCall
from plainfit.training.history import History, epoch_line, heading_line, kept, read, weighted_mean
from plainfit.training.hooks import Callback, Context, NoHooks
from plainfit.training.metrics import LossWeights, Metric, WholeSet
from plainfit.training.schedules import Factor
from plainfit.training.session import kept_memory, session
from plainfit.training.state import rest_of_epoch


def loss_batch(
    model: nn.Module,
    loss_func: LossFunction | None,
    xb: Any,
    yb: Any,
    opt: Optimizer | None = None,
    context: Context | None = None,
    compute_loss: LossFunction | None = None,
) -> tuple[Tensor, int]:
    """Compute the loss of a batch and, with an optimizer, take a step.

    Args:
        model: any module.
        loss_func: called as `loss_func(model(xb), yb)`; returns the mean over the batch. None for
            a model whose outputs have the loss, as `out.loss` or `out["loss"]`.
        xb: the inputs, such as a tensor with the batch as its first dimension. A tuple is passed
            as `model(*xb)`, a mapping as `model(**xb)`, if the model's `forward` takes them so.
        yb: the targets.
        opt: trains the model on the batch; without it, nothing changes.
        context: has its callbacks called.
        compute_loss: called as `compute_loss(xb, yb)` in place of `loss_func(model(xb), yb)`, of
            which it is another implementation (compiled, or in lower precision).

    Returns:
        The loss (detached, without dimensions, on the model's device: reading it with `float()`
        waits for the device, so `fit` reads once per epoch) and the number of samples.
    """
    watch = context or NoHooks()
    loss_func = loss_func or own_loss
    watch.size = n = watch.batch_size(xb, yb)
    if isinstance(opt, LBFGS):
        compute = compute_loss or (lambda xb, yb: loss_func(called(model, xb), yb))
        return _step_by_closure(model, partial(compute, xb, yb), opt, watch), n
    if compute_loss is not None:
        loss = compute_loss(xb, yb)
    else:
        loss = loss_func(model(xb) if isinstance(xb, Tensor) else called(model, xb), yb)
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
    return detached, n


def own_loss(out: Any, yb: Any) -> Tensor:
    """Return the loss that a model has computed itself, as those of transformers do."""
    loss = out.get("loss") if isinstance(out, Mapping) else getattr(out, "loss", None)
    if not isinstance(loss, Tensor):
        raise ConfigError(
            "may be None where the model's outputs have a loss, as `out.loss` or `out['loss']`, "
            f"got a {type(out).__name__} with none; pass a function, or give the model its labels",
            field="loss_func",
        )
    return loss


def _step_by_closure(
    model: nn.Module, compute: Callable[[], Tensor], opt: LBFGS, watch: Context | NoHooks
) -> Tensor:
    """Take a step of LBFGS, which evaluates the loss several times; return the first loss."""
    losses: list[Tensor] = []
    before = [parameter.detach().clone() for parameter in model.parameters()]

    def closure() -> Tensor:
        opt.zero_grad()
        watch.loss = compute()
        losses.append(watch.loss.detach())
        watch.call("on_loss")
        watch.loss.backward()
        loss: Tensor = watch.loss
        return loss

    try:
        opt.step(closure)
    except NonFiniteError:  # the optimizer has moved the parameters before
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), before, strict=True):
                parameter.copy_(value)
        raise
    opt.zero_grad()
    watch.loss = losses[0]
    return losses[0]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put every part of a model in `eval()` mode, and back in its own at the end."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def validate(
    model: nn.Module,
    loss_func: LossFunction | None,
    valid_dl: Batches,
    *,
    metrics: Sequence[Metric] = (),
    target: str | None = None,
    batch_size: Size = batch_size,
    context: Context | None = None,
) -> dict[str, float]:
    """Return the mean loss (`loss`) and the metrics (by name) over a loader's samples.

    The loss is what `loss_func` gives over the whole set, up to rounding: the mean of the batches'
    losses, each counting by its samples; for `F.cross_entropy` and `F.nll_loss`, by the class
    weights of the labels that are not ignored. If `loss_func` returns the result of a loss of torch
    with `reduction="sum"`, it is their sum; a sum of your own counts as a mean would. Each metric
    is computed once over the whole set. Meanwhile the model is in `eval()` mode, no gradients are
    kept, and no random numbers are drawn.

    Args:
        model: any module.
        loss_func: `(model(xb), yb) -> mean loss`; None as for `loss_batch`.
        valid_dl: as for `fit`.
        metrics: functions `(model(xb), yb) -> tensor`, given the predictions of the whole set, or
            objects with `reset`, `update` and `compute`, such as those of torchmetrics.
        target: as for `fit`.
        batch_size: as for `fit`.
        context: of a training; once it is to stop, the validation ends with an empty result.

    Raises:
        ValueError: if the loader is empty, or two metrics have the same name.
    """
    device = device_of(model)
    whole = WholeSet(metrics, device)
    loss_func = loss_func or own_loss
    losses, watch = [], LossWeights()
    with torch.no_grad(), evaluating(model):
        for xb, yb in pairs(valid_dl, device, target):
            if context is not None and context.stop:
                return {}
            out = model(xb) if isinstance(xb, Tensor) else called(model, xb)
            with watch:
                loss = loss_func(out, yb)
            watch.add(loss, batch_size(xb, yb))
            losses.append(kept(loss))
            whole.update(out, yb)
        if not losses:
            raise ValueError(f"a validation loader must give batches, got none from {valid_dl!r}")
        value, counts_samples = watch.of_set(read(losses))
        if context is not None and context.history.run is not None:
            context.history.run.counts_samples &= counts_samples
            context.history.run.joins_tensors &= whole.are_tensors
        return {"loss": value, **whole.compute(watch.sizes)}


def fit(
    epochs: int,
    model: nn.Module,
    loss_func: LossFunction | None,
    opt: Optimizer,
    train_dl: Batches,
    valid_dl: Batches | None = None,
    *,
    metrics: Sequence[Metric] = (),
    target: str | None = None,
    batch_size: Size = batch_size,
    callbacks: Sequence[Callback] = (),
    schedule: Factor | LRScheduler | str | None = None,
    schedule_by: str | None = None,
    checkpoint: str | Path | Checkpointing | None = None,
    resume: bool = False,
    track: str | Tracker | None = None,
    check_finite: bool = True,
    precision: str = "fp32",
    compile: bool = False,
    keep_memory: bool = True,
    echo: Callable[[str], None] | None = print,
) -> History:
    """Train a model for some epochs, validate after each, and return the history.

    Args:
        epochs: passes over the training data.
        model: any module; batches are moved to its device, the model itself is not moved.
        loss_func: `(model(xb), yb) -> mean loss`, such as `F.cross_entropy`. `train_loss` is the
            mean of the steps' losses by their samples, `valid_loss` as in `validate`. None for a
            model whose outputs have the loss, as those of transformers do with `labels`.
        opt: any `torch.optim` optimizer over the model's parameters.
        train_dl: any iterable of batches, or a function that returns a fresh one each epoch. A
            batch is a tuple `(inputs..., target)`, for `loss_func(model(*inputs), target)`; or a
            mapping of inputs, for `model(**inputs)`, of which `target` names the target. Anything
            else, such as a list of samples, is both: `loss_func(model(batch), batch)`. A `forward`
            that takes one argument is given a tuple or mapping of inputs as it is.
        valid_dl: likewise; None to train without validation.
        metrics: functions `(predictions, targets) -> tensor`, such as `accuracy`, or torchmetrics
            objects; computed over the whole validation set.
        target: the key of the targets in batches that are mappings; None to pass these whole.
        batch_size: `(xb, yb) -> number of samples`, for batches where that is not the length of
            the targets, or of the inputs where the targets have none.
        callbacks: called at each hook in this order.
        schedule: the learning rate: a function `step -> factor` (see
            `plainfit.training.schedules`), its name, such as `one-cycle`, or a torch scheduler.
        schedule_by: `step` or `epoch`, when a torch scheduler is stepped; by default as torch
            documents it (see `TorchScheduler`). Those of transformers are made for steps.
        checkpoint: a folder for checkpoints, written after each epoch and every minute within it.
        resume: continue from the newest valid checkpoint there, if any, with the same bits as a
            training that was never stopped. Other data, batches, layers or another optimizer than
            the checkpoint's are refused; other rates, options of the optimizer, losses, schedules
            and epochs are used from there on, which is said, and noted in `history.run.branches`.
        track: `tensorboard`, `mlflow`, `wandb` or `trackio`, which write to `runs/tracked` (for
            another folder, pass the callback `Tracking`), or a `Tracker`.
        check_finite: stop before the update of a step whose loss is not finite; on an accelerator,
            where this check would cost time, within 100 steps.
        precision: `fp32`, or `bf16` or `fp16` for autocast; it changes the bits.
        compile: run forward pass, loss and backward pass through `torch.compile`, as one graph. It
            takes seconds at the start, pays off in long trainings, and changes the bits.
        keep_memory: keep freed memory in the process until `fit` returns (glibc only): faster.
        echo: called with the table's header and each epoch's line; None for no output.

    Raises:
        ValueError: if the optimizer has none of the model's parameters, or a loader is empty.
        NonFiniteError: if a loss is not finite.
        KeyboardInterrupt: after Ctrl-C, when the current step is done and saved; in a notebook,
            `fit` returns instead.
    """
    check_optimizer(model, opt)
    steps, device = length(train_dl), device_of(model)
    cast, keeper = autocast(precision, device), Checkpointing.at(checkpoint)
    everyone = [
        *([NonFiniteGuard(1 if device.type == "cpu" else 100)] if check_finite else []),
        *([LossScaling()] if precision == "fp16" else []),
        *rates_by(schedule, opt, epochs, steps, schedule_by),
        *callbacks,
        *([] if track is None else [Tracking(track)]),
        *([] if keeper is None else [keeper]),
    ]
    loss_func = loss_func or own_loss
    context = Context(model, opt, train_dl, everyone, epochs, steps, target, batch_size)
    context.history.run = FitCall(
        epochs, model, loss_func, opt, train_dl, valid_dl, metrics, everyone, precision, compile,
        context.history.step_losses, batch_size,
    )  # fmt: skip
    begun = nullcontext() if keeper is None else keeper.begun(context, resume, echo)
    computation = loss_computation(context, loss_func, precision, compile, echo)
    with begun, kept_memory(keep_memory), computation as compute_loss, session(context, loss_func):
        while context.goes_on():
            model.train()
            if context.step == 0:
                context.call("on_epoch_start")
            batches = rest_of_epoch(context, device)
            for context.xb, context.yb in batches:
                context.call("on_batch_start")
                xb, yb = context.xb, context.yb  # a callback may have replaced them
                loss, n = loss_batch(model, loss_func, xb, yb, opt, context, compute_loss)
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
                valid_model = context.valid_model.eval()  # and it stays so, after the training too
                with cast:
                    context.result = validate(
                        valid_model, loss_func, valid_dl, metrics=metrics, target=target,
                        batch_size=batch_size, context=context,
                    )  # fmt: skip
                if not context.result:  # stopped within the validation
                    break
                context.call("on_validate_end")
            end_epoch(context, trained, echo)
    return context.history


def end_epoch(context: Context, trained: float, echo: Callable[[str], None] | None) -> None:
    """Add the epoch's row to the history, print it, and move on to the next epoch."""
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
    context.loader_epoch = context.next_loader_epoch()
    if context.loader_epoch is not None:  # a callback may have read the loader
        context.train_dl.seek(context.loader_epoch, 0)
    context.epoch += 1
    context.step, context.sizes, context.seconds, context.result = 0, [], 0.0, {}


def check_optimizer(model: nn.Module, opt: Optimizer) -> None:
    """Refuse an optimizer that was made for another model: it would silently train nothing."""
    mine = {id(parameter) for parameter in model.parameters()}
    if not any(id(p) in mine for group in opt.param_groups for p in group["params"]):
        raise ValueError(
            "the optimizer must hold the model's parameters, and it holds none of them; "
            "make it from this model: optim.SGD(model.parameters(), lr=...)"
        )
