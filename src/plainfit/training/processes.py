"""The processes of a training: those that `torchrun` or `plainfit train --processes` started."""

import atexit
import os
import signal
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from plainfit.common.errors import ConfigError, TrainingError
from plainfit.data.batches import (
    Batches,
    inputs_and_target,
    opened,
    pairs,
    reader,
    tensors_in,
    to_device,
)
from plainfit.data.loaders import BatchOrder

T = TypeVar("T")
CPU = torch.device("cpu")
# Seconds that a process waits for another one before it ends with an error.
TIMEOUT = float(os.environ.get("PLAINFIT_TIMEOUT", "300"))


class LostError(TrainingError):
    """Another process of the training has ended, or does not answer."""


@dataclass(frozen=True)
class Processes:
    """The place of this process among those that train together."""

    rank: int = 0
    world: int = 1

    def share(self, value: Any) -> Any:
        """Return what the first process has, a plain value or tensors."""
        if self.world == 1:
            return value
        value = to_device(value, CPU)
        tensors = (leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor))
        place = [tree_map_only(Tensor, lambda tensor: tensor.to("meta"), value)]

        def received(_: Tensor) -> Any:  # one by one: what is received is in memory three times
            one = [next(tensors, None)]
            dist.broadcast_object_list(one, src=0)
            return one[0]

        with lost_others():
            dist.broadcast_object_list(place, src=0)
            return tree_map_only(Tensor, received, place[0])

    def gather(self, value: Any) -> list[Any]:
        """Return what every process has, in the order of their ranks."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        with lost_others():
            dist.all_gather_object(values, to_device(value, CPU))
        return values

    def own(self, dl: Batches, device: torch.device, target: str | None) -> Iterator[Any]:
        """Yield the pairs of every `world`-th batch, from that of the own rank on.

        All processes have as many: some a None at the end.
        """
        order = getattr(dl, "sampler", dl)
        if self.world == 1:
            yield from pairs(dl, device, target)
        elif isinstance(order, BatchOrder):
            order.share = slice(self.rank, None, self.world)  # others are not read
            try:
                yield from pairs(dl, device, target)
            finally:
                order.share = slice(None)
            if 0 < len(order) % self.world <= self.rank:
                yield None
        else:  # one within a wrapper too, which may draw random numbers: all read the whole
            made = opened(dl)
            read = reader(made)
            for batches in self.same(made, "valid_dl", self.world):
                own = [read(batch) for batch in batches[self.rank : self.rank + 1]]
                yield to_device(inputs_and_target(own[0], target), device) if own else None

    def same(self, batches: Iterable[Any], field: str, count: int = 1) -> Iterator[list[Any]]:
        """Yield so many batches at a time, which must be the same on every process."""
        if self.world == 1:
            yield from ([batch] for batch in batches)
            return
        each = iter(batches)
        while True:
            found = list(islice(each, count))
            if len({*self.gather(digest(found))}) > 1:
                raise ConfigError(
                    "must give the same batches on every process, of which each computes a part, "
                    "and gives others, or more of them, to some; serve a dataset by "
                    "plainfit.get_data, or leave out what splits it",
                    field=field,
                )
            if found:
                yield found
            if len(found) < count:
                return

    def of_all(self, item: Any, device: torch.device) -> list[Any]:
        """Return the items of all processes, in the order of their ranks, without those None."""
        if self.world == 1:
            return [item]
        return [to_device(each, device) for each in self.gather(item) if each is not None]

    def once_per_machine(self, make: Callable[[], T]) -> T:
        """Return what `make` returns; its tensors are in memory once for all processes here.

        The first process of each machine makes it, and the others map the pages of a file, which
        is in memory where the system has a place for such files.
        """
        if self.world == 1:
            return make()
        local = int(os.environ.get("LOCAL_RANK", self.rank))
        place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        with tempfile.TemporaryDirectory(dir=place) as folder:
            path = Path(folder) / "made.pt"
            if local == 0:
                torch.save(make(), path)
            paths = self.gather(path)
            made: T = torch.load(paths[self.rank - local], mmap=True, weights_only=False)
            self.wait()  # until all have it; the pages stay without the file
        return made

    def wait(self) -> None:
        """Wait until every process has come to this point."""
        self.gather(None)


def digest(batches: list[Any]) -> int:
    """Return a number that batches with other values have another of, by a part of large ones."""
    found = zlib.crc32(str(len(batches)).encode())
    for tensor in tensors_in(batches):
        values = tensor.detach().reshape(-1)
        some = values[:: max(1, len(values) // 4096)].cpu().contiguous().view(torch.uint8)
        found = zlib.crc32(some.numpy().tobytes(), found)
    return found


@contextmanager
def lost_others() -> Iterator[None]:
    """Raise what torch says of a process that has ended, or does not answer, as a LostError."""
    try:
        yield
    except RuntimeError as error:
        raise LostError(
            "all processes of a training must go on, and another one has ended, or did not answer "
            f"for {TIMEOUT:g} s (set by PLAINFIT_TIMEOUT)"
        ) from error


def is_launched() -> bool:
    """Return whether `torchrun`, or what sets the same variables, has started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def restarts() -> int:
    """Return how often the launcher has begun again, after it lost a process."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def join() -> Processes:
    """Join the others of this training, if there are any, and return the place among them."""
    if not is_launched() or not dist.is_available():
        return Processes()
    if not dist.is_initialized():
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        backend = "nccl" if accelerator is not None and accelerator.type == "cuda" else "gloo"
        timeout, job = timedelta(seconds=TIMEOUT), os.environ.get("PLAINFIT_JOB")
        try:
            rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
            if world == 1:
                return Processes()
            url = f"file://{job}/store" if job else "env://"
            store, *_ = next(dist.rendezvous(url, rank, world, timeout=timeout))
            dist.init_process_group(
                f"cpu:gloo,cuda:{backend}" if backend == "nccl" else backend,
                store=dist.PrefixStore(f"{restarts()} of {world}", store),  # torchrun keeps it
                rank=rank,
                world_size=world,
                timeout=timeout,
            )
        except (RuntimeError, ValueError) as error:
            kind = ConfigError if isinstance(error, ValueError) else LostError
            raise kind(
                "the processes of a training must find each other by the variables RANK, "
                "WORLD_SIZE, MASTER_ADDR and MASTER_PORT, and failed with "
                f"{str(error).splitlines()[0].rstrip('.')}; start them by torchrun"
            ) from error
        atexit.register(dist.destroy_process_group)
        if "TORCHELASTIC_RUN_ID" in os.environ:
            launcher = int(os.environ.get("PLAINFIT_LAUNCHER", os.getppid()))
            Thread(target=stop_with, args=(launcher,), daemon=True).start()
    return Processes(dist.get_rank(), dist.get_world_size())


def stop_with(launcher: int) -> None:
    """Stop this process, once its training is saved, when its launcher has ended."""
    while os.getppid() == launcher:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
