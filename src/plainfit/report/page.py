"""The page about one run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plainfit.report.charts import Chart, Line, draw_chart, thinned
from plainfit.report.findings import Findings, find_out
from plainfit.report.reading import (
    Row,
    RunLog,
    duration,
    figure_text,
    heading_text,
    plain_text,
    read_log,
)
from plainfit.report.rendering import render_to
from plainfit.runs.settings import RunConfig

FILE = "report.html"


@dataclass(frozen=True)
class Card:
    """A figure to see first."""

    title: str
    figure: str
    note: str = ""


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write one HTML page about a run, which needs no other file and no network.

    A run that has not finished, or whose data or model is no longer there, gets a page without
    the sections that need them, which says why.

    Args:
        folder: of the run.
        out: the page; by default `report.html` in the folder.

    Returns:
        The path of the page.

    Raises:
        RunError: if it is no run folder, or the page cannot be written.
    """
    log = read_log(folder)
    found = find_out(log)
    return render_to(
        out or folder / FILE,
        "run.html.jinja",
        title=log.name,
        record=log.record,
        notes=log.notes,
        cards=cards(log, found),
        results=results(log),
        charts=charts(log),
        epochs=table_of(log.epochs),
        found=found,
        settings=settings(log.record["config"]),
        command=RunConfig.from_dict(log.record["config"]).command(),
        machine=facts(log.record.get("versions", {}) | log.record.get("fingerprint", {})),
        about=about(log),
    )


def cards(log: RunLog, found: Findings) -> list[Card]:
    """Return the figures to see first: those of the first metric, or of the loss without one."""
    name = log.metrics[0] if log.metrics else "loss"
    column = name if log.metrics else "valid_loss"
    test, best, last = log.record.get("test"), log.best, log.last
    planned = log.record["config"]["epochs"]
    made = [
        *([Card(f"{name}, test set", figure_text(name, test.get(name)))] if test else []),
        *(
            Card(
                f"{name}, {which} epoch",
                figure_text(column, row.get(column)),
                f"epoch {row['epoch']}",
            )
            for which, row in (("best", best), ("last", last))
            if row
        ),
        Card("epochs", f"{len(log.epochs)} of {planned}", log.record.get("stopped") or ""),
        Card("time", duration(log.seconds), f"{log.speed:,.0f} samples/s" if log.speed else ""),
    ]
    if found.parameters is not None:
        made.append(Card("parameters", f"{found.parameters:,}"))
    return made


def results(log: RunLog) -> dict[str, Any]:
    """Return loss and metrics on each set as a table."""
    columns = ["loss", *log.metrics]
    rows = []
    if test := log.record.get("test"):
        rows.append(
            ["test set, after the last epoch", *(figure_text(n, test.get(n)) for n in columns)]
        )
    for which, row in (("last epoch", log.last), ("best epoch", log.best)):
        if row:
            figures = [row.get("valid_loss"), *(row.get(name) for name in log.metrics)]
            texts = map(figure_text, columns, figures)
            rows.append([f"validation set, {which} ({row['epoch']})", *texts])
    return {"head": ["", *columns], "rows": rows}


def charts(log: RunLog) -> list[Chart]:
    """Return the curves that there are figures for."""
    done = [row["epoch"] + 1 for row in log.epochs]

    def line(name: str, column: str) -> Line:
        return Line(name, done, [row.get(column, float("nan")) for row in log.epochs])

    losses = [line("validation", "valid_loss"), line("training", "train_loss")]
    drawn = [
        draw_chart("loss", "epochs done", losses, log=True),
        *(draw_chart(name, "epochs done", [line("validation", name)]) for name in log.metrics),
        *step_charts(log),
    ]
    return [chart for chart in drawn if chart]


def step_charts(log: RunLog) -> list[Chart | None]:
    """Return training loss and learning rate by step, if the steps were written down."""
    steps, losses, each = thinned([step.loss for step in log.steps])
    _, rates, _ = thinned([step.lr for step in log.steps])
    note = f"each point is the mean of {each} steps" if each > 1 else ""
    return [
        draw_chart("training loss", "step", [Line("loss", steps, losses)], note=note, log=True),
        draw_chart("learning rate", "step", [Line("rate", steps, rates)], note=note),
    ]


def table_of(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the figures of each epoch as a table."""
    names = list(rows[0]) if rows else []
    return {
        "head": [heading_text(name) for name in names],
        "rows": [[figure_text(name, row.get(name)) for name in names] for row in rows],
    }


def settings(config: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """Return each setting, its value, and whether it is another than the default."""
    usual = RunConfig().to_dict()
    return [(name, plain_text(v), v != usual.get(name)) for name, v in config.items()]


def about(log: RunLog) -> list[tuple[str, str]]:
    """Return what was trained on what, by name."""
    record, data = log.record, log.record["data"]
    optimizer = record.get("optimizer", {})
    return facts({
        "data": data.get("name"),
        "samples": ", ".join(f"{count:,} {part}" for part, count in data.get("counts", {}).items()),
        "classes": f"{len(data.get('classes', [])):,}",
        "shape of a sample": "x".join(map(str, data["input_shape"])),
        "notes": data.get("notes"),
        "fingerprint": data["fingerprint"],
        "model": record["model"]["target"],
        "arguments": record["model"].get("arguments"),
        "optimizer": optimizer.get("name"),
        "its options": optimizer.get("options"),
        "loss": record.get("loss"),
    })  # fmt: skip


def facts(values: dict[str, Any]) -> list[tuple[str, str]]:
    """Return names and values as text."""
    return [(name.replace("_", " "), plain_text(value)) for name, value in values.items()]
