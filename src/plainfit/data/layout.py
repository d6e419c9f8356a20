"""Where the files are in a folder that has a folder for each class."""

import os
from collections.abc import Iterator
from pathlib import Path

from plainfit.common.errors import DataError

IGNORED = {"thumbs.db", "desktop.ini"}
PARTS = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}


def find_images(root: Path) -> list[tuple[str, str, str]]:
    """Return (part, class, path) of every file in the class folders, sorted by name."""
    folders = subfolders(root)
    if any(PARTS.get(folder.name.lower()) == "train" for folder in folders):
        classes = [
            (PARTS[folder.name.lower()], label)
            for folder in folders
            if folder.name.lower() in PARTS
            for label in subfolders(folder)
        ]
    else:
        classes = [("train", label) for label in folders]
    if not classes:
        idx = any(path.name.startswith("train-images-idx3") for path in root.iterdir())
        raise DataError(
            f"{root} must have a folder of images for each class, and it has none; "
            + ("it holds IDX files: pass --data mnist --data-dir with this folder" if idx else
               "lay it out as CLASS/*.png or train/CLASS/*.png")
        )  # fmt: skip
    found = []
    for part, folder in classes:
        files = list(files_under(folder))
        if not files:
            raise DataError(f"{folder} must hold images of the class {folder.name!r}, it is empty")
        found += [(part, folder.name, path) for path in files]
    return found


def subfolders(root: Path) -> list[Path]:
    """Return the folders in a folder that are not hidden, sorted by name."""
    return sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] not in "._")


def files_under(folder: Path | str) -> Iterator[str]:
    """Yield the path of every file in a folder and those within it, sorted by name in each."""
    with os.scandir(folder) as entries:
        in_order = sorted(entries, key=lambda entry: entry.name)
    for entry in in_order:
        if entry.is_dir(follow_symlinks=False):
            yield from files_under(entry.path)
        elif entry.is_file() and wanted(entry.name):
            yield entry.path


def wanted(name: str) -> bool:
    """Tell files that someone put there from those that a system leaves."""
    return not name.startswith(".") and name.lower() not in IGNORED
