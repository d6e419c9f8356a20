"""Which images of a folder belong to which part and class."""

import json
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from plainfit.common.errors import DataError
from plainfit.common.files import RECORD
from plainfit.common.locks import LOCK
from plainfit.data.decoding import SUFFIXES
from plainfit.data.splits import PARTS, shortened

IGNORED = {"thumbs.db", "desktop.ini"}


def find_images(root: Path) -> tuple[list[tuple[str, str, str]], list[str]]:
    """Return (part, class, path) of every file in the class folders, sorted by name; and the runs.

    A folder of runs and no image is no class.
    """
    folders = subfolders(root)
    parts = find_parts(root, folders)
    classes = [(part, label) for part, folder in parts.items() for label in subfolders(folder)]
    classes = classes or [("train", label) for label in folders]
    if not classes:
        remedy = "lay it out as CLASS/*.png or train/CLASS/*.png"
        if any(path.name.startswith("train-images-idx3") for path in root.iterdir()):
            remedy = "it holds IDX files: open mnist with data_dir set to this folder"
        raise DataError(
            f"{root} must have a folder of images for each class, and it has no folders; {remedy}"
        )
    found: list[tuple[str, str, str]] = []
    runs: list[str] = []
    for part, folder in classes:
        before = len(runs)
        files = list(files_under(folder, runs))
        if len(runs) > before and not any(path.lower().endswith(SUFFIXES) for path in files):
            continue
        if not files:
            raise DataError(f"{folder} must hold images of class {folder.name!r}, and it is empty")
        found += [(part, folder.name, path) for path in files]
    if not found:
        raise DataError(f"{root} must have a folder of images for each class, and has only runs")
    return found, runs


def find_parts(root: Path, folders: Sequence[Path]) -> dict[str, Path]:
    """Return the folder of each part; none if the folders are classes.

    A single folder among classes that has the name of a part, and no folders, is a class.
    """
    named = [folder for folder in folders if folder.name.lower() in PARTS]
    held = {tuple(path.name for path in subfolders(folder)) for folder in folders}
    if len(held) == 1 < len(folders) and len(inner := held.pop()) > 1 and not named:
        raise DataError(
            f"{root}: parts cannot be told from classes, as all its folders hold the same ones, "
            f"{shortened(inner)}; call the parts train, valid and test, or move the images up"
        )
    if not named or (len(named) == 1 < len(folders) and not subfolders(named[0])):
        return {}
    parts = {PARTS[folder.name.lower()]: folder for folder in named if subfolders(folder)}
    flat = [folder for folder in folders if folder not in parts.values() and has_images(folder)]
    if flat or "train" not in parts:
        names = shortened([folder.name for folder in flat or folders])
        raise DataError(
            f"{root}: its folders must be either parts (one called train, perhaps valid and test, "
            f"each with a folder for each class) or classes, and {names} would be neither or a "
            "part twice; rename or move them"
        )
    return parts


def has_images(folder: Path) -> bool:
    return any(path.lower().endswith(SUFFIXES) for path in files_under(folder, []))


def notes_on(root: Path, files: Sequence[tuple[str, str, str]], runs: Sequence[str]) -> list[str]:
    """Say what the layout left open: images that are left out, and what belongs to a class."""
    inner = {os.path.normpath(run) for run in runs}
    used, homes = {path for *_, path in files}, set[Path]()
    nested, missed = Counter[str](), Counter[str]()
    for _, label, path in files:
        home = Path(path).parent
        homes |= {home, home.parent}
        if home.name != label:
            nested[str(home.relative_to(root))] += 1
    for place, folders, names in os.walk(root):
        home = Path(place)
        if os.path.normpath(place) in inner:
            folders.clear()  # and so not walked
            continue
        linked = [name for name in folders if (home / name).is_symlink()]
        images = [name for name in names if name.lower().endswith(SUFFIXES)]
        missed[str(home.relative_to(root))] += sum(home / name not in homes for name in linked)
        missed[str(home.relative_to(root))] += sum(str(home / name) not in used for name in images)
    notes = [f"{len(runs)} run folders within the data are left out"] if runs else []
    if nested:
        notes.append(f"images in folders within a class belong to it: {counted(nested)}")
    if +missed:
        notes.append(
            "images and linked folders are left out (hidden, not in the folder of a class, or in "
            f"one that begins with _ or .): {counted(+missed)}"
        )
    classes = {label for _, label, _ in files}
    if names := [label for label in sorted(classes) if label.lower() in PARTS]:
        notes.append(f"read as a class, since it has no folders: {shortened(names)}")
    return notes


def counted(counts: Mapping[str, int]) -> str:
    return shortened([f"{count} in {place}" for place, count in sorted(counts.items())])


def subfolders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] not in "._")


def files_under(folder: Path | str, runs: list[str]) -> Iterator[str]:
    # Run folders go to `runs`, and their files are no data.
    with os.scandir(folder) as entries:
        in_order = sorted(entries, key=lambda entry: entry.name)
    if holds_run(folder, {entry.name for entry in in_order}):
        runs.append(str(folder))
        return
    for entry in in_order:
        if entry.is_dir(follow_symlinks=False):
            yield from files_under(entry.path, runs)
        elif entry.is_file() and entry.name[0] != "." and entry.name.lower() not in IGNORED:
            yield entry.path


def holds_run(folder: Path | str, names: Collection[str]) -> bool:
    if RECORD not in names:
        return LOCK in names  # of a run that begins
    try:
        record = json.loads(Path(folder, RECORD).read_bytes())
        return bool({"state", "config", "model"} <= record.keys())
    except (OSError, ValueError, AttributeError, RecursionError):
        return False
