"""Commands that take settings: `train`, `fine-tune`, `resume`, `lr-find`, `data`, `augment`."""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from plainfit.cli.config import ConfigFile, PrintConfig, print_settings
from plainfit.cli.processes import MaxRestarts, Processes, train_together
from plainfit.cli.shared import (
    SOURCE_OPTIONS,
    Debug,
    Json,
    RunFolder,
    Source,
    TrustCode,
    asking,
    is_given,
    open_trusted,
    rank,
    show,
    show_json,
    with_options_of,
)
from plainfit.common.errors import ConfigError, command
from plainfit.runs import settings
from plainfit.runs.settings import (
    DataSettings,
    RunConfig,
    TransferSettings,
    is_weights_only,
    names_of,
)

if TYPE_CHECKING:
    from plainfit.runs.train import RunResult

RATE_OPTIONS = (
    "model", "momentum", "batch_size", "drop_last", "optimizer", "optimizer_args", "seed", "device",
)  # fmt: skip


@with_options_of(names_of(RunConfig, without=tuple(names_of(TransferSettings))))
def train(
    context: typer.Context,
    *,
    config_file: ConfigFile = None,
    print_config: PrintConfig = False,
    preset: Annotated[
        str | None,
        Option(
            help="Settings chosen for images: fastest, fast or accurate; other options override "
            "them. Their bf16 becomes fp32 on a processor where it is no faster."
        ),
    ] = None,
    processes: Processes = 1,
    max_restarts: MaxRestarts = 0,
    json_: Json = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Train a model and leave a run folder: settings, weights, metrics, curves."""
    if preset is not None:
        chosen = settings.preset(preset)
        options |= {n: value for n, value in chosen.items() if not is_given(context, n)}
    config = RunConfig(**options)  # checked before torch loads
    if preset is not None and config.precision == "bf16" and not is_given(context, "precision"):
        from plainfit.common.devices import bf16_pays, pick_device

        if not bf16_pays(pick_device(config.device)):
            config = replace(config, precision="fp32")
            text = "note   fp32 in place of bf16, which is no faster on this processor"
            if not json_:
                show(text, sys.stderr if print_config else None)
    if print_config:
        print_settings(config, json_)
        return
    train_together(processes, max_restarts, config)
    from plainfit.runs.train import train as run

    run_with_progress(lambda **shown: run(config, **shown), json_)


@with_options_of(names_of(RunConfig, without=("source", "model")))
def fine_tune(
    context: typer.Context,
    *,
    source: Annotated[
        str,
        Argument(
            help="A run folder; a .safetensors, .pt or .pth file or its URL, with --model; "
            "resnet18, resnet34 or resnet50; hf:OWNER/NAME, with --model or, for a model of "
            "text (or its folder), --text; timm:NAME."
        ),
    ],
    model: Annotated[str | None, Option(help="The architecture, for a file of weights.")] = None,
    config_file: ConfigFile = None,
    print_config: PrintConfig = False,
    trust_code: TrustCode = False,
    processes: Processes = 1,
    max_restarts: MaxRestarts = 0,
    json_: Json = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Give a trained model a new head, and train it: the head alone at first, then all of it."""
    RunConfig(source=source, **options)  # checked before torch loads
    if not (is_weights_only(source) or is_given(context, "model", in_file=False)):
        model = None  # that of a file of settings, as the source names its own
    from plainfit.runs.fine_tuning import is_run, model_name
    from plainfit.runs.train import train as run

    def begin(trust_code: bool) -> None:
        if trust_code and is_run(source):
            open_trusted(Path(source), trust_code)
        name = model_name(source, model, options["text"])
        config = RunConfig(source=source, model=name, **options)
        if print_config:
            print_settings(config, json_)
            return
        train_together(processes, max_restarts, config)
        run_with_progress(lambda **shown: run(config, **shown), json_)

    asking(begin, trust_code)


def resume(
    run: RunFolder,
    epochs: Annotated[int | None, Option(min=1, help="In all, to continue a finished run.")] = None,
    trust_code: TrustCode = False,
    processes: Processes = 1,
    max_restarts: MaxRestarts = 0,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Continue a stopped run, to the bits of an unbroken one."""
    from plainfit.runs.train import resume as continue_run

    def go_on(trust_code: bool) -> None:
        train_together(processes, max_restarts, open_trusted(run, trust_code).config)
        call = partial(continue_run, run, epochs=epochs, trust_code=trust_code)
        run_with_progress(call, json_)

    asking(go_on, trust_code)


def run_with_progress(run: "Callable[..., RunResult]", json_: bool) -> None:
    result = run(echo=(lambda text: None) if json_ else show)
    if rank() != "0":  # the first process has the run
        return
    if json_:
        show_json(result.to_dict())
        return
    test = "no test set; the last line above is on the validation set"
    if result.test is not None:
        from plainfit.training.history import shape_of

        scores = dict(result.test)
        largest, loss = scores.pop("largest_class", None), scores.pop("loss")
        shown = [
            f"{n.replace('_', ' ')} {value:{shape_of(n, value)}}" for n, value in scores.items()
        ]
        test = ", ".join([*shown, f"loss {loss:.4f}"])
        if largest is not None:  # of classes of very different sizes
            test += f"; the largest class alone is {largest:.4f} of the samples"
    show(f"\ntest   {test}")
    show(f"run    {result.folder}")
    show(f"next   {command('report', result.folder)}")
    if result.takes:
        show(f"       {command('predict', result.folder, *result.takes.split())}")
    runs = result.folder.parent
    show(f"       {command('app', *[runs] * (runs != Path('runs')))}  # try it in a browser")


@with_options_of((*RATE_OPTIONS, *names_of(DataSettings)))
def lr_find(
    *,
    picture: Annotated[Path, Option(help="Where to draw the losses.")] = Path("lr-find.png"),
    json_: Json = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Try learning rates from 1e-7 to 10, and suggest one."""
    config = RunConfig(**options)
    from plainfit.common.plots import write_picture
    from plainfit.runs.folder import check_output
    from plainfit.runs.prepare import prepare, search_rate

    check_output(picture)
    found = search_rate(prepare(config))
    write_picture(found.plot(), picture)
    if json_:
        suggested = {"valley": found.valley, "steep": found.steep}
        show_json(suggested | vars(found) | {"picture": str(picture)})
        return
    show(f"valley   {found.valley:.2g}   the middle of the longest descent: a rate to train with")
    show(f"steep    {found.steep:.2g}   the steepest descent: the highest rate of a one-cycle")
    show(f"picture  {picture}")
    show(f"next     {command('train', '--lr', f'{found.valley:.2g}')}, or --lr auto")


@with_options_of(SOURCE_OPTIONS)
def data(
    *,
    source: Source,
    picture: Annotated[
        Path | None, Option(help="File to draw (default: NAME-samples.png).")
    ] = None,
    write: Annotated[
        Path | None, Option(help="A new folder to write the images to, as PNG, and to show.")
    ] = None,
    only: Annotated[str | None, Option(help="With --write: its classes, such as 3,7.")] = None,
    baseline: Annotated[
        bool, Option("--baseline", help="Score scikit-learn's models on the validation rows.")
    ] = False,
    json_: Json = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Show the sizes and classes of a dataset, and draw a picture of samples."""
    config = RunConfig(data=source, **options)
    if only is not None and write is None:
        raise ConfigError("--only chooses the classes to write: add --write FOLDER")
    from plainfit.data.open_data import open_data
    from plainfit.data.pictures import draw_samples, write_folder
    from plainfit.data.targets import MULTI_LABEL
    from plainfit.runs.folder import check_output
    from plainfit.runs.prepare import completed
    from plainfit.runs.tasks import described as described_target

    splits = completed(config).open_data()  # as it is trained on
    if write is not None:
        classes = [] if only is None else [name.strip() for name in only.split(",")]
        write_folder(splits, write, classes)
        kept = {name: options[name] for name in ("split_seed", "memory_budget")}
        source, splits = str(write), open_data(write, **kept)
    path = picture or Path(f"{Path(source).name.split('.')[0]}-samples.png")
    check_output(path)
    draw_samples(splits, path)
    scores = []
    if baseline:
        from plainfit.runs.baseline import baselines

        scores = baselines(splits)
    if json_:
        found = {"class_counts": splits.class_counts(), "picture": str(path)}
        show_json(splits.to_dict() | found | ({"baselines": scores} if scores else {}))
        return
    counts = splits.class_counts()
    head = "label" if splits.task == MULTI_LABEL else "class" if splits.classes else ""
    width = max(map(len, [head, "all", *splits.classes]))
    shape = "x".join(map(str, splits.input_shape))
    show(f"{splits.name}: samples of {shape}; {described_target(splits.target)}")
    for note in splits.notes:
        show(f"note: {note}")
    show(f"{head:{width}}" + "".join(f"{part:>9}" for part in counts))
    for label, name in enumerate(splits.classes):
        show(f"{name:{width}}" + "".join(f"{of[label]:9,}" for of in counts.values()))
    show(f"{'all':{width}}" + "".join(f"{count:9,}" for count in splits.counts().values()))
    if splits.columns:
        from plainfit.data.tables.preparing import described

        width = max(len("column"), *map(len, splits.columns))
        show(f"{'column':{width}}  what it becomes")
        for name, made in splits.columns.items():
            show(f"{name:{width}}  {described(made)}")
    if scores:
        show_baselines(scores)
        show(f"compare: {config.command()} shows the same metrics of the same rows")
    show(f"picture: {path}")


def show_baselines(rows: list[dict[str, Any]]) -> None:
    width = max(map(len, rows[0]))
    show(f"{'on validation rows':20}" + "".join(f"  {name:>{width}}" for name in [*rows[0]][1:]))
    for row in rows:
        name, *figures = row.values()
        show(f"{name:20}" + "".join(f"  {figure:{width}.5g}" for figure in figures))


@with_options_of((*SOURCE_OPTIONS, "augment", "seed"))
def augment(
    *,
    source: Source,
    picture: Annotated[
        Path | None, Option(help="Where to draw it (default: NAME-augmented.png).")
    ] = None,
    json_: Json = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Draw a sample of each class, and augmented versions below it."""
    config = RunConfig(data=source, **options)
    if config.augment == "none":
        raise ConfigError("must be light, standard, strong or names", field="augment")
    from plainfit.data.pictures import draw_augmented
    from plainfit.runs.folder import check_output

    path = picture or Path(f"{Path(source).name.split('.')[0]}-augmented.png")
    check_output(path)
    draw_augmented(config.open_data(), config.augment, config.seed, path)
    if json_:
        show_json({"augment": config.augment, "picture": str(path)})
        return
    show(f"picture: {path} (the first row is not augmented)")
    show(f"next     {command('train', '--data', source, '--augment', config.augment)}")
