"""Bars for long work, on a terminal only; gone when done."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TransferSpeedColumn,
    track,
)


@contextmanager
def on_terminal(bar: Progress) -> Iterator[None]:
    """Show a bar while the block runs, on a terminal only."""
    if not bar.console.is_terminal:
        yield
        return
    with bar:
        yield


T = TypeVar("T")
LONG = 1000  # items; fewer are read before a bar could be looked at


def with_bar(items: Iterable[T], title: str, total: int) -> Iterable[T]:
    """Return the items, with a bar for long work on a terminal."""
    console = Console(stderr=True)
    if total < LONG or not console.is_terminal:
        return items
    return track(items, title, total, console=console, transient=True)


class DownloadBar:
    """The progress of one download, in the form that pooch calls for (`total`, `update`...)."""

    def __init__(self, title: str) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
        self.bar = Progress(
            *columns, TransferSpeedColumn(), console=Console(stderr=True), transient=True
        )
        self.task = self.bar.add_task(title, total=None)
        self.total = 0

    def update(self, amount: int) -> None:
        """Add some bytes."""
        self.bar.update(self.task, advance=amount, total=self.total or None)

    def reset(self) -> None:
        """Begin again at 0, as pooch does before it sets the final count."""
        self.bar.update(self.task, completed=0)

    def close(self) -> None:
        """Nothing: `on_terminal` ends the bar."""
