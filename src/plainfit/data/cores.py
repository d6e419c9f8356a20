"""Work on all cores that is mostly Python's own, for which threads would wait on each other."""

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from multiprocessing.connection import Connection
from typing import TypeVar

from plainfit.data.samples import signals_held_back

BLOCK = 32  # items that a process works on before it sends the results
T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def on_all_cores(call: Callable[[T], R], items: Sequence[T]) -> Iterator[Iterator[R]]:
    """Give what a function returns for each item, in order.

    On Linux, processes are forked, so that the function may be a closure; its results are pickled.
    They end with the block, and if this process ends. Elsewhere forking is not safe, or there is
    none, and threads do the work. Few items are worked on here.

    Raises:
        ChildProcessError: if a process ends before its work is done.
    """
    count = min(cores(), len(items) // BLOCK)
    if count < 2 or multiprocessing.current_process().daemon:  # which may have no children
        yield map(call, items)
    elif sys.platform != "linux":
        with ThreadPoolExecutor(count) as pool:
            yield pool.map(call, items)
    else:
        with forked(call, items, count) as results:
            yield results


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


@contextmanager
def forked(call: Callable[[T], R], items: Sequence[T], count: int) -> Iterator[Iterator[R]]:
    """Do so in that many processes: blocks of items are dealt out in turn."""
    blocks = [items[first : first + BLOCK] for first in range(0, len(items), BLOCK)]
    context = multiprocessing.get_context("fork")
    receivers: list[Connection] = []
    processes = []
    try:
        with signals_held_back():
            for number in range(count):
                receiver, sender = context.Pipe(duplex=False)
                receivers.append(receiver)
                work = (call, blocks[number::count], sender, receivers)
                processes.append(context.Process(target=send_results, args=work, daemon=True))
                processes[-1].start()
                sender.close()  # its process has the only one: when it ends, receiving fails
        turns = (receivers[number % count] for number in range(len(blocks)))
        yield chain.from_iterable(received(receiver) for receiver in turns)
    finally:
        for process in processes:
            if process.pid is not None:  # it was started
                process.kill()
                process.join()
        for receiver in receivers:
            receiver.close()


def received(receiver: Connection) -> list[R]:
    """Return the results of the next block."""
    try:
        results: list[R] = receiver.recv()
    except EOFError as error:
        raise ChildProcessError(
            "a process that worked on it was ended; is memory short?"
        ) from error
    return results


def send_results(
    call: Callable[[T], R],
    blocks: Sequence[Sequence[T]],
    sender: Connection,
    receivers: Sequence[Connection],
) -> None:
    """Work on blocks and send the results of each; end if nobody receives them any more."""
    for receiver in receivers:  # inherited; sending fails only when no process holds the other end
        receiver.close()
    try:
        for block in blocks:
            sender.send([call(item) for item in block])
    except BrokenPipeError:
        pass
