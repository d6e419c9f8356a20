"""What a loader does, as far as a script must know: its data, its order, its batches."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
)

from plainfit.common.errors import EjectError
from plainfit.common.seeding import drawing_from
from plainfit.data.loaders import (
    AugmentedLoader,
    SampleBatches,
    SampleLoader,
    TensorLoader,
    WrappedDataLoader,
)
from plainfit.data.ondisk import LazySamples
from plainfit.eject.sources import place


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
    sampler: Any = None
    """One of the user's own."""
    collate_fn: Any = default_collate
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
            # Workers are left out: they change no bits, and the script's data is in memory.
            shuffle = is_usual(order) and isinstance(order, RandomSampler)
            own, size = None if is_usual(order) else order, dl.batch_size or 1
            return Served(dataset, size, shuffle, 0, dl.drop_last, True, own, dl.collate_fn)
        case [*batches] if is_even(batches):
            x, y = (torch.cat(part) for part in zip(*batches, strict=True))
            return Served(TensorDataset(x, y), len(batches[0][0]), False, 0, False)
    raise EjectError(
        f"a script must know the order of the batches, and this {type(dl).__name__} does not tell "
        "it; serve the data by plainfit.get_data, by a DataLoader without a batch_sampler or "
        "persistent workers, or by a list of pairs of tensors, all of one size but the last"
    )


def is_plain(dl: Any) -> bool:
    """Return whether a `DataLoader` has only options that a script can repeat."""
    own = dl.generator
    same = own is getattr(dl.sampler, "generator", own) if is_usual(dl.sampler) else own is None
    return (
        type(dl) is DataLoader
        and dl.batch_size is not None
        and type(dl.batch_sampler) is BatchSampler
        and dl.batch_sampler.sampler is dl.sampler
        # What a collate_fn is given is then what it was given: pairs of tensors.
        and (dl.collate_fn is default_collate or isinstance(dl.dataset, TensorDataset))
        and same
        and not dl.persistent_workers
    )


def is_usual(order: Any) -> bool:
    """Return whether a sampler is what `shuffle` makes: all rows, in order or not."""
    return (
        type(order) in (RandomSampler, SequentialSampler)
        and not getattr(order, "replacement", False)
        and len(order) == len(order.data_source)
    )


def is_even(batches: list[Any]) -> bool:
    """Return whether batches are pairs of tensors that are cut from two: of one size and kind."""
    if not all(
        isinstance(batch, tuple | list)
        and len(batch) == 2
        and all(isinstance(part, Tensor) and part.dim() for part in batch)
        for batch in batches
    ):
        return False
    kinds = {tuple((part.dtype, part.shape[1:]) for part in batch) for batch in batches}
    *sizes, last = [len(x) for x, _ in batches]
    return len(kinds) == 1 and len({*sizes}) <= 1 and last <= min(sizes, default=last)


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
