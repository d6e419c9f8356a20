"""What a loader does, as far as a script must know: its data, its order, its batches."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
)

from plainfit.data.lazy import LazySamples
from plainfit.data.loaders import TensorLoader
from plainfit.data.samples import SampleBatches, SampleLoader
from plainfit.data.wrapping import AugmentedLoader, WrappedDataLoader
from plainfit.eject.sources import place
from plainfit.errors import EjectError
from plainfit.seeding import drawing_from


@dataclass
class Served:
    """A loader, in the terms of a script."""

    dataset: Any
    batch_size: int
    shuffle: bool
    seed: int
    drop_last: bool
    is_stock: bool = False
    """Whether it is a `DataLoader` that the user made."""
    funcs: list[Any] = field(default_factory=list)
    """What a batch passes through: functions, and loaders that augment."""

    def limits(self) -> Iterator[EjectError]:
        """Yield why it stops above the lowest rung."""
        if self.is_stock:
            yield EjectError("a stock DataLoader draws the order in a way of its own", "loop")
        if any(getattr(func, "mixes_labels", False) for func in self.funcs):
            yield EjectError(
                "mixed labels are class probabilities, and the loss of rung tensors takes labels",
                "layers",
            )


def served(dl: Any) -> Served:
    """Return what a loader does.

    Raises:
        EjectError: if that is not known.
    """
    match dl:
        case WrappedDataLoader():
            inner = served(dl.dl)
            inner.funcs.append(dl if isinstance(dl, AugmentedLoader) else dl.func)
            return inner
        case TensorLoader(dataset=dataset):
            return Served(dataset, dl.batch_size, dl.shuffle, dl.seed, dl.drop_last)
        case SampleLoader(sampler=order, dataset=SampleBatches(dataset=dataset)):
            return Served(dataset, order.batch_size, order.shuffle, order.seed, order.drop_last)
        case DataLoader(sampler=order, dataset=dataset) if is_plain(dl):
            shuffle = isinstance(order, RandomSampler)
            return Served(dataset, dl.batch_size or 1, shuffle, 0, dl.drop_last, is_stock=True)
    raise EjectError(
        f"a script must know the order of the batches, and this {type(dl).__name__} does not tell "
        "it; serve the data by plainfit.get_data, or by a DataLoader without a sampler, collate_fn "
        "or workers of its own"
    )


def is_plain(dl: Any) -> bool:
    """Return whether a `DataLoader` has only options that a script can repeat."""
    order = dl.sampler
    return (
        type(dl) is DataLoader
        and type(order) in (RandomSampler, SequentialSampler)
        and not getattr(order, "replacement", False)
        and len(order) == len(order.data_source)
        and dl.batch_size is not None
        and dl.collate_fn is default_collate
        and not dl.persistent_workers
    )


def tensors_of(dataset: Dataset[Any]) -> list[Tensor]:
    """Return a data set's inputs and targets as tensors.

    Raises:
        EjectError: if it has others, or reading it twice gives two things.
    """
    if isinstance(dataset, TensorDataset):
        if len(dataset.tensors) != 2:
            raise EjectError(
                "a script reads inputs and targets, and the data set has "
                f"{len(dataset.tensors)} tensors"
            )
        return [tensor.cpu().contiguous() for tensor in dataset.tensors]
    if isinstance(dataset, LazySamples):
        raise EjectError(
            "a script's data must fit into memory, and these are read from disk as they are used; "
            "train with a larger --memory-budget"
        )
    first, again = (read_all(dataset, seed) for seed in (0, 1))
    for one, other in zip(first, again, strict=True):
        if not torch.equal(one, other):
            raise EjectError(
                f"{place(type(dataset))}: data must be the same whenever they are read, and this "
                "data set gives other values the second time; move what draws random numbers into "
                "the training (an augmentation of batches)"
            )
    return first


def read_all(dataset: Dataset[Any], seed: int) -> list[Tensor]:
    """Return all samples of a data set, stacked."""
    with drawing_from(seed, "eject"):
        count = len(dataset)  # type: ignore[arg-type]
        samples = [dataset[row] for row in range(count)]
    batch = default_collate(samples)
    if not (isinstance(batch, list | tuple) and len(batch) == 2):
        raise EjectError("a script reads inputs and targets, and the data set gives other samples")
    return [part if isinstance(part, Tensor) else torch.as_tensor(part) for part in batch]
