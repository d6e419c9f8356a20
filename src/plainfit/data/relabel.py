"""New data with other labels, from a folder, a table or an array, which stay as they are.

What is written is read again and compared before it gets its name.
"""

import gzip
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.utils.data import TensorDataset

from plainfit.common.errors import DataError, raised_as, shortened
from plainfit.common.files import write_whole, writing
from plainfit.data import layout
from plainfit.data.pictures import check_free, new_folder, write_folder
from plainfit.data.splits import PARTS, DataSplits, labels_of, make_dataset
from plainfit.data.tables import reading

T = TypeVar("T")
Changes = Mapping[str, str | None]
"""By the origin of a sample (see `DataSplits.origins`): its new class, or None to leave it out."""


def write_arrays(data: DataSplits, out: Path, changes: Changes) -> None:
    """Write images from arrays, such as the digits, as a folder with these changes."""
    parts: dict[str, Any] = {}
    for part, origins in data.origins().items():
        dataset = data.parts()[part]
        labels, kept = labels_of(dataset).clone(), list[int]()
        for row, origin in enumerate(origins):
            label = changes.get(origin, data.classes[labels[row]])
            if label is not None:
                labels[row] = data.classes.index(label)
                kept.append(row)
        samples: Any = dataset.tensors[0] if isinstance(dataset, TensorDataset) else dataset
        parts[part] = make_dataset(samples, labels, torch.tensor(kept))
    write_folder(replace(data, **parts), out)


def write_images(
    root: Path, out: Path, options: layout.LabelOptions, labels: Mapping[str, str], changes: Changes
) -> Path:
    """Write a folder of images with these changes; return the path to open.

    Images are hard links where the disk has those, else copies. One with a new class is in the
    folder of that class, or has it in `labels.csv`, whose other rows stay as they are. `labels` has
    the class of each image that was read, by its path from `root`; others stay too.
    """
    listed = layout.find_images(root, options)
    found = {os.path.relpath(path, root): (part, of) for part, of, path in listed.files}
    values = {label: found[o][1] for o, label in labels.items() if o in found}  # as written
    if lost := sorted(o for o, of in labels.items() if o not in found or found[o][1] != values[of]):
        raise DataError(
            f"{root} must have the images and labels that were read, and {len(lost)} are not there "
            f"any more: {shortened(lost)}"
        )
    label_file = layout.find_label_file(root, layout.subfolders(root), options.written)
    base = label_file.parent if label_file else root
    home, places = os.path.relpath(root, base), dict[str, str]()
    for origin in sorted(found, key=changes.__contains__):  # first those that keep their names
        label = changes.get(origin, "")
        place = os.path.normpath(os.path.join(home, origin))  # noqa: PTH118  # of each image
        if label_file is None and label:
            place = free_place(of_class(origin, labels[origin], label), labels[origin], places)
        if label is not None:
            places[place] = origin
    if root.resolve() in out.resolve().parents:
        raise DataError(f"the new folder must be outside of {root}, got {out}; choose another")
    with new_folder(out) as new:
        for place, origin in places.items():
            put(root / origin, new / place)
        if label_file is not None:
            target = listed.targets[0]
            content = edited_label_file(label_file, root, options, target, labels, changes)
            (new / label_file.name).write_bytes(content)
        again = layout.find_images(new / home, options).files
        got = {os.path.relpath(path, new): (part, str(of)) for part, of, path in again}
        wanted = {
            place: (part, str(values[new_class] if new_class else label))
            for place, origin in places.items()
            for (part, label), new_class in [(found[origin], changes.get(origin))]
        }
        check_same(root, got == wanted)
    return out / home


def of_class(origin: str, label: str, new: str) -> str:
    """Return the path in the folder of another class.

    >>> of_class("train/cat/1.png", "cat", "dog"), of_class("cat/cat/1.png", "cat", "dog")
    ('train/dog/1.png', 'dog/cat/1.png')
    """
    first, second, *rest = Path(origin).parts
    has_part = first.lower() in PARTS and second == label
    return str(Path(first, new, *rest) if has_part else Path(new, second, *rest))


def free_place(place: str, label: str, taken: Collection[str]) -> str:
    """Return a path that no other image has: with its old class, and a number, if need be."""
    stem, end = os.path.splitext(place)  # noqa: PTH122
    names = [place, f"{stem}.{label}{end}"]
    names += [f"{stem}.{label}.{number}{end}" for number in range(2, len(taken) + 3)]
    return next(name for name in names if name not in taken)


def check_same(source: Path, is_same: bool) -> None:
    if not is_same:
        raise DataError(
            f"new data must differ from {source} by what was decided only, and it would not: is "
            "the data what it was when its samples were ranked? Nothing is written"
        )


def put(source: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, place)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, place)


def edited_label_file(
    path: Path,
    root: Path,
    options: layout.LabelOptions,
    target: str,
    labels: Mapping[str, str],
    changes: Changes,
) -> bytes:
    table = reading.read_columns(path, options.written)
    (column,) = layout.file_columns(table.columns)[:1]
    known = layout.named([*layout.images_under(root)], path.parent)
    rows: dict[str, str] = {}  # by number, from 1: the image, from the root
    for number, name in enumerate(table.texts([column])[column].to_pylist(), 1):
        for image in known.get(layout.key_of(name), []):
            rows[str(number)] = os.path.relpath(image, root)
    of_rows = {row: labels[image] for row, image in rows.items() if image in labels}
    new = {row: changes[image] for row, image in rows.items() if image in changes}
    return edited_table(path, options.written, target, of_rows, new)


def write_table(
    path: Path,
    out: Path,
    options: reading.TableOptions,
    target: str,
    labels: Mapping[str, str],
    changes: Changes,
) -> None:
    """Write a table with these changes, in the format of the file; lines of text stay as they are.

    `labels` has the class of each row that was read, by its number from 1.
    """
    name = path.name.lower()
    ending = next(end for end in (*reading.TEXT, path.suffix.lower()) if name.endswith(end))
    if not out.name.lower().endswith(ending):
        raise DataError(f"the new table must end with {ending}, as {path} does, got {out}")
    check_free(out)
    content = edited_table(path, options, target, labels, changes)
    if ending.endswith(".gz"):
        content = gzip.compress(content, mtime=0)
    with writing(out, DataError):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, content)


def edited_table(
    path: Path,
    options: reading.TableOptions,
    target: str,
    labels: Mapping[str, str],
    changes: Changes,
) -> bytes:
    """Return the content of a table with these changes.

    A new class is written as in a row that has it, so that it is read as that class again.
    """
    import pyarrow.json
    import pyarrow.parquet

    firsts = {label: int(row) - 1 for row, label in labels.items()}
    taken = {int(row) - 1: firsts[label] for row, label in changes.items() if label is not None}
    dropped = {int(row) - 1 for row, label in changes.items() if label is None}
    with raised_as(DataError, f"{path} must be a table that can be written anew"):
        name, edited = path.name.lower(), b""
        if name.endswith(reading.TEXT):
            dialect, _ = reading.find_dialect(path, options, ".")
            names = [name.strip() for name in dialect.names]
            with reading.opened(path) as file:
                content = file.read()
            edited = edited_text(content, dialect, names.index(target), taken, dropped)
            before, after = (
                reading.read_text(io.BytesIO(each), dialect, names) for each in (content, edited)
            )
        elif name.endswith(".jsonl"):
            content = path.read_bytes()
            edited = edited_lines(content, target, taken, dropped)
            before = pyarrow.json.read_json(io.BytesIO(content))
            schema = pyarrow.json.ParseOptions(explicit_schema=before.schema)
            after = pyarrow.json.read_json(io.BytesIO(edited), parse_options=schema)
        elif name.endswith(reading.ARROW):
            before, after = reading.map_arrow(path), None
        else:
            before, after = pyarrow.parquet.read_table(path), None
        rows = [row for row in range(before.num_rows) if row not in dropped]
        place = before.column_names.index(target)
        field, column = before.schema.field(place), before.column(place)
        sources = [taken.get(row, row) for row in rows]
        wanted = before.take(rows).set_column(place, field, column.take(sources))
        if after is None:
            return binary(wanted, name)
    check_same(path, after.equals(wanted))
    return edited


def binary(table: Any, name: str) -> bytes:
    import pyarrow
    import pyarrow.parquet

    content = io.BytesIO()
    if name.endswith(reading.ARROW):
        with pyarrow.ipc.new_file(content, table.schema) as file:
            file.write_table(table)
    else:
        pyarrow.parquet.write_table(table, content)
    return content.getvalue()


def edited_text(
    content: bytes,
    dialect: reading.Dialect,
    column: int,
    taken: Mapping[int, int],
    dropped: Collection[int],
) -> bytes:
    """Return text with a field of some rows as it is in others, and without the dropped ones."""
    text = content.decode(dialect.encoding)
    begin = "".join(list(io.StringIO(text, newline=""))[: dialect.skipped])
    mark = re.escape(dialect.delimiter)
    cell = rf'(?:"(?:[^"]++|"")*+"[^{mark}\r\n]*+|[^{mark}\r\n]*+)'
    record = re.compile(rf"{cell}(?:{mark}{cell})*+(?:\r\n|\r|\n|\Z)")
    cells = re.compile(rf"({cell})(?:{mark}|\r\n|\r|\n|\Z)")

    def span(line: str) -> tuple[int, int]:
        found = [each.span(1) for each in cells.finditer(line)]
        return found[column]

    def is_row(line: str) -> bool:
        return bool(line.strip()) or line.count(dialect.delimiter) + 1 == len(dialect.names)

    def relabelled(line: str, source: str) -> str:
        (first, last), (start, end) = span(line), span(source)
        return line[:first] + source[start:end] + line[last:]

    lines = [found[0] for found in record.finditer(text, len(begin)) if found[0]]
    rows = [number for number, line in enumerate(lines) if is_row(line)]
    rows = rows[1 + dialect.units :]  # below the names
    kept = edited_rows(lines, rows, taken, dropped, relabelled)
    return "".join([begin, *kept]).encode(dialect.encoding)


def edited_lines(
    content: bytes, target: str, taken: Mapping[int, int], dropped: Collection[int]
) -> bytes:
    """Return JSON lines likewise; a line with another value is written anew."""
    lines = content.splitlines(keepends=True)
    rows = [number for number, line in enumerate(lines) if line.strip()]

    def relabelled(line: bytes, source: bytes) -> bytes:
        new = json.loads(line) | {target: json.loads(source)[target]}
        return json.dumps(new, ensure_ascii=False).encode() + b"\n"

    kept: list[bytes] = edited_rows(lines, rows, taken, dropped, relabelled)
    return b"".join(kept)


def edited_rows(
    lines: Sequence[T],
    rows: Sequence[int],
    taken: Mapping[int, int],
    dropped: Collection[int],
    relabelled: Callable[[T, T], T],
) -> list[T]:
    """Return lines, of which `rows` are the numbers of those that are rows, with the changes."""
    new = {rows[at]: relabelled(lines[rows[at]], lines[rows[of]]) for at, of in taken.items()}
    left_out = {rows[row] for row in dropped}
    return [new.get(n, line) for n, line in enumerate(lines) if n not in left_out]
