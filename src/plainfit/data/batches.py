"""Batches of any loader: as pairs `(xb, yb)` on a device, counted by their samples."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any

import torch
from torch import Tensor

Batches = Iterable[Any] | Callable[[], Iterable[Any]]


def pairs(dl: Batches, device: torch.device) -> Iterator[tuple[Any, Any]]:
    """Yield `(xb, yb)` on the device; a batch that is not a pair is its own target."""
    for batch in opened(dl):
        is_pair = isinstance(batch, tuple | list) and len(batch) == 2
        xb, yb = batch if is_pair else (batch, batch)
        xb = to_device(xb, device)
        yield xb, (to_device(yb, device) if is_pair else xb)


def opened(dl: Batches) -> Iterable[Any]:
    made: Iterable[Any] = dl() if callable(dl) else dl
    return made


def to_device(batch: Any, device: torch.device) -> Any:
    """Move a tensor, or a dict, list or tuple of tensors, to the device; leave the rest."""
    if isinstance(batch, Tensor) and batch.device == device:  # the usual case, first
        return batch
    if hasattr(batch, "to"):  # tensors, packed sequences, the batches of other libraries
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        moved = [to_device(value, device) for value in batch]
        return type(batch)(*moved) if hasattr(batch, "_fields") else type(batch)(moved)
    return batch


def length(dl: Batches) -> int | None:
    try:
        return len(dl) if isinstance(dl, Sized) else None
    except TypeError:  # a DataLoader over a stream, a wrapper around a generator
        return None


def batch_size(xb: Any) -> int:
    """Return the number of samples in a batch: the length of its first tensor, else its own."""
    if isinstance(xb, Tensor) and xb.dim():  # the usual case, first
        return xb.size(0)
    for tensor in tensors_in(xb):
        if tensor.dim():
            return len(tensor)
    while isinstance(xb, Mapping) or (isinstance(xb, tuple | list) and is_nested(xb)):
        xb = next(iter(xb.values() if isinstance(xb, Mapping) else xb))
    return len(xb)


def is_nested(parts: tuple[Any, ...] | list[Any]) -> bool:
    # Else the parts are samples, such as texts.
    return bool(parts) and isinstance(parts[0], Tensor | Mapping | tuple | list)


def tensors_in(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping | tuple | list):
        for value in batch.values() if isinstance(batch, Mapping) else batch:
            yield from tensors_in(value)


def join(values: list[Any]) -> Any:
    """Join tensors, or dicts, lists or tuples of tensors, along their first dimension."""
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat([value.reshape(1) if value.dim() == 0 else value for value in values])
    if isinstance(first, Mapping):
        return {key: join([value[key] for value in values]) for key in first}
    if isinstance(first, list) and not is_nested(first):
        return [sample for value in values for sample in value]
    if isinstance(first, tuple | list):
        joined = [join(list(parts)) for parts in zip(*values, strict=True)]
        return type(first)(*joined) if hasattr(first, "_fields") else type(first)(joined)
    return values


def no_batches(train_dl: Batches, epoch: int) -> str:
    if epoch:
        return (
            f"the training loader must give batches in every epoch, got none in epoch {epoch}; "
            "a generator can be read only once: pass a function that returns a new one"
        )
    return f"the training loader must give batches, got none from {train_dl!r}"


def generators_of(dl: Any) -> list[torch.Generator]:
    """Return a loader's own generators; none for one of ours, a function of (seed, epoch)."""
    if hasattr(dl, "seek"):
        return []
    while hasattr(dl, "dl"):  # within WrappedDataLoaders
        dl = dl.dl
    found = [getattr(part, "generator", None) for part in (dl, getattr(dl, "sampler", None))]
    by_id = {id(each): each for each in found if isinstance(each, torch.Generator)}
    return list(by_id.values())
