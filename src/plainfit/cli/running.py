"""Runs that are there: `runs`, `report`, `compare`, `export`."""

from pathlib import Path
from typing import Annotated

import typer

from plainfit.cli.shared import Debug, Json, show, show_json

RunFolder = Annotated[Path, typer.Argument(help="A run folder.")]


def runs(
    folder: Annotated[Path, typer.Argument(help="Where the runs are.", metavar="DIR")] = Path(
        "runs"
    ),
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """List the runs in a folder: state, epochs, best figures, size."""
    from plainfit.runs.folder import list_runs

    lines = list_runs(folder)
    if json_:
        show_json([vars(line) for line in lines])
        return
    if not lines:
        show(f"no runs in {folder} yet; plainfit train makes one")
        return
    width = max(len(line.name) for line in lines)
    show(f"{'run':{width}}  {'state':12}{'epochs':>8}{'valid loss':>12}{'accuracy':>10}{'MB':>8}")
    for line in lines:
        loss, accuracy = line.best.get("valid_loss"), line.best.get("accuracy")
        figures = f"{line.epochs:>4}/{line.of:<3}"
        figures += f"{'-' if loss is None else format(loss, '.4f'):>12}"
        figures += f"{'-' if accuracy is None else format(accuracy, '.4f'):>10}"
        show(f"{line.name:{width}}  {line.state:12}{figures}{line.bytes / 1e6:8.1f}")


def report(
    run: RunFolder,
    out: Annotated[
        Path | None, typer.Option(help="Where to write it (default: report.html in the run).")
    ] = None,
    debug: Debug = False,
) -> None:
    """Make one HTML page of a run: curves, scores, mistakes, settings. It needs no network."""
    from plainfit.report.page import write_report

    show(f"report {write_report(run, out)}")


def compare(
    run_folders: Annotated[list[Path], typer.Argument(help="Run folders.", metavar="RUN...")],
    out: Annotated[Path, typer.Option(help="Where to write the page.")] = Path("comparison.html"),
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Compare runs: a table here, curves together on an HTML page."""
    from plainfit.report.comparison import Comparison, cell_text
    from plainfit.report.rendering import header_text

    comparison = Comparison(run_folders)
    rows, page = comparison.rows, comparison.write(out)
    if json_:
        show_json({"runs": rows, "page": str(page)})
        return
    width = max(len(str(row["run"])) for row in rows)
    for name in rows[0]:  # a line for each figure, a column for each run
        cells = [cell_text(name, row[name]) for row in rows]
        show(f"{header_text(name):18}" + "".join(f"  {cell:>{width}}" for cell in cells))
    show(f"page {page}")


def export(
    run: RunFolder,
    format_: Annotated[
        str, typer.Option("--format", help="safetensors, torch-export or onnx.")
    ] = "safetensors",
    out: Annotated[
        Path | None, typer.Option(help="Where to write it (default: export.* in the run).")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file there.")] = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Write a run's model as a file for elsewhere, checked against the model's own scores."""
    from plainfit.runs.export import export_run
    from plainfit.runs.folder import read_run

    result = export_run(read_run(run), format_, out, force=force)
    if json_:
        show_json(result.to_dict())
        return
    show(str(result))
    show()
    show(result.snippet.rstrip())
