"""The page that compares runs."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from plainfit.common.errors import RunError
from plainfit.report.charts import Axis, Chart, Key, draw_chart, epoch_series, line_style
from plainfit.report.rendering import plain_text, render_to, table_of
from plainfit.runs.folder import Run, open_run
from plainfit.training.hooks import warn


class Comparison:
    """Runs side by side, each read once; a run's label is its folder's name, or path if needed.
    A run that cannot be read is left out, with a warning.

    Raises:
        RunError: of the first one, if none can be read.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        if not folders:
            raise RunError("a comparison needs at least one run, got none; name run folders")
        self.runs: list[Run] = []
        errors = []
        for folder in folders:
            try:
                self.runs.append(open_run(folder))
            except RunError as error:
                errors.append(error)
        if not self.runs:
            raise errors[0]
        for reason in errors:
            warn(f"left out: {reason}")
        folders = [run.folder for run in self.runs]
        names = [folder.resolve().name for folder in folders]
        self.labels = [name if names.count(name) == 1 else str(folder)
                       for name, folder in zip(names, folders, strict=True)]  # fmt: skip
        self.columns = ["valid_loss", *unique(run.metrics for run in self.runs)]

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The results of each run, under the same names for all; None where a run has no value.

        `best_...` is of the epoch with the lowest validation loss, which is `best_epoch`;
        `last_...` of the last epoch; `test_...` was measured at the end. `seconds` is of all
        epochs.
        """
        tests = unique(run.record.get("test") or () for run in self.runs)
        return [
            {"run": label, "state": run.record["state"], **results_of(run, self.columns, tests)}
            for label, run in zip(self.labels, self.runs, strict=True)
        ]

    def write(self, out: Path) -> Path:
        """Write one HTML page, which needs no other file and no network; return its path.

        Raises:
            RunError: if the page cannot be written.
        """
        labels = self.labels
        return render_to(
            out,
            "comparison.html.jinja",
            title=f"{len(labels)} runs" if len(labels) > 1 else labels[0],
            runs=[Key(label, line_style(place)) for place, label in enumerate(labels)],
            charts=self.charts(),
            results=table_of(self.rows),
            settings=self.differing_settings(),
            notes=self.notes(),  # last: reading the logs adds to the runs' notes
        )

    def charts(self) -> list[Chart]:
        drawn = []
        for column in self.columns:
            lines = [
                epoch_series(label, run.epochs, column, place)
                for place, (run, label) in enumerate(zip(self.runs, self.labels, strict=True))
            ]
            title = column.replace("valid_", "validation ")
            axis = Axis("epochs done", whole=True)
            drawn.append(draw_chart(title, axis, lines, log=column == "valid_loss"))
        return [chart for chart in drawn if chart]

    def differing_settings(self) -> dict[str, Any]:
        configs = [run.settings for run in self.runs]
        columns = {
            name: [plain_text(config.get(name)) for config in configs]
            for name in unique(configs)
            if name != "out"
        }
        columns = {name: texts for name, texts in columns.items() if len(set(texts)) > 1}
        rows = zip(self.labels, *columns.values(), strict=True)
        return {"head": ["run", *columns], "rows": list(rows)}

    def notes(self) -> list[str]:
        notes = [
            f"{label}: {note}"
            for run, label in zip(self.runs, self.labels, strict=True)
            for note in run.notes
        ]
        records = [run.record for run in self.runs]
        if len({record["data"]["fingerprint"] for record in records}) > 1:
            notes.append("The runs were trained on different data: losses and metrics do not "
                         "compare.")  # fmt: skip
        if len({record.get("fingerprint", {}).get("device_name", "") for record in records}) > 1:
            notes.append("The runs were trained on different devices: times do not compare.")
        return notes


def results_of(run: Run, columns: Sequence[str], tests: Sequence[str]) -> dict[str, Any]:
    best, last, test = run.best or {}, run.last or {}, run.record.get("test") or {}
    row = {"epochs": len(run.epochs), "best_epoch": best.get("epoch")}
    for name in columns:
        row |= {f"best_{name}": best.get(name), f"last_{name}": last.get(name)}
    return {
        **row,
        **{f"test_{name}": test.get(name) for name in tests},
        "seconds": run.seconds,
        "samples_per_second": run.speed,
        "parameters": run.parameters,
    }


def unique(names: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(name for some in names for name in some))
