"""The page `runs`: a table of all runs, curves while they train, reports, and new trainings."""

import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, get_args

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, StreamingResponse
from pydantic import StrictInt

from plainfit.common.errors import PlainfitError, command
from plainfit.common.schema import Between, hints_of
from plainfit.data.decoding import CHANNELS, RESIZE
from plainfit.data.splits import taken
from plainfit.data.tables.reading import MISSING
from plainfit.data.targets import CLASSIFICATION, MULTI_LABEL, REGRESSION
from plainfit.models.build import MODELS, OPTIMIZERS
from plainfit.report.comparison import results_of
from plainfit.report.page import write_report
from plainfit.report.rendering import value_text
from plainfit.runs.folder import METRICS, RECORD, WEIGHTS, Run
from plainfit.runs.settings import FORMS, PRECISIONS, TRACKERS, RunConfig, names_of
from plainfit.runs.tasks import LOSSES
from plainfit.runs.watching import Seen, Watcher, stamp_of
from plainfit.training.schedules import BY_NAME
from plainfit.web.home import Home, language_of, page, texts
from plainfit.web.live import Live
from plainfit.web.trainings import SETTINGS, Settings, stop_run

FIRST = ("data", "model", "epochs", "batch_size", "lr", "optimizer", "schedule", "augment", "seed")
CHOICES: dict[str, tuple[str, ...]] = {
    "schedule": tuple(BY_NAME),
    "track": TRACKERS,
    "precision": PRECISIONS,
    "compile": FORMS,
    "reduce": ("exact", "fast"),
    "task": (CLASSIFICATION, REGRESSION, MULTI_LABEL),
    "image_mode": tuple(CHANNELS),
    "resize": tuple(RESIZE),
    "missing": MISSING,
    "sampler": ("balanced",),
    "loss": tuple(LOSSES[REGRESSION]),
}
SUGGESTIONS: dict[str, tuple[str, ...]] = {
    "data": ("digits", "mnist", "fashion-mnist"),
    "model": ("auto", *MODELS),
    "optimizer": ("auto", *OPTIMIZERS),
    "augment": ("none", "light", "standard", "strong"),
    "class_weights": ("balanced",),
    "device": ("auto", "cpu", "cuda", "mps"),
    "lr": ("auto",),
}
REPORT_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "frame-ancestors 'self'"
}
MOST_REPORTS = 8  # in memory


@dataclass
class NewTraining:
    settings: Settings
    name: str = ""


@dataclass
class Longer:
    epochs: StrictInt | None = None  # in all


def routes(home: Home) -> APIRouter:
    router, reports = APIRouter(), Reports()
    trainings = home.trainings
    live = Live(Watcher(home.folder, line_of), trainings)

    @router.get("/runs", include_in_schema=False)
    async def show(request: Request) -> HTMLResponse:
        about = texts("settings", language_of(request))
        train = home.first_training
        return page(request, "runs", folder=home.folder, groups=groups(), help=about, train=train)

    @router.get("/api/runs/events", response_class=StreamingResponse)
    async def events(
        request: Request, run: Annotated[list[str], Query(default_factory=list)]
    ) -> StreamingResponse:
        stream = live.events(run, request.app.state.is_closing)
        return StreamingResponse(stream, media_type="text/event-stream")

    @router.get("/api/runs/{name}/report", response_class=HTMLResponse)
    def report(name: str) -> HTMLResponse:
        return HTMLResponse(reports.of(home.run_folder(name)), headers=REPORT_HEADERS)

    @router.post("/api/trainings")
    def start(new: NewTraining) -> dict[str, Any]:
        return trainings.start(new.name.strip(), new.settings).card()

    @router.post("/api/trainings/{number}/stop")
    def stop_training(number: int) -> dict[str, Any]:
        trainings.stop(number)
        return {}

    @router.post("/api/runs/{name}/stop")
    def stop(name: str) -> dict[str, Any]:
        stop_run(home.run_folder(name))
        return {}

    @router.post("/api/runs/{name}/resume")
    def resume(name: str, more: Longer) -> dict[str, Any]:
        home.run(name).factory  # noqa: B018  # its code must be trusted
        return trainings.resume(name, more.epochs).card()

    return router


def line_of(seen: Seen) -> dict[str, Any]:
    line: dict[str, Any] = {"name": seen.name, "state": seen.state, "problem": seen.problem}
    if (run := seen.run) is None:
        return line
    defaults = RunConfig().to_dict()
    results = results_of(run, ["valid_loss", *run.metrics], [*(run.record.get("test") or {})])
    return line | {
        "model": run.settings["model"],
        "data": run.settings["data"],
        "of": run.settings["epochs"],
        "stopped": run.record.get("stopped") or "",
        "when": (run.folder / RECORD).stat().st_mtime,
        "cells": {
            name: {"value": value, "text": value_text(name, value)}
            for name, value in results.items()
            if not name.startswith("last_")
        },
        "settings": {
            name: value
            for name, value in run.settings.items()
            if value != defaults.get(name) and name != "out"
        },
        "resumed": run.record.get("resumed", []),
        "commands": [*commands(run, seen.state)],
    }


def commands(run: Run, state: str) -> Iterator[tuple[str, str]]:
    folder, data = run.folder, run.record["data"]
    if state == "finished":
        yield "longer", command("resume", folder, "--epochs", 2 * run.settings["epochs"])
    elif state != "running":
        yield "resume", command("resume", folder)
    made = dict(data.get("preprocessing") or {})
    if source := taken(made, run.columns, run.target.task):
        yield "predict", command("predict", folder, *source.split())
    yield "report", command("report", folder)
    yield "eject", command("eject", folder)
    yield "export", command("export", folder)
    with suppress(PlainfitError):
        yield "again", run.config.command()


class Reports:
    """Reports of runs, rendered in a temporary place: nothing is written by looking."""

    def __init__(self) -> None:
        self.lock = Lock()  # one at a time: a report predicts the whole test set
        self.made: dict[Path, tuple[Any, str]] = {}

    def of(self, folder: Path) -> str:
        stamp = [stamp_of(folder / name) for name in (RECORD, METRICS, WEIGHTS)]
        with self.lock:
            known, text = self.made.pop(folder, (None, ""))
            if known != stamp:
                with tempfile.TemporaryDirectory() as place:
                    text = write_report(folder, Path(place) / "report.html").read_text("utf-8")
            self.made[folder] = stamp, text  # the newest last
            for old in [*self.made][:-MOST_REPORTS]:
                del self.made[old]
        return text


def groups() -> list[tuple[str, list[dict[str, Any]]]]:
    found = {item.name: field_of(item.name, item.default) for item in fields(RunConfig)}
    rest = [name for name in SETTINGS if name not in FIRST]
    named = [("first", [found[name] for name in FIRST])]
    for kind in reversed(RunConfig.__bases__):
        title = kind.__name__.removesuffix("Settings").lower()
        if inner := [found[name] for name in names_of(kind) if name in rest]:
            named.append((title, inner))
    return named


def field_of(name: str, default: Any) -> dict[str, Any]:
    kind, _, *limits = get_args(hints_of(RunConfig)[name])
    kinds = set(get_args(kind) or (kind,))
    limit = next((one for one in limits if isinstance(one, Between)), None)
    return {
        "name": name,
        "kind": "flag" if kind is bool else "whole" if kinds <= {int, type(None)} else "text",
        "default": default,
        "choices": CHOICES.get(name, ()),
        "suggestions": SUGGESTIONS.get(name, ()),
        "limit": limit,
    }
