"""The `plainfit` command. torch loads when a command needs it, so that `--help` is quick."""

import inspect
import json
import sys
import traceback
from collections.abc import Callable, Collection
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer
from typer.exceptions import TyperException

from plainfit.config import DATA_FIELDS, RunConfig, option
from plainfit.errors import PlainfitError

app = typer.Typer(
    help="Train a PyTorch model in three lines, and see exactly what they do.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for machines.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
BAD_INPUT, INTERRUPTED = 2, 130  # exit codes; 130 is 128 + SIGINT, as shells count


def main() -> None:
    """Run the command line: bad input is one line on stderr and exit code 2."""
    try:
        code = app(standalone_mode=False)
    except (PlainfitError, TyperException) as error:
        code = BAD_INPUT
        message = error.format_message() if isinstance(error, TyperException) else str(error)
        if "--debug" in sys.argv:
            traceback.print_exc()
        if message:  # none where there were no arguments, and the help has been shown
            print("error:", " ".join(message.split()), file=sys.stderr)  # noqa: T201
    if code == INTERRUPTED:  # typer's answer to Ctrl-C
        print("\nstopped", file=sys.stderr)  # noqa: T201
    sys.exit(code if isinstance(code, int) else 0)


def show(text: str = "") -> None:
    """Print a line as it is: never wrapped, never coloured, safe to pipe."""
    print(text)  # noqa: T201


def show_json(value: Any) -> None:
    """Print a value as JSON."""
    show(json.dumps(value, indent=2))


def version_asked(asked: bool) -> None:
    """Print the version and stop, if that was asked."""
    if asked:
        from plainfit import __version__

        show(f"plainfit {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=version_asked, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    """Train a PyTorch model in three lines, and see exactly what they do."""


def with_options_of(names: Collection[str] | None = None) -> Callable[[Callable[..., None]], Any]:
    """Give a command an option for each field of `RunConfig` (or for those named)."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(command).parameters.values() if p.name != "options"]
        hints = get_type_hints(RunConfig, include_extras=True)
        extra = []
        for item in fields(RunConfig):
            if names is not None and item.name not in names:
                continue
            kind, text = get_args(hints[item.name])
            shown = item.default is not None and item.default is not False
            setting = typer.Option(option(item.name), help=text, show_default=shown)
            extra.append(
                inspect.Parameter(
                    item.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=item.default,
                    annotation=Annotated[kind, setting],
                )
            )
        keyword_only = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        required = [p for p in keyword_only if p.default is inspect.Parameter.empty]
        optional = [p for p in keyword_only if p.default is not inspect.Parameter.empty]
        signature = inspect.Signature([*required, *extra, *optional])
        command.__signature__ = signature  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        return command

    return decorate


@app.command()
@with_options_of()
def train(*, json_: Json = False, debug: Debug = False, **options: Any) -> None:
    """Train a model and leave a run folder: settings, weights, figures, curves."""
    config = RunConfig(**options)  # checked before torch loads
    from rich.console import Console

    from plainfit.callbacks import ProgressBar
    from plainfit.progress import on_terminal
    from plainfit.train import train as run

    progress = ProgressBar(Console(stderr=True))
    with on_terminal(progress.bar):
        result = run(config, echo=None if json_ else show, callbacks=[progress])
    if json_:
        show_json(result.to_dict())
        return
    show()
    if result.test is None:
        show("test   there is no test set; the last line above is on the validation set")
    else:
        show(f"test   accuracy {result.test['accuracy']:.4f}, loss {result.test['loss']:.4f}")
    show(f"run    {result.folder}")
    show(f"next   plainfit summary {result.folder}")
    if result.takes_images:
        show(f"       plainfit predict {result.folder} IMAGE.png")


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    images: Annotated[list[Path], typer.Argument(help="PNG, JPEG, WebP or BMP files.")],
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Print the class probabilities of image files."""
    from plainfit.predict import predict_images
    from plainfit.runs import read_run

    results = predict_images(read_run(run), images)
    if json_:
        show_json(results)
        return
    for result in results:
        ranked = sorted(result["probabilities"].items(), key=lambda item: -item[1])
        likeliest = ", ".join(f"{name} {probability:.4f}" for name, probability in ranked[:5])
        show(f"{result['image']}: {likeliest}{', ...' if len(ranked) > 5 else ''}")


@app.command()
@with_options_of(DATA_FIELDS)
def data(
    *,
    source: Annotated[str, typer.Argument(help="digits, mnist, fashion-mnist, or a path.")],
    picture: Annotated[
        Path | None, typer.Option(help="Where to draw it (default: NAME-samples.png).")
    ] = None,
    json_: Json = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Show what a data set holds, and draw a picture of samples."""
    RunConfig(data=source, **options)
    from plainfit.data.pictures import draw_samples
    from plainfit.data.sources import open_data

    splits = open_data(source, **options)
    path = picture or Path(f"{Path(source).name.split('.')[0]}-samples.png")
    draw_samples(splits, path)
    if json_:
        show_json(splits.to_dict() | {"class_counts": splits.class_counts(), "picture": str(path)})
        return
    counts = splits.class_counts()
    width = max(len("class"), *map(len, splits.classes))
    show(f"{splits.name}: samples of {'x'.join(map(str, splits.input_shape))}")
    for note in splits.notes:
        show(f"note: {note}")
    show(f"{'class':{width}}" + "".join(f"{part:>9}" for part in counts))
    for label, name in enumerate(splits.classes):
        show(f"{name:{width}}" + "".join(f"{of[label]:9,}" for of in counts.values()))
    show(f"{'all':{width}}" + "".join(f"{sum(of):9,}" for of in counts.values()))
    show(f"picture: {path}")


@app.command()
def summary(
    model: Annotated[str, typer.Argument(help="A run folder, a built-in name or MODULE:CALLABLE.")],
    input_shape: Annotated[
        str, typer.Option(help="Of one sample, for a name: CHANNELS,HEIGHT,WIDTH or FEATURES.")
    ] = "1,28,28",
    classes: Annotated[int, typer.Option(min=1, help="Number of outputs, for a name.")] = 10,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Show a model's layers, the shapes of their outputs for one sample, and parameters."""
    shape = parse_shape(input_shape)
    from plainfit.build import get_model
    from plainfit.runs import read_run
    from plainfit.summary import count_parameters, summarize

    if Path(model).is_dir():
        run = read_run(Path(model))
        built, shape = run.model, run.record["data"]["input_shape"]
    else:
        built, _ = get_model(model, input_shape=shape, classes=classes, device="cpu")
    rows = summarize(built, shape)
    total = count_parameters(built)
    if json_:
        show_json({"layers": [vars(row) for row in rows], "parameters": total})
        return
    width = max(len("layer"), *(len(row.name) for row in rows))
    show(f"{'layer':{width}}  {'kind':20}{'output':16}{'parameters':>12}")
    show(f"{'(input)':{width}}  {'':20}{'x'.join(map(str, shape)):16}")
    for row in rows:
        output = "x".join(map(str, row.output_shape)) if row.output_shape else "-"
        show(f"{row.name:{width}}  {row.kind:20}{output:16}{row.parameters:12,}")
    show(f"{'all':{width}}  {'':36}{total:12,}")


def parse_shape(text: str) -> list[int]:
    """Return `1,28,28` as numbers."""
    sizes = [int(size) if size.strip().isdecimal() else 0 for size in text.split(",")]
    if len(sizes) not in (1, 3) or min(sizes) < 1:
        raise typer.BadParameter(
            f"--input-shape must be like 1,28,28 (channels, height, width) or 30; got {text!r}"
        )
    return sizes
