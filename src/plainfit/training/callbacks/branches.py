"""What a training is made of, for its checkpoints: what may differ when it is resumed.

Other data, batches, models and optimizers cannot continue a training: its place in the data and its
state would mean something else. Other rates, schedules and lengths can: a branch, which is said and
noted (docs/decisions/0026-resume-branches.md).
"""

import re
from collections.abc import Sized
from typing import Any

from torch import Tensor

from plainfit.common.errors import CheckpointError
from plainfit.data.batches import innermost
from plainfit.training.callbacks.optimization import TorchScheduler
from plainfit.training.fit_call import INTEGERS
from plainfit.training.hooks import Context
from plainfit.training.schedules import Schedule

# Values of a tensor whose bits are summed: all of most labels, some of large images.
SAMPLED = 2**20
STEPS = re.compile(r"steps=\d+")  # in a schedule, which follow from the number of epochs


def setup_of(context: Context) -> dict[str, dict[str, Any]]:
    """Return what must stay (`same`) and what may change (`open`), as texts and numbers."""
    call: Any = context.history.run
    dl, shards = innermost(context.train_dl), context.sharding
    order = getattr(dl, "sampler", dl) if hasattr(dl, "seek") else dl
    data = getattr(order, "dataset", None)
    same = {
        "batch size": getattr(order, "batch_size", None),
        "seed of the order": getattr(order, "seed", None),
        "steps in an epoch": context.steps,
        "samples": len(data) if isinstance(data, Sized) else None,
        "sums over the data": [bits_of(tensor) for tensor in getattr(data, "tensors", ())],
        "first tensors of the loss": call.loss_sums or None,
        "layers": " ".join(
            type(module).__qualname__.removeprefix("FSDP" * hasattr(module, "unshard"))
            for module in context.model.modules()
            if "_orig_mod" not in module._modules  # a wrapper of torch.compile
        ),
        "optimizer": " ".join(type(opt).__qualname__ for opt in context.optimizers()),
        "steps_per_epoch": context.steps_per_epoch,
        "shards": shards.shards.count if shards is not None and not shards.fast else None,
    }
    opened = {
        "epochs": context.epochs,
        "loss": text_of(call.loss_func),
        "precision": call.precision,
        "max_steps": context.max_steps,
    }
    opened |= {
        f"{type(callback).__name__}.{name}": text
        for callback in context.callbacks
        if type(callback).__module__ == TorchScheduler.__module__
        for name, value in vars(callback).items()
        if name not in callback.saved and (text := text_of(value))
    }
    if not any(isinstance(callback, TorchScheduler) for callback in context.callbacks):
        for place, group in enumerate(call.groups):  # a scheduler of torch has its own rates
            options = {n: repr(v) for n, v in group.items() if not n.startswith("initial_")}
            opened |= {f"{n} of group {place}": text for n, text in options.items()}
    return {"same": same, "open": opened}


def text_of(value: Any) -> str:
    if value is None or isinstance(value, bool | int | float | str | Schedule):
        return repr(value)
    return getattr(value, "__qualname__", "")


def bits_of(tensor: Tensor) -> int:
    flat = tensor.detach().reshape(-1)[:: max(1, tensor.numel() // SAMPLED)]
    return int(flat.view(INTEGERS[flat.element_size()]).sum())


def changes(before: dict[str, Any], now: dict[str, Any]) -> dict[str, str]:
    """Return what differs, in words, by name."""
    names = dict.fromkeys([*before, *now])
    return {
        name: f"{name} was {before.get(name)}, is {now.get(name)}"
        for name in names
        if before.get(name) != now.get(name)
    }


def is_longer_only(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Return whether only the number of epochs differs, and the steps of a schedule with it."""
    pairs = [{n: STEPS.sub("", str(v)) for n, v in opened.items()} for opened in (before, now)]
    return changes(*pairs).keys() <= {"epochs", "max_steps"}


def check_same(before: dict[str, Any], now: dict[str, Any]) -> None:
    if differing := changes(before["same"], now["same"]):
        raise CheckpointError(
            f"the training must be the checkpoint's, and differs: {'; '.join(differing.values())}; "
            "resume with what it was, or choose another checkpoint folder"
        )
