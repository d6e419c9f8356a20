"""`DataSplits`, what every source of data becomes, and the splitting and labelling behind it."""

import hashlib
import re
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from plainfit.common.errors import ConfigError, DataError, near_miss
from plainfit.data.datasets import ImageDataset
from plainfit.data.ondisk import LazyImages, LazySamples
from plainfit.data.parts import USUAL, Split, split_rows

PARTS = {
    "train": "train", "training": "train", "trn": "train", "valid": "valid", "val": "valid",
    "validation": "valid", "dev": "valid", "test": "test", "testing": "test",
}  # fmt: skip
ALIKE = 16.0  # parts whose largest values are further apart than this factor are scaled differently
FEW, MOST_NAMED = 5, 10  # names in a note, problems in an error
NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,3})?")
LARGEST, MOST_TIMES = 2**30, 100  # bytes that a file may unpack to, or times its own size
MODES = {1: "L", 3: "RGB"}  # Pillow's names, by the number of channels of an image
MOST_CLASSES = 10_000  # more classes mean a column of identifiers or of measurements

Samples = Tensor | LazySamples
Labels = Sequence[Any] | NDArray[Any] | Tensor


def image_preprocessing(channels: int) -> dict[str, Any]:
    mode = MODES.get(channels, f"{channels} channels")
    return {"values": "bytes / 256", "mode": mode, "order": "channels, height, width"}


OF_IMAGE_FILES = [image_preprocessing(channels) for channels in MODES]


@dataclass(frozen=True)
class DataSplits:
    """The datasets of a source, and what is known about them."""

    name: str
    train: Dataset[Any]
    valid: Dataset[Any]
    test: Dataset[Any] | None
    classes: tuple[str, ...]
    """The name of each label, in order."""
    input_shape: tuple[int, ...]
    """The shape of one sample: (channels, height, width) for images, else usually (features,)."""
    features: tuple[str, ...] = ()
    """The name of each column, for a table."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """How the features of a table were made: the mean and std of a column, or its categories."""
    notes: tuple[str, ...] = ()
    """What the user should know about how the data was read."""

    def parts(self) -> dict[str, Dataset[Any]]:
        """Return the datasets by name: `train`, `valid` and, if there is one, `test`."""
        parts = {"train": self.train, "valid": self.valid, "test": self.test}
        return {name: part for name, part in parts.items() if part is not None}

    def counts(self) -> dict[str, int]:
        """Return the number of samples in each part."""
        return {name: len(labels_of(part)) for name, part in self.parts().items()}

    def class_counts(self) -> dict[str, list[int]]:
        """Return the number of samples of each class in each part."""
        return {
            name: torch.bincount(labels_of(part), minlength=len(self.classes)).tolist()
            for name, part in self.parts().items()
        }

    @property
    def vocabulary(self) -> int | None:
        """How many numbers a word of text can have; None for other data."""
        return vocabulary_of(self.columns)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How the values that a model sees were made from those in the files."""
        if self.columns:
            values = "(column - mean) / std" if self.vocabulary is None else "numbers of words"
            return {"values": values, "columns": dict(self.columns)}
        if isinstance(self.train, ImageDataset | LazyImages):
            return image_preprocessing(self.input_shape[0])
        return {"values": "as in the data"}

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of every value and label, as hex digits; computed when first read."""
        digest = hashlib.sha256(repr(self.classes).encode())
        for name, part in self.parts().items():
            digest.update(name.encode())
            for content in part.contents() if isinstance(part, LazySamples) else ():
                digest.update(content)
            for tensor in part.tensors if isinstance(part, TensorDataset) else (labels_of(part),):
                digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
                digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return the record for `run.json`."""
        return {
            "name": self.name,
            "counts": self.counts(),
            "classes": list(self.classes),
            "input_shape": list(self.input_shape),
            "features": list(self.features),
            "preprocessing": self.preprocessing,
            "notes": list(self.notes),
            "fingerprint": self.fingerprint,
        }


def vocabulary_of(columns: Mapping[str, Any]) -> int | None:
    """Return how many numbers the words of a text column have: 0 and 1 stand for no known word."""
    found = [2 + len(made["vocabulary"]) for made in columns.values() if "vocabulary" in made]
    return found[0] if found else None


def check_images(data: DataSplits) -> None:
    if len(data.input_shape) != 3:
        raise ConfigError(
            f"augment requires images, and the samples of {data.name} have shape "
            f"{tuple(data.input_shape)}; leave it out"
        )


def labels_of(part: Dataset[Any]) -> Tensor:
    assert isinstance(part, TensorDataset | LazySamples)
    return part.tensors[-1] if isinstance(part, TensorDataset) else part.labels


def make_splits(
    name: str,
    parts: Mapping[str, tuple[Samples, Labels]],
    *,
    split: Split = USUAL,
    classes: Sequence[str] = (),
    features: Sequence[str] = (),
    columns: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    hashes: Mapping[str, Sequence[int]] | None = None,
) -> DataSplits:
    """Check samples and labels, split off the parts that are missing, and make the datasets.

    A missing `valid` is split off `train`, and so is a missing `test` if both are missing. Without
    `classes`, labels are named by their own values. Samples with the `hashes` of training samples
    are noted.
    """
    for part, (samples, labels) in parts.items():
        if len(samples) != len(labels):
            raise DataError(
                f"{name}: every sample must have one label, got {len(samples)} samples and "
                f"{len(labels)} labels in {part}"
            )
        if len(samples) == 0:
            raise DataError(f"{name}: {part} must have samples, and it is empty")
    shapes = {
        samples.shape if isinstance(samples, LazySamples) else tuple(samples.shape[1:])
        for samples, _ in parts.values()
    }
    if len(shapes) > 1:
        raise DataError(f"{name}: samples must have one shape, got {sorted(shapes)}")
    notes = [*notes, *check_scales(name, {part: samples for part, (samples, _) in parts.items()})]
    given = {part: labels for part, (_, labels) in parts.items()}
    if classes:
        encoded = {part: torch.as_tensor(labels) for part, labels in given.items()}
    else:
        classes, encoded = encode_labels(name, given)
    rows = split_rows(name, encoded, split)
    numbers = {part: encoded[source][at] for part, (source, at) in rows.items()}
    notes += [*lookalikes(classes), *check_classes(name, classes, numbers)]
    notes += copies(hashes, rows) if hashes else []
    sets = {
        part: make_dataset(parts[source][0], encoded[source], at)
        for part, (source, at) in rows.items()
    }
    return DataSplits(
        name=name,
        train=sets["train"],
        valid=sets["valid"],
        test=sets.get("test"),
        classes=tuple(classes),
        input_shape=shapes.pop(),
        features=tuple(features),
        columns=columns or {},
        notes=tuple(notes),
    )


def check_scales(name: str, parts: Mapping[str, Samples]) -> list[str]:
    """Refuse parts that were scaled in different ways; of other numbers than images, note it."""
    if len(parts) < 2:
        return []
    images = {part: is_bytes(samples) for part, samples in parts.items()}
    if len(set(images.values())) > 1:
        kinds = ", ".join(
            f"{part} {'bytes, to be divided by 256' if images[part] else 'other numbers'}"
            for part in parts
        )
        raise DataError(
            f"{name}: all parts must be scaled alike, got in {kinds}; save all as uint8 or all as "
            "floats"
        )
    largest = {part: largest_value(samples) for part, samples in parts.items()}
    if max(largest.values()) <= ALIKE * min(largest.values()):
        return []
    reach = ", ".join(f"{value:g} in {part}" for part, value in largest.items())
    if any(len(samples.shape) - isinstance(samples, Tensor) > 1 for samples in parts.values()):
        raise DataError(
            f"{name}: the images of all parts must be scaled alike, and they reach {reach}; scale "
            "them in one way"
        )
    return [f"the parts seem to be scaled differently: they reach {reach}"]


def is_bytes(samples: Samples) -> bool:
    if isinstance(samples, LazySamples):
        return isinstance(samples, LazyImages)
    return samples.dtype == torch.uint8 and samples.dim() == 4


def largest_value(samples: Samples) -> float:
    if isinstance(samples, LazySamples):
        return samples.largest
    low, high = samples.aminmax()
    return max(abs(float(low)), abs(float(high)))


def most_memory(path: Path) -> int:
    """Return how many bytes a file may unpack to: enough for real data, too few for a bomb."""
    return max(LARGEST, MOST_TIMES * path.stat().st_size)


def as_floats(
    name: str, what: str, values: NDArray[Any], rows: NDArray[np.int64] | None = None
) -> NDArray[np.float32]:
    """Return numbers as writable float32 in C order, after checking that they are finite.

    `name`, `what` and the row numbers `rows` are for messages.
    """
    with np.errstate(over="ignore"):  # an overflow becomes infinite, and is found below
        floats = np.require(values, np.float32, ["C", "W"])
    finite = np.isfinite(floats)
    if not finite.all():
        row = int(np.argwhere(~finite)[0][0])
        raise DataError(
            f"{name}: numbers must be finite as float32 (below 3.4e38), and {what} has NaN or "
            f"infinity in row {row if rows is None else int(rows[row])}"
        )
    return floats


def make_dataset(samples: Samples, labels: Tensor, rows: Tensor) -> Dataset[Any]:
    if isinstance(samples, LazySamples):
        part = samples.rows(rows)
        part.labels = labels[rows]
        return part
    if len(rows) < len(labels):  # else not copied
        samples, labels = samples[rows], labels[rows]
    return (ImageDataset if is_bytes(samples) else TensorDataset)(samples, labels)


def encode_labels(name: str, labels: Mapping[str, Labels]) -> tuple[list[str], dict[str, Tensor]]:
    """Number the distinct labels 0, 1, ... in sorted order; return their names and the numbers."""
    arrays = {part: label_array(name, part, values) for part, values in labels.items()}
    if len({values.dtype.kind in "iu" for values in arrays.values()}) > 1:
        raise DataError(f"{name}: labels must be numbers in all parts, or text in all")
    if np.result_type(*arrays.values()).kind == "f":  # of int64 and uint64: numbers would merge
        arrays = {part: values.astype(object) for part, values in arrays.items()}
    distinct = np.unique(np.concatenate(list(arrays.values())))
    if len(distinct) > MOST_CLASSES:
        raise DataError(
            f"{name}: there must be at most {MOST_CLASSES} classes, got {len(distinct)} different "
            "labels; is this the right target?"
        )
    encoded = {
        part: torch.from_numpy(np.searchsorted(distinct, values)).long()
        for part, values in arrays.items()
    }
    return [str(value) for value in distinct.tolist()], encoded


def label_array(name: str, part: str, labels: Labels) -> NDArray[Any]:
    """Return labels as whole numbers or text, after checking that none is missing."""
    values = np.asarray(labels)
    if values.ndim != 1:
        raise DataError(
            f"{name}: labels must be one value per sample, got shape {values.shape} in {part}"
        )
    if values.dtype.kind == "f":
        values = values.astype(np.float64)
        check_whole(name, part, values)
        return values.astype(np.int64)
    kind = values.dtype.kind
    if kind in "iu" or (kind == "O" and all(type(value) is int for value in values)):
        return values
    if values.dtype.kind == "b":
        values = values.astype(str)
    if not (values.dtype.kind in "SU" or all(isinstance(value, str) for value in values)):
        raise DataError(f"{name}: labels must be names or whole numbers, got {values.dtype}")
    try:
        if values.dtype.kind == "S":
            values = np.char.decode(values, "utf-8")
        texts = [value.strip() for value in values.tolist()]
        "".join(texts).encode()
        if any(ord(max(text)) > sys.maxunicode for text in {*texts} - {""}):
            raise ValueError("a code point is out of range")
    except (ValueError, SystemError) as error:  # NumPy's text may hold invalid characters
        raise DataError(f"{name}: class names must be valid text ({error})") from error
    if empty := texts.count(""):
        raise DataError(
            f"{name}: no label may be missing, and {empty} of {len(values)} are empty in {part}"
        )
    return values


def check_whole(name: str, part: str, labels: NDArray[np.float64]) -> None:
    bad = ~(np.abs(labels) < 2.0**53) | (labels != np.floor(labels))  # beyond, numbers merge
    if bad.any():
        raise DataError(
            f"{name}: labels must be classes (names or whole numbers), got decimal, huge or "
            f"missing numbers in {part}, in {int(bad.sum())} of {len(labels)} rows; plainfit train "
            "does classification"
        )


def copies(
    hashes: Mapping[str, Sequence[int]], rows: Mapping[str, tuple[str, Tensor]]
) -> list[str]:
    """Note samples outside the training set that are equal to one in it."""
    of = {part: [hashes[source][row] for row in at.tolist()] for part, (source, at) in rows.items()}
    trained = {*of.pop("train")}
    counts = {part: sum(each in trained for each in of_part) for part, of_part in of.items()}
    equal = [f"{count} of {len(of[part])} in {part}" for part, count in counts.items() if count]
    drawn = any(source == "train" and counts.get(part) for part, (source, _) in rows.items())
    together = ", or keep those of alike names in one part by --group-by" if drawn else ""
    text = "are equal to training images, and raise the scores; remove the copies"
    return [f"images {text}{together}: {' and '.join(equal)}"] if equal else []


def lookalikes(classes: Sequence[str]) -> list[str]:
    """Note classes that differ only in case, spaces, or how letters or a number are written."""
    alike: dict[Decimal | str, list[str]] = {}
    for name in classes:
        text = " ".join(unicodedata.normalize("NFKC", name).split())
        key = Decimal(text) if NUMBER.fullmatch(text) else text.casefold()
        alike.setdefault(key, []).append(repr(name))
    groups = [" and ".join(names) for names in alike.values() if len(names) > 1]
    return [f"classes that look alike are kept apart: {shortened(groups)}"] if groups else []


def shortened(names: Sequence[str], most: int = FEW) -> str:
    """
    >>> shortened(["a", "b", "c", "d", "e", "f", "g"])
    'a, b, c, d, e and 2 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def check_classes(name: str, classes: Sequence[str], parts: Mapping[str, Tensor]) -> list[str]:
    """Check that every class can be learned; note those that are in the training set only."""
    if len(classes) < 2:
        raise DataError(f"{name}: there must be at least two classes, got {list(classes)}")
    for part, labels in parts.items():
        if len(labels) == 0:
            raise DataError(
                f"{name}: {part} must have samples, and none could be taken from the training set; "
                "provide at least two of each class"
            )
    absent = {
        part: [classes[i] for i in (labels.bincount(minlength=len(classes)) == 0).nonzero()]
        for part, labels in parts.items()
    }
    if absent["train"]:
        names = ", ".join(map(repr, absent["train"]))
        near = near_miss(absent["train"][0], {*classes} - {*absent["train"]})
        raise DataError(f"{name}: every class must be in the training set; missing: {names}{near}")
    return [
        f"{part} has no samples of {shortened([repr(label) for label in of_part])}"
        for part, of_part in absent.items()
        if of_part
    ]
