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
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    WeightedRandomSampler,
    default_collate,
    default_convert,
)

from plainfit.common.errors import ConfigError, raised_as, unknown_name
from plainfit.common.seeding import drawing_from, epoch_order, stream
from plainfit.data.augment import Pipeline, Step, masked_steps
from plainfit.data.batches import reader, to_device
from plainfit.data.datasets import Rows, as_dataset, check_columns, class_labels, has_masks, split
from plainfit.data.pieces import Pieces, Shards


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
        sampler: Any = None,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.rows_from = sampler
        self.epoch = 0
        self.first = 0
        self.shards: Shards | None = None
        """For a training on batches in pieces, which are then what is served."""
        self.share = slice(None)
        """Which batches are served, for a validation that others share."""

    @property
    def samples(self) -> int:
        """The number of samples in an epoch."""
        return len(self.dataset if self.rows_from is None else self.rows_from)

    def __len__(self) -> int:
        n = self.samples
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)

    def seek(self, epoch: int, step: int) -> None:
        """Start the next iteration at batch `step` of `epoch`."""
        self.epoch, self.first = epoch, step

    def order(self) -> Tensor:
        """Return the rows of the epoch, in the order in which they are served."""
        if self.rows_from is None:
            return epoch_order(len(self.dataset), self.seed, self.epoch, self.shuffle)
        return sampled(self.rows_from, self.seed, self.epoch)

    def remaining(self, rows: Rows | None = None) -> list[tuple[int, Tensor]]:
        """Return (step, rows) for the remaining batches of the epoch; the next call has all."""
        order = self.order()
        if rows is not None:
            order = rows.at[order].to(rows.device)
        first, self.first = self.first, 0
        rest = order[first * self.batch_size : len(self) * self.batch_size]
        batches = list(enumerate(rest.split(self.batch_size), first)) if len(rest) else []
        return batches[self.share]


def sampled(sampler: Any, seed: int, epoch: int) -> Tensor:
    """Return the rows of a sampler, whose random numbers become a function of (seed, epoch)."""
    own = getattr(sampler, "generator", None)
    with (
        raised_as(ConfigError, "a sampler must give the number of one row at a time"),
        drawing_from(seed, "order", epoch),
    ):
        if hasattr(sampler, "set_epoch"):  # as for torch's DistributedSampler
            sampler.set_epoch(epoch)
        if own is not None:
            sampler.generator = stream(seed, "order", epoch)
        try:
            return torch.tensor([int(row) for row in sampler])
        finally:
            if own is not None:
                sampler.generator = own


class Balanced(WeightedRandomSampler):
    """Draws as many rows as there are, with replacement, each class as likely as another."""

    def __init__(self, dataset: Any) -> None:
        if (labels := class_labels(dataset)) is None:
            raise ConfigError(
                "balanced needs samples of one class each, with labels of int64; leave it out",
                field="sampler",
            )
        labels = labels.cpu()
        weights: Any = 1 / labels.bincount()[labels].double()
        super().__init__(weights, len(labels))


class TensorLoader(BatchOrder):
    """Batches of a dataset that reads many rows at once: one gather per batch, no collating.

    Iterating to the end moves on to the next `epoch`; reading only a few batches does not, so it
    changes nothing.

    Args:
        dataset: a `TensorDataset` or an `ImageDataset`, on any device; `Subset`s (also those of
            `random_split`) and `ConcatDataset`s of them; or one that has a length and
            `gather(rows)`, which returns the batch of these rows (int64, shape (batch,)).
        batch_size: samples in a batch; the last batch may have fewer.
        shuffle: use a new order each epoch, a function of the seed and the epoch alone.
        seed: of the order.
        drop_last: leave out a last batch that is not full.
        sampler: gives the rows in place of `shuffle`; see `get_data`.
    """

    def __iter__(self) -> Iterator[Any]:
        epoch, rows = self.epoch, Rows.of(self.dataset)
        assert rows, "a TensorLoader must be given tensors; serve other data by get_data"
        for _, batch in self.remaining(rows):
            if self.shards is None:
                yield rows.gather(batch)
            else:
                yield self.shards.split(batch, len(batch)).map(lambda _, piece: rows.gather(piece))
        self.epoch = epoch + 1


class BatchSampler(BatchOrder):
    """The same order for a stock `DataLoader`, as (epoch, step, rows) for each batch."""

    trains = True

    def __iter__(self) -> Iterator[tuple[int, int, Any]]:
        # Validation draws the same random numbers in every epoch, so that epochs compare.
        epoch = self.epoch if self.trains else 0
        for step, rows in self.remaining():
            listed = rows.tolist()
            yield epoch, step, self.shards.split(listed, len(rows)) if self.shards else listed


class SampleBatches(Dataset[Any]):
    """The batches of a dataset, each read with random numbers that depend on (seed, epoch, step).

    So random samples are the same with any number of workers, and after a resume.
    """

    def __init__(
        self, dataset: Dataset[Any], seed: int, collate_fn: Callable[[Any], Any] = default_collate
    ) -> None:
        self.dataset = dataset
        self.seed = seed
        self.collate_fn = collate_fn

    def __getitem__(self, address: tuple[int, int, Any]) -> Any:
        epoch, step, rows = address
        if isinstance(rows, Pieces):
            return rows.map(lambda piece, own: self.read(own, epoch, step, piece))
        return self.read(rows, epoch, step)

    def read(self, rows: list[int], *place: int) -> Any:
        with drawing_from(self.seed, "samples", *place):
            if hasattr(self.dataset, "__getitems__"):  # reads many at once
                return self.collate_fn(self.dataset.__getitems__(rows))
            return self.collate_fn([self.dataset[row] for row in rows])


def as_it_is(batch: Any) -> Any:
    return batch


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


def own_order(dl: Any) -> Any:
    """Return the `BatchOrder` of one of our loaders; some other object for any other loader."""
    while isinstance(dl, WrappedDataLoader):  # those of others may do anything with a batch
        dl = dl.dl
    return getattr(dl, "sampler", dl)


class WrappedDataLoader:
    """A loader whose batches pass through a function: `func(xb, yb) -> (xb, yb)`.

    The parts of a tuple, or of a list that is inputs and target, are its arguments; any other
    batch, such as a dict, is the argument.

    >>> dl = WrappedDataLoader([(torch.zeros(2, 784), torch.zeros(2))],
    ...                        lambda xb, yb: (xb.view(-1, 1, 28, 28), yb))
    >>> len(dl), next(iter(dl))[0].shape
    (1, torch.Size([2, 1, 28, 28]))
    """

    def __init__(self, dl: Iterable[Any], func: Callable[..., Any]) -> None:
        self.dl = dl
        self.func = func
        self.depth = getattr(dl, "depth", 0) + 1

    def __len__(self) -> int:
        return len(self.dl)  # type: ignore[arg-type]  # a loader without a length raises here

    def __getattr__(self, name: str) -> Any:
        if name in ("epoch", "first", "seek", "mixes_labels"):
            return getattr(self.dl, name)
        raise AttributeError(name)

    def __iter__(self) -> Iterator[Any]:
        read = reader(self.dl)
        epoch, first = getattr(self.dl, "epoch", 0), getattr(self.dl, "first", 0)

        def drawn(step: int, piece: int, batch: Any) -> Any:
            with drawing_from(own_order(self).seed, f"wrapped {self.depth}", epoch, step, piece):
                return passed(batch)

        def passed(batch: Any) -> Any:
            batch = read(batch)
            is_spread = isinstance(batch, tuple) and not isinstance(batch, PackedSequence)
            return self.func(*batch) if is_spread else self.func(batch)

        for step, batch in enumerate(self.dl, first):
            is_cut = isinstance(batch, Pieces)
            yield batch.map(partial(drawn, step)) if is_cut else passed(batch)


class AugmentedLoader(WrappedDataLoader):
    """A loader whose batches are augmented, with random numbers that depend on (seed, epoch, step).

    So a resumed training sees the same batches. By hand, the generator of a step is
    `stream(seed, "augment", epoch, step)`, and each function draws from it in turn.

    Args:
        dl: a loader that has an `epoch`, such as those of `get_data`.
        augment: names, such as `light` or `rotate=10,mixup`; a function `(xb, generator) -> xb` or
            `(xb, yb, generator) -> (xb, yb)`, such as those of `plainfit.data.augment`; or several
            functions. Names move masks, int64 targets of shape (samples, height, width) in memory,
            as they move the images.
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
        self.has_masks = has_masks(getattr(dl, "dataset", None))
        if isinstance(augment, str) and self.has_masks:
            augment = masked_steps(augment)
        self.dl: Any = dl
        self.func: Pipeline = Pipeline(augment, classes)
        self.seed = seed
        self.device = device
        self.only_images = isinstance(augment, str)

    @property
    def mixes_labels(self) -> bool:
        return any(self.func.mixing) and not self.has_masks

    def __iter__(self) -> Iterator[Any]:
        epoch = self.dl.epoch
        for step, batch in enumerate(self.dl, self.dl.first):
            if isinstance(batch, Pieces):
                yield batch.map(partial(self.augmented, epoch, step))
            else:
                yield self.augmented(epoch, step, None, batch)

    def augmented(self, epoch: int, step: int, piece: int | None, batch: Any) -> Any:
        xb, yb = batch
        if self.only_images and xb.dim() != 4:
            raise ConfigError(
                "an augmentation by name requires images of shape (channels, height, width), "
                f"got samples of shape {tuple(xb.shape[1:])}; leave it out"
            )
        if self.device is not None:
            xb, yb = to_device(xb, self.device), to_device(yb, self.device)
        place = (epoch, step) if piece is None else (epoch, step, piece)
        return self.func(xb, yb, stream(self.seed, "augment", *place))


Loader = TensorLoader | DataLoader[Any] | AugmentedLoader


def get_data(
    train_ds: Any,
    valid_ds: Any,
    bs: int,
    *,
    seed: int = 0,
    drop_last: bool = False,
    num_workers: int = 0,
    augment: str | Step | Sequence[Step] | None = None,
    target: Any = None,
    shuffle: bool | None = None,
    sampler: Any = None,
    collate_fn: Callable[[Any], Any] | None = None,
) -> tuple[Loader, Any]:
    """Return the training loader, shuffled, and the validation loader, with twice the batch size.

    Tensors in memory are served by a `TensorLoader`, all else by a stock `DataLoader` in the same
    order.

    Args:
        train_ds: any dataset; arrays, tensors or data frames as `(X, y)`, or several inputs as
            `(X, Z, y)`, or by name in a dict; one array, which is its own target; a data frame,
            with `target`; or a list of samples. Floats in them become float32, and other numbers
            int64; images of bytes, of shape (samples, channels, height, width), are divided by 256
            as in an `ImageDataset`. A dataset is served as it is, and one of Hugging Face in its
            format `torch` if it has none.
        valid_ds: likewise; a share of `train_ds`, such as 0.2, drawn by the seed, of each class
            alike where labels are classes; or None.
        bs: samples in a training batch.
        seed: the order of the training samples is a function of the seed and the epoch.
        drop_last: leave out a last training batch that is not full.
        num_workers: processes that read samples, where a `DataLoader` serves them.
        augment: varies the training batches; see `AugmentedLoader`.
        target: the column, or list of columns, of a data frame to predict from the others.
        shuffle: False to train in the order of the data.
        sampler: gives the rows of an epoch, such as a `WeightedRandomSampler`, whose draws become a
            function of the seed and the epoch too; or `balanced`, for as many rows as there are,
            with replacement, each class as likely as another.
        collate_fn: makes a batch of a list of samples, which are then read one by one.

    Returns:
        The two loaders; None for the second one if `valid_ds` is None.

    Raises:
        ValueError: if `bs` is less than 1, or a dataset is empty.
        DataError: if arrays have other values than numbers, or lengths that differ.
        ConfigError: if an option is unknown, or cannot be used with this data.

    >>> train_dl, valid_dl = get_data((torch.rand(10, 3), torch.arange(10) % 2), 0.2, bs=4)
    >>> [len(xb) for xb, yb in train_dl]
    [4, 4]
    """
    if sampler is not None and shuffle:
        raise ConfigError("and sampler both give the order: leave one out", field="shuffle")
    collate = collate_fn or default_collate
    check_columns(train_ds, valid_ds)
    convert = partial(as_dataset, target=target, raw=collate is not default_collate)
    train, valid = convert(train_ds, "train_ds"), None
    if isinstance(train, IterableDataset) and (shuffle or sampler is not None):
        raise ConfigError("and sampler need data with a length, got a stream", field="shuffle")
    if isinstance(valid_ds, int | float):
        train, valid = split(train, valid_ds, seed)
    elif valid_ds is not None:
        valid = convert(valid_ds, "valid_ds")
    if isinstance(sampler, str):
        if sampler != "balanced":
            raise ConfigError(unknown_name("sampler", sampler, ["balanced"]))
        sampler = Balanced(train)
    make = partial(make_loader, seed=seed, num_workers=num_workers, collate_fn=collate)
    own = {"drop_last": drop_last, "sampler": sampler, "trains": True}
    train_dl: Loader = make(train, bs, sampler is None and shuffle is not False, **own)
    if augment is not None:
        labels = class_labels(train)
        classes = None if labels is None else int(labels.max()) + 1
        train_dl = AugmentedLoader(train_dl, augment, seed, classes=classes)
    return train_dl, None if valid is None else make(valid, bs * 2, False, trains=False)


def make_loader(
    dataset: Any,
    batch_size: int,
    shuffle: bool,
    *,
    seed: int = 0,
    drop_last: bool = False,
    num_workers: int = 0,
    collate_fn: Callable[[Any], Any] = default_collate,
    sampler: Any = None,
    trains: bool | None = None,
) -> Loader:
    """Make the fastest loader for a dataset; see `get_data`; if shuffled, it `trains`."""
    if int(batch_size) != batch_size or batch_size < 1:
        raise ValueError(f"the batch size must be a whole number, at least 1, got {batch_size!r}")
    batch_size = int(batch_size)  # of one of NumPy, which torch does not take
    if isinstance(dataset, IterableDataset):  # it has its own order, and perhaps no length
        return DataLoader(
            dataset,
            batch_size=batch_size,
            drop_last=drop_last,
            num_workers=num_workers,
            collate_fn=collate_fn,
            generator=stream(seed, "workers"),
        )
    if len(dataset) == 0:
        raise ValueError("a dataset must have at least one sample, got none")
    options: dict[str, Any] = {"seed": seed, "shuffle": shuffle, "drop_last": drop_last}
    if collate_fn is default_collate and Rows.of(dataset):
        return TensorLoader(dataset, batch_size, sampler=sampler, **options)
    order = BatchSampler(dataset, batch_size, sampler=sampler, **options)
    order.trains = shuffle if trains is None else trains
    return SampleLoader(
        SampleBatches(dataset, seed, collate_fn),
        batch_size=None,
        sampler=order,
        # Of torch's own list, `pairs` makes a tuple; any other batch stays as it is.
        collate_fn=default_convert if collate_fn is default_collate else as_it_is,
        num_workers=num_workers,
    )
