"""Progress bars, shown on a terminal only and removed when done."""

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
    if not bar.console.is_terminal:
        yield
        return
    with bar:
        yield


T = TypeVar("T")
LONG = 1000  # items; fewer take too little time for a bar


def with_bar(items: Iterable[T], title: str, total: int) -> Iterable[T]:
    """Return the items, with a bar if there are many."""
    console = Console(stderr=True)
    if total < LONG or not console.is_terminal:
        return items
    return track(items, title, total, console=console, transient=True)


class DownloadBar:
    """The progress of one download, with the attributes and methods that pooch requires."""

    def __init__(self, title: str) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
        self.bar = Progress(
            *columns, TransferSpeedColumn(), console=Console(stderr=True), transient=True
        )
        self.task = self.bar.add_task(title, total=None)
        self.total = 0

    def update(self, amount: int) -> None:
        self.bar.update(self.task, advance=amount, total=self.total or None)

    def reset(self) -> None:
        """Start again at 0, as pooch does before it sets the final count."""
        self.bar.update(self.task, completed=0)

    def close(self) -> None:
        pass  # `on_terminal` ends the bar
