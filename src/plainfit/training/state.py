"""The whole state of a training, captured and restored bit for bit; its place in the data.

Our loaders are functions of (seed, epoch), so they start anywhere at once. Any other loader is
read again from the start of the epoch, with the generators as they were then, and the batches
that were used are skipped.
"""

import random
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from plainfit.common.devices import device_of, differing, fingerprint, versions
from plainfit.common.errors import CheckpointError
from plainfit.data.batches import generators_of, opened, pairs_of
from plainfit.models.weights import Uncompiled, plain_names
from plainfit.training.checkpoints import InParts, part_file
from plainfit.training.history import read
from plainfit.training.hooks import Context, warn


def capture(context: Context, *, at_end_of_epoch: bool = False) -> dict[str, Any]:
    """Return the state, to be written at once: its tensors are the training's own.

    Where processes have parts of the parameters, it holds those of this process.
    """
    context.read_losses()
    within = not at_end_of_epoch
    values = context.epoch_values if within else {}

    states = [opt.state_dict() for opt in context.optimizers()]
    return {
        "model": model_tensors(context.model),
        "gradients": {n: p.grad for n, p in parameters_of(context) if p.grad is not None},
        **beside_model(context),
        "optimizer": states[0] if len(states) == 1 else states,
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
            "values": {n: torch.tensor(read(v), dtype=torch.float64) for n, v in values.items()},
            "batch": context.batch,
            "epoch_start": context.pass_start,
            "loader_epoch": context.loader_epoch,
        },
        "random": random_state(context.train_dl),
        **({} if context.sharding is None else {"shards": context.sharding.state_dict()}),
        "fingerprint": bits_depend_on(context),
        "versions": versions(),
    }


def restore(context: Context, state: dict[str, Any]) -> None:
    warn_if_bits_may_differ(state["fingerprint"], bits_depend_on(context))
    context.restored = state
    load_model(context.model, state["model"])
    for name, parameter in parameters_of(context):
        grad = state["gradients"].get(name)
        parameter.grad = None if grad is None else like(grad, parameter)
    load_beside_model(context, state)
    states, optimizers = state["optimizer"], context.optimizers()
    states = states if isinstance(states, list) else [states]
    if len(states) != len(optimizers):
        raise CheckpointError(
            f"the training must have the checkpoint's {len(states)} optimizers, got "
            f"{len(optimizers)}"
        )
    for opt, saved in zip(optimizers, states, strict=True):
        load_optimizer(opt, saved)
    load_callbacks(context, state["callbacks"])
    context.history.epochs[:] = state["history"]["epochs"]
    context.history.step_losses[:] = state["history"]["step_losses"].tolist()
    position = state["position"]
    context.epoch = context.first_epoch = position["epoch"]
    context.step = position["step"]
    context.global_step, context.seconds = position["global_step"], position["seconds"]
    context.sizes = position["sizes"].tolist()
    context.epoch_values = {n: v.tolist() for n, v in position.get("values", {}).items()}
    context.batch, context.batches = position.get("batch", position["step"]), None
    context.pass_start = position["epoch_start"]
    if context.loader_epoch is not None:
        context.loader_epoch = position["loader_epoch"]
        context.train_dl.seek(context.loader_epoch, 0)
    set_random_state(state["random"], context.train_dl)
    if context.sharding is not None and "shards" in state:
        context.sharding.load_state_dict(state["shards"])


@contextmanager
def begun(context: Context, folder: AbstractContextManager[None]) -> Iterator[None]:
    """Let all processes begin with the state of the first one, which may come from a folder."""
    with folder:
        if context.has_others:
            share_state(context)
        context.restored = {}
        part_file.cache_clear()
        yield


def share_state(context: Context) -> None:
    processes, state = context.sharding.processes, None
    if processes.rank == 0:
        # Where each process has parts of a new model, they have it from the same seed.
        is_new_part = context.has_parts and not context.restored
        state = {} if is_new_part else context.restored or capture(context)
    state = processes.share(state)
    if processes.rank and state:
        names = {type(callback).__name__ for callback in context.callbacks}
        own = [[name, saved] for name, saved in state["callbacks"] if name in names]
        restore(context, state | {"callbacks": own})


def beside_model(context: Context) -> dict[str, Any]:
    """Return the state of a loss with tensors of its own, and of what else the optimizers train."""
    loss, others = context.loss_func, other_parameters(context)
    return {
        "loss": model_tensors(loss) if isinstance(loss, nn.Module) else {},
        "others": [parameter.detach() for parameter in others],
        "other_gradients": [parameter.grad for parameter in others],
    }


def load_beside_model(context: Context, state: dict[str, Any]) -> None:
    if isinstance(context.loss_func, nn.Module) and "loss" in state:  # older ones lack it
        load_model(context.loss_func, state.get("loss", {}), "loss")
    others, saved = other_parameters(context), state.get("others", [])
    shapes = [[tuple(each.shape) for each in parameters] for parameters in (others, saved)]
    if shapes[0] != shapes[1]:
        raise CheckpointError(
            "the optimizer must train what the checkpoint's does beside the model, parameters of "
            f"shapes {shapes[1]}, got {shapes[0]}"
        )
    with torch.no_grad():
        for parameter, value, grad in zip(
            others, saved, state.get("other_gradients", []), strict=True
        ):
            parameter.copy_(value)
            parameter.grad = None if grad is None else grad.to(parameter.device)


def other_parameters(context: Context) -> list[Tensor]:
    own = {id(parameter) for parameter in context.model.parameters()}
    return [p for group in context.groups() for p in group["params"] if id(p) not in own]


def model_tensors(model: nn.Module) -> dict[str, Any]:
    """Return parameters, all buffers (those that `state_dict` leaves out too) and extra state."""
    buffers = model.named_buffers(remove_duplicate=False)
    return plain_names({**dict(buffers), **model.state_dict()})


def parameters_of(context: Context) -> Any:
    return plain_names(dict(context.model.named_parameters())).items()


def load_model(model: nn.Module, saved: dict[str, Any], what: str = "model") -> None:
    """Copy saved values into a model's own tensors, which keep their ties and layouts."""
    own = model_tensors(model)
    differing = {"it has besides": own.keys() - saved, "it lacks": saved.keys() - own}
    texts = [f"{what} {', '.join(sorted(names)[:5])}" for what, names in differing.items() if names]
    if texts:
        raise CheckpointError(f"the {what} must be the checkpoint's: {'; '.join(texts)}")
    tensors = {name: value for name, value in own.items() if isinstance(value, Tensor)}
    for name, tensor in tensors.items():
        if (tensor.shape, tensor.dtype) != (saved[name].shape, saved[name].dtype):
            raise CheckpointError(
                f"the {what} must be the checkpoint's, and {name} is {tensor.dtype} of shape "
                f"{tuple(tensor.shape)}, in the checkpoint {saved[name].dtype} of shape "
                f"{tuple(saved[name].shape)}"
            )
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(like(saved[name], tensor))
    extras = {name: value for name, value in saved.items() if name not in tensors}
    if extras:
        Uncompiled(model).load_state_dict(extras, strict=False)


def like(value: Any, own: Any) -> Any:
    """Return a saved tensor on the device of `own`, or the part of it that this process has."""
    mesh = getattr(own, "device_mesh", None)
    if isinstance(value, InParts) and mesh is None:
        value = value.part(0, 1)
    if mesh is None:
        return value.to(own.device)
    from torch.distributed.tensor import DTensor, Shard, distribute_tensor

    if isinstance(value, InParts):
        part = value.part(mesh.get_local_rank(), mesh.size()).to(own.device)
        stride = torch.empty(value.shape, device="meta").stride()
        divided = [Shard(value.dim)]
        return DTensor.from_local(part, mesh, divided, shape=value.shape, stride=stride)
    return distribute_tensor(value.to(own.device), mesh, own.placements, src_data_rank=None)


def load_optimizer(opt: Optimizer, saved: dict[str, Any]) -> None:
    """Restore an optimizer's state exactly; its own `load_state_dict` casts to other dtypes."""
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
        own = parameters[index]
        opt.state[own] = {
            name: like(value, own) if getattr(value, "shape", None) == own.shape else value
            for name, value in entry.items()
        }


def load_callbacks(context: Context, saved: list[Any]) -> None:
    """Give each callback its state; callbacks without state may be added or left out."""
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


def bits_depend_on(context: Context) -> dict[str, Any]:
    facts = fingerprint(device_of(context.model))
    if context.sharding is not None and not context.sharding.fast:
        del facts["world_size"]  # on which they do not depend
    return facts


def warn_if_bits_may_differ(then: dict[str, Any], now: dict[str, Any]) -> None:
    if changed := differing(then, now):
        warn(
            "the training goes on, but its bits are not promised to be those of one that was "
            f"never stopped: {changed}"
        )


def random_state(dl: Any = None) -> dict[str, Any]:
    """Return the state of every generator that a step may draw from, a loader's own included."""
    version, numbers, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state()
    state: dict[str, Any] = {
        "python": [version, torch.tensor(numbers), gauss],
        "numpy": [kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "loader": [generator.get_state() for generator in generators_of(dl)],
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(state: dict[str, Any], dl: Any = None) -> None:
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    for generator, saved in zip(generators_of(dl), state["loader"], strict=True):
        generator.set_state(saved)
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])


@contextmanager
def untouched(dl: Any) -> Iterator[None]:
    """Leave the generators, and the place of a loader in its epochs, as they were."""
    before = random_state(dl)
    place = (dl.epoch, dl.first) if hasattr(dl, "seek") else None
    try:
        yield
    finally:
        set_random_state(before, dl)
        if place is not None:
            dl.seek(*place)


def rest_of_epoch(
    context: Context, device: torch.device, program: Any = None
) -> Iterator[tuple[Any, Any]]:
    """Yield the pairs of an epoch that have not been used yet, as they are asked for.

    A program is asked to go on before each, and takes the steps that it can.
    """
    context.began = time.perf_counter() - context.seconds
    if context.step and not context.batch and context.steps_per_epoch is None:
        return  # it was stopped within the validation
    is_plain = program is None and context.steps_per_epoch is None and context.max_steps is None
    while not context.ends_epoch():
        if program is not None:
            program.run(context)
            if context.stop or context.ends_epoch():
                return
        context.batches = context.batches or rest_of_pass(context, device)
        if is_plain:
            yield from context.batches
        elif pair := next(context.batches, None):
            yield pair
            del pair
            continue
        was_empty = not context.batch
        context.batch, context.batches, context.pass_start = 0, None, {}
        if context.loader_epoch is not None:
            context.loader_epoch += 1
        if was_empty or context.steps_per_epoch is None:
            return


def rest_of_pass(context: Context, device: torch.device) -> Iterator[tuple[Any, Any]]:
    """Begin a pass over the loader, or continue that of a resumed training."""
    dl, used = context.train_dl, context.batch
    if not used:
        context.pass_start = {"random": random_state(dl)}
    if context.loader_epoch is not None:  # a callback may have read the loader
        dl.seek(context.loader_epoch, used)
    if not used or context.loader_epoch is not None:
        made = opened(dl)
        return pairs_of(together(context, made), made, device, context.split)
    now = random_state()
    set_random_state(context.pass_start["random"], dl)
    made = opened(dl)
    batches = iter(made)
    if (given := sum(1 for _ in islice(batches, used))) < used:
        raise CheckpointError(
            f"the loader must give the batches of the checkpoint, which has used {used} of "
            f"this epoch, and gives {given}; resume with what it was"
        )
    set_random_state(now)
    return pairs_of(together(context, batches), made, device, context.split)


def together(context: Context, batches: Iterable[Any]) -> Iterable[Any]:
    return batches if context.sharding is None else context.sharding.together(batches)
