"""From the first hook to the last, whatever happens in between: Ctrl-C, SIGTERM, an exception."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from plainfit.common.errors import ConfigError, PlainfitError
from plainfit.data.batches import Batches, opened
from plainfit.training.hooks import Context

SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class LeaveValidation(Exception):  # noqa: N818  # not an error
    """Raised within a validation pass that is to be left; `fit` catches it."""


class UntilStopped:
    """A validation loader that is left as soon as the training is to stop."""

    def __init__(self, dl: Batches, context: Context) -> None:
        self.dl = dl
        self.context = context

    def __repr__(self) -> str:
        return repr(self.dl)

    def __iter__(self) -> Iterator[Any]:
        for batch in opened(self.dl):
            if self.context.stop:
                raise LeaveValidation
            yield batch


@contextmanager
def session(context: Context) -> Iterator[None]:
    """Call the hooks around a training; make Ctrl-C and SIGTERM a stop after the current step.

    Raises:
        KeyboardInterrupt: after such a stop by Ctrl-C, once everything is saved. Not in a
            notebook or at a prompt, where control returns with the history so far.
        SystemExit: likewise after SIGTERM, with the code 143.
    """
    with signals_stop(context) as received:
        try:
            context.call("on_fit_start")
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
            raise
    if signal.SIGTERM in received:
        raise SystemExit(128 + signal.SIGTERM)
    if signal.SIGINT in received and not is_interactive():
        raise KeyboardInterrupt


@contextmanager
def mixed_labels_explained(context: Context) -> Iterator[None]:
    """Say what a loss must take where labels are mixed, if the first step or validation fails.

    Raises:
        ConfigError: then.
    """
    try:
        yield
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        mixes = getattr(context.train_dl, "mixes_labels", False)
        validates = context.epoch == 0 and context.step == context.steps
        if not mixes or isinstance(error, PlainfitError) or (context.global_step and not validates):
            raise
        failed = "the validation, whose labels are not mixed," if validates else "the first step"
        raise ConfigError(
            "where labels are mixed, the loss must take class probabilities, shape (batch, "
            "classes), and labels, as torch.nn.functional.cross_entropy does, and "
            f"{failed} failed with {type(error).__name__}: {error}; use that, or leave mixup and "
            "cutmix out"
        ) from error


@contextmanager
def signals_stop(context: Context) -> Iterator[list[int]]:
    """Let the first signal set `context.stop`, and a second one interrupt at once."""
    received: list[int] = []

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        context.stop = SIGNALS[signal.Signals(number)]

    if threading.current_thread() is not threading.main_thread():  # signals go to the main one
        yield received
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    # A handler that is not Python's own belongs to the surrounding program: it stays in charge.
    ours = [n for n, old in before.items() if old in (signal.SIG_DFL, signal.default_int_handler)]
    for number in ours:
        signal.signal(number, ask_to_stop)
    try:
        yield received
    finally:
        for number in ours:
            signal.signal(number, before[number])


def is_interactive() -> bool:
    """Return whether someone sits at a prompt or a notebook, who wants control back."""
    return hasattr(sys, "ps1") or "ipykernel" in sys.modules
