"""The page that compares runs."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from plainfit.common.errors import RunError
from plainfit.report.charts import Axis, Chart, Key, Series, draw_chart, line_style
from plainfit.report.reading import labels_for, read_log
from plainfit.report.rendering import NOTHING, header_text, plain_text, render_to, value_text


def write_comparison(folders: Sequence[Path], out: Path) -> Path:
    """Write one HTML page that compares runs, which needs no other file and no network.

    Returns:
        The path of the page.

    Raises:
        RunError: if there is no folder, or one is not a run folder, or the page cannot be written.
    """
    return Comparison(folders).write(out)


class Comparison:
    """Runs side by side, each read once.

    Raises:
        RunError: if there is no folder, or one is not a run folder.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        if not folders:
            raise RunError("a comparison needs at least one run, got none; name run folders")
        self.logs = [read_log(folder) for folder in folders]
        self.labels = labels_for(self.logs)
        self.columns = ["valid_loss", *unique(log.metrics for log in self.logs)]

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The results of each run, under the same names for all; None where a run has no value.

        `best_...` is of the epoch with the lowest validation loss, which is `best_epoch`;
        `last_...` of the last epoch; `test_...` was measured at the end. `seconds` is of all
        epochs.
        """
        tests = [log.record.get("test") or {} for log in self.logs]
        rows = []
        for label, log, test in zip(self.labels, self.logs, tests, strict=True):
            best, last = log.best or {}, log.last or {}
            row = {
                "run": label,
                "state": log.record["state"],
                "epochs": len(log.epochs),
                "best_epoch": best.get("epoch"),
            }
            for name in self.columns:
                row |= {f"best_{name}": best.get(name), f"last_{name}": last.get(name)}
            row |= {f"test_{name}": test.get(name) for name in unique(tests)}
            row |= {
                "seconds": log.seconds,
                "samples_per_second": log.speed,
                "parameters": log.parameters,
            }
            rows.append(row)
        return rows

    def write(self, out: Path) -> Path:
        """Write the page and return its path.

        Raises:
            RunError: if it cannot be written.
        """
        rows, labels = self.rows, self.labels
        return render_to(
            out,
            "comparison.html.jinja",
            title=f"{len(labels)} runs" if len(labels) > 1 else labels[0],
            runs=[Key(label, line_style(place)) for place, label in enumerate(labels)],
            notes=self.notes(),
            charts=self.charts(),
            results={
                "head": [header_text(name) for name in rows[0]],
                "rows": [[cell_text(name, value) for name, value in row.items()] for row in rows],
            },
            settings=self.differing_settings(),
        )

    def charts(self) -> list[Chart]:
        """Return the validation loss and each metric, with a line for each run."""
        drawn = []
        for column in self.columns:
            lines = [
                Series(
                    label,
                    [row["epoch"] + 1 for row in log.epochs],
                    [row.get(column, float("nan")) for row in log.epochs],
                    place,
                )
                for place, (log, label) in enumerate(zip(self.logs, self.labels, strict=True))
            ]
            title = column.replace("valid_", "validation ")
            axis = Axis("epochs done", whole=True)
            drawn.append(draw_chart(title, axis, lines, log=column == "valid_loss"))
        return [chart for chart in drawn if chart]

    def differing_settings(self) -> dict[str, Any]:
        """Return a table of the settings that differ, with a row for each run."""
        configs = [log.settings for log in self.logs]
        columns = {
            name: [plain_text(config.get(name)) for config in configs]
            for name in unique(configs)
            if name != "out"
        }
        columns = {name: texts for name, texts in columns.items() if len(set(texts)) > 1}
        return {
            "head": ["run", *columns],
            "rows": [list(row) for row in zip(self.labels, *columns.values(), strict=True)],
        }

    def notes(self) -> list[str]:
        """Return what a reader must know before comparing."""
        notes = [
            f"{label}: {note}"
            for log, label in zip(self.logs, self.labels, strict=True)
            for note in log.notes
        ]
        records = [log.record for log in self.logs]
        if len({record["data"]["fingerprint"] for record in records}) > 1:
            notes.append("The runs were trained on different data: losses and metrics do not "
                         "compare.")  # fmt: skip
        if len({record.get("fingerprint", {}).get("device_name", "") for record in records}) > 1:
            notes.append("The runs were trained on different devices: times do not compare.")
        return notes


def unique(names: Iterable[Iterable[str]]) -> list[str]:
    """Return all names, in the order in which they first occur."""
    return list(dict.fromkeys(name for some in names for name in some))


def cell_text(name: str, value: Any) -> str:
    if isinstance(value, float):
        return value_text(name, value)
    return NOTHING if value is None else f"{value:,}" if isinstance(value, int) else str(value)
