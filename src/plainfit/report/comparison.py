"""Several runs side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plainfit.common.errors import RunError
from plainfit.report.charts import Chart, Line, draw_chart, style_of
from plainfit.report.findings import parameters_of
from plainfit.report.reading import (
    NOTHING,
    RunLog,
    figure_text,
    heading_text,
    labels_for,
    plain_text,
    read_log,
)
from plainfit.report.rendering import render_to


def comparison_rows(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the results of each run, under the same names for all; None is what a run lacks.

    `best_...` is of the epoch with the lowest validation loss, which is `best_epoch`; `last_...`
    of the last one; `test_...` was measured at the end. `seconds` is of all epochs.

    Raises:
        RunError: if a folder is no run folder.
    """
    return rows_of([read_log(folder) for folder in folders])


def rows_of(logs: Sequence[RunLog]) -> list[dict[str, Any]]:
    """Return the results of each run."""
    figures = ["valid_loss", *metrics_of(logs)]
    tested = dict.fromkeys(name for log in logs for name in log.record.get("test") or ())
    rows = []
    for label, log in zip(labels_for(logs), logs, strict=True):
        best, last, test = log.best or {}, log.last or {}, log.record.get("test") or {}
        row = {
            "run": label,
            "state": log.record["state"],
            "epochs": len(log.epochs),
            "best_epoch": best.get("epoch"),
        }
        for name in figures:
            row |= {f"best_{name}": best.get(name), f"last_{name}": last.get(name)}
        row |= {f"test_{name}": test.get(name) for name in tested}
        row |= {
            "seconds": log.seconds,
            "samples_per_second": log.speed,
            "parameters": parameters_of(log),
        }
        rows.append(row)
    return rows


def write_comparison(folders: Sequence[Path], out: Path) -> Path:
    """Write one HTML page that compares runs, which needs no other file and no network.

    Returns:
        The path of the page.

    Raises:
        RunError: if there is no folder, or one is no run folder, or the page cannot be written.
    """
    if not folders:
        raise RunError("a comparison must have a run at least, got none; name some run folders")
    logs = [read_log(folder) for folder in folders]
    rows = rows_of(logs)
    labels = labels_for(logs)
    return render_to(
        out,
        "comparison.html.jinja",
        title=f"{len(logs)} runs" if len(logs) > 1 else labels[0],
        runs=[(label, style_of(place)) for place, label in enumerate(labels)],
        notes=notes_for(logs, labels),
        charts=charts(logs, labels),
        results={
            "head": [heading_text(name) for name in rows[0]],
            "rows": [[cell_text(name, value) for name, value in row.items()] for row in rows],
        },
        settings=differing(logs, labels),
    )


def metrics_of(logs: Sequence[RunLog]) -> list[str]:
    """Return the names of all metrics, in the order in which they first come."""
    return list(dict.fromkeys(name for log in logs for name in log.metrics))


def charts(logs: Sequence[RunLog], labels: Sequence[str]) -> list[Chart]:
    """Return the validation loss and each metric, with a line for each run."""
    drawn = []
    for column in ["valid_loss", *metrics_of(logs)]:
        lines = [
            Line(
                label,
                [row["epoch"] + 1 for row in log.epochs],
                [row.get(column, float("nan")) for row in log.epochs],
            )
            for log, label in zip(logs, labels, strict=True)
        ]
        title = column.replace("valid_", "validation ")
        drawn.append(draw_chart(title, "epochs done", lines, log=column == "valid_loss"))
    return [chart for chart in drawn if chart]


def differing(logs: Sequence[RunLog], labels: Sequence[str]) -> dict[str, Any]:
    """Return the settings that are not the same in all runs as a table, a line for each run."""
    configs = [log.record["config"] for log in logs]
    names = dict.fromkeys(name for config in configs for name in config if name != "out")
    columns = {name: [plain_text(config.get(name)) for config in configs] for name in names}
    columns = {name: texts for name, texts in columns.items() if len(set(texts)) > 1}
    return {
        "head": ["run", *columns],
        "rows": [list(row) for row in zip(labels, *columns.values(), strict=True)],
    }


def notes_for(logs: Sequence[RunLog], labels: Sequence[str]) -> list[str]:
    """Return what a reader has to know before comparing."""
    notes = [
        f"{label}: {note}" for log, label in zip(logs, labels, strict=True) for note in log.notes
    ]
    if len({log.record["data"]["fingerprint"] for log in logs}) > 1:
        notes.append("The runs were trained on different data, so their figures do not compare.")
    if len({log.record.get("fingerprint", {}).get("device_name", "") for log in logs}) > 1:
        notes.append("The runs were trained on different devices, so their times do not compare.")
    return notes


def cell_text(name: str, value: Any) -> str:
    """Return a result as text."""
    if isinstance(value, float):
        return figure_text(name, value)
    return NOTHING if value is None else f"{value:,}" if isinstance(value, int) else str(value)
