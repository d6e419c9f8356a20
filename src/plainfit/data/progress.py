"""Bars for long reading, on a terminal only; gone when done."""

from collections.abc import Iterable
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TransferSpeedColumn,
    track,
)

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
        self.progress = Progress(
            *columns, TransferSpeedColumn(), console=Console(stderr=True), transient=True
        )
        self.task = self.progress.add_task(title, total=None)
        self.total = 0

    def __enter__(self) -> Self:
        if self.progress.console.is_terminal:
            self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self.progress.live.is_started:  # else it would print an empty line
            self.progress.stop()

    def update(self, amount: int) -> None:
        """Add some bytes."""
        self.progress.update(self.task, advance=amount, total=self.total or None)

    def reset(self) -> None:
        """Begin again at 0, as pooch does before it sets the final count."""
        self.progress.update(self.task, completed=0)

    def close(self) -> None:
        """Nothing: the `with` block ends the bar."""
