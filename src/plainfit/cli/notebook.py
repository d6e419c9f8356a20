"""The tutorial as a notebook."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from plainfit.cli.shared import Debug, show
from plainfit.common.errors import ConfigError


def notebook(
    folder: Annotated[Path, typer.Argument(help="Folder to copy to.", metavar="DIR")] = Path(),
    lang: Annotated[str, typer.Option(help="en or zh-CN.")] = "en",
    open_: Annotated[
        bool, typer.Option("--open/--no-open", help="Open it in Jupyter, or only copy it.")
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing copy.")] = False,
    debug: Debug = False,
) -> None:
    """Copy the tutorial as a notebook, and open it in Jupyter."""
    from plainfit.ladder.programs import copy_notebook, jupyter

    path, copied = copy_notebook(lang, folder, replace=force)
    show(f"copied {path}" if copied else f"{path} exists already and is kept")
    if not open_:
        return
    module = jupyter()
    if module is None:
        raise ConfigError(
            "Jupyter is not installed; to open the notebook, "
            f"pip install 'plainfit[notebook]', then jupyter lab {path}"
        )
    raise typer.Exit(subprocess.run([sys.executable, "-m", module, str(path)]).returncode)
