"""The loop: `fit -> loss_batch -> model(xb)`, the tutorial's functions and no more hops.

This module is named for what it holds because a module `plainfit.fit` would hide the function
`plainfit.fit` (docs/decisions/0002-lazy-package.md).
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from plainfit.devices import device_of
from plainfit.history import History, epoch_line, heading_line

LossFunction = Callable[[Any, Any], Tensor]
Metric = Callable[[Any, Any], Tensor]
Batches = Iterable[Any] | Callable[[], Iterable[Any]]


@dataclass
class Context:
    """What a callback is given: where the training is. To be read, not written."""

    model: nn.Module
    opt: Optimizer
    history: History
    epochs: int
    """How many epochs this call of `fit` trains."""
    steps: int | None
    """Steps in an epoch; None where the loader has no length."""
    epoch: int = 0
    """The current epoch, from 0."""
    step: int = 0
    """Steps done in this epoch."""


class Callback:
    """Something to do beside the training. Every hook does nothing until you override it."""

    def on_epoch_start(self, context: Context) -> None:
        """Before the first step of an epoch."""

    def on_step_end(self, context: Context) -> None:
        """After a step: the parameters are updated, the gradients cleared."""

    def on_epoch_end(self, context: Context) -> None:
        """After validation: `context.history[-1]` is the epoch that has ended."""


def loss_batch(
    model: nn.Module, loss_func: LossFunction, xb: Any, yb: Any, opt: Optimizer | None = None
) -> tuple[Tensor, int]:
    """Compute the loss of a batch and, if there is an optimizer, take a step.

    Args:
        model: called as `model(xb)`.
        loss_func: called as `loss_func(model(xb), yb)`; returns the mean over the batch.
        xb: the inputs: a tensor with the batch as its first dimension, or a dict or tuple of them.
        yb: the targets, likewise.
        opt: with it, the model is trained on the batch; without, nothing changes.

    Returns:
        The loss (detached, without dimensions, on the model's device: reading it with `float()`
        waits for the device, so `fit` reads once an epoch) and the number of samples.
    """
    if isinstance(opt, LBFGS):  # the one optimizer of torch that evaluates the loss itself
        return _step_by_closure(model, loss_func, xb, yb, opt), batch_size(xb)
    loss = loss_func(model(xb), yb)
    if opt is not None:
        loss.backward()
        opt.step()
        opt.zero_grad()
    return loss.detach(), batch_size(xb)


def _step_by_closure(
    model: nn.Module, loss_func: LossFunction, xb: Any, yb: Any, opt: LBFGS
) -> Tensor:
    """Take a step of an optimizer that calls the model several times; return the first loss."""

    def closure() -> Tensor:
        opt.zero_grad()
        loss = loss_func(model(xb), yb)
        loss.backward()
        return loss

    loss: Tensor = opt.step(closure)
    opt.zero_grad()
    return loss.detach()


def validate(
    model: nn.Module,
    loss_func: LossFunction,
    valid_dl: Batches,
    *,
    metrics: Sequence[Metric] = (),
) -> dict[str, float]:
    """Return the mean loss (`loss`) and metrics (by function name) over a loader's samples.

    Batches count by their size, so unequal ones do not distort the mean. The model is put in
    `eval()` mode, no gradients are kept, and no random number is drawn.
    """
    device = device_of(model)
    names = ["loss", *(getattr(metric, "__name__", repr(metric)) for metric in metrics)]
    if len(set(names)) < len(names):
        raise ValueError(
            f"metrics must have different names, none of them 'loss', got {', '.join(names[1:])}; "
            "define each as a function of its own name"
        )
    rows, sizes = [], []
    model.eval()
    with torch.no_grad():
        for xb, yb in pairs(valid_dl, device):
            pred = model(xb)
            rows.append([loss_func(pred, yb), *(metric(pred, yb) for metric in metrics)])
            sizes.append(batch_size(xb))
    if not rows:
        raise ValueError(f"a validation loader must give batches, got none from {valid_dl!r}")
    columns = zip(*rows, strict=True)
    return {
        name: weighted_mean(read(column), sizes)
        for name, column in zip(names, columns, strict=True)
    }


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
        metrics: functions `(model(xb), yb) -> mean over the batch`, such as `accuracy`.
        callbacks: observers of the training, called in this order.
        echo: is given the table's heading and then each epoch's line; None for silence.

    Raises:
        ValueError: if the optimizer has none of the model's parameters, or a loader is empty.
    """
    check_optimizer(model, opt)
    history = History()
    context = Context(model, opt, history, epochs, length(train_dl))
    device = device_of(model)
    for context.epoch in range(epochs):
        started = time.perf_counter()
        losses, sizes, context.step = [], [], 0
        model.train()
        for callback in callbacks:
            callback.on_epoch_start(context)
        for xb, yb in pairs(train_dl, device):
            loss, n = loss_batch(model, loss_func, xb, yb, opt)
            losses.append(loss)
            sizes.append(n)
            context.step = len(losses)
            for callback in callbacks:
                callback.on_step_end(context)
        if not losses:
            raise ValueError(no_batches(train_dl, context.epoch))
        history.step_losses += (step_losses := read(losses))
        trained = time.perf_counter()
        row = {"epoch": context.epoch, "train_loss": weighted_mean(step_losses, sizes)}
        if valid_dl is not None:
            result = validate(model, loss_func, valid_dl, metrics=metrics)
            row |= {"valid_loss": result.pop("loss"), **result}
        row["seconds"] = time.perf_counter() - started
        row["samples_per_second"] = sum(sizes) / (trained - started)
        history.epochs.append(row)
        if echo is not None:
            echo(epoch_line(row) if context.epoch else f"{heading_line(row)}\n{epoch_line(row)}")
        for callback in callbacks:
            callback.on_epoch_end(context)
    return history


def pairs(dl: Batches, device: torch.device) -> Iterator[tuple[Any, Any]]:
    """Yield `(xb, yb)` on the device; a batch that is no pair is both."""
    for batch in dl() if callable(dl) else dl:
        batch = to_device(batch, device)
        is_pair = isinstance(batch, tuple | list) and len(batch) == 2
        yield (batch[0], batch[1]) if is_pair else (batch, batch)


def to_device(batch: Any, device: torch.device) -> Any:
    """Return a tensor, or a dict, list or tuple of them, on the device; the rest as it is."""
    if hasattr(batch, "to"):  # tensors, packed sequences, the batches of other libraries
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        moved = [to_device(value, device) for value in batch]
        return type(batch)(*moved) if hasattr(batch, "_fields") else type(batch)(moved)
    return batch


def length(dl: Batches) -> int | None:
    """Return the number of batches in a loader, or None where it cannot say."""
    try:
        return len(dl) if isinstance(dl, Sized) else None
    except TypeError:  # a DataLoader over a stream, a wrapper around a generator
        return None


def batch_size(xb: Any) -> int:
    """Return the number of samples in a batch's inputs: the length of the first tensor in it."""
    if isinstance(xb, Mapping):
        return batch_size(next(iter(xb.values())))
    if isinstance(xb, tuple | list) and isinstance(xb[0], Tensor | Mapping | tuple | list):
        return batch_size(xb[0])
    return len(xb)


def read(values: Sequence[Tensor]) -> list[float]:
    """Return tensors without dimensions, or numbers, as floats; wait for the device once."""
    floats: list[float] = torch.stack([torch.as_tensor(value) for value in values]).tolist()
    return floats


def weighted_mean(values: Sequence[float], weights: Sequence[int]) -> float:
    """Return the mean of the values, each counting by its weight, in float64."""
    return sum(value * n for value, n in zip(values, weights, strict=True)) / sum(weights)


def check_optimizer(model: nn.Module, opt: Optimizer) -> None:
    """Catch an optimizer that was made for another model: it would train nothing, silently."""
    mine = {id(parameter) for parameter in model.parameters()}
    if not any(id(p) in mine for group in opt.param_groups for p in group["params"]):
        raise ValueError(
            "the optimizer must hold the model's parameters, and it holds none of them; "
            "make it from this model: optim.SGD(model.parameters(), lr=...)"
        )


def no_batches(train_dl: Batches, epoch: int) -> str:
    """Say why an epoch had no batches: usually a generator that was read in the epoch before."""
    if epoch:
        return (
            f"the training loader must give batches in every epoch, got none in epoch {epoch}; "
            "a generator can be read once only: pass a function that returns a new one"
        )
    return f"the training loader must give batches, got none from {train_dl!r}"
