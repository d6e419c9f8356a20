"""The page about one run."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from plainfit.common.errors import ModelError, PlainfitError, plural, raised_as, reason
from plainfit.data.splits import DataSplits
from plainfit.models.layers import count_parameters, summarize
from plainfit.models.weights import PUBLISHED, weights_to_bytes
from plainfit.report.charts import Axis, Chart, Series, draw_chart, epoch_series, thinned
from plainfit.report.predictions import predict
from plainfit.report.rendering import (
    Card,
    duration,
    facts,
    header_text,
    plain_text,
    render_to,
    table_of,
    value_text,
)
from plainfit.runs.folder import FIRST, Run, open_run
from plainfit.runs.prepare import build
from plainfit.runs.settings import RunConfig
from plainfit.runs.tasks import described, loss_function

FILE = "report.html"


def write_report(folder: Path, out: Path | None = None, *, trust_code: bool = False) -> Path:
    """Write one HTML page about a run, which needs no other file and no network.

    If the run has not finished, its data or model is gone, or its model's code is not trusted, the
    page leaves out the sections that need them and says why.

    Args:
        folder: the run folder.
        out: the page; by default `report.html` in the folder.
        trust_code: as for `open_run`.

    Returns:
        The path of the page.

    Raises:
        RunError: if it is not a run folder, or the page cannot be written.
    """
    run = open_run(folder, trust_code=trust_code)
    defaults = RunConfig().to_dict()
    return render_to(
        out or folder / FILE,
        "run.html.jinja",
        title=folder.resolve().name,
        subtitle=f"{run.settings['model']} on {run.settings['data']}",
        cards=cards(run),
        results=results(run),
        charts=charts(run),
        epochs=table_of(run.epochs),
        found=find_out(run),
        settings=[(name, plain_text(value), value != defaults.get(name))
                  for name, value in run.settings.items()],
        machine=facts(run.record.get("versions", {}) | run.record.get("fingerprint", {})),
        about=about(run),
        record=run.record,
        notes=run.notes,  # last: reading the logs adds to it
    )  # fmt: skip


def find_out(run: Run) -> dict[str, Any]:
    """Return what building the model and predicting give, and why the rest is missing."""
    found: dict[str, Any] = {"command": "", "differs": "", "layers": [], "predictions": None}
    open_data = cache(run.open_data)  # which reads all of it
    try:
        found["command"] = run.config.command()
        found["differs"] = what_a_command_changes(run, open_data)
    except PlainfitError as error:
        found["no_command"] = str(error)
    try:
        found["layers"] = summarize(run.built_model, run.samples(1))
        found["parameters"] = count_parameters(run.built_model)
        found["predictions"] = predict(
            run.model, open_data(), run.config.batch_size, loss_function(run.config, run.target)
        )
    except Exception as error:  # a user's model and data fail in many ways
        found["missing"] = reason(error)
    return found


def what_a_command_changes(run: Run, open_data: Callable[[], DataSplits]) -> str:
    """Return why the command does not train the same to the bit; empty if it does."""
    state, config = run.record["state"], run.config
    if state != "finished":
        return f"the run is {state}, and a training goes on to {plural(config.epochs, 'epoch')}"
    plans = run.record.get("lengths", [])
    if plans and (config.schedule or config.source):
        first = run.record.get("first_epochs")
        later = ", then ".join(f"{plan['epochs']}" for plan in plans)
        return f"its schedule was first over {first} epochs, and was resumed with {later}"
    source = config.source or ""
    try:
        data = open_data()
        if source and source not in PUBLISHED and ":" not in source:  # downloads have a hash
            fails = raised_as(ModelError, "a fine-tuning needs its source")
            with torch.random.fork_rng(devices=[]), fails:
                begun = weights_to_bytes(build(config, data, None)[0])
            if begun != (run.folder / FIRST).read_bytes():
                return f"its source {source} has other weights now"
    except (PlainfitError, OSError) as error:
        return str(error)
    return ""


def cards(run: Run) -> list[Card]:
    name = run.metrics[0] if run.metrics else "loss"
    column = name if run.metrics else "valid_loss"
    made = []
    if test := run.record.get("test"):
        made.append(Card(f"{header_text(name)}, test set", value_text(name, test.get(name))))
    for which, row in (("best", run.best), ("last", run.last)):
        if row:
            value = value_text(column, row.get(column))
            made.append(Card(f"{header_text(name)}, {which} epoch", value, f"epoch {row['epoch']}"))
    done = f"{len(run.epochs)} of {run.settings['epochs']}"
    speed = f"{run.speed:,.0f} samples/s" if run.speed else ""
    made.append(Card("epochs", done, run.record.get("stopped") or ""))
    made.append(Card("time", duration(run.seconds), speed))
    if run.parameters is not None:
        made.append(Card("parameters", f"{run.parameters:,}"))
    return made


def results(run: Run) -> dict[str, Any]:
    columns = ["loss", *run.metrics]
    rows = []
    if test := run.record.get("test"):
        texts = [value_text(name, test.get(name)) for name in columns]
        rows.append(["test set, after the last epoch", *texts])
    for which, row in (("last epoch", run.last), ("best epoch", run.best)):
        if row:
            texts = [value_text(name, row.get(name)) for name in ("valid_loss", *run.metrics)]
            rows.append([f"validation set, {which} ({row['epoch']})", *texts])
    return {"head": ["", *map(header_text, columns)], "rows": rows}


def charts(run: Run) -> list[Chart]:
    epochs, steps = Axis("epochs done", whole=True), Axis("step", whole=True)
    losses = [
        epoch_series("validation", run.epochs, "valid_loss"),
        epoch_series("training", run.epochs, "train_loss", 1),
    ]
    places, step_losses, n = thinned([step.loss for step in run.steps])
    _, rates, _ = thinned([step.lr for step in run.steps])
    note = f"each point is the mean of {n} steps" if n > 1 else ""
    drawn = [
        draw_chart("loss", epochs, losses, log=True),
        *(draw_chart(name, epochs, [epoch_series("validation", run.epochs, name)])
          for name in run.metrics),
        draw_chart("training loss", steps, [Series("loss", places, step_losses)],
                   note=note, log=True),
        draw_chart("learning rate", steps, [Series("rate", places, rates)], note=note),
    ]  # fmt: skip
    return [chart for chart in drawn if chart]


def about(run: Run) -> list[tuple[str, str]]:
    record, data = run.record, run.record["data"]
    optimizer = record.get("optimizer", {})
    return facts({
        "data": data.get("name"),
        "samples": ", ".join(f"{count:,} {part}" for part, count in data.get("counts", {}).items()),
        "predicted": described(run.target),
        "shape of a sample": "x".join(map(str, data["input_shape"])),
        "notes": data.get("notes"),
        "fingerprint": data["fingerprint"],
        "model": record["model"]["target"],
        "arguments": record["model"].get("arguments"),
        "optimizer": optimizer.get("name"),
        "its options": optimizer.get("options"),
        "loss": record.get("loss"),
    })  # fmt: skip
