"""Serving batches: the tutorial's `get_data`, faster, with an order that has an address.

The order of an epoch is one `torch.randperm` from a generator that is a function of the seed and
the epoch. By hand it is

    order = torch.randperm(len(x), generator=stream(seed, "order", epoch))
    for rows in order.split(bs):
        xb, yb = x[rows], y[rows]

whatever the loader, the number of workers, or what was drawn elsewhere.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    TensorDataset,
)

from plainfit.common.seeding import epoch_order, stream
from plainfit.data.augment import Step
from plainfit.data.samples import BatchSampler, SampleBatches, SampleLoader
from plainfit.data.wrapping import AugmentedLoader


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


Loader = TensorLoader | DataLoader[Any] | AugmentedLoader


def get_data(
    train_ds: Dataset[Any],
    valid_ds: Dataset[Any],
    bs: int,
    *,
    seed: int = 0,
    drop_last: bool = False,
    num_workers: int = 0,
    augment: str | Step | Sequence[Step] | None = None,
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
        augment: varies the training batches; see `AugmentedLoader`.

    Raises:
        ValueError: if `bs` is less than 1, or a data set is empty.
        ConfigError: if `augment` is not known, or cannot be used with this data.
    """
    train_dl: Loader
    train_dl = make_loader(
        train_ds, bs, True, seed=seed, drop_last=drop_last, num_workers=num_workers
    )
    if augment is not None:
        train_dl = AugmentedLoader(train_dl, augment, seed, classes=classes_of(train_ds))
    return train_dl, make_loader(valid_ds, bs * 2, False, seed=seed, num_workers=num_workers)


def classes_of(dataset: Any) -> int | None:
    """Return how many classes the labels of a data set count up to; None where none are known."""
    is_tensors = isinstance(dataset, TensorDataset)
    labels = dataset.tensors[-1] if is_tensors else getattr(dataset, "labels", None)
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or not len(labels):
        return None
    return int(labels.max()) + 1


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
