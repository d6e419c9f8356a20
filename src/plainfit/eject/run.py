"""From a run to a script on disk, checked if that is asked."""

from collections.abc import Callable
from pathlib import Path

from plainfit.eject.data import data_file
from plainfit.eject.recipe import Recipe, from_fit, from_folder
from plainfit.eject.script import Script
from plainfit.errors import ConfigError, unknown_name
from plainfit.record import FitRecord
from plainfit.runs import write_whole

RUNGS = ("loop", "data", "optim", "layers", "tensors", "math")
Say = Callable[[str], None]


def eject_run(folder: Path, path: Path, *, rung: str = "loop", force: bool = False) -> Path:
    """Write a run as a script."""
    return write(from_folder(folder), path, rung, force)


def eject_fit(
    call: FitRecord, path: Path, *, rung: str, verify: bool, force: bool, echo: Say | None
) -> Path:
    """Write a call of `fit` as a script."""
    return write(from_fit(call), path, rung, force)


def write(recipe: Recipe, path: Path, rung: str, force: bool) -> Path:
    """Write the script of a recipe, and the data beside it that it needs."""
    if rung not in RUNGS:
        raise ConfigError(unknown_name("rung", rung, RUNGS))
    if path.exists() and not force:
        raise ConfigError(f"{path} is there already; --force writes over it")
    script = Script(recipe, "loop" if rung == "loop" else "data", path)
    text = script.text()
    if script.data.tensors:
        from safetensors.torch import save_file

        write_whole(data_file(path), lambda scratch: save_file(script.data.tensors, scratch))
    write_whole(path, lambda scratch: scratch.write_text(text, encoding="utf-8"))
    return path


