"""What holds while `fit` runs: the hooks around it, Ctrl-C and SIGTERM, errors, memory."""

import ctypes
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from plainfit.common.errors import ConfigError, PlainfitError
from plainfit.training.checks import BROADCAST, explain
from plainfit.training.hooks import Context, Interrupted
from plainfit.training.processes import LostError

SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


@contextmanager
def session(context: Context, loss_func: Any) -> Iterator[None]:
    """Call the hooks around a training; make Ctrl-C and SIGTERM a stop after the current step.

    They then end the program once everything is saved; but after Ctrl-C in a notebook or at a
    prompt, control returns with the history so far.
    """
    with signals_stop(context) as received, warnings.catch_warnings():
        warnings.filterwarnings("error", BROADCAST)
        try:
            context.call("on_fit_start")
            context.agree(is_epoch_end=True)
            yield
            context.read_losses()
            context.history.stopped = context.stop
            context.history.unfinished = context.step > 0
            if context.step:
                context.call("on_stop")
            context.call("on_fit_end")
        except BaseException as error:
            context.exception = error
            context.call("on_exception")
            if isinstance(error, Exception):
                error.add_note(f"in {context.place()}")
                explain(error, context)
            explain_mixed_labels(error, context, loss_func)
            if received and isinstance(error, LostError):  # which stops too
                raise KeyboardInterrupt from error
            raise
    if signal.SIGTERM in received:
        raise SystemExit(128 + signal.SIGTERM)
    is_interactive = hasattr(sys, "ps1") or "ipykernel" in sys.modules
    if signal.SIGINT in received and not is_interactive:
        raise KeyboardInterrupt


@contextmanager
def signals_stop(context: Context) -> Iterator[list[int]]:
    """Let the first signal set `context.stop`, and a second one interrupt at once."""
    received: list[int] = []

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        # A job sends SIGTERM to all processes, and their launcher passes on its own.
        if received and (number == signal.SIGINT or not context.has_others):
            raise KeyboardInterrupt
        received.append(number)
        context.ask_to_stop(SIGNALS[signal.Signals(number)])
        if context.interrupts:
            raise Interrupted

    if threading.current_thread() is not threading.main_thread():  # which alone receives signals
        yield received
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    # A handler that is not Python's own belongs to the surrounding program, and stays.
    ours = [n for n, old in before.items() if old in (signal.SIG_DFL, signal.default_int_handler)]
    for number in ours:
        signal.signal(number, ask_to_stop)
    try:
        yield received
    finally:
        for number in ours:
            signal.signal(number, before[number])


@contextmanager
def sigterm_exits() -> Iterator[None]:
    """Let SIGTERM raise SystemExit, as Ctrl-C raises KeyboardInterrupt; for after a training."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def explain_mixed_labels(error: BaseException, context: Context, loss_func: Any) -> None:
    """Raise a ConfigError if labels are mixed and the loss failed in its first call."""
    of_validation = context.epoch == 0 and context.step == context.steps
    if (
        not getattr(context.train_dl, "mixes_labels", False)
        or not (context.global_step == 0 or of_validation)
        or not isinstance(error, RuntimeError | ValueError | TypeError | IndexError)
        or isinstance(error, PlainfitError | torch.OutOfMemoryError)
        or not is_raised_in(error, loss_func)
    ):
        return
    failed = "the validation, whose labels are not mixed," if of_validation else "the first step"
    raise ConfigError(
        "where labels are mixed, the loss must take class probabilities, shape (batch, "
        "classes), and labels, as torch.nn.functional.cross_entropy does, and "
        f"{failed} failed with {type(error).__name__}: {error}; use that, or leave mixup and "
        "cutmix out"
    ) from error


def is_raised_in(error: BaseException, function: Any) -> bool:
    while isinstance(function, partial):
        function = function.func
    code = getattr(function, "__code__", None)
    own = code or getattr(type(function).__call__, "__code__", None)
    if own is None:  # written in C, and without a frame: the last one is the caller's
        found = traceback.extract_tb(error.__traceback__)
        *_, last = (frame for frame in found if frame.name != "__torch_function__")
        is_ours = Path(last.filename).parent == Path(__file__).parent
        return is_ours and "loss_func(" in (last.line or "")
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(
        frame.f_code is own and (code is not None or frame.f_locals.get("self") is function)
        for frame in frames
    )


# Memory. glibc returns large freed blocks to the system, and the kernel clears their pages before
# they are used again: hundreds of page faults per step, which can double its time. The bits are
# the same either way. docs/decisions/0011-fast.md has the numbers, and why `fit` does this.

# Parameters of mallopt(3), with their numbers from <malloc.h>.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
MIB = 2**20
# The largest values that glibc sets by itself (DEFAULT_MMAP_THRESHOLD_MAX, and twice that), as it
# does once a program has freed a block of that size; and its default padding.
USUAL = {M_MMAP_THRESHOLD: 32 * MIB, M_TRIM_THRESHOLD: 64 * MIB, M_TOP_PAD: 128 * 1024}
# Larger blocks still come from the system: pieces of the heap as large as they are lie unused.
KEPT = {M_MMAP_THRESHOLD: 32 * MIB, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 16 * MIB}


@contextmanager
def kept_memory(keep: bool = True) -> Iterator[None]:
    """Let the whole process keep blocks of up to 32 MiB until the end; then give them back.

    Nothing happens where the C library is not glibc (macOS, Windows, Alpine). After the block,
    glibc has the thresholds that its own rule ends at.
    """
    glibc = find_glibc() if keep else None
    if glibc is None:
        yield
        return
    for parameter, value in KEPT.items():
        glibc.mallopt(parameter, value)
    try:
        yield
    finally:
        for parameter, value in USUAL.items():
            glibc.mallopt(parameter, value)
        glibc.malloc_trim(0)


def find_glibc() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows has no such library
        return None
    return library if hasattr(library, "gnu_get_libc_version") else None
