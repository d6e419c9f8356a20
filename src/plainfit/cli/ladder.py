"""The ladder on the command line: run it, read it, copy from it, repeat it; and the notebook."""

import os
import subprocess
import sys
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
    from plainfit.ladder.climb import Row
    from plainfit.ladder.repeat import Spread
    from plainfit.ladder.runner import Setting

DATA_OPTIONS = ("data", "data_dir", "split_seed")
FAILED = 1  # exit code where a relation does not hold
PAPER = 100  # characters a side where there is no terminal: no line of a rung is longer
app = typer.Typer(name="ladder", invoke_without_command=True)
Number = Annotated[str, typer.Argument(help="The rung's number or name.", metavar="RUNG")]


@app.callback()
@with_options_of((*DATA_OPTIONS, "seed"))
def ladder(
    context: typer.Context,
    *,
    rungs: Annotated[str, typer.Option(help="Which, such as 3-7 or 1,4,8-10.")] = "1-14",
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Passes over the data (default: 2, or as many as make 400 steps)."
        ),
    ] = None,
    scratch: Annotated[
        bool, typer.Option("--scratch", help="Rungs 3 to 13 on our own torch.nn, beside torch's.")
    ] = False,
    json_: Json = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Run the tutorial, rung by rung, and prove each rung against the one before."""
    if context.invoked_subcommand is not None:
        return
    from plainfit.ladder.catalog import select
    from plainfit.ladder.climb import climb, climb_on_scratch

    chosen = [rung for rung in select(rungs) if not scratch or 3 <= rung.number <= 13]
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
    held = sum(row.verdict.holds for row in rows)
    if json_:
        show_json({"rungs": [row.to_dict() for row in rows], "hold": held == len(rows)})
    else:
        show(f"\n{held} of {len(rows)} relations hold")
    raise typer.Exit(0 if held == len(rows) else FAILED)


@app.command(name="show")
def show_program(name: Number, debug: Debug = False) -> None:
    """Show a rung's program."""
    from plainfit.ladder.catalog import rung

    show_highlighted(rung(name).source, "python")


@app.command()
def diff(
    before: Number,
    after: Number,
    side_by_side: Annotated[
        bool, typer.Option("--side-by-side", "-y", help="In two columns, as wide as the terminal.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Show what changes from one rung to another."""
    from plainfit.ladder import programs
    from plainfit.ladder.catalog import rung

    pair = rung(before), rung(after)
    if not side_by_side:
        show_highlighted(programs.unified(*pair), "diff")
        return
    from rich.console import Console

    console = Console()
    width = (console.width - 3) // 2 if console.is_terminal else PAPER
    colors = {"<": "red", ">": "green", "|": "yellow"}
    for left, sign, right in programs.side_by_side(*pair, width):
        typer.secho(f"{left} {sign} {right}".rstrip(), fg=colors.get(sign))


@app.command()
@with_options_of(DATA_OPTIONS)
def copy(
    name: Number,
    folder: Annotated[Path, typer.Argument(help="Where to; made if need be.", metavar="DIR")],
    *,
    force: Annotated[bool, typer.Option("--force", help="Write over a copy there.")] = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Copy a rung's program, and data to run it on, to edit and own."""
    from plainfit.ladder.catalog import rung
    from plainfit.ladder.programs import copy_rung

    chosen = rung(name)
    program, arrays = copy_rung(chosen, open_asked(options), folder, replace=force)
    show(f"copied {program} and {arrays}")
    show(f"next   python {program} --data {arrays}")


@app.command()
@with_options_of(DATA_OPTIONS)
def repeat(
    *,
    seeds: Annotated[int, typer.Option(min=1, help="How many: 0, 1, 2, ...")] = 20,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes, of one thread each (default: one a core).")
    ] = None,
    json_: Json = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Repeat the rungs over seeds, beside the figures that the tutorial prints for MNIST."""
    from rich.console import Console
    from rich.progress import Progress

    from plainfit.common.progress import on_terminal
    from plainfit.ladder import repeat as repeating

    bar = Progress(console=Console(stderr=True), transient=True)
    with setting_for(options, epochs=None) as (setting, notes), on_terminal(bar):
        task = bar.add_task("rungs", total=seeds * len(list(repeating.programs())))
        spreads = repeating.repeat(
            setting.data,
            seeds,
            workers or os.cpu_count() or 1,
            done=lambda: bar.advance(task),
            compare=options["data"] == "mnist",
        )
    if json_:
        show_json({"seeds": seeds, "figures": [spread.to_dict() for spread in spreads]})
        return
    show(f"{notes[0]}; seeds 0 to {seeds - 1}, each rung as it is written\n")
    show(f"{'rung':15}{'figure':26}{'tutorial':>9}{'min':>9}{'median':>9}{'max':>9}")
    for spread in spreads:
        typer.echo(spread_line(spread))


def open_asked(options: dict[str, Any]) -> "DataSplits":
    """Check the options before torch loads, and open the data that they name."""
    return RunConfig(**options).open_data()


@contextmanager
def setting_for(
    options: dict[str, Any], epochs: int | None
) -> Iterator[tuple["Setting", list[str]]]:
    """Yield the setting of a climb over the data that was asked for, and what to say of it."""
    data, seed = open_asked(options), options.get("seed", 0)
    from plainfit.ladder.climb import usual_epochs, write_data
    from plainfit.ladder.runner import Setting

    counts = data.counts()
    epochs = epochs or usual_epochs(counts["train"])
    notes = [f"data   {data.name}: {counts['train']:,} train, {counts['valid']:,} valid"]
    notes.append(f"each   {epochs} epochs, seed {seed}, the same initial values, the same order")
    if data.input_shape[-1] < 16:
        notes.append(
            "note   three strides of 2 leave one pixel of so small an image: little for a CNN"
        )
    with tempfile.TemporaryDirectory(prefix="plainfit-ladder-") as folder:
        path = Path(folder) / "data.npz"
        write_data(data, path)
        yield Setting(path, epochs, seed), notes


def heading(scratch: bool) -> str:
    """Return the table's heading."""
    timing = f"{'slowdown':>9}" if scratch else f"{'lines':>6}"
    measures = f"{timing}{'seconds':>8}{'loss':>8}{'accuracy':>10}"
    return f"{'rung':15}{'adds':38}{measures}  {'relation':9}{'verdict':8}measured"


def line_of(row: "Row") -> str:
    """Return a rung's line in the table; loss and accuracy are on the validation samples."""
    rung, trace, verdict = row.trace.rung, row.trace, row.verdict
    timing = f"{rung.lines:6}" if row.slowdown is None else f"{row.slowdown:8.2f}x"
    result = f"{trace.loss:8.4f}{trace.accuracy:10.4f}"
    word, color = ("holds", "green") if verdict.holds else ("BROKEN", "red")
    if trace.error:
        word = "FAILED"
    return (
        f"{rung.label + ' ' + rung.name:15}{rung.adds:38}{timing}{trace.seconds:8.2f}{result}"
        f"  {verdict.relation:9}{typer.style(f'{word:8}', fg=color)}{verdict.measured}"
    )


def spread_line(spread: "Spread") -> str:
    """Return a figure's line in the table of `repeat`."""
    tutorial = "" if spread.tutorial is None else f"{spread.tutorial:.4f}"
    numbers = "".join(f"{number:9.4f}" for number in (spread.least, spread.middle, spread.most))
    line = f"{spread.rung:15}{spread.figure:26}{tutorial:>9}{numbers}"
    if spread.inside is None:
        return line
    return f"{line}  {typer.style(spread.verdict, fg='green' if spread.inside else 'yellow')}"


def show_live(json_: bool, *lines: str) -> None:
    """Print lines as the rungs are done; nothing where JSON is to come."""
    for line in () if json_ else lines:
        typer.echo(line)


def show_highlighted(text: str, language: str) -> None:
    """Print a text: in colours on a terminal, as it is elsewhere."""
    from rich.console import Console
    from rich.syntax import Syntax

    console = Console()
    if console.is_terminal:
        console.print(Syntax(text, language, background_color="default"), soft_wrap=True)
    else:
        show(text.rstrip("\n"))


def notebook(
    folder: Annotated[Path, typer.Argument(help="Where to copy it.", metavar="DIR")] = Path(),
    lang: Annotated[str, typer.Option(help="en or zh-CN.")] = "en",
    open_: Annotated[
        bool, typer.Option("--open/--no-open", help="Open it in Jupyter, or only copy it.")
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing copy.")] = False,
    debug: Debug = False,
) -> None:
    """Copy the tutorial as a notebook, and open it in Jupyter."""
    from plainfit.ladder.notebooks import copy_notebook, jupyter

    path, copied = copy_notebook(lang, folder, replace=force)
    show(f"copied {path}" if copied else f"{path} exists and is kept; --force overwrites it")
    if not open_:
        return
    module = jupyter()
    if module is None:
        raise ConfigError(
            "opening a notebook needs Jupyter, which is not installed: "
            f"pip install 'plainfit[notebook]', then: jupyter lab {path}"
        )
    raise typer.Exit(subprocess.run([sys.executable, "-m", module, str(path)]).returncode)
