"""Several ways to train on the same samples, in turn within one process, a few steps at a time."""

import gc
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Semaphore
from typing import Any

STEPS = 30  # in a turn: about 10 ms, in which the machine's speed hardly changes


class Share:
    """A loader that gives its batches only while it has its turn.

    Args:
        loader: of the batches.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.epochs: list[float] = []  # seconds in each, without those of waiting
        self.began = 0.0
        self.goes_on = True
        self.turn, self.waiting = Semaphore(0), Semaphore(0)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        self.wait()
        self.epochs.append(0.0)
        for number, batch in enumerate(self.loader, start=1):
            yield batch
            if number % STEPS == 0:
                self.wait()

    def wait(self) -> None:
        """End this turn, and wait for the next one."""
        self.end_turn()
        self.turn.acquire()
        if not self.goes_on:
            raise RuntimeError("the training must end, as the others did not go on")
        self.began = time.perf_counter()

    def end_turn(self) -> None:
        """Count the seconds of this turn, and let the others go on."""
        if self.epochs:
            self.epochs[-1] += time.perf_counter() - self.began
        self.waiting.release()

    def train(self, way: Callable[["Share"], None]) -> None:
        """Train in one way, to the end."""
        try:
            way(self)
        finally:
            self.goes_on = False
            self.end_turn()


def take_turns(
    ways: dict[str, Callable[[Share], None]], new_loader: Callable[[], Any], times: int
) -> dict[str, list[float]]:
    """Return the seconds of each epoch of each way; the first of a training is not counted.

    The ways run in threads, one at a time, each until it has taken `STEPS` steps; then all wait
    for the next round, which has another order.

    Args:
        ways: functions that train over the loader that they are given.
        new_loader: makes a loader for one of them.
        times: how often all are trained anew. Where in memory a model and its loader come to lie
            makes a difference of up to 1 %, which stays for a training.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    order = random.Random(0)
    with undisturbed():
        for _ in range(times):
            shares = {name: Share(new_loader()) for name in order.sample(list(ways), len(ways))}
            run_in_turn(ways, shares, order)
            for name, share in shares.items():
                seconds[name] += share.epochs[1:]
    return seconds


def run_in_turn(
    ways: dict[str, Callable[[Share], None]], shares: dict[str, Share], order: random.Random
) -> None:
    """Train in each way over its share."""
    with ThreadPoolExecutor(len(ways)) as threads:
        trainings = []
        try:
            for name, share in shares.items():
                trainings.append(threads.submit(share.train, ways[name]))
                share.waiting.acquire()
            while going := [share for share in shares.values() if share.goes_on]:
                for share in order.sample(going, len(going)):
                    share.turn.release()
                    share.waiting.acquire()
        finally:  # after Ctrl-C, too, no thread may wait for ever
            for share in shares.values():
                share.goes_on = False
                share.turn.release()
        for training in trainings:
            training.result()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep the process on one core, where the system can, as another one has cold caches.

    And what has been imported is not looked through, as garbage, in somebody's turn.
    """
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    gc.collect()
    gc.freeze()
    if cores:
        os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        if cores:
            os.sched_setaffinity(0, cores)
        gc.unfreeze()


def ratio(times: list[float], base: list[float]) -> tuple[float, float, float]:
    """Return the median of the ratios of pairs, and their lower and upper quartile."""
    ratios = [mine / other for mine, other in zip(times, base, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return middle, low, high


def percent(value: float) -> str:
    """Return a ratio as the share above 1."""
    return f"{value - 1:+.2%}"
