"""Training and what is around it: `train`, `predict`, `data`, `augment`, `summary`."""

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plainfit.cli.shared import Debug, Json, show, show_json, with_options_of
from plainfit.common.errors import ConfigError
from plainfit.runs.presets import settings_of
from plainfit.runs.settings import DATA_FIELDS, FINE_TUNING_FIELDS, RunConfig

if TYPE_CHECKING:
    from plainfit.runs.train import RunResult

RATE_FIELDS = ("data", "model", "momentum", "batch_size", "optimizer", "seed", "device")


@with_options_of([item.name for item in fields(RunConfig) if item.name not in FINE_TUNING_FIELDS])
def train(
    context: typer.Context,
    *,
    preset: Annotated[
        str | None,
        typer.Option(help="Settings chosen for images: fastest, fast or accurate; yours win."),
    ] = None,
    json_: Json = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Train a model and leave a run folder: settings, weights, figures, curves."""
    if preset is not None:
        by_preset = settings_of(preset)
        sources = {name: context.get_parameter_source(name) for name in by_preset}
        options |= {n: by_preset[n] for n, at in sources.items() if at and at.name == "DEFAULT"}
    config = RunConfig(**options)  # checked before torch loads
    from rich.console import Console

    from plainfit.common.progress import on_terminal
    from plainfit.runs.train import train as run
    from plainfit.training.callbacks import ProgressBar

    progress = ProgressBar(Console(stderr=True))
    with on_terminal(progress.bar):
        result = run(config, echo=None if json_ else show, callbacks=[progress])
    show_result(result, json_)


def resume(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    epochs: Annotated[
        int | None, typer.Option(min=1, help="In all, to go on with a run that has finished.")
    ] = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Go on with a run that was stopped, to the bits that it would have had."""
    from rich.console import Console

    from plainfit.common.progress import on_terminal
    from plainfit.runs.train import resume as go_on
    from plainfit.training.callbacks import ProgressBar

    progress = ProgressBar(Console(stderr=True))
    with on_terminal(progress.bar):
        result = go_on(run, epochs=epochs, echo=None if json_ else show, callbacks=[progress])
    show_result(result, json_)


@with_options_of((*RATE_FIELDS, *DATA_FIELDS))
def lr_find(
    *,
    picture: Annotated[Path, typer.Option(help="Where to draw the loss by learning rate.")] = Path(
        "lr-find.png"
    ),
    json_: Json = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Try learning rates from 1e-7 to 10, and suggest one."""
    config = RunConfig(**options)
    import torch.nn.functional as F

    from plainfit.runs.assembly import assemble
    from plainfit.runs.folder import write_whole
    from plainfit.training.lr_finder import lr_find as search

    parts = assemble(config)
    found = search(parts.model, F.cross_entropy, parts.opt, parts.train_dl)
    write_whole(picture, lambda path: found.plot().savefig(path, dpi=120))
    if json_:
        show_json(
            {"valley": found.valley, "steep": found.steep, "rates": found.rates,
             "losses": found.losses, "picture": str(picture)}
        )  # fmt: skip
        return
    show(f"valley   {found.valley:.2g}   the middle of the longest fall: a rate to train with")
    show(f"steep    {found.steep:.2g}   the steepest fall: the highest rate of a one-cycle")
    show(f"picture  {picture}")
    show(f"next     plainfit train --lr {found.valley:.2g}, or --lr auto")


def show_result(result: "RunResult", json_: bool) -> None:
    """Print what came of a training, and what to do next."""
    if json_:
        show_json(result.to_dict())
        return
    show()
    if result.test is None:
        show("test   there is no test set; the last line above is on the validation set")
    else:
        show(f"test   accuracy {result.test['accuracy']:.4f}, loss {result.test['loss']:.4f}")
    show(f"run    {result.folder}")
    show(f"next   plainfit report {result.folder}")
    if result.takes_images:
        show(f"       plainfit predict {result.folder} IMAGE.png")


def predict(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    images: Annotated[list[Path], typer.Argument(help="PNG, JPEG, WebP or BMP files.")],
    tta: Annotated[
        int, typer.Option(min=0, help="Average over so many augmented views of an image, too.")
    ] = 0,
    augment: Annotated[
        str | None, typer.Option(help="Of the views (default: what the run was trained with).")
    ] = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Print the class probabilities of image files."""
    if augment is not None and not tta:
        raise ConfigError("--augment says what the views of --tta are: add --tta 8")
    from plainfit.runs.folder import read_run
    from plainfit.runs.predict import predict_images

    results = predict_images(read_run(run), images, views=tta, augment=augment)
    if json_:
        show_json(results)
        return
    for result in results:
        ranked = sorted(result["probabilities"].items(), key=lambda item: -item[1])
        likeliest = ", ".join(f"{name} {probability:.4f}" for name, probability in ranked[:5])
        show(f"{result['image']}: {likeliest}{', ...' if len(ranked) > 5 else ''}")


@with_options_of(DATA_FIELDS)
def data(
    *,
    source: Annotated[str, typer.Argument(help="digits, mnist, fashion-mnist, or a path.")],
    picture: Annotated[
        Path | None, typer.Option(help="Where to draw it (default: NAME-samples.png).")
    ] = None,
    write: Annotated[
        Path | None, typer.Option(help="A new folder to write the images to, as PNG; it is shown.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="With --write: the classes to write, such as 3,7.")
    ] = None,
    json_: Json = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Show what a data set holds, and draw a picture of samples."""
    RunConfig(data=source, **options)
    if only is not None and write is None:
        raise ConfigError("--only says which classes are written: add --write FOLDER")
    from plainfit.data.open_data import open_data
    from plainfit.data.pictures import draw_samples, write_folder

    splits = open_data(source, **options)
    if write is not None:
        classes = [] if only is None else [name.strip() for name in only.split(",")]
        write_folder(splits, write, classes)
        source, splits = str(write), open_data(write, **options)
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


@with_options_of((*DATA_FIELDS, "augment", "seed"))
def augment(
    *,
    source: Annotated[str, typer.Argument(help="digits, mnist, fashion-mnist, or a path.")],
    picture: Annotated[
        Path | None, typer.Option(help="Where to draw it (default: NAME-augmented.png).")
    ] = None,
    json_: Json = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Draw a sample of each class, and below it what an augmentation makes of it."""
    config = RunConfig(data=source, **options)
    if config.augment == "none":
        raise ConfigError("--augment says what to draw: light, standard, strong, or names")
    from plainfit.data.open_data import open_data
    from plainfit.data.pictures import draw_augmented

    path = picture or Path(f"{Path(source).name.split('.')[0]}-augmented.png")
    splits = open_data(source, **{name: options[name] for name in DATA_FIELDS})
    draw_augmented(splits, config.augment, config.seed, path)
    if json_:
        show_json({"augment": config.augment, "picture": str(path)})
        return
    show(f"picture: {path} (the first row as it is)")
    show(f"next     plainfit train --data {source} --augment {config.augment}")


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
    groups: list[dict[str, Any]] = []
    from plainfit.models.build import get_model
    from plainfit.models.summary import count_parameters, summarize
    from plainfit.runs.folder import read_run

    if Path(model).is_dir():
        run = read_run(Path(model))
        built, shape = run.model, run.record["data"]["input_shape"]
        groups = run.record.get("layers", [])
    else:
        built, _ = get_model(model, input_shape=shape, classes=classes, device="cpu")
    rows = summarize(built, shape)
    total = count_parameters(built)
    if json_:
        show_json({"layers": [vars(row) for row in rows], "parameters": total, "groups": groups})
        return
    width = max(len("layer"), *(len(row.name) for row in rows))
    show(f"{'layer':{width}}  {'kind':20}{'output':16}{'parameters':>12}")
    show(f"{'(input)':{width}}  {'':20}{'x'.join(map(str, shape)):16}")
    for row in rows:
        output = "x".join(map(str, row.output_shape)) if row.output_shape else "-"
        show(f"{row.name:{width}}  {row.kind:20}{output:16}{row.parameters:12,}")
    show(f"{'all':{width}}  {'':36}{total:12,}")
    for group in groups:  # of a fine-tuning
        show(f"rate {group['lr']:.2g}: {', '.join(group['layers'])}")


def parse_shape(text: str) -> list[int]:
    """Return `1,28,28` as numbers."""
    sizes = [int(size) if size.strip().isdecimal() else 0 for size in text.split(",")]
    if len(sizes) not in (1, 3) or min(sizes) < 1:
        raise typer.BadParameter(
            f"--input-shape must be like 1,28,28 (channels, height, width) or 30; got {text!r}"
        )
    return sizes
