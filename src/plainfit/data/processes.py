"""Image files are read on all cores."""

import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from plainfit.common.progress import with_bar
from plainfit.data.decoding import BadImageError
from plainfit.data.loaders import end_with_parent, signals_blocked

FEW = 32  # images for which a worker process is not worth starting
CHUNK = 128  # images at most that a worker process decodes before it sends the results
P = TypeVar("P", str, Path)
T = TypeVar("T")
R = TypeVar("R")


def read_all(paths: Sequence[P], read: Callable[[P], T]) -> tuple[dict[P, T], dict[P, str]]:
    """Call `read` on every path, on all cores; return the results, and why others failed."""

    def attempt(path: P) -> T | BadImageError:
        try:
            return read(path)
        except BadImageError as error:
            return error

    # Warning filters belong to the whole process; forked processes inherit them.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about damage that it can skip
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with on_all_cores(attempt, paths) as got:
            results = dict(zip(paths, with_bar(got, "reading images", len(paths)), strict=True))
    good = {path: got for path, got in results.items() if not isinstance(got, BadImageError)}
    return good, {path: str(got) for path, got in results.items() if isinstance(got, BadImageError)}


@contextmanager
def on_all_cores(call: Callable[[T], R], items: Sequence[T]) -> Iterator[Iterator[R]]:
    """Give an iterator over `call(item)` for each item, in order.

    Pillow runs much Python code, so threads would wait for each other. On Linux processes are
    forked, so that `call` may be a closure; they end with the block, and with this process. Forking
    is not safe on other systems, which use threads. A few items are handled in this process.
    """
    count = min(cores(), len(items) // FEW)
    if count < 2 or multiprocessing.current_process().daemon:  # which may not start processes
        yield map(call, items)
        return
    if sys.platform != "linux":
        with ThreadPoolExecutor(count) as threads:
            yield threads.map(call, items)
        return
    context = multiprocessing.get_context("fork")
    stop = context.RawValue("b", 0)
    pool = ProcessPoolExecutor(count, context, start_worker, (call, stop))
    try:
        with signals_blocked():
            chunk = min(CHUNK, max(1, len(items) // (4 * count)))
            results = pool.map(call_in_worker, items, chunksize=chunk)
        yield results
    except BrokenProcessPool as error:
        raise ChildProcessError("a worker process was killed; is memory short?") from error
    finally:
        # Killing workers would not do: the executor would wait for the rest of a half-sent result.
        stop.value = 1
        pool.shutdown(cancel_futures=True)


def cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def start_worker(call: Callable[[Any], Any], stop: Any) -> None:
    global worker_call, worker_stop
    worker_call, worker_stop = call, stop  # inherited: a closure cannot be pickled
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all processes
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the executor ends workers by it
    if sys.platform == "linux":  # as always where processes are forked
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
    end_with_parent()


def call_in_worker(item: Any) -> Any:
    return None if worker_stop.value else worker_call(item)


worker_call: Callable[[Any], Any]
worker_stop: Any
