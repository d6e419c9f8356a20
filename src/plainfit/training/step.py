"""A step on one batch, as `fit` takes it or a function of the user's, and its losses."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from plainfit.common.errors import ConfigError, NonFiniteError
from plainfit.data.batches import called, inputs_and_target
from plainfit.training.callbacks.optimization import parameters_of
from plainfit.training.hooks import Context, LossFunction, NoHooks
from plainfit.training.metrics import Metric, metric_name

Step = Callable[[nn.Module, Any, Any], Any]
"""A function `(model, batch, opt) -> losses` that trains on a batch."""


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
        loss_func: called as `loss_func(model(xb), yb)`; returns the mean over the batch, or that
            and values by name, `(loss, {"name": value})`. None for a model whose outputs have the
            loss, as `out.loss` or `out["loss"]`.
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
    watch.size = watch.batch_size(xb, yb)
    watch.values = {}
    if isinstance(opt, LBFGS):
        compute = compute_loss or (lambda xb, yb: loss_func(called(model, xb), yb))
        return _step_by_closure(partial(compute, xb, yb), opt, watch), watch.size
    if compute_loss is not None:
        loss = compute_loss(xb, yb)
    else:
        loss = loss_func(model(xb) if isinstance(xb, Tensor) else called(model, xb), yb)
    if not isinstance(loss, Tensor):
        loss, watch.values = loss_and_values(loss)
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
    return detached, watch.size


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


def _step_by_closure(compute: Callable[[], Any], opt: LBFGS, watch: Context | NoHooks) -> Tensor:
    """Take a step of LBFGS, which evaluates the loss several times; return the first loss."""
    losses: list[Tensor] = []
    parameters = parameters_of(opt)
    before = [parameter.detach().clone() for parameter in parameters]

    def closure() -> Tensor:
        opt.zero_grad()
        watch.loss, values = loss_and_values(compute())
        watch.values = watch.values or values
        losses.append(watch.loss.detach())
        watch.call("on_loss")
        watch.loss.backward()
        loss: Tensor = watch.loss
        return loss

    try:
        opt.step(closure)
    except NonFiniteError:  # the optimizer has moved the parameters before
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)
        raise
    opt.zero_grad()
    watch.loss = losses[0]
    return losses[0]


def loss_and_values(given: Any) -> tuple[Any, dict[str, Any]]:
    """Return the loss, and the values by name that came with it.

    It is `(loss, values)`, or a mapping of losses, whose sum is the loss unless one is `loss`.
    """
    if isinstance(given, Tensor | int | float):
        return given, {}
    if isinstance(given, Mapping) and given:
        values = dict(given)
        loss = values.pop("loss") if "loss" in values else sum(values.values())
        return loss, detached(values)
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], Mapping):
        return given[0], detached(given[1])
    raise ConfigError(
        'must return the mean loss of the batch, or `(loss, {"name": value})`, got a '
        f"{type(given).__name__}",
        field="loss_func",
    )


def detached(values: Mapping[str, Any]) -> dict[str, Any]:
    return {n: v.detach() if isinstance(v, Tensor) else v for n, v in values.items()}


def own_step(context: Context, step: Step) -> tuple[Any, int]:
    """Let a function of the user's train on the batch; return as `loss_batch` does."""
    batch = context.xb
    context.size = context.batch_size(*inputs_and_target(batch))
    loss, context.values = loss_and_values(step(context.model, batch, context.opt))
    context.loss = loss.detach() if isinstance(loss, Tensor) else loss
    return context.loss, context.size


def measured(loss_func: LossFunction, metrics: Sequence[Metric]) -> LossFunction:
    names = [metric_name(metric) for metric in metrics]

    def loss_and_metrics(out: Any, yb: Any) -> Any:
        loss, values = loss_and_values(loss_func(out, yb))
        with torch.no_grad():
            found = {n: metric(out, yb) for n, metric in zip(names, metrics, strict=True)}
        return loss, values | found

    return loss_and_metrics
