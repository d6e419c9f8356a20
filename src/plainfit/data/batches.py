"""Batches of any loader: as inputs and targets on a device, counted by their samples.

A tuple or a mapping has parts, a list has samples. So a batch is read by its type, not its length:

- a tuple is `(inputs..., target)`, as is the list that torch's `default_collate` makes of tuples;
- a mapping is inputs by name, of which `target` names the target;
- one part alone, a list of samples, or any other object is both inputs and target.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from functools import cache, partial
from numbers import Number
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import default_collate, default_convert

from plainfit.common.errors import ConfigError, near_miss

Batches = Iterable[Any] | Callable[[], Iterable[Any]]
Size = Callable[[Any, Any], int]
"""A function of inputs and targets that returns the number of samples in a batch."""
WRAPPERS = (DataParallel, DistributedDataParallel)


def pairs(
    dl: Batches, device: torch.device, target: str | None = None
) -> Iterator[tuple[Any, Any]]:
    """Yield `(xb, yb)` on the device; where a batch is its own target, `yb` is `xb`."""
    made = opened(dl)
    return pairs_of(made, made, device, partial(inputs_and_target, target=target))


def pairs_of(
    batches: Iterable[Any],
    loader: Any,
    device: torch.device,
    split: Callable[[Any], tuple[Any, Any]],
) -> Iterator[tuple[Any, Any]]:
    """Yield `split(batch)` of some batches of a loader, on the device."""
    read = reader(loader)
    for batch in batches:
        xb, yb = split(batch if type(batch) is tuple else read(batch))
        moved = to_device(xb, device)
        yield moved, moved if yb is xb else to_device(yb, device)
        del batch, xb, yb, moved


def reader(loader: Any) -> Callable[[Any], Any]:
    """Return the function that puts tuples in place of lists of parts, in batches of a loader."""
    collate = getattr(loader, "collate_fn", None)
    makes_lists = collate and collate in (default_collate, default_convert)

    def read(batch: Any) -> Any:
        nonlocal makes_lists
        if makes_lists is None:
            makes_lists = is_listed_pair(batch)
        return with_tuples(batch) if makes_lists and isinstance(batch, list | Mapping) else batch

    return read


def is_listed_pair(batch: Any) -> bool:
    """Return whether a list that no loader made is inputs and a target rather than samples.

    Samples have one dtype and number of dimensions, and where inputs and target do too, they have
    one length. Samples may as well, and then this raises a ConfigError.
    """
    if not isinstance(batch, list) or not all(isinstance(part, Tensor) for part in batch):
        return False
    kinds = {(part.dtype, part.dim()) for part in batch}
    if len(batch) < 2 or len(sizes(tuple(batch))) != 1:
        return False
    if len(kinds) == 1:
        raise ConfigError(
            f"a batch must not be read in two ways, and a list of {len(batch)} tensors of one "
            "length may be samples, or inputs and a target; give tuples for inputs and a target, "
            "as by map(tuple, batches), and samples by a DataLoader with collate_fn=list"
        )
    return True


def with_tuples(batch: Any) -> Any:
    """Return what `default_collate` made with a tuple for each list of parts."""
    if isinstance(batch, list) and has_parts(tuple(batch)):
        return tuple([with_tuples(part) for part in batch])
    if type(batch) is dict:
        return {key: with_tuples(part) for key, part in batch.items()}
    return batch


def has_parts(batch: Any) -> bool:
    """Return whether a batch is a tuple or mapping of parts; a tuple of texts or numbers is not."""
    if isinstance(batch, tuple) and not isinstance(batch, PackedSequence):
        return not all(isinstance(part, str | bytes | Number) for part in batch)
    return isinstance(batch, Mapping)


def inputs_and_target(batch: Any, target: str | None = None) -> tuple[Any, Any]:
    if target is None and type(batch) is tuple and len(batch) == 2 and isinstance(batch[1], Tensor):
        return batch  # the usual case, first
    if target is not None:
        if not isinstance(batch, Mapping) or target not in batch:
            keys = list(batch) if isinstance(batch, Mapping) else []
            raise ConfigError(
                f"must be a key of every batch, got {target!r} for a {type(batch).__name__}"
                + (f" of {', '.join(map(str, keys))}{near_miss(target, keys)}" if keys else ""),
                field="target",
            )
        return {key: part for key, part in batch.items() if key != target}, batch[target]
    if not isinstance(batch, tuple) or not has_parts(batch):
        return batch, batch
    *inputs, yb = batch
    if not inputs:
        return yb, yb
    xb = inputs[0] if len(inputs) == 1 else tuple(inputs)
    if isinstance(yb, tuple) and not (has_parts(yb) and len(sizes(xb) | sizes(yb)) <= 1):
        # A collate function such as `tuple(zip(*samples))` has made tuples of samples.
        is_zipped = isinstance(xb, tuple) and len(xb) == len(yb)
        return (list(xb) if is_zipped else xb), list(yb)
    return xb, yb


def called(model: nn.Module, xb: Any) -> Any:
    """Return what a model gives for inputs.

    Those in a tuple are passed as `model(*xb)`, those in a mapping as `model(**xb)`, if `forward`
    takes them so; else, as all others, as `model(xb)`.
    """
    call = caller(model, xb)
    try:
        return call(xb)
    except (TypeError, AttributeError) as error:
        is_whole = call is model and (isinstance(xb, list) or has_parts(xb))
        if not is_whole:
            raise
        what = "a list of samples"
        remedy = "for inputs and a target, give tuples: map(tuple, batches)"
        if not isinstance(xb, list):
            what = f"a {type(xb).__name__} of {len(xb)} inputs, which its forward does not take"
            remedy = "let forward take them, or leave out what is no input (target= names a target)"
        raise ConfigError(
            f"a model must take its inputs, and was given {what}, and failed with "
            f"{type(error).__name__}: {error}; {remedy}"
        ) from error


def caller(model: nn.Module, xb: Any) -> Callable[[Any], Any]:
    """Return the function of inputs such as these that calls the model with them."""
    form = call_form(model, xb)
    if form == "*xb":
        return lambda xb: model(*xb)
    return (lambda xb: model(**xb)) if form == "**xb" else model


def call_form(model: nn.Module, xb: Any) -> str:
    """Return how a model is called with inputs: `xb`, `*xb` or `**xb`."""
    if not has_parts(xb):
        return "xb"
    inner: Any = model
    while hasattr(inner, "_orig_mod") or isinstance(inner, WRAPPERS):  # the first of torch.compile
        inner = inner.module if isinstance(inner, WRAPPERS) else inner._orig_mod
    forward = inner.forward
    function = getattr(forward, "__func__", forward)
    own = int(function is not forward)  # self
    if isinstance(xb, Mapping):
        return "**xb" if accepts(function, own, tuple(xb)) else "xb"
    return "*xb" if accepts(function, own + len(xb)) else "xb"


@cache
def accepts(function: Any, count: int, names: tuple[Any, ...] = ()) -> bool:
    """Return whether a function takes so many arguments, and arguments of these names."""
    try:
        inspect.signature(function).bind(*range(count), **dict.fromkeys(names))
    except (TypeError, ValueError):
        return False
    return True


def opened(dl: Batches) -> Iterable[Any]:
    made: Iterable[Any] = dl() if callable(dl) else dl
    return made


def to_device(batch: Any, device: torch.device) -> Any:
    """Move tensors and arrays, or a dict, list or tuple of them, to the device; leave the rest."""
    if isinstance(batch, Tensor) and batch.device == device:  # the usual case, first
        return batch
    if hasattr(batch, "to"):  # tensors, packed sequences, the batches of other libraries
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if getattr(getattr(batch, "dtype", None), "kind", "object") in "biufc":  # of NumPy
        return torch.as_tensor(batch, device=device)
    if isinstance(batch, tuple | list):
        moved = [to_device(value, device) for value in batch]
        return type(batch)(*moved) if hasattr(batch, "_fields") else type(batch)(moved)
    return batch


def length(dl: Batches) -> int | None:
    try:
        return len(dl) if isinstance(dl, Sized) else None
    except TypeError:  # a DataLoader over a stream, a wrapper around a generator
        return None


def batch_size(xb: Any, yb: Any) -> int:
    """Return the number of samples in a batch: the length of its targets, where that is one.

    Raises:
        ConfigError: if neither the targets nor the inputs have one length.
    """
    if isinstance(yb, Tensor) and isinstance(xb, Tensor) and yb.dim():  # the usual case, first
        return yb.size(0)
    inputs, targets = sizes(xb), sizes(yb)
    for found in (targets & inputs, targets, inputs):
        if len(found) == 1:
            return found.pop()
        if found:
            break
    lengths = [", ".join(map(str, sorted(found))) or "none" for found in (inputs, targets)]
    raise ConfigError(
        f"the number of samples in a batch must be known, got inputs of lengths {lengths[0]} and "
        f"targets of lengths {lengths[1]}; pass batch_size=, a function (xb, yb) -> number"
    )


def sizes(batch: Any) -> set[int]:
    """Return the lengths of a batch's parts, each of which should be its number of samples."""
    if isinstance(batch, Tensor):
        return {batch.size(0)} if batch.dim() else set()
    if has_parts(batch):
        parts = batch.values() if isinstance(batch, Mapping) else batch
        return set().union(*map(sizes, parts))
    if isinstance(batch, PackedSequence):
        return {int(batch.batch_sizes[0])}
    is_sized = isinstance(batch, Sized) and not isinstance(batch, str | bytes)
    return {len(batch)} if is_sized else set()


def tensors_in(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping | tuple | list):
        for value in batch.values() if isinstance(batch, Mapping) else batch:
            yield from tensors_in(value)


def join(values: list[Any], counts: Sequence[int]) -> Any:
    """Join what batches of so many samples have, part by part, along the first dimension.

    A list with an entry for each sample of every batch is a list of samples.
    """
    first = values[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        return torch.cat([value.reshape(1) if value.dim() == 0 else value for value in values])
    if isinstance(first, Mapping):
        return {key: join([value[key] for value in values], counts) for key in first}
    if isinstance(first, list) and [len(value) for value in values] == list(counts):
        return [sample for value in values for sample in value]
    if isinstance(first, tuple | list):
        joined = [join(list(parts), counts) for parts in zip(*values, strict=True)]
        return type(first)(*joined) if hasattr(first, "_fields") else type(first)(joined)
    return values


def no_batches(train_dl: Batches, epoch: int) -> str:
    if epoch:
        return (
            f"the training loader must give batches in every epoch, got none in epoch {epoch}; "
            "a generator can be read only once: pass a function that returns a new one"
        )
    return f"the training loader must give batches, got none from {train_dl!r}"


def innermost(dl: Any) -> Any:
    """Return the loader within WrappedDataLoaders."""
    while hasattr(dl, "dl"):
        dl = dl.dl
    return dl


def order_of(dl: Any) -> Any:
    """Return what knows the order of a loader of ours, within WrappedDataLoaders: size and seed."""
    inner = innermost(dl)
    return getattr(inner, "sampler", inner)


def generators_of(dl: Any) -> list[torch.Generator]:
    """Return a loader's own generators; none for one of ours, a function of (seed, epoch)."""
    if hasattr(dl, "seek"):
        return []
    dl = innermost(dl)
    found = [getattr(part, "generator", None) for part in (dl, getattr(dl, "sampler", None))]
    by_id = {id(each): each for each in found if isinstance(each, torch.Generator)}
    return list(by_id.values())
