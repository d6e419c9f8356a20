"""The page `ladder`: the tutorial's rungs to read, to run and to look into, in two languages."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

from fastapi import APIRouter, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, StreamingResponse

from plainfit.common.errors import ConfigError, unknown_name
from plainfit.data.mnist import IDX_SETS, cache_folder, file_in
from plainfit.ladder import listing
from plainfit.ladder.catalog import RUNGS, Rung, find_rung, select
from plainfit.ladder.climb import relation_here
from plainfit.ladder.inside import STEPPABLE, lines_of_step
from plainfit.ladder.lessons import before, figures, lessons
from plainfit.web.home import Home, language_of, page
from plainfit.web.markup import html

END = b'{"done"'  # of the last line of an answer
LONGEST_ANSWER = 2**24  # bytes: a batch of MNIST, a CNN's parameters


@dataclass
class Runs:
    """What to run: rungs as `plainfit ladder --rungs` names them, and the data."""

    rungs: str = "0-15"
    data: str = "digits"


class Worker:
    """A process that runs rungs, one request after the other; begun when it is first asked."""

    def __init__(self) -> None:
        self.folder = ""
        self.is_closing: Callable[[], bool] = lambda: False
        self.stopped: list[asyncio.subprocess.Process] = []
        self.process: asyncio.subprocess.Process | None = None
        self.lock = asyncio.Lock()

    async def ask(self, **request: Any) -> AsyncIterator[bytes]:
        """Yield the lines of the answer; who leaves before the end stops the process."""
        async with self.lock:
            process = self.process = self.process or await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "plainfit.ladder.worker", self.folder),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=LONGEST_ANSWER,
                start_new_session=True,  # rung 15 makes another process, which ends with it
            )
            assert process.stdin
            assert process.stdout
            line = b""
            try:
                process.stdin.write(json.dumps(request).encode() + b"\n")
                while not line.startswith(END):
                    reading = asyncio.ensure_future(process.stdout.readline())
                    while not reading.done() and not self.is_closing():
                        await asyncio.wait({reading}, timeout=0.5)
                    line = reading.result() if reading.done() else b""
                    if not line:
                        yield b'{"ended": true}\n'
                        return
                    yield line
            finally:
                if not line.startswith(END):
                    reading.cancel()
                    self.stop()

    def stop(self) -> None:
        if self.process:
            if not hasattr(os, "killpg"):  # Windows
                self.process.kill()
            else:
                with suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signal.SIGKILL)
            self.stopped.append(self.process)
        self.process = None

    async def close(self) -> None:
        self.stop()
        for process in self.stopped:
            await process.wait()


def routes(home: Home) -> APIRouter:
    running, looking = Worker(), Worker()

    @asynccontextmanager
    async def workers(app: FastAPI) -> AsyncIterator[None]:
        with TemporaryDirectory(prefix="plainfit-ladder-") as folder:
            for worker in (running, looking):
                worker.folder = folder
                worker.is_closing = lambda: bool(app.state.is_closing())
            yield
            await asyncio.gather(running.close(), looking.close())

    router = APIRouter(lifespan=workers)

    @router.get("/ladder", include_in_schema=False)
    def contents(request: Request) -> HTMLResponse:
        return shown(request, "ladder", current=None)

    @router.get("/ladder/{name}", include_in_schema=False)
    def show(request: Request, name: str) -> HTMLResponse:
        try:
            rung = find_rung(name)
        except ConfigError as error:
            raise HTTPException(404, str(error)) from error
        return shown(request, "rung", current=rung, **described(rung, language_of(request)))

    @router.post("/api/ladder/run", response_class=StreamingResponse)
    async def run(asked: Runs) -> StreamingResponse:
        select(asked.rungs)
        check_data(asked.data)
        answer = running.ask(do="run", rungs=asked.rungs, data=asked.data)
        return StreamingResponse(answer, media_type="application/x-ndjson")

    @router.get("/api/ladder/{name}/step/{number}")
    async def step(name: str, number: int, data: str = "digits") -> Any:
        rung = find_rung(name).label
        check_data(data)
        lines = looking.ask(do="step", rung=rung, step=number, data=data)
        answer, *_ = [json.loads(line) async for line in lines]
        if "error" in answer:
            raise ConfigError(answer["error"])
        return answer

    return router


def shown(request: Request, template: str, *, current: Rung | None, **values: Any) -> HTMLResponse:
    found = lessons(language_of(request))
    return page(
        request,
        template,
        page="ladder",
        rungs=RUNGS,
        titles={label: lesson.title for label, lesson in found.items()},
        first=html(found["first"].cells[0][1]),
        last=html(found["last"].cells[-1][1]),
        current=current,
        relation=relation_here,
        data=available_data(),
        **values,
    )


def described(rung: Rung, language: str) -> dict[str, Any]:
    """Return what a rung's page shows: its lesson in pieces, its program, its loop, its numbers."""
    shown_as: dict[str, Callable[[str], Any]] = {
        "text": html, "code": listing.listing, "diff": str, "picture": str,
    }  # fmt: skip
    cells = [(kind, shown_as[kind](text)) for kind, text in lessons(language)[rung.label].cells]
    loop: dict[str, list[int]] = lines_of_step(rung) if rung in STEPPABLE else {}
    numbers = sorted({number for lines in loop.values() for number in lines})
    lines = listing.listing(rung.source)
    base = before(rung)
    return {
        "cells": cells,
        "changes": list(listing.changes(base, rung)) if base and base.number else [],
        "before": base,
        "parts": listing.parts(rung),
        "phases": loop,
        "loop": [(at, lines[at - 1]) for at in range(numbers[0], numbers[-1] + 1)] if loop else [],
        "figures": [figure for figure in figures() if figure.rung.startswith(rung.label)],
    }


def available_data() -> list[str]:
    folder = cache_folder()
    return ["digits"] + [
        name
        for name, idx_set in IDX_SETS.items()
        if all(file_in(folder / name, file) for file in idx_set.hashes)
    ]


def check_data(name: str) -> None:
    if name not in available_data():
        raise ConfigError(unknown_name("data", name, available_data()))
