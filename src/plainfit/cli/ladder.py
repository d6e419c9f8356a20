"""The ladder on the command line: run it, read it, copy from it."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plainfit.cli.shared import Debug, Json, show, show_json, with_options_of
from plainfit.common.errors import ConfigError
from plainfit.runs.settings import RunConfig

if TYPE_CHECKING:
    from plainfit.data.splits import DataSplits
    from plainfit.ladder.climb import Comparison
    from plainfit.ladder.runner import Setting

DATA_OPTIONS = ("data", "data_dir", "split_seed")
FAILED = 1  # exit code where a relation does not hold
NO_TERMINAL_WIDTH = 100  # characters a side: no line of a rung is longer
app = typer.Typer(name="ladder", invoke_without_command=True)
Number = Annotated[str, typer.Argument(help="The rung's number or name.", metavar="RUNG")]


@app.callback()
@with_options_of((*DATA_OPTIONS, "seed"))
def ladder(
    context: typer.Context,
    *,
    rungs: Annotated[str, typer.Option(help="Rungs to run, such as 3-7 or 1,4,8-10.")] = "0-14",
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Epochs (default: 2, or as many as make 400 steps)."),
    ] = None,
    scratch: Annotated[
        bool,
        typer.Option(
            "--scratch",
            help="Compare rungs 3 to 13 on torch with the same on plainfit.ladder.scratch.",
        ),
    ] = False,
    json_: Json = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Run the tutorial, rung by rung, and prove each rung against the one before."""
    if context.invoked_subcommand is not None:
        return
    from plainfit.ladder.catalog import select
    from plainfit.ladder.climb import (
        FIRST_ON_SCRATCH,
        LAST_ON_SCRATCH,
        climb,
        climb_on_scratch,
    )

    numbers = range(FIRST_ON_SCRATCH, LAST_ON_SCRATCH + 1)
    chosen = [rung for rung in select(rungs) if not scratch or rung.number in numbers]
    if not chosen:
        raise ConfigError(f"--scratch is for rungs 3 to 13, got --rungs {rungs}")
    rows = []
    with setting_for(options, epochs) as (setting, notes):
        show_live(json_, *notes, "", heading(scratch))
        for row in (climb_on_scratch if scratch else climb)(chosen, setting):
            rows.append(row)
            show_live(json_, line_of(row))
            if row.trace.error:
                typer.echo(f"rung {row.trace.rung.label} failed:\n{row.trace.error}", err=True)
    held = sum(row.holds for row in rows)
    if json_:
        show_json({"rungs": [row.to_dict() for row in rows], "hold": held == len(rows)})
    else:
        show(f"\n{held} of {len(rows)} relations hold")
    raise typer.Exit(0 if held == len(rows) else FAILED)


@app.command(name="show")
def show_program(name: Number, debug: Debug = False) -> None:
    """Print a rung's program."""
    from plainfit.ladder.catalog import find_rung

    show_highlighted(find_rung(name).source, "python")


@app.command()
def diff(
    before: Number,
    after: Number,
    side_by_side: Annotated[
        bool, typer.Option("--side-by-side", "-y", help="Use two columns, as wide as the terminal.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Print what changes from one rung to another."""
    from plainfit.ladder import programs
    from plainfit.ladder.catalog import find_rung

    pair = find_rung(before), find_rung(after)
    if not side_by_side:
        show_highlighted(programs.unified(*pair), "diff")
        return
    from rich.console import Console

    console = Console()
    width = (console.width - 3) // 2 if console.is_terminal else NO_TERMINAL_WIDTH
    colors = {"<": "red", ">": "green", "|": "yellow"}
    for left, sign, right in programs.side_by_side(*pair, width):
        typer.secho(f"{left} {sign} {right}".rstrip(), fg=colors.get(sign))


@app.command()
@with_options_of(DATA_OPTIONS)
def copy(
    name: Number,
    folder: Annotated[
        Path, typer.Argument(help="Folder to copy to; created if missing.", metavar="DIR")
    ],
    *,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing copy.")] = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Copy a rung's program, and data to run it on, for you to edit."""
    from plainfit.ladder.catalog import find_rung
    from plainfit.ladder.programs import copy_rung

    rung = find_rung(name)
    program, arrays = copy_rung(rung, open_from(options), folder, replace=force)
    show(f"copied {program} and {arrays}")
    show(f"next   python {program} --data {arrays}")


def open_from(options: dict[str, Any]) -> "DataSplits":
    """Check the options, before torch loads, and open the data."""
    RunConfig(**options)
    from plainfit.data.open_data import open_data

    how = {name: options[name] for name in DATA_OPTIONS if name != "data"}
    return open_data(options["data"], **how)


@contextmanager
def setting_for(
    options: dict[str, Any], epochs: int | None
) -> Iterator[tuple["Setting", list[str]]]:
    """Yield what all rungs share, and lines to print about it."""
    data, seed = open_from(options), options.get("seed", 0)
    from plainfit.ladder.climb import usual_epochs, write_data
    from plainfit.ladder.runner import Setting

    counts = data.counts()
    epochs = epochs or usual_epochs(counts["train"])
    notes = [f"data   {data.name}: {counts['train']:,} train, {counts['valid']:,} valid"]
    notes.append(f"each   {epochs} epochs, seed {seed}, same initial values, same order")
    if data.input_shape[-1] < 16:
        notes.append(
            "note   three strides of 2 leave one pixel of an image this small: a CNN learns little"
        )
    with tempfile.TemporaryDirectory(prefix="plainfit-ladder-") as folder:
        path = Path(folder) / "data.npz"
        write_data(data, path)
        yield Setting(path, epochs, seed), notes


def heading(scratch: bool) -> str:
    timing = f"{'slowdown':>9}" if scratch else f"{'lines':>6}"
    measures = f"{timing}{'seconds':>8}{'loss':>8}{'accuracy':>10}"
    return f"{'rung':15}{'adds':38}{measures}  {'relation':9}{'result':8}measured"


def line_of(row: "Comparison") -> str:
    """Return a rung's line in the table; loss and accuracy are on the validation samples."""
    rung, trace = row.trace.rung, row.trace
    timing = f"{rung.lines:6}" if row.slowdown is None else f"{row.slowdown:8.2f}x"
    values = f"{trace.loss:8.4f}{trace.accuracy:10.4f}" if trace.losses else " " * 18
    word, color = ("holds", "green") if row.holds else ("BROKEN", "red")
    if trace.error:
        word = "FAILED"
    return (
        f"{rung.label + ' ' + rung.name:15}{rung.adds:38}{timing}{trace.seconds:8.2f}{values}"
        f"  {row.relation:9}{typer.style(f'{word:8}', fg=color)}{row.measured}"
    )


def show_live(json_: bool, *lines: str) -> None:
    """Print lines while rungs run, except before JSON."""
    for line in () if json_ else lines:
        typer.echo(line)


def show_highlighted(text: str, language: str) -> None:
    """Print a text, in colour on a terminal."""
    from rich.console import Console
    from rich.syntax import Syntax

    console = Console()
    if console.is_terminal:
        console.print(Syntax(text, language, background_color="default"), soft_wrap=True)
    else:
        show(text.rstrip("\n"))
