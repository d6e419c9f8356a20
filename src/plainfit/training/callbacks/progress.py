"""A bar for the current epoch."""

import sys
import time
from typing import TYPE_CHECKING

from plainfit.training.hooks import Callback, Context

if TYPE_CHECKING:
    from rich.console import Console

REFRESH = 0.5  # seconds between two drawings of the bar, each of which takes 0.4 to 2.5 ms


class ProgressBar(Callback):
    """A bar for the current epoch; `with on_terminal(progress.bar)` shows it."""

    observer = True

    def __init__(self, console: "Console") -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self.bar = Progress(
            *columns,
            TimeRemainingColumn(),
            console=console,
            auto_refresh=False,  # a thread that redraws would take turns with the loop
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # lines that go to a file must get there
        )
        self.task = self.bar.add_task("", total=None)
        self.drawn = 0.0
        self.epoch = 0

    def on_fit_start(self, context: Context) -> None:
        """Begin where a resumed epoch goes on."""
        self.begin(context)

    def on_epoch_start(self, context: Context) -> None:
        """Draw the bar, if the last time is long enough ago."""
        self.on_step_end(context)

    def on_step_end(self, context: Context) -> None:
        """Draw the bar, if the last time is long enough ago: short epochs share a drawing."""
        now = time.perf_counter()
        if now - self.drawn <= REFRESH:
            return
        if context.epoch != self.epoch:
            self.begin(context)
            return
        self.drawn = now
        self.bar.update(self.task, completed=context.step, refresh=True)

    def begin(self, context: Context) -> None:
        """Draw the bar of another epoch."""
        self.drawn, self.epoch = time.perf_counter(), context.epoch
        title = f"epoch {context.epoch + 1} of {context.epochs}"
        self.bar.reset(self.task, total=context.steps, completed=context.step, description=title)
