"""Progress bars, shown on a terminal only and removed when done."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn, track

T = TypeVar("T")
LONG = 1000  # items; fewer take too little time for a bar


def on_terminal(bar: Progress) -> AbstractContextManager[object]:
    """Show a bar while the block runs, on a terminal only."""
    return bar if bar.console.is_terminal else nullcontext()


def with_bar(items: Iterable[T], title: str, total: int) -> Iterable[T]:
    console = Console(stderr=True)
    if total < LONG or not console.is_terminal:
        return items
    return track(items, title, total, console=console, transient=True)


class DownloadBar:
    """The progress of one download, with the attributes and methods that pooch requires."""

    def __init__(self, title: str) -> None:
        columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self.bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self.task = self.bar.add_task(title, total=None)
        self.total = 0

    def update(self, amount: int) -> None:
        self.bar.update(self.task, advance=amount, total=self.total or None)

    def reset(self) -> None:  # as pooch does before it sets the final count
        self.bar.update(self.task, completed=0)

    def close(self) -> None: ...  # `on_terminal` ends the bar
