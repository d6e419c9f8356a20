"""The ladder on the command line: run it, read it, copy from it; and its notebook."""

import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plainfit.cli.shared import Debug, Json, show, show_json, with_options_of
from plainfit.common.errors import ConfigError, plural, quoted
from plainfit.runs.settings import RunConfig

if TYPE_CHECKING:
    from plainfit.ladder.climb import Comparison

DATA_OPTIONS = ("data", "data_dir", "split_seed")
app = typer.Typer(name="ladder", invoke_without_command=True)
Number = Annotated[str, typer.Argument(help="The rung's number or name.", metavar="RUNG")]


@app.callback()
@with_options_of((*DATA_OPTIONS, "seed"))
def ladder(
    context: typer.Context,
    *,
    rungs: Annotated[str, typer.Option(help="Rungs to run, such as 3-7 or 1,4,8-10.")] = "0-15",
    epochs: Annotated[
        int | None,
        typer.Option(min=1, max=10_000, help="Epochs (default: 2, or as many as make 400 steps)."),
    ] = None,
    scratch: Annotated[
        bool,
        typer.Option("--scratch", help="Compare rungs 3 to 13 on torch and on ladder.scratch."),
    ] = False,
    json_: Json = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Run the tutorial, rung by rung, and prove each rung against the one before."""
    if context.invoked_subcommand is not None:
        return
    from plainfit.ladder import climb
    from plainfit.ladder.catalog import select
    from plainfit.ladder.runner import Setting

    chosen = [rung for rung in select(rungs) if not scratch or rung.number in climb.ON_SCRATCH]
    if not chosen:
        raise ConfigError(f"--scratch is for rungs 3 to 13, got --rungs {rungs}")
    data, seed = RunConfig(**options).open_data(), options["seed"]
    samples = data.counts()
    epochs = epochs or climb.usual_epochs(samples["train"])
    rows = []
    with tempfile.TemporaryDirectory(prefix="plainfit-ladder-") as folder:
        setting = Setting(Path(folder) / "data.npz", epochs, seed)
        climb.write_data(data, setting.data)
        if not json_:
            show(f"data   {data.name}: {samples['train']:,} train, {samples['valid']:,} valid")
            show(f"each   {plural(epochs, 'epoch')}, seed {seed}, same initial values, same order")
            if data.input_shape[-1] < 16:
                show("note   three strides leave one pixel of such images: a CNN learns little")
            typer.echo(f"\n{heading(scratch)}")
        for row in (climb.climb_on_scratch if scratch else climb.climb)(chosen, setting):
            rows.append(row)
            if not json_:
                typer.echo(line_of(row))
            if row.trace.error:
                typer.echo(f"rung {row.trace.rung.label} failed:\n{row.trace.error}", err=True)
    held = sum(row.holds for row in rows)
    if json_:
        show_json({"rungs": [row.to_dict() for row in rows], "hold": held == len(rows)})
    else:
        show(f"\n{held} of {len(rows)} relations hold")
    raise typer.Exit(0 if held == len(rows) else 1)


@app.command(name="show")
def show_program(name: Number, debug: Debug = False) -> None:
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
    from plainfit.ladder import catalog

    pair = catalog.find_rung(before), catalog.find_rung(after)
    if not side_by_side:
        show_highlighted(catalog.unified(*pair), "diff")
        return
    # In a file no line is cut: those of rungs have at most 100 characters.
    width = (get_terminal_size().columns - 3) // 2 if sys.stdout.isatty() else 100
    colors = {"<": "red", ">": "green", "|": "yellow"}
    for left, sign, right in catalog.side_by_side(*pair, width):
        typer.secho(f"{left} {sign} {right}".rstrip(), fg=colors.get(sign))


@app.command()
@with_options_of(DATA_OPTIONS)
def copy(
    name: Number,
    folder: Annotated[Path, typer.Argument(help="Folder to copy to.", metavar="DIR")],
    *,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing copy.")] = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Copy a rung's program, and data to run it on, for you to edit."""
    from plainfit.ladder.catalog import find_rung
    from plainfit.ladder.climb import copy_rung

    rung = find_rung(name)
    program, arrays = copy_rung(rung, RunConfig(**options).open_data(), folder, replace=force)
    show(f"copied {program} and {arrays}")
    show(f"next   python {quoted(program)} --data {quoted(arrays)}")


def heading(scratch: bool) -> str:
    timing = f"{'slowdown':>9}" if scratch else f"{'lines':>6}"
    measures = f"{timing}{'seconds':>8}{'loss':>8}{'accuracy':>10}"
    return f"{'rung':15}{'adds':38}{measures}  {'relation':9}{'result':8}measured"


def line_of(row: "Comparison") -> str:
    rung, trace = row.trace.rung, row.trace
    timing = f"{rung.lines:6}" if row.slowdown is None else f"{row.slowdown:8.2f}x"
    values = f"{trace.loss:8.4f}{trace.accuracy:10.4f}" if trace.losses else " " * 18
    word = "FAILED" if trace.error else "holds" if row.holds else "BROKEN"
    result = typer.style(f"{word:8}", fg="green" if row.holds else "red")
    return (
        f"{rung.label + ' ' + rung.name:15}{rung.adds:38}{timing}{trace.seconds:8.2f}{values}"
        f"  {row.relation:9}{result}{row.measured}"
    )


def show_highlighted(text: str, language: str) -> None:
    from rich.console import Console
    from rich.syntax import Syntax

    console = Console()
    if console.is_terminal:
        console.print(Syntax(text, language, background_color="default"), soft_wrap=True)
    else:
        show(text.rstrip("\n"))


def notebook(
    folder: Annotated[Path, typer.Argument(help="Folder to copy to.", metavar="DIR")] = Path(),
    lang: Annotated[str, typer.Option(help="en or zh-CN.")] = "en",
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open it in Jupyter.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing copy.")] = False,
    debug: Debug = False,
) -> None:
    """Copy the tutorial as a notebook, and open it in Jupyter."""
    from plainfit.ladder.climb import JUPYTER, copy_notebook

    path, copied = copy_notebook(lang, folder, replace=force)
    show(f"copied {path}" if copied else f"{path} exists already and is kept")
    if not open_:
        return
    module = next(filter(find_spec, JUPYTER), None)
    if module is None:
        raise ConfigError(
            "Jupyter is not installed; to open the notebook, "
            f"pip install 'plainfit[notebook]', then jupyter lab {quoted(path)}"
        )
    raise typer.Exit(subprocess.run([sys.executable, "-m", module, str(path)]).returncode)
