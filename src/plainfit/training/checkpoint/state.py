"""The whole state of a training: out of the objects that hold it, and back, bit by bit."""

import time
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from plainfit.common.devices import device_of, fingerprint, versions
from plainfit.common.errors import CheckpointError
from plainfit.training.hooks import Context
from plainfit.training.position import random_state, set_random_state


def capture(context: Context, *, at_end_of_epoch: bool = False) -> dict[str, Any]:
    """Return the state, to be written at once: its tensors are the training's own.

    Args:
        context: of the training.
        at_end_of_epoch: the epoch is over and its row written: go on with the next one.
    """
    context.read_losses()
    within = not at_end_of_epoch
    return {
        "model": model_tensors(context.model),
        "gradients": {n: p.grad for n, p in context.model.named_parameters() if p.grad is not None},
        "optimizer": context.opt.state_dict(),
        "callbacks": [[type(c).__name__, c.state_dict()] for c in context.callbacks],
        "history": {
            "epochs": context.history.epochs,
            "step_losses": torch.tensor(context.history.step_losses, dtype=torch.float64),
        },
        "position": {
            "epoch": context.epoch if within else context.epoch + 1,
            "step": context.step if within else 0,
            "global_step": context.global_step,
            "sizes": torch.tensor(context.sizes if within else [], dtype=torch.int64),
            "seconds": time.perf_counter() - context.began if within else 0.0,
            "epoch_start": context.epoch_start if within else {},
            "loader_epoch": getattr(context.train_dl, "epoch", None),
        },
        "random": random_state(context.train_dl),
        "fingerprint": fingerprint(device_of(context.model)),
        "versions": versions(),
    }


def restore(context: Context, state: dict[str, Any]) -> None:
    """Put a captured state back.

    Raises:
        CheckpointError: if model, optimizer or callbacks are not those of the checkpoint.
    """
    try:
        warn_of_other_machine(state["fingerprint"], fingerprint(device_of(context.model)))
        load_model(context.model, state["model"])
        for name, parameter in context.model.named_parameters():
            grad = state["gradients"].get(name)
            parameter.grad = None if grad is None else grad.to(parameter.device)
        load_optimizer(context.opt, state["optimizer"])
        load_callbacks(context, state["callbacks"])
        context.history.epochs[:] = state["history"]["epochs"]
        context.history.step_losses[:] = state["history"]["step_losses"].tolist()
        position = state["position"]
        context.epoch = context.first_epoch = position["epoch"]
        context.step = position["step"]
        context.global_step, context.seconds = position["global_step"], position["seconds"]
        context.sizes = position["sizes"].tolist()
        context.epoch_start = position["epoch_start"]
        if position["loader_epoch"] is not None and hasattr(context.train_dl, "seek"):
            context.train_dl.seek(position["loader_epoch"], 0)
        set_random_state(state["random"], context.train_dl)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        raise CheckpointError(
            f"the checkpoint must be of this training, and does not fit it: "
            f"{type(error).__name__}: {error}"
        ) from error


def model_tensors(model: nn.Module) -> dict[str, Any]:
    """Return parameters, buffers (those that `state_dict` leaves out too) and extra state."""
    buffers = model.named_buffers(remove_duplicate=False)
    return {**dict(buffers), **model.state_dict()}


def load_model(model: nn.Module, saved: dict[str, Any]) -> None:
    """Copy saved values into a model's own tensors: ties and layouts stay as the model has them."""
    own = model_tensors(model)
    missing, extra = own.keys() - saved.keys(), saved.keys() - own.keys()
    if missing or extra:
        raise CheckpointError(
            "the model must be the checkpoint's: "
            + "; ".join(
                f"{what} {', '.join(sorted(names)[:5])}"
                for what, names in (("it has besides", missing), ("it lacks", extra))
                if names
            )
        )
    for name, tensor in own.items():
        if not isinstance(tensor, Tensor):
            continue
        if (tensor.shape, tensor.dtype) != (saved[name].shape, saved[name].dtype):
            raise CheckpointError(
                f"the model must be the checkpoint's, and {name} is {tensor.dtype} of shape "
                f"{tuple(tensor.shape)}, in the checkpoint {saved[name].dtype} of shape "
                f"{tuple(saved[name].shape)}"
            )
    with torch.no_grad():
        for name, tensor in own.items():
            if isinstance(tensor, Tensor):
                tensor.copy_(saved[name])
    extras = {name: value for name, value in saved.items() if not isinstance(value, Tensor)}
    if extras:
        model.load_state_dict(extras, strict=False)


def load_optimizer(opt: Optimizer, saved: dict[str, Any]) -> None:
    """Put an optimizer's state back as it was; its own `load_state_dict` casts to other dtypes."""
    sizes = [len(group["params"]) for group in opt.param_groups]
    if sizes != (wanted := [len(group["params"]) for group in saved["param_groups"]]):
        raise CheckpointError(
            f"the optimizer must have the checkpoint's groups of {wanted} parameters, got {sizes}"
        )
    for group, settings in zip(opt.param_groups, saved["param_groups"], strict=True):
        group.update({name: value for name, value in settings.items() if name != "params"})
    parameters = [p for group in opt.param_groups for p in group["params"]]
    opt.state.clear()
    for index, entry in saved["state"].items():
        opt.state[parameters[index]] = entry


def load_callbacks(context: Context, saved: list[Any]) -> None:
    """Give each callback its state back; those without one may come and go."""
    waiting = [(name, state) for name, state in saved if state]
    for callback in context.callbacks:
        name = type(callback).__name__
        match = next((item for item in waiting if item[0] == name), None)
        if match is not None:
            waiting.remove(match)
            callback.load_state_dict(match[1])
    if waiting:
        raise CheckpointError(
            "the callbacks must be those of the checkpoint, and these are missing: "
            + ", ".join(name for name, _ in waiting)
        )


def warn_of_other_machine(then: dict[str, Any], now: dict[str, Any]) -> None:
    """Warn if something differs that the bits depend on."""
    changed = [
        f"{name} was {then.get(name)}, is {now[name]}"
        for name in now
        if then.get(name) != now[name]
    ]
    if changed:
        warnings.warn(
            "the training goes on, but its bits are not promised to be those of one that was "
            f"never stopped: {'; '.join(changed)}",
            RuntimeWarning,
            stacklevel=2,
        )
