"""Serving batches: the tutorial's `get_data`, with an order that depends on seed and epoch only.

The order of an epoch is one `torch.randperm`. By hand it is

    order = torch.randperm(len(x), generator=stream(seed, "order", epoch))
    for rows in order.split(bs):
        xb, yb = x[rows], y[rows]

with any loader and any number of workers, whatever else draws random numbers.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate

from plainfit.common.errors import ConfigError
from plainfit.common.seeding import drawing_from, epoch_order, stream
from plainfit.data.augment import Pipeline, Step
from plainfit.data.batches import to_device


def bytes_to_floats(xb: Tensor) -> Tensor:
    """Turn uint8 values into float32 ones in [0, 1): divided by 256, as the tutorial's MNIST is."""
    return xb.float().div_(256)


class ImageDataset(TensorDataset):
    """Images stored as bytes, in a quarter of the memory of floats; floats in [0, 1) when read.

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


class BatchOrder:
    """The rows of each batch, and the position from which the next iteration starts."""

    def __init__(
        self,
        dataset: Any,
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
        """Start the next iteration at batch `step` of `epoch`."""
        self.epoch, self.first = epoch, step

    def remaining(self, device: torch.device | None = None) -> list[tuple[int, Tensor]]:
        """Return (step, rows) for the remaining batches of the epoch; the next call has all."""
        order = epoch_order(len(self.dataset), self.seed, self.epoch, self.shuffle).to(device)
        batches = list(enumerate(order.split(self.batch_size)))[self.first : len(self)]
        self.first = 0
        return batches


class TensorLoader(BatchOrder):
    """Batches of a dataset that reads many rows at once: one gather per batch, no collating.

    Iterating to the end moves on to the next `epoch`; reading only a few batches does not, so it
    changes nothing.

    Args:
        dataset: a `TensorDataset` or an `ImageDataset`, on any device, or one that has a length and
            `gather(rows)`, which returns the batch of these rows (int64, shape (batch,)).
        batch_size: samples in a batch; the last batch may have fewer.
        shuffle: use a new order each epoch, a function of the seed and the epoch alone.
        seed: of the order.
        drop_last: leave out a last batch that is not full.
    """

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        epoch, dataset = self.epoch, self.dataset
        # Rows are gathered, never sliced: a slice is a view at another memory offset, where
        # F.linear may round differently than for a copy of the same values.
        if not isinstance(dataset, TensorDataset):
            for _, rows in self.remaining():
                yield dataset.gather(rows)
        else:
            for _, rows in self.remaining(dataset.tensors[0].device):
                xb, *rest = (tensor.index_select(0, rows) for tensor in dataset.tensors)
                yield bytes_to_floats(xb) if isinstance(dataset, ImageDataset) else xb, *rest
        self.epoch = epoch + 1


class BatchSampler(BatchOrder):
    """The same order for a stock `DataLoader`, as (epoch, step, rows) for each batch."""

    def __iter__(self) -> Iterator[tuple[int, int, list[int]]]:
        # Validation draws the same random numbers in every epoch, so that epochs compare.
        epoch = self.epoch if self.shuffle else 0
        for step, rows in self.remaining():
            yield epoch, step, rows.tolist()


class SampleBatches(Dataset[Any]):
    """The batches of a dataset, each read with random numbers that depend on (seed, epoch, step).

    So random samples are the same with any number of workers, and after a resume.
    """

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __getitem__(self, address: tuple[int, int, list[int]]) -> Any:
        epoch, step, rows = address
        with drawing_from(self.seed, "samples", epoch, step):
            if hasattr(self.dataset, "__getitems__"):  # reads many at once
                return default_collate(self.dataset.__getitems__(rows))
            return default_collate([self.dataset[row] for row in rows])


class SampleLoader(DataLoader[Any]):
    """A stock `DataLoader` over these batches; read to its end, it moves on to the next epoch.

    The loader moves on, not the sampler, because workers read the sampler ahead of the batches.
    """

    sampler: BatchSampler

    epoch = property(attrgetter("sampler.epoch"))
    first = property(attrgetter("sampler.first"))

    def seek(self, epoch: int, step: int) -> None:
        self.sampler.seek(epoch, step)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        epoch = self.sampler.epoch
        self.generator = stream(self.sampler.seed, "workers", epoch)
        self.worker_init_fn = end_with_parent if self.num_workers else None
        with signals_blocked():
            batches = super().__iter__()
        try:
            yield from batches
        finally:
            # After an exception torch would end its workers at garbage collection only, and then
            # wait 5 seconds for each.
            if self.num_workers:
                batches._shutdown_workers()  # type: ignore[attr-defined]
        self.sampler.epoch = epoch + 1


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Block Ctrl-C and SIGTERM, also in processes started meanwhile: the main one ends them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent(*_: object) -> None:
    """End this worker process when its parent ends, by whatever signal."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


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
        return len(self.dl)  # type: ignore[arg-type]  # a loader without a length raises here

    def __getattr__(self, name: str) -> Any:
        if name in ("epoch", "first", "seek", "mixes_labels"):
            return getattr(self.dl, name)
        raise AttributeError(name)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.dl:
            yield self.func(*batch)


class AugmentedLoader(WrappedDataLoader):
    """A loader whose batches are augmented, with random numbers that depend on (seed, epoch, step).

    So a resumed training sees the same batches. By hand, the generator of a step is
    `stream(seed, "augment", epoch, step)`, and each function draws from it in turn.

    Args:
        dl: a loader that has an `epoch`, such as those of `get_data`.
        augment: names, such as `light` or `rotate=10,mixup`; a function `(xb, generator) -> xb` or
            `(xb, yb, generator) -> (xb, yb)`, such as those of `plainfit.data.augment`; or several
            functions.
        seed: of the generators.
        classes: the number of classes, for names that mix labels.
        device: move batches there first; None leaves them where they are.

    Raises:
        ConfigError: if a name is unknown, or the loader has no `epoch`.
    """

    def __init__(
        self,
        dl: Any,
        augment: str | Step | Sequence[Step],
        seed: int = 0,
        *,
        classes: int | None = None,
        device: torch.device | None = None,
    ) -> None:
        if not hasattr(dl, "seek"):
            raise ConfigError(
                "a loader to augment must have an epoch to draw random numbers for, and a "
                f"{type(dl).__name__} has none; serve a dataset with a length by plainfit.get_data"
            )
        self.dl: Any = dl
        self.func: Pipeline = Pipeline(augment, classes)
        self.seed = seed
        self.device = device
        self.only_images = isinstance(augment, str)

    @property
    def mixes_labels(self) -> bool:
        return any(self.func.mixing)

    def __iter__(self) -> Iterator[Any]:
        epoch = self.dl.epoch
        for step, (xb, yb) in enumerate(self.dl, self.dl.first):
            if self.only_images and xb.dim() != 4:
                raise ConfigError(
                    "an augmentation by name requires images of shape (channels, height, width), "
                    f"got samples of shape {tuple(xb.shape[1:])}; leave it out"
                )
            if self.device is not None:
                xb, yb = to_device(xb, self.device), to_device(yb, self.device)
            yield self.func(xb, yb, stream(self.seed, "augment", epoch, step))


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
    """Return the training loader, shuffled, and the validation loader, with twice the batch size.

    Args:
        train_ds: any dataset of `(x, y)` samples. A `TensorDataset` or `ImageDataset` is served
            from memory by a `TensorLoader`, any other by a stock `DataLoader` in the same order.
        valid_ds: likewise.
        bs: samples in a training batch.
        seed: the order of the training samples is a function of the seed and the epoch.
        drop_last: leave out a last training batch that is not full.
        num_workers: processes that read samples, where a `DataLoader` serves them.
        augment: varies the training batches; see `AugmentedLoader`.

    Raises:
        ValueError: if `bs` is less than 1, or a dataset is empty.
        ConfigError: if `augment` is unknown, or cannot be used with this data.
    """
    make = partial(make_loader, seed=seed, num_workers=num_workers)
    train_dl: Loader = make(train_ds, bs, True, drop_last=drop_last)
    if augment is not None:
        train_dl = AugmentedLoader(train_dl, augment, seed, classes=count_classes(train_ds))
    return train_dl, make(valid_ds, bs * 2, False)


def count_classes(dataset: Any) -> int | None:
    labels = getattr(dataset, "labels", None)
    if isinstance(dataset, TensorDataset):
        labels = dataset.tensors[-1]
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
    """Make the fastest loader for a dataset; see `get_data`."""
    if batch_size < 1:
        raise ValueError(f"the batch size must be at least 1, got {batch_size}")
    if isinstance(dataset, IterableDataset):  # it has its own order, and perhaps no length
        return DataLoader(
            dataset,
            batch_size=batch_size,
            drop_last=drop_last,
            num_workers=num_workers,
            generator=stream(seed, "workers"),
        )
    if len(dataset) == 0:  # type: ignore[arg-type]  # every map-style dataset has a length
        raise ValueError("a dataset must have at least one sample, got none")
    # Other subclasses of TensorDataset may override how rows are read, so they are not gathered.
    if type(dataset) in (TensorDataset, ImageDataset) or hasattr(dataset, "gather"):
        return TensorLoader(dataset, batch_size, shuffle=shuffle, seed=seed, drop_last=drop_last)
    return SampleLoader(
        SampleBatches(dataset, seed),
        batch_size=None,
        sampler=BatchSampler(dataset, batch_size, seed=seed, shuffle=shuffle, drop_last=drop_last),
        num_workers=num_workers,
    )


def resident(dataset: Dataset[Any], device: torch.device, budget: int) -> Dataset[Any]:
    """Move a dataset in memory to a device, unless it takes more than `budget` MiB there."""
    tensors = dataset.tensors if type(dataset) in (TensorDataset, ImageDataset) else ()  # type: ignore[attr-defined]
    if not tensors or sum(tensor.nbytes for tensor in tensors) > budget * 2**20:
        return dataset
    return type(dataset)(*(tensor.to(device) for tensor in tensors))
