"""`labels.csv`: the classes of images, where folders do not tell them."""

import csv
import os
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path

from plainfit.common.errors import DataError, near_miss
from plainfit.data.splits import MOST_NAMED, NUMBER, shortened

NAME = "labels.csv"
FILES = ("file", "filename", "file_name", "image", "image_id", "path", "id")
LABELS = ("label", "class", "target")
SEVERAL = ("|", ";")  # between labels; a comma may be in the name of a class


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
    path: Path, images: Sequence[str], target: str | None
) -> tuple[dict[str, str], list[str]]:
    """Return the label of each image that has a row, and notes on the others."""
    names, rows = read_rows(path)
    file_at = names.index(column(path, names, FILES, None, "files, such as file"))
    chosen = column(path, names, LABELS, target, "classes, such as label, or target must be set")
    label_at = names.index(chosen)
    check_labels(path, [row[label_at].strip() for _, row in rows if len(row) > label_at])
    known = named(images, path.parent)
    labels: dict[str, str] = {}
    wrong, lost = list[str](), list[str]()
    for line, row in rows:
        if len(row) != len(names):
            wrong.append(f"line {line} has {len(row)} values for {len(names)} columns")
            continue
        name, label = key_of(row[file_at]), row[label_at].strip()
        found = known.get(name, [])
        if not label:
            wrong.append(f"line {line} has no label for {name}")
        elif len(found) > 1:
            places = " or ".join(os.path.relpath(image, path.parent) for image in found[:2])
            wrong.append(f"line {line}: {name} could be {places}; write its folder")
        elif not found:
            lost.append(name)
        elif labels.setdefault(found[0], label) != label:
            wrong.append(
                f"line {line}: {name} is {label!r}, and {labels[found[0]]!r} before (several "
                "labels of an image are not supported yet)"
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


def check_labels(path: Path, labels: Sequence[str]) -> None:
    several = [label for label in labels if any(mark in label for mark in SEVERAL)]
    numbers = all(NUMBER.fullmatch(label) for label in labels if label)
    decimals = [label for label in labels if numbers and label and not float(label).is_integer()]
    if several:
        raise DataError(
            f"{path}: an image must have one label, got {several[0]!r}, which is several; "
            "multi-label is not supported yet"
        )
    if decimals:
        raise DataError(
            f"{path}: labels must be classes, got numbers with decimals such as {decimals[0]}; "
            "regression on images is not supported yet"
        )


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
