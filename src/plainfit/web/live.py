"""What pages about runs are told as it happens, by server-sent events: one watcher for all."""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

from plainfit.runs.watching import Watcher
from plainfit.web.trainings import Trainings

EVERY = 1.0  # seconds between two looks


class Live:
    """Looks at the runs while at least one page is open."""

    def __init__(self, watcher: Watcher, trainings: Trainings) -> None:
        self.watcher, self.trainings = watcher, trainings
        self.pages: list[Page] = []
        self.looked, self.hurry = asyncio.Event(), asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    async def events(self, chosen: list[str], is_closing: Callable[[], bool]) -> AsyncIterator[str]:
        """Yield what is new, with the rows of the chosen runs, until the page is closed."""
        page = Page(chosen)
        self.pages.append(page)
        if self.task is None or self.task.done():
            self.task = asyncio.create_task(self.look())
        self.hurry.set()
        try:
            while not is_closing():
                await self.looked.wait()
                news = await asyncio.to_thread(page.news, self.watcher, self.trainings)
                if news:
                    yield f"data: {news}\n\n"
        finally:
            self.pages.remove(page)

    async def look(self) -> None:
        while self.pages:
            self.hurry.clear()
            chosen = {name for page in self.pages for name in page.chosen}
            await asyncio.to_thread(self.watcher.look, chosen)
            self.looked.set()  # for those that wait
            self.looked = asyncio.Event()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.hurry.wait(), EVERY)


class Page:
    """An open page: which runs it shows curves of, and what it has been told."""

    def __init__(self, chosen: list[str]) -> None:
        self.chosen = chosen
        self.lines: dict[str, Any] = {}
        self.cards: list[Any] | None = None
        self.sent: dict[tuple[str, str], tuple[Any, int]] = {}

    def news(self, watcher: Watcher, trainings: Trainings) -> str:
        lines, cards = watcher.found, [training.card() for training in trainings.all]
        told = {
            "changed": [line for name, line in lines.items() if self.lines.get(name) is not line],
            "gone": [name for name in self.lines if name not in lines],
            "rows": [*self.rows(watcher)],
        }
        if cards != self.cards:
            told["trainings"] = cards
        self.lines, self.cards = lines, cards
        return json.dumps(finite(told)) if any(told.values()) or "trainings" in told else ""

    def rows(self, watcher: Watcher) -> Iterator[dict[str, Any]]:
        """Yield the new rows of each log, and from which row on they take the place of others."""
        for name in self.chosen:
            for kind, log in watcher.logs.get(name, {}).items():
                rows, (known, sent) = log.rows, self.sent.get((name, kind), (None, 0))
                start, count = sent if rows is known else 0, len(rows)
                if rows is not known or count > start:
                    self.sent[name, kind] = rows, count
                    yield {"run": name, "kind": kind, "from": start, "rows": rows[start:count],
                           "every": log.every}  # fmt: skip


def finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
