"""`labels.csv`: the labels of images, where folders do not tell them."""

import csv
import os
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from plainfit.common.errors import DataError, near_miss, shortened
from plainfit.data.splits import MOST_NAMED
from plainfit.data.targets import CLASSIFICATION, MOST_WHOLE, MULTI_LABEL, NUMBER, SEVERAL

NAME = "labels.csv"
FILES = ("file", "filename", "file_name", "image", "image_id", "path", "id")
LABELS = ("label", "class", "target")


def find_label_file(root: Path, folders: Sequence[Path]) -> Path | None:
    """Return the file in a folder, or beside one without folders.

    In a folder with several folders, a table without names of files says something else.
    """
    places = [root] if folders else [root, root.parent]
    found = next((place / NAME for place in places if (place / NAME).is_file()), None)
    if found and len(folders) > 1 and not usual(read_rows(found)[0], FILES):
        return None
    return found


def read_labels(
    path: Path, images: Sequence[str], target: str | None, task: str | None = None
) -> tuple[dict[str, str], list[str]]:
    """Return the label of each image that has a row, and notes on the others.

    For several labels, an image may have a row for each.
    """
    names, rows = read_rows(path)
    file_at = names.index(column(path, names, FILES, None, "files, such as file"))
    chosen = column(path, names, LABELS, target, "classes, such as label, or target must be set")
    label_at = names.index(chosen)
    known = named(images, path.parent)
    labels: dict[str, str] = {}
    wrong, lost = list[str](), list[str]()
    for line, row in rows:
        if len(row) != len(names):
            wrong.append(f"line {line} has {len(row)} values for {len(names)} columns")
            continue
        name, label = key_of(row[file_at]), row[label_at].strip()
        found = known.get(name, [])
        if not label and task != MULTI_LABEL:
            wrong.append(f"line {line} has no label for {name}")
        elif len(found) > 1:
            places = " or ".join(os.path.relpath(image, path.parent) for image in found[:2])
            wrong.append(f"line {line}: {name} could be {places}; write its folder")
        elif not found:
            lost.append(name)
        elif task == MULTI_LABEL and found[0] in labels:
            labels[found[0]] += f"{SEVERAL[0]}{label}"
        elif labels.setdefault(found[0], label) != label:
            wrong.append(
                f"line {line}: {name} is {label!r}, and {labels[found[0]]!r} before (for several "
                "labels of an image, --task multi-label)"
            )
    if wrong:
        raise DataError(
            f"{path}: each row must give an image one label: {shortened(wrong, MOST_NAMED)}"
        )
    if 2 * len(lost) > len(rows):
        raise DataError(
            f"{path}: rows must name images in {path.parent} or below, and {len(lost)} of "
            f"{len(rows)} do not: {shortened(lost, MOST_NAMED)}; mend them, or move the file away"
        )
    notes = [f"labels are the column {chosen!r} of {path}"]
    if lost:
        notes.append(f"{len(lost)} of {len(rows)} rows of {NAME} name no image: {shortened(lost)}")
    return labels, notes


def read_rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the names of the columns, and the rows with their lines."""
    try:
        text = path.read_text("utf-8-sig")
        separator = max(",;\t", key=text.partition("\n")[0].count)
        reader = csv.reader(StringIO(text), delimiter=separator)
        names = [name.strip() for name in next(reader, [])]
        return names, [(reader.line_num, row) for row in reader if any(row)]
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: labels must be a table in UTF-8 ({error})") from error


def usual(names: Sequence[str], known: Sequence[str]) -> list[str]:
    return [name for name in names if name.lower() in known]


def column(
    path: Path, names: Sequence[str], known: Sequence[str], target: str | None, what: str
) -> str:
    found = usual(names, known) if target is None else [name for name in names if name == target]
    if not found:
        near = "" if target is None else f" has no column {target!r}{near_miss(target, names)};"
        raise DataError(f"{path}:{near} its first row must name a column of {what}, got {names}")
    return found[0]


def numbers_in(labels: Mapping[str, Sequence[str]], task: str | None) -> Mapping[str, Any]:
    """Return labels as numbers where they cannot be the names of classes."""
    texts = [text for of_part in labels.values() for text in of_part]
    if task in (CLASSIFICATION, MULTI_LABEL) or not all(map(NUMBER.fullmatch, texts)):
        return labels
    numbers = {part: np.array(list(map(float, of_part))) for part, of_part in labels.items()}
    whole = all((of_part % 1 == 0).all() for of_part in numbers.values())
    are_names = whole and task is None and len({*texts}) <= MOST_WHOLE
    return labels if are_names else numbers


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
