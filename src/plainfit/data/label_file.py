"""`labels.csv`: the labels of images, where folders do not tell them."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from plainfit.common.errors import DataError, shortened
from plainfit.data.splits import MOST_NAMED
from plainfit.data.tables.reading import TableOptions, read_columns
from plainfit.data.tables.table import find_targets, target_values
from plainfit.data.targets import MULTI_LABEL, SEVERAL

NAME = "labels.csv"
FILES = ("file", "filename", "filepath", "image", "imagename", "imageid", "imagepath", "path", "id")


class LabelOptions(NamedTuple):
    """What the settings say of a file of labels."""

    target: str | None = None
    task: str | None = None
    written: TableOptions = TableOptions()


def find_label_file(root: Path, folders: Sequence[Path], options: TableOptions) -> Path | None:
    """Return the file in a folder, or beside one without folders.

    In a folder with several folders, a table without names of files says something else.
    """
    places = [root] if folders else [root, root.parent]
    found = next((place / NAME for place in places if (place / NAME).is_file()), None)
    if found and len(folders) > 1 and not file_columns(read_columns(found, options).columns):
        return None
    return found


def file_columns(names: Iterable[str]) -> list[str]:
    """Return the columns that may name files, the likeliest first."""
    plain = {name.lower().replace("_", "").replace(" ", ""): name for name in names}
    return [plain[known] for known in FILES if known in plain]


def read_labels(
    path: Path, images: Sequence[str], options: LabelOptions
) -> tuple[dict[str, Any], list[str], list[str]]:
    """Return the label of each image that has a row, the names of the targets, and notes.

    For several labels, an image may have a row for each.
    """
    target, task, written = options
    table = read_columns(path, written)
    names = list(table.columns)
    if not (files := file_columns(names)):
        raise DataError(
            f"{path}: its first row must name a column of files, such as file, got {names}"
        )
    others = [name for name in names if name != files[0]]
    targets = find_targets(path, others, target or (others[0] if len(others) == 1 else None))
    texts = table.texts([files[0], *targets])
    keys = [key_of(text) for text in texts.pop(files[0]).to_pylist()]
    values = target_values(table, texts, task)
    known = named(images, path.parent)
    labels: dict[str, Any] = {}
    wrong, lost = list[str](), list[str]()
    for row, (key, value) in enumerate(zip(keys, values, strict=True), 1):
        found = known.get(key, [])
        if len(found) > 1:
            places = " or ".join(os.path.relpath(image, path.parent) for image in found[:2])
            wrong.append(f"data row {row}: {key} could be {places}; write its folder")
        elif not found:
            lost.append(key)
        elif found[0] not in labels:
            labels[found[0]] = value
        elif task == MULTI_LABEL and len(targets) == 1:
            labels[found[0]] = f"{labels[found[0]]}{SEVERAL[0]}{value}"
        elif np.any(labels[found[0]] != value):
            wrong.append(
                f"data row {row}: {key} is {value!s}, and {labels[found[0]]!s} before (for several "
                "labels of an image, --task multi-label)"
            )
    if wrong:
        raise DataError(
            f"{path}: each row must give an image one label: {shortened(wrong, MOST_NAMED)}"
        )
    if 2 * len(lost) > len(keys):
        raise DataError(
            f"{path}: rows must name images in {path.parent} or below, and {len(lost)} of "
            f"{len(keys)} do not: {shortened(lost, MOST_NAMED)}; mend them, or move the file away"
        )
    which = f"column{'s' * (len(targets) > 1)} {shortened([*map(repr, targets)])}"
    notes = [*table.notes, f"labels are the {which} of {path}"]
    if lost:
        notes.append(f"{len(lost)} of {len(keys)} rows of {NAME} name no image: {shortened(lost)}")
    return labels, targets, notes


def named(images: Sequence[str], home: Path) -> Mapping[str, list[str]]:
    """Return the images that a name may mean: without the first folders, without the end.

    The path from the home of the file is of one image, even if others end alike.
    """
    tails, wholes = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for image in images:
        parts = key_of(os.path.relpath(image, home)).split("/")
        for at in range(len(parts)):
            name = "/".join(parts[at:])
            for key in (name, name.rpartition(".")[0]):
                (tails if at else wholes)[key].append(image)
    return {**tails, **wholes}


def key_of(name: str) -> str:
    return unicodedata.normalize("NFC", name.strip().replace("\\", "/")).removeprefix("./")
