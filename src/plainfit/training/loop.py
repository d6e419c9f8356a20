"""The loop: `fit -> loss_batch -> model(xb)`, the tutorial's functions and no more hops.

The module is not called `fit`, as that would hide the function `plainfit.fit`
(docs/decisions/0002-lazy-package.md).
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from plainfit.common.devices import device_of
from plainfit.common.errors import ConfigError
from plainfit.data.batches import (
    WRAPPERS,
    Batches,
    Size,
    batch_size,
    inputs_and_target,
    length,
    no_batches,
)
from plainfit.training.callbacks.checkpointing import Checkpointing
from plainfit.training.callbacks.observers import progress
from plainfit.training.callbacks.optimization import LossScaling, rates_by
from plainfit.training.callbacks.stopping import NonFiniteGuard, OverfitOneBatch
from plainfit.training.callbacks.tracking import Tracker, Tracking
from plainfit.training.checks import (
    check_call,
    check_last_batch,
    check_optimizer,
    check_own_step,
    check_steps,
)
from plainfit.training.compiling import autocast, computation, form_of
from plainfit.training.fit_call import FitCall
from plainfit.training.history import History, epoch_line, heading_line, read, weighted_mean
from plainfit.training.hooks import Callback, Context, LossFunction
from plainfit.training.metrics import Metric, declared_modes, metric_name
from plainfit.training.named_metrics import made
from plainfit.training.processes import Processes, join
from plainfit.training.schedules import Factor
from plainfit.training.session import kept_memory, session
from plainfit.training.spread import is_spread, sharding_of
from plainfit.training.state import begun, rest_of_epoch
from plainfit.training.step import Step, loss_batch, measured, own_loss, own_step
from plainfit.training.validation import validate


def fit(
    epochs: int | None,
    model: nn.Module,
    loss_func: LossFunction | None,
    opt: Optimizer | Any,
    train_dl: Batches,
    valid_dl: Batches | Mapping[str, Batches] | None = None,
    *,
    steps_per_epoch: int | None = None,
    max_steps: int | None = None,
    step: Step | None = None,
    metrics: Sequence[Metric | str] = (),
    train_metrics: Sequence[Metric | str] = (),
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
    compile: bool | str = False,
    shards: int | None = None,
    reduce: str = "exact",
    keep_memory: bool = True,
    echo: Callable[[str], None] | None = print,
) -> History:
    """Train a model for some epochs, validate after each, and return the history.

    Args:
        epochs: passes over the training data; None for as many as `max_steps` takes.
        model: any module; batches are moved to its device, the model itself is not moved.
        loss_func: `(model(xb), yb) -> mean loss`, such as `F.cross_entropy`. `train_loss` is the
            mean of the steps' losses by their samples, `valid_loss` as in `validate`. None if the
            model's outputs have it, as those of transformers with `labels`. The means of values,
            `(loss, {"name": value})`, become the columns `train_name` and `valid_name`. A module is
            trained and saved with the model, if `opt` has its parameters.
        opt: any `torch.optim` optimizer over the model's parameters; with `step`, also a list or
            mapping of several.
        train_dl: any iterable of batches, or a function that returns a fresh one each epoch. A
            batch is a tuple `(inputs..., target)`, for `loss_func(model(*inputs), target)`; or a
            mapping of inputs, for `model(**inputs)`, of which `target` names the target. Anything
            else, such as a list of samples, is both: `loss_func(model(batch), batch)`. A `forward`
            that takes one argument is given a tuple or mapping of inputs as it is.
        valid_dl: likewise; None to train without validation. Of a mapping of several, by name,
            the first is as one alone, and the columns of the others begin with their names.
        steps_per_epoch: an epoch is so many steps, whatever passes over the loader that takes: for
            validation, a row and a checkpoint every N steps, and for streams without a length.
        max_steps: end after so many steps; the last epoch may be shorter.
        step: `(model, batch, opt) -> losses`, called for each batch in place of `loss_batch`: it
            computes gradients and updates itself, and returns the loss, or several by name.
        metrics: computed over the whole validation set: names, such as `accuracy`, `f1`, `rmse`
            (docs/api.md lists them), and objects with `reset`, `update` and `compute`, as those of
            torchmetrics, take batch by batch; functions `(predictions, targets) -> tensor` are
            called once, with all that was kept in memory until then.
        train_metrics: `accuracy`, or functions as in `metrics`, of each training batch and before
            its update; their means over the epoch become the columns `train_name`.
        target: the key of the targets in batches that are mappings; None to pass these whole.
        batch_size: `(xb, yb) -> number of samples`, for batches where that is not the length of
            the targets, or of the inputs where the targets have none.
        callbacks: called at each hook in this order.
        schedule: the learning rate: a function `step -> factor` (see
            `plainfit.training.schedules`), its name, such as `one-cycle`, or a torch scheduler.
        schedule_by: `step` or `epoch`, when a torch scheduler is stepped; by default as torch
            documents it (see `TorchScheduler`). Those of transformers are made for steps.
        checkpoint: a folder for checkpoints, written after each epoch and every minute within it.
        resume: continue from the newest valid checkpoint there, if any, with the same bits as if
            never stopped. Other data, batches, layers or optimizers are refused; other rates,
            options, losses, schedules and epochs hold from there on (`history.run.branches`).
        track: `tensorboard`, `mlflow`, `wandb` or `trackio`, which write to `runs/tracked` (for
            another folder, pass the callback `Tracking`), or a `Tracker`.
        check_finite: stop before the update of a step whose loss is not finite; on an accelerator,
            where this check would cost time, within 100 steps.
        precision: `fp32`, or `bf16` or `fp16` for autocast; it changes the bits.
        compile: `epoch` (or True): all steps of an epoch become one program, which is kept for the
            next time. `step`: each step becomes a graph, one for each of the first 4 shapes of
            batches, and another for all others. Both take seconds at first and change the last
            bits; what cannot be compiled runs as it is, and a note says why. See docs/speed.md.
        shards: cut each batch into so many pieces, whose gradients are added: the same bits on any
            number of processes up to that. The loss of a batch is then the mean of those of its
            pieces; one that adds samples up by hand, not by `reduction="sum"`, is refused. By
            default 8 on several processes (see docs/processes.md), else 1, the whole batch.
        reduce: `exact`, or `fast` for a piece for each process and torch's own sum, which has the
            same bits for the same number of processes only.
        keep_memory: keep freed blocks of up to 32 MiB until `fit` returns (glibc only): faster.
        echo: called with the table's header and each epoch's line; None for no output. With it, a
            terminal shows the progress within the epoch, a notebook that and the curves.

    Raises:
        ValueError: if the optimizer has none of the model's parameters, or a loader is empty.
        NonFiniteError: if a loss is not finite.
        KeyboardInterrupt: after Ctrl-C, when the current step is done and saved; in a notebook,
            `fit` returns instead.

    >>> import torch
    >>> model, batch = nn.Linear(4, 2), (torch.ones(8, 4), torch.arange(8) % 2)
    >>> opt = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> fit(3, model, nn.functional.cross_entropy, opt, [batch], echo=None)
    <History of 3 epochs, 3 steps>
    """
    check_call(epochs, model, loss_func, opt, train_dl, valid_dl, step, callbacks)
    check_optimizer(model, opt)
    metrics, train_metrics = made(metrics), made(train_metrics)
    if others := [metric_name(metric) for metric in train_metrics if not callable(metric)]:
        raise ConfigError(
            f"must be 'accuracy' or functions, got {', '.join(others)}", field="train_metrics"
        )
    check_steps(steps_per_epoch, max_steps, epochs)
    steps, device = steps_per_epoch or length(train_dl), device_of(model)
    epochs = sys.maxsize if epochs is None else epochs
    total = total_steps(epochs, steps, max_steps)
    if step is None and not any(isinstance(callback, OverfitOneBatch) for callback in callbacks):
        check_last_batch(model, train_dl, target, total)
    if isinstance(loss_func, nn.Module):
        loss_func.to(device)
    form = form_of(compile)
    cast, keeper = autocast(precision, device), Checkpointing.at(checkpoint, resume)
    is_wrapped = isinstance(model, WRAPPERS)  # by a program that has its own processes
    processes = Processes() if is_wrapped else join()
    has_parts = is_spread(model)
    if processes.rank:  # the first one has all output
        echo, track, keeper = None, None, keeper if has_parts else None
        callbacks = [c for c in callbacks if not c.observer or (has_parts and c.reads_weights)]
    everyone = [
        *([NonFiniteGuard(1 if device.type == "cpu" else 100)] if check_finite else []),
        *([LossScaling()] if precision == "fp16" else []),
        *rates_by(schedule, total, schedule_by),
        *callbacks,
        *([] if echo is None else progress(callbacks)),
        *([] if track is None else [Tracking(track)]),
        *([] if keeper is None else [keeper]),
    ]
    loss_func = own_loss if loss_func is None else loss_func
    split = partial(inputs_and_target, target=target) if step is None else twice
    context = Context(
        model, opt, train_dl, everyone, epochs, steps, loss_func, split, batch_size,
        steps_per_epoch, max_steps,
    )  # fmt: skip
    valid_dls = (
        valid_dl if isinstance(valid_dl, Mapping) else {} if valid_dl is None else {"": valid_dl}
    )
    sharding = sharding_of(context, 1 if is_wrapped else shards, reduce, processes)
    context.sharding = sharding
    if sharding is not None and form:
        form = ""
        if echo is not None:
            echo("note   not compiled: batches in pieces run as they are")
    if step is not None:
        check_own_step(context, bool(form) or precision != "fp32", train_metrics)
    context.history.run = FitCall(
        epochs, model, loss_func, opt, train_dl, valid_dl, metrics, everyone, precision, form,
        context.history.step_losses,
        tuple(
            name
            for name, value in {
                "steps_per_epoch": steps_per_epoch, "max_steps": max_steps, "step": step,
                "several validation loaders": len(valid_dls) > 1, "target": target,
                "train_metrics with compile='epoch'": train_metrics and form == "epoch",
            }.items()
            if value
        ),
        batch_size,
        sharding,
    )  # fmt: skip
    if sharding is not None:
        sharding.check_same()
    context.history.modes = declared_modes(metrics)
    context.train_metrics = [metric_name(metric) for metric in train_metrics]
    train_loss = loss_func if sharding is None else sharding.weighing(loss_func)
    if train_metrics:
        train_loss = measured(train_loss, train_metrics)
    folder = nullcontext() if keeper is None else keeper.begun(context, resume, echo)
    compiled = computation(context, train_loss, precision, form, echo)
    with (
        begun(context, folder),
        kept_memory(keep_memory),
        compiled as (compute_loss, program),
        session(context, loss_func),
    ):
        if sharding is not None:
            compute_loss = sharding.computing(compute_loss, train_loss)
        while context.goes_on():
            model.train()
            if context.step == 0:
                context.call("on_epoch_start")
            batches = rest_of_epoch(context, device, program)
            for context.xb, context.yb in batches:
                context.call("on_batch_start")
                xb, yb = context.xb, context.yb  # a callback may have replaced them
                if step is None:
                    loss, n = loss_batch(model, train_loss, xb, yb, opt, context, compute_loss)
                else:
                    loss, n = own_step(context, step)
                context.count(loss, n)
                context.call("on_step_end")
                if sharding is not None:
                    context.agree()
                del xb, yb, loss  # what lives on lies between the large tensors of two steps
                context.xb = context.yb = context.loss = None
                if context.stop:
                    break
            if context.stop:
                break
            if not context.sizes:
                raise ValueError(no_batches(train_dl, context.epoch))
            context.read_losses()
            trained = time.perf_counter() - context.began
            found: dict[str, float] = {}
            for name, dl in valid_dls.items():
                valid_model = context.valid_model.eval()  # and it stays so, after the training too
                with cast:
                    found = validate(
                        valid_model, loss_func, dl, metrics=metrics, target=target,
                        batch_size=batch_size, context=context,
                    )  # fmt: skip
                if not found:
                    break
                if context.result:
                    context.others |= {f"{name}_{column}": v for column, v in found.items()}
                else:
                    context.result = found
            if valid_dls and not found:  # stopped within the validation
                break
            if valid_dls:
                context.call("on_validate_end")
            end_epoch(context, trained, echo)
            context.agree(is_epoch_end=True)
    return context.history


def end_epoch(context: Context, trained: float, echo: Callable[[str], None] | None) -> None:
    """Add the epoch's row to the history, print it, and move on to the next epoch."""
    sizes, values = context.sizes, context.epoch_values
    losses = context.history.step_losses[-len(sizes) :]
    row: dict[str, Any] = {"epoch": context.epoch, "train_loss": weighted_mean(losses, sizes)}
    row |= {f"train_{name}": weighted_mean(read(each), sizes) for name, each in values.items()}
    beside = {"loss", *values} - {*context.train_metrics}
    row |= {f"valid_{k}" if k in beside else k: value for k, value in context.result.items()}
    row |= context.others
    row["seconds"] = time.perf_counter() - context.began
    row["samples_per_second"] = sum(context.sizes) / trained
    context.history.epochs.append(row)
    if echo is not None:
        is_first = context.epoch == context.first_epoch
        echo(f"{heading_line(row)}\n{epoch_line(row)}" if is_first else epoch_line(row))
    context.call("on_epoch_end")
    if context.loader_epoch is not None:  # a callback may have read the loader
        context.train_dl.seek(context.loader_epoch, context.batch)
    context.epoch += 1
    context.step, context.sizes, context.seconds = 0, [], 0.0
    context.result, context.others, context.epoch_values = {}, {}, {}


def twice(batch: Any) -> tuple[Any, Any]:
    return batch, batch


def total_steps(epochs: int, steps: int | None, most: int | None) -> int | None:
    """Return the number of steps of a whole training; None where the loader has no length."""
    if steps is None:
        return most
    return epochs * steps if most is None else min(epochs * steps, most)
