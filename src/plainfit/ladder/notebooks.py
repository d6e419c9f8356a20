"""The tutorial as a notebook: where it is, and a copy of it."""

import importlib.util
from importlib.resources import files
from pathlib import Path

from plainfit.common.errors import ConfigError, unknown_name
from plainfit.runs.folder import make_folder, write_whole

LANGUAGES = {"en": "what_is_torch_nn.ipynb", "zh-CN": "what_is_torch_nn.zh-CN.ipynb"}
JUPYTER = ("jupyterlab", "notebook")
"""The modules that open a notebook, the first that is there."""


def original(language: str) -> Path:
    """Return the path of the notebook that came with plainfit.

    Raises:
        ConfigError: if there is none in that language.
    """
    if language not in LANGUAGES:
        raise ConfigError(unknown_name("language", language, LANGUAGES))
    installed = Path(str(files("plainfit"))) / "notebooks"
    checkout = Path(__file__).parents[3] / "notebooks"  # of an editable installation
    return next(folder for folder in (installed, checkout) if folder.is_dir()) / LANGUAGES[language]


def copy_notebook(language: str, folder: Path, *, replace: bool = False) -> tuple[Path, bool]:
    """Copy a notebook into a folder; return its path there, and whether it was copied.

    One that is there already is left as it is, with what was written into it, unless `replace`.

    Raises:
        ConfigError: if there is none in that language, or the folder cannot be made.
        RunError: if the copy cannot be written.
    """
    source = original(language)
    path = folder / source.name
    if path.exists() and not replace:
        return path, False
    make_folder(folder)
    write_whole(path, lambda part: part.write_bytes(source.read_bytes()))
    return path, True


def jupyter() -> str | None:
    """Return the module that opens notebooks here, if one is installed."""
    return next((name for name in JUPYTER if importlib.util.find_spec(name)), None)
