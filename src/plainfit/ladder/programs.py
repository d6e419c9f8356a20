"""The rungs as texts: to show, to compare, to copy."""

import difflib
from itertools import zip_longest
from pathlib import Path

from plainfit.common.errors import ConfigError
from plainfit.data.splits import DataSplits
from plainfit.ladder.catalog import Rung
from plainfit.ladder.climb import write_data
from plainfit.runs.folder import make_folder, write_whole


def unified(before: Rung, after: Rung) -> str:
    """Return the change from one rung to another as a unified diff."""
    old, new = before.source.splitlines(), after.source.splitlines()
    names = before.path.name, after.path.name
    return "\n".join(difflib.unified_diff(old, new, *names, lineterm=""))


def side_by_side(before: Rung, after: Rung, width: int) -> list[tuple[str, str, str]]:
    """Return the change as rows: left, a sign, right; each side `width` characters wide.

    The sign is `<` for a line that goes, `>` for one that comes, `|` for one that is replaced.
    What stays the same is left out, up to three lines around a change.
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
    """Cut or fill a line to a width."""
    return text.ljust(width) if len(text) <= width else text[: width - 1] + "…"


def copy_rung(rung: Rung, data: DataSplits, folder: Path, *, replace: bool = False) -> list[Path]:
    """Copy a rung's program into a folder, with the data to run it on; return the two paths.

    A data file that is there already is left as it is.

    Raises:
        ConfigError: if the program is there already (unless `replace`), or the folder is a file.
        DataError: if the rungs cannot read such data.
        RunError: if a file cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"the copy needs a folder, and {folder} is a file; choose another")
    program = folder / rung.path.name
    arrays = folder / f"{Path(data.name).name.split('.')[0]}.npz"
    if program.exists() and not replace:
        raise ConfigError(f"{program} is there already; --force writes over it")
    make_folder(folder)
    if not arrays.exists():
        write_whole(arrays, lambda path: write_data(data, path))
    write_whole(program, lambda path: path.write_text(rung.source, encoding="utf-8"))
    return [program, arrays]
