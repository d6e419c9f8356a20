"""The rungs and the notebooks as files: to show, to compare and to copy."""

import difflib
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path

from plainfit.common.errors import ConfigError, unknown_name
from plainfit.data.splits import DataSplits
from plainfit.ladder.catalog import Rung
from plainfit.ladder.climb import write_data
from plainfit.runs.folder import check_free, create_folder, write_output

NOTEBOOKS = {"en": "what_is_torch_nn.ipynb", "zh-CN": "what_is_torch_nn.zh-CN.ipynb"}
JUPYTER = ("jupyterlab", "notebook")  # modules that open a notebook, the preferred one first


def unified(before: Rung, after: Rung) -> str:
    old, new = before.source.splitlines(), after.source.splitlines()
    names = before.path.name, after.path.name
    return "\n".join(difflib.unified_diff(old, new, *names, lineterm=""))


def side_by_side(before: Rung, after: Rung, width: int) -> list[tuple[str, str, str]]:
    """Return the change as rows (left, sign, right), with sides `width` characters wide.

    The sign is `<` for a removed line, `>` for an added one and `|` for a replaced one. Unchanged
    lines are left out, except for three around each change.
    """
    old, new = before.source.splitlines(), after.source.splitlines()
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    rows = [(before.path.name, " ", after.path.name)]
    for group in matcher.get_grouped_opcodes(3):
        rows.append(("...", " ", "..."))
        for kind, old_start, old_end, new_start, new_end in group:
            sign = {"equal": " ", "replace": "|", "delete": "<", "insert": ">"}[kind]
            pairs = zip_longest(old[old_start:old_end], new[new_start:new_end], fillvalue="")
            rows += [(left, sign, right) for left, right in pairs]
    return [(fitted(left, width), sign, fitted(right, width)) for left, sign, right in rows]


def fitted(text: str, width: int) -> str:
    return text.ljust(width) if len(text) <= width else text[: width - 1] + "…"


def copy_rung(rung: Rung, data: DataSplits, folder: Path, *, replace: bool = False) -> list[Path]:
    """Copy a program, and its data if missing, into a folder; return the two paths."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"the copy needs a folder, and {folder} is a file; choose another")
    program = folder / rung.path.name
    arrays = folder / f"{Path(data.name).name.split('.')[0]}.npz"
    check_free(program, replace)
    create_folder(folder)
    if not arrays.exists():
        write_data(data, arrays)
    write_output(program, rung.source.encode())
    return [program, arrays]


def installed_notebook(language: str) -> Path:
    if language not in NOTEBOOKS:
        raise ConfigError(unknown_name("language", language, NOTEBOOKS))
    installed = Path(str(files("plainfit"))) / "notebooks"
    checkout = Path(__file__).parents[3] / "notebooks"  # of an editable installation
    return next(folder for folder in (installed, checkout) if folder.is_dir()) / NOTEBOOKS[language]


def copy_notebook(language: str, folder: Path, *, replace: bool = False) -> tuple[Path, bool]:
    """Copy a notebook into a folder if missing; return its path there, and whether it was."""
    source = installed_notebook(language)
    path = folder / source.name
    if path.exists() and not replace:
        return path, False
    create_folder(folder)
    write_output(path, source.read_bytes())
    return path, True
