"""The page about one run."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plainfit.common.errors import PlainfitError
from plainfit.models.summary import LayerRow, summarize
from plainfit.report.charts import Axis, Chart, Series, draw_chart, thinned
from plainfit.report.predictions import Predictions, predict
from plainfit.report.reading import RunLog, read_log
from plainfit.report.rendering import (
    Card,
    duration,
    facts,
    header_text,
    plain_text,
    render_to,
    value_text,
)
from plainfit.runs.folder import Row
from plainfit.runs.settings import RunConfig

FILE = "report.html"


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write one HTML page about a run, which needs no other file and no network.

    If the run has not finished, or its data or model is gone, the page leaves out the sections
    that need them and says why.

    Args:
        folder: the run folder.
        out: the page; by default `report.html` in the folder.

    Returns:
        The path of the page.

    Raises:
        RunError: if it is not a run folder, or the page cannot be written.
    """
    log = read_log(folder)
    return render_to(
        out or folder / FILE,
        "run.html.jinja",
        title=log.name,
        subtitle=f"{log.settings['model']} on {log.settings['data']}",
        cards=cards(log),
        results=results(log),
        charts=charts(log),
        epochs=table_of(log.epochs),
        found=find_out(log),
        parameters=log.parameters,
        settings=settings(log.settings),
        machine=facts(log.record.get("versions", {}) | log.record.get("fingerprint", {})),
        about=about(log),
        record=log.record,
        notes=log.notes,  # last: reading the logs adds to it
    )


@dataclass
class Findings:
    """What building the model and predicting gave, and why the rest is missing."""

    layers: list[LayerRow] = field(default_factory=list)
    predictions: Predictions | None = None
    command: str = ""
    no_layers: str = ""
    no_predictions: str = ""
    no_command: str = ""


def find_out(log: RunLog) -> Findings:
    found = Findings()
    try:
        found.command = log.config.command()
    except PlainfitError as error:
        found.no_command = str(error)
    try:
        found.layers = summarize(log.built_model, log.record["data"]["input_shape"])
    except PlainfitError as error:
        found.no_layers = found.no_predictions = str(error)
        return found
    try:
        found.predictions = predict(log.model, log.open_data(), log.settings["batch_size"])
    except (PlainfitError, RuntimeError) as error:  # such as torch's RuntimeError: out of memory
        found.no_predictions = str(error)
    return found


def cards(log: RunLog) -> list[Card]:
    """Return the values at the top: the first metric, or the loss if there is no metric."""
    name = log.metrics[0] if log.metrics else "loss"
    column = name if log.metrics else "valid_loss"
    made = []
    if test := log.record.get("test"):
        made.append(Card(f"{name}, test set", value_text(name, test.get(name))))
    for which, row in (("best", log.best), ("last", log.last)):
        if row:
            value = value_text(column, row.get(column))
            made.append(Card(f"{name}, {which} epoch", value, f"epoch {row['epoch']}"))
    done = f"{len(log.epochs)} of {log.settings['epochs']}"
    speed = f"{log.speed:,.0f} samples/s" if log.speed else ""
    made.append(Card("epochs", done, log.record.get("stopped") or ""))
    made.append(Card("time", duration(log.seconds), speed))
    if log.parameters is not None:
        made.append(Card("parameters", f"{log.parameters:,}"))
    return made


def results(log: RunLog) -> dict[str, Any]:
    """Return the table of loss and metrics on each set."""
    columns = ["loss", *log.metrics]
    rows = []
    if test := log.record.get("test"):
        texts = [value_text(name, test.get(name)) for name in columns]
        rows.append(["test set, after the last epoch", *texts])
    for which, row in (("last epoch", log.last), ("best epoch", log.best)):
        if row:
            values = [row.get("valid_loss"), *(row.get(name) for name in log.metrics)]
            texts = list(map(value_text, columns, values))
            rows.append([f"validation set, {which} ({row['epoch']})", *texts])
    return {"head": ["", *columns], "rows": rows}


def charts(log: RunLog) -> list[Chart]:
    """Return losses, metrics and learning rate, as far as the run has logged them."""
    epochs, steps = Axis("epochs done", whole=True), Axis("step", whole=True)
    done = [row["epoch"] + 1 for row in log.epochs]

    def by_epoch(name: str, column: str, color: int = 0) -> Series:
        return Series(name, done, [row.get(column, float("nan")) for row in log.epochs], color)

    losses = [by_epoch("validation", "valid_loss"), by_epoch("training", "train_loss", 1)]
    places, step_losses, n = thinned([step.loss for step in log.steps])
    _, rates, _ = thinned([step.lr for step in log.steps])
    note = f"each point is the mean of {n} steps" if n > 1 else ""
    drawn = [
        draw_chart("loss", epochs, losses, log=True),
        *(draw_chart(name, epochs, [by_epoch("validation", name)]) for name in log.metrics),
        draw_chart("training loss", steps, [Series("loss", places, step_losses)],
                   note=note, log=True),
        draw_chart("learning rate", steps, [Series("rate", places, rates)], note=note),
    ]  # fmt: skip
    return [chart for chart in drawn if chart]


def table_of(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the table of all epochs."""
    names = list(rows[0]) if rows else []
    return {
        "head": [header_text(name) for name in names],
        "rows": [[value_text(name, row.get(name)) for name in names] for row in rows],
    }


def settings(config: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """Return each setting, its value, and whether that differs from the default."""
    defaults = RunConfig().to_dict()
    return [(name, plain_text(v), v != defaults.get(name)) for name, v in config.items()]


def about(log: RunLog) -> list[tuple[str, str]]:
    """Return data, model, optimizer and loss."""
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
