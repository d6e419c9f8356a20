"""What is checked before a training starts, and named where its first step fails."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, Dataset

from plainfit.common.devices import device_of
from plainfit.common.errors import ConfigError, ModelError
from plainfit.data.batches import called, innermost, length, order_of, pairs
from plainfit.training.callbacks.stopping import NonFiniteGuard
from plainfit.training.fit_call import optimizers_in
from plainfit.training.hooks import Context, overriding
from plainfit.training.state import untouched

NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm)  # those that may need several samples
BROADCAST = "Using a target size"  # of another shape than the outputs, as F.mse_loss warns
ONE_SAMPLE = "Expected more than 1 value per channel"  # as they say it
REMEDIES = {
    ONE_SAMPLE: "leave out batches of one sample, as drop_last=True does with the last one",
    "does not require grad": "the loss must depend on a parameter with requires_grad=True, without "
    "detach() or no_grad() between",
}


def check_call(
    epochs: Any,
    model: Any,
    loss_func: Any,
    opt: Any,
    train_dl: Any,
    valid_dl: Any = None,
    step: Any = None,
    callbacks: Any = (),
) -> None:
    """Refuse arguments of `fit` that a training would fail on later, or would misunderstand."""
    is_count = epochs is None or is_whole(epochs, 0)
    several = valid_dl if isinstance(valid_dl, Mapping) else {"": valid_dl}
    is_valid = valid_dl is None or all(map(gives_batches, several.values()))
    opts = [opt] if step is None else optimizers_in(opt)
    is_loss = loss_func is None or is_made(loss_func)
    order = "the order is fit(epochs, model, loss_func, opt, train_dl, valid_dl)"
    loader = "make one of a dataset: pf.get_data, or DataLoader(dataset, batch_size=64)"
    must = "an iterable of batches, or a function that returns one"
    for name, value, fits, what, remedy in (
        ("epochs", epochs, is_count, "a whole number, 0 or more", order),
        ("model", model, isinstance(model, nn.Module), "a torch.nn.Module", order),
        ("loss_func", loss_func, is_loss, "a function such as F.cross_entropy", order),
        ("opt", opt, all(hasattr(each, "param_groups") for each in opts), "an optimizer",
         "make one: optim.Adam(model.parameters(), lr=1e-3)"),
        ("train_dl", train_dl, gives_batches(train_dl), must, loader),
        ("valid_dl", valid_dl, is_valid, must, loader),
        ("callbacks", callbacks, is_list(callbacks), "a list", "write callbacks=[...]"),
    ):  # fmt: skip
        if not fits:
            if isinstance(value, type):
                remedy = f"make an object of it: {value.__name__}(...)"
            raise ConfigError(f"must be {what}, got {shown(value)}; {remedy}", field=name)


def is_whole(value: Any, least: int) -> bool:
    is_number = isinstance(value, Integral) and not isinstance(value, bool)
    return is_number and int(value) >= least


def is_made(function: Any) -> bool:
    return (callable(function) or hasattr(function, "update")) and not isinstance(function, type)


def is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def gives_batches(dl: Any) -> bool:
    """Return whether this can be a loader, and is no dataset, whose items are samples."""
    if isinstance(dl, str) or hasattr(dl, "__getitems__"):
        return False
    has_items = hasattr(dl, "__getitem__") and not isinstance(dl, Dataset)
    return callable(dl) or isinstance(dl, Iterable) or has_items


def shown(value: Any) -> str:
    """Return a value for a message: short ones as they are, others by their name or class."""
    if value is None or isinstance(value, str | int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown, value))}]"
    name = getattr(value, "__name__", None)
    return f"an object of {type(value).__name__}" if name is None else f"{name} itself"


def explain(error: Exception, context: Context) -> None:
    """Raise one of our errors for a loss of another shape; note what helps after one sample."""
    if isinstance(error, UserWarning) and str(error).startswith(BROADCAST):
        raise ModelError(
            "targets must have the shape of the outputs for this loss, by y.unsqueeze(1) or "
            f"model(xb).squeeze(1); torch says: {error}"
        ) from error
    loss = context.loss
    for text, remedy in REMEDIES.items():
        if text in str(error):
            error.add_note(remedy)
    if isinstance(loss, Tensor) and loss.numel() != 1:
        got = f"shape {tuple(loss.shape)}; pass reduction='mean', or take its mean()"
    elif isinstance(error, AttributeError) and "no attribute 'detach'" in str(error):
        got = "a number of Python; return the tensor"
    else:
        return
    raise ConfigError(
        f"must return one number as a tensor, the mean over the batch, got {got}", field="loss_func"
    ) from error


def check_last_batch(
    model: nn.Module, dl: Any, target: str | None = None, steps: int | None = None
) -> None:
    """Refuse a last batch of one sample where the model cannot be trained on it in these steps."""
    is_reached = steps is None or steps >= (length(dl) or 0)
    if is_reached and (how := fails_on_last(model, dl, target)):
        raise ConfigError(
            f"must leave no last batch of one sample, where a norm of {type(model).__name__} has "
            f"one value per channel, got {how} samples; set drop_last, or choose another "
            "batch_size",
            field="batch_size",
        )


def fails_on_last(model: nn.Module, dl: Any, target: str | None = None) -> str:
    """Return how the last batch comes to one sample, if the model cannot be trained on it."""
    inner = innermost(dl)
    if hasattr(inner, "seek"):
        order = order_of(inner)
        samples = order.samples
    else:
        order = getattr(inner, "batch_sampler", None)
        samples = length(order.sampler) if type(order) is BatchSampler else None
    if (
        not samples
        or (samples - 1) % order.batch_size
        or (order.drop_last and order.batch_size > 1)
    ):
        return ""
    if not any(isinstance(module, NORMS) for module in model.modules()):
        return ""
    how = f"{samples:,} = {(samples - 1) // order.batch_size} * {order.batch_size} + 1"
    kept = order.batch_size, getattr(inner, "num_workers", 0)
    order.batch_size, inner.num_workers = 1, 0
    try:
        with torch.no_grad(), untouched(dl):
            xb, _ = next(pairs(dl, device_of(model), target))
            called(copy.deepcopy(model).train(), xb)
    except Exception as error:  # another one is for the training to raise
        return how if ONE_SAMPLE in str(error) else ""
    finally:
        order.batch_size, inner.num_workers = kept
    return ""


def check_optimizer(model: nn.Module, opt: Any) -> None:
    """Refuse an optimizer that was made for another model: it would silently train nothing."""
    if device_of(model).type == "meta":
        raise ModelError(
            "the model must hold values, and is on the device meta; give it some: "
            "model.to_empty(device='cpu'), then load or initialise its weights"
        )
    mine = {id(parameter) for parameter in model.parameters()}
    for each in optimizers_in(opt):
        if not any(id(p) in mine for group in each.param_groups for p in group["params"]):
            raise ValueError(
                "the optimizer must hold the model's parameters, and it holds none of them; "
                "make it from this model: optim.SGD(model.parameters(), lr=...)"
            )


def check_steps(steps_per_epoch: int | None, max_steps: int | None, epochs: int | None) -> None:
    for name, value in (("steps_per_epoch", steps_per_epoch), ("max_steps", max_steps)):
        if value is not None and not is_whole(value, 1):
            raise ConfigError(f"must be a whole number, 1 or more, got {value!r}", field=name)
    if epochs is None and max_steps is None:
        raise ConfigError(
            "may be None only with max_steps, which ends the training", field="epochs"
        )


def check_own_step(context: Context, is_changed: bool, train_metrics: Sequence[Any]) -> None:
    """Refuse what changes or watches the inside of a step, where that is the user's own."""
    if is_changed or train_metrics:
        raise ConfigError(
            "computes losses itself, and precision, compile and train_metrics belong to the step "
            "of fit; use torch.autocast and torch.compile in it, and return values by name",
            field="step",
        )
    if context.sharding is not None:
        raise ConfigError(
            "takes whole batches, and several processes, or shards, train on pieces of them; leave "
            "it out",
            field="step",
        )
    within = ("on_loss", "on_backward_end", "on_step_start")
    for callback in context.callbacks:
        found = [name for name in within if any(overriding([callback], name))]
        if found and not isinstance(callback, NonFiniteGuard):
            raise ConfigError(
                f"replaces the step that calls {found[0]}, which {type(callback).__name__} needs; "
                "do its work in the step, and leave it out",
                field="step",
            )
