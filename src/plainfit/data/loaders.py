"""Serving batches: the tutorial's `get_data`, faster, with an order that has an address.

The order of an epoch is one `torch.randperm` from a generator that is a function of the seed and
the epoch. By hand it is

    order = torch.randperm(len(x), generator=stream(seed, "order", epoch))
    for rows in order.split(bs):
        xb, yb = x[rows], y[rows]

whatever the loader, the number of workers, or what was drawn elsewhere.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    TensorDataset,
)

from plainfit.data.samples import BatchSampler, SampleBatches, SampleLoader
from plainfit.seeding import epoch_order, stream


def bytes_to_floats(xb: Tensor) -> Tensor:
    """Turn uint8 values into float32 ones in [0, 1): divided by 256, as the tutorial's MNIST is.

    256 is a power of two, so the division is exact in every floating-point format.
    """
    return xb.float().div_(256)


class ImageDataset(TensorDataset):
    """Images kept as bytes, four times smaller than floats; floats in [0, 1) when read.

    Args:
        images: uint8, shape (samples, channels, height, width).
        labels: int64, shape (samples,).

    >>> xb, yb = ImageDataset(torch.full((3, 1, 8, 8), 128).byte(), torch.arange(3))[:2]
    >>> xb.shape, xb.max(), yb
    (torch.Size([2, 1, 8, 8]), tensor(0.5000), tensor([0, 1]))
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        if images.dtype != torch.uint8 or images.dim() != 4:
            raise ValueError(
                "images must be uint8 of shape (samples, channels, height, width), got "
                f"{images.dtype} of shape {tuple(images.shape)}; wrap floats in a TensorDataset"
            )
        super().__init__(images, labels)

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        xb, yb = super().__getitem__(index)  # type: ignore[no-untyped-call]
        return bytes_to_floats(xb), yb


@runtime_checkable
class Gathers(Protocol):
    """A data set that makes its own batches, such as `plainfit.data.ondisk.DiskRows`."""

    def __len__(self) -> int: ...

    def gather(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Return the batch of these samples."""


class TensorLoader:
    """Batches of a data set that gives many rows at once: one gather a batch, no collating.

    Iterating to the end moves on to the next `epoch`; looking at a few batches does not, so it
    changes nothing.

    Args:
        dataset: a `TensorDataset` or an `ImageDataset`, on any device, or one that has
            `gather(rows)`.
        batch_size: samples in a batch; the last one may have fewer.
        shuffle: a new order each epoch, a function of the seed and the epoch alone.
        seed: of the order.
        drop_last: leave out a last batch that is not full.
    """

    def __init__(
        self,
        dataset: TensorDataset | Gathers,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.epoch = 0
        self.first = 0

    def __len__(self) -> int:
        n = len(self.dataset)
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)

    def seek(self, epoch: int, step: int) -> None:
        """Make the next iteration begin at that batch of that epoch."""
        self.epoch, self.first = epoch, step

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        epoch, first, n = self.epoch, self.first, len(self.dataset)
        self.first = 0
        order = epoch_order(n, self.seed, epoch, self.shuffle)
        if isinstance(self.dataset, TensorDataset):  # which may be on an accelerator
            order = order.to(self.dataset.tensors[0].device)
        for rows in order.split(self.batch_size)[first : len(self)]:
            yield gather(self.dataset, rows)
        self.epoch = epoch + 1


def gather(dataset: TensorDataset | Gathers, rows: Tensor) -> tuple[Tensor, ...]:
    """Return the batch of these rows.

    Rows are gathered, never sliced: a slice is a view at another memory offset, for which F.linear
    may round differently than for a copy of the same values.
    """
    if not isinstance(dataset, TensorDataset):
        return dataset.gather(rows)
    xb, *rest = (tensor.index_select(0, rows) for tensor in dataset.tensors)
    return (bytes_to_floats(xb) if isinstance(dataset, ImageDataset) else xb, *rest)


def resident(dataset: Dataset[Any], device: torch.device, budget: int) -> Dataset[Any]:
    """Return a data set with its tensors on a device, so that no batch has to be moved.

    Args:
        dataset: is returned as it is unless it holds its samples in memory.
        device: of the model.
        budget: the most MiB of memory there to use for it; a larger data set stays where it is.
    """
    if type(dataset) not in (TensorDataset, ImageDataset):
        return dataset
    assert isinstance(dataset, TensorDataset)
    size = sum(tensor.numel() * tensor.element_size() for tensor in dataset.tensors)
    if size > budget * 2**20:
        return dataset
    return type(dataset)(*(tensor.to(device) for tensor in dataset.tensors))


class WrappedDataLoader:
    """A loader whose batches pass through a function: `func(xb, yb) -> (xb, yb)`.

    >>> dl = WrappedDataLoader([(torch.zeros(2, 784), torch.zeros(2))],
    ...                        lambda xb, yb: (xb.view(-1, 1, 28, 28), yb))
    >>> len(dl), next(iter(dl))[0].shape
    (1, torch.Size([2, 1, 28, 28]))
    """

    def __init__(self, dl: Iterable[Any], func: Callable[..., Any]) -> None:
        self.dl = dl
        self.func = func

    def __len__(self) -> int:
        return len(self.dl)  # type: ignore[arg-type]  # a loader without a length says so itself

    def __getattr__(self, name: str) -> Any:
        """Return `epoch` and `seek` of the loader within, where it has them."""
        if name in ("epoch", "seek"):
            return getattr(self.dl, name)
        raise AttributeError(name)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.dl:
            yield self.func(*batch)


Loader = TensorLoader | DataLoader[Any]


def get_data(
    train_ds: Dataset[Any],
    valid_ds: Dataset[Any],
    bs: int,
    *,
    seed: int = 0,
    drop_last: bool = False,
    num_workers: int = 0,
) -> tuple[Loader, Loader]:
    """Return the training loader, shuffled, and the validation loader, at twice the batch size.

    Args:
        train_ds: any data set of `(x, y)` samples. A `TensorDataset` or `ImageDataset` is served
            from memory by a `TensorLoader`, anything else by a stock `DataLoader` with the same
            order of samples.
        valid_ds: likewise.
        bs: samples in a training batch.
        seed: the order of the training samples is a function of it and of the epoch.
        drop_last: leave out a last training batch that is not full.
        num_workers: processes that read samples, where a `DataLoader` serves them.

    Raises:
        ValueError: if `bs` is less than 1, or a data set is empty.
    """
    return (
        make_loader(train_ds, bs, True, seed=seed, drop_last=drop_last, num_workers=num_workers),
        make_loader(valid_ds, bs * 2, False, seed=seed, num_workers=num_workers),
    )


def make_loader(
    dataset: Dataset[Any],
    batch_size: int,
    shuffle: bool,
    *,
    seed: int = 0,
    drop_last: bool = False,
    num_workers: int = 0,
) -> Loader:
    """Return the fastest loader for a data set; see `get_data`."""
    if batch_size < 1:
        raise ValueError(f"the batch size must be at least 1, got {batch_size}")
    if isinstance(dataset, IterableDataset):  # it has an order of its own, and perhaps no length
        return DataLoader(
            dataset,
            batch_size=batch_size,
            drop_last=drop_last,
            num_workers=num_workers,
            generator=stream(seed, "workers"),
        )
    n = len(dataset)  # type: ignore[arg-type]  # every map-style data set has a length
    if n == 0:
        raise ValueError("a data set must have at least one sample, got none")
    # A subclass may read its rows in its own way, so of tensors only these two may be gathered.
    if type(dataset) in (TensorDataset, ImageDataset) or isinstance(dataset, Gathers):
        assert isinstance(dataset, TensorDataset | Gathers)
        return TensorLoader(dataset, batch_size, shuffle=shuffle, seed=seed, drop_last=drop_last)
    return SampleLoader(
        SampleBatches(dataset, seed),
        batch_size=None,
        sampler=BatchSampler(n, batch_size, seed=seed, shuffle=shuffle, drop_last=drop_last),
        num_workers=num_workers,
    )
