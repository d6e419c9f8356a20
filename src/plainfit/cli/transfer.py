"""From a trained body to new classes: `fine-tune`."""

from dataclasses import fields
from typing import Annotated, Any

import typer

from plainfit.cli.shared import Debug, Json, show, with_options_of
from plainfit.cli.training import show_result
from plainfit.runs.settings import RunConfig

OPTIONS = [item.name for item in fields(RunConfig) if item.name not in ("source", "model")]


@with_options_of(OPTIONS)
def fine_tune(
    *,
    source: Annotated[
        str,
        typer.Argument(
            help="A run folder; a .safetensors, .pt or .pth file or its URL, with --model; "
            "resnet18, resnet34 or resnet50; hf:OWNER/NAME, with --model; timm:NAME."
        ),
    ],
    model: Annotated[
        str | None, typer.Option(help="The architecture, for a file: as for plainfit train.")
    ] = None,
    json_: Json = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Give a trained model a new head, and train it: the head alone at first, then all of it."""
    RunConfig(source=source, **options)  # checked before torch loads
    from rich.console import Console

    from plainfit.common.progress import on_terminal
    from plainfit.runs.pretrained import model_name
    from plainfit.runs.train import train as run
    from plainfit.training.callbacks import ProgressBar

    config = RunConfig(source=source, model=model_name(source, model), **options)
    progress = ProgressBar(Console(stderr=True))
    with on_terminal(progress.bar):
        result = run(config, echo=None if json_ else show, callbacks=[progress])
    show_result(result, json_)
