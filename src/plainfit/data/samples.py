"""Batches of a data set that is read sample by sample, in worker processes or not."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from plainfit.common.seeding import drawing_from, epoch_order, stream


class BatchSampler(Sampler[tuple[int, int, list[int]]]):
    """The same order for a stock `DataLoader`, whose own would come from the global generator.

    Gives each batch as (epoch, step, rows): its address, and what is in it.
    """

    def __init__(
        self, n: int, batch_size: int, *, seed: int, shuffle: bool, drop_last: bool
    ) -> None:
        self.n = n
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.epoch = 0
        self.first = 0

    def __len__(self) -> int:
        return self.n // self.batch_size if self.drop_last else -(-self.n // self.batch_size)

    def __iter__(self) -> Iterator[tuple[int, int, list[int]]]:
        epoch, first = self.epoch, self.first
        self.first = 0
        order = epoch_order(self.n, self.seed, epoch, self.shuffle)
        batches = order.split(self.batch_size)[: len(self)]
        for step in range(first, len(batches)):
            # A validation pass draws the same numbers in every epoch, so that epochs compare.
            yield (epoch if self.shuffle else 0), step, batches[step].tolist()


class SampleBatches(Dataset[Any]):
    """The batches of a data set, each read with random numbers of its own address.

    So what a sample's augmentation draws is the same with any number of workers, and after a
    resumed training has passed over the batches before.
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
    """A stock `DataLoader` over these batches; moves on to the next epoch when read to its end.

    The loader moves on and not the sampler, which workers read ahead of the batches.
    """

    sampler: BatchSampler

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration is of."""
        return self.sampler.epoch

    @property
    def first(self) -> int:
        """The batch that it begins with."""
        return self.sampler.first

    def seek(self, epoch: int, step: int) -> None:
        """Make the next iteration begin at that batch of that epoch."""
        self.sampler.epoch, self.sampler.first = epoch, step

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        epoch = self.sampler.epoch
        self.generator = stream(self.sampler.seed, "workers", epoch)
        self.worker_init_fn = EndWithMain() if self.num_workers else None
        with signals_held_back():
            batches = super().__iter__()
        try:
            yield from batches
        finally:
            # After an exception, torch would end its workers when the garbage is collected, and
            # wait 5 seconds for each then.
            if self.num_workers:
                batches._shutdown_workers()  # type: ignore[attr-defined]
        self.sampler.epoch = epoch + 1


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back; processes that are started meanwhile never see them.

    Both are often sent to all processes. Here the main one ends its workers when it is time.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class EndWithMain:
    """What a worker does when it starts: it ends if the main process has ended.

    torch's workers notice the end of the main process, but not if that came before they began to
    look: a kill within the first milliseconds would leave them behind for ever.
    """

    def __init__(self) -> None:
        self.main = os.getpid()

    def __call__(self, worker: int) -> None:
        """Look for the main process."""
        if os.getppid() != self.main:
            os._exit(1)
