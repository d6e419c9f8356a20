"""`DataSplits`, what every source of data becomes, and the splitting and labelling behind it."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from plainfit.common.errors import ConfigError, DataError, shortened
from plainfit.data.datasets import ImageDataset
from plainfit.data.ondisk import LazyImages, LazySamples
from plainfit.data.parts import USUAL, Split, split_rows
from plainfit.data.targets import (
    CLASSIFICATION,
    REGRESSION,
    SEGMENTATION,
    Labels,
    Scaling,
    Target,
    check_target,
    encode,
    per_class,
)

PARTS = {
    "train": "train", "training": "train", "trn": "train", "valid": "valid", "val": "valid",
    "validation": "valid", "dev": "valid", "test": "test", "testing": "test",
}  # fmt: skip
ALIKE = 16.0  # parts whose largest values are further apart than this factor are scaled differently
MOST_NAMED = 10  # problems in an error
LARGEST, MOST_TIMES = 2**30, 100  # bytes that a file may unpack to, or times its own size
MODES = {1: "L", 3: "RGB"}  # Pillow's names, by the number of channels of an image

Samples = Tensor | LazySamples


def image_preprocessing(channels: int) -> dict[str, Any]:
    mode = MODES.get(channels, f"{channels} channels")
    return {"values": "bytes / 256", "mode": mode, "order": "channels, height, width"}


OF_IMAGE_FILES = [image_preprocessing(channels) for channels in MODES]


def values_text(preprocessing: Mapping[str, Any], features: Sequence[str] = ()) -> str:
    """Return in words how values were made; the mean and std of a column are left out."""
    made = ", ".join(str(part) for name, part in preprocessing.items() if name != "columns")
    return f"{made} of the columns {shortened(features)}" if features else made


def taken(preprocessing: Mapping[str, Any], columns: Mapping[str, Any], task: str) -> str:
    """Return what `plainfit predict` takes, such as IMAGE.png; empty if it takes none."""
    source = "IMAGE.png" if preprocessing in OF_IMAGE_FILES else "NEW.csv" * bool(columns)
    return source + " -o masks" * (task == SEGMENTATION)


@dataclass(frozen=True)
class DataSplits:
    """The datasets of a source, and what is known about them."""

    name: str
    train: Dataset[Any]
    valid: Dataset[Any]
    test: Dataset[Any] | None
    target: Target
    """What is to be predicted."""
    input_shape: tuple[int, ...]
    """The shape of one sample: (channels, height, width) for images, else usually (features,)."""
    features: tuple[str, ...] = ()
    """The name of each column, for a table."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """How the features of a table were made: the mean and std of a column, or its categories."""
    notes: tuple[str, ...] = ()
    """What the user should know about how the data was read."""
    rows: Mapping[str, tuple[str, Tensor]] = field(default_factory=dict)
    """For each part, where it was read, such as `train`, and which of the samples there it has."""
    sources: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Where each sample there is from, if not from an array: a file, or a row of a table from 1."""

    @property
    def task(self) -> str:
        """`classification`, `regression`, `multi-label` or `segmentation`."""
        return self.target.task

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of each class or label, in order; empty for a regression."""
        return self.target.classes

    @property
    def mixed_classes(self) -> int | None:
        """The number of classes for augmentations that mix labels; None where they cannot."""
        return len(self.classes) if self.task == CLASSIFICATION else None

    def parts(self) -> dict[str, Dataset[Any]]:
        """Return the datasets by name: `train`, `valid` and, if there is one, `test`."""
        parts = {"train": self.train, "valid": self.valid, "test": self.test}
        return {name: part for name, part in parts.items() if part is not None}

    def counts(self) -> dict[str, int]:
        """Return the number of samples in each part."""
        return {name: len(labels_of(part)) for name, part in self.parts().items()}

    def class_counts(self) -> dict[str, list[int]]:
        """Return the number of samples of each class or label in each part, or that of pixels."""
        count = len(self.classes)
        parts = self.parts().items()
        return {name: per_class(labels_of(part), count).tolist() for name, part in parts}

    @property
    def embeddings(self) -> dict[str, int]:
        """How many codes the features have that are embedded, by their place (a text, for JSON)."""
        return {
            str(self.features.index(name)): 1 + len(made["categories"])
            for name, made in self.columns.items()
            if "embedded" in made
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

    def origins(self) -> dict[str, list[str]]:
        """Return the file of each sample, its row in the table, or PART/ROW of arrays, from 0."""
        return {
            part: [
                str(self.sources[of][row]) if self.sources else f"{of}/{row}" for row in at.tolist()
            ]
            for part, (of, at) in self.rows.items()
        }

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of every value and label, as hex digits; computed when first read."""
        known = self.target.scaling or self.classes
        digest = hashlib.sha256(repr(known).encode())
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
            **self.target.to_dict(),
            "input_shape": list(self.input_shape),
            "features": list(self.features),
            "preprocessing": self.preprocessing,
            "notes": list(self.notes),
            "fingerprint": self.fingerprint,
        }


def vocabulary_of(columns: Mapping[str, Any]) -> int | None:
    """Return how many numbers words of text have (0 and 1 are no known word), or its tokens."""
    for made in columns.values():
        if "length" in made:
            return int(made["size"] if "tokenizer" in made else 2 + len(made["vocabulary"]))
    return None


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
    target: Target | None = None,
    task: str | None = None,
    features: Sequence[str] = (),
    columns: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    hashes: Mapping[str, Sequence[int]] | None = None,
    rows: Mapping[str, tuple[str, Tensor]] | None = None,
    sources: Mapping[str, Sequence[Any]] | None = None,
) -> DataSplits:
    """Check samples and labels, split off the parts that are missing, and make the datasets.

    A missing `valid` is split off `train`, and so is a missing `test` if both are missing, unless
    `rows` says what `split_rows` drew. Labels of a `target` are encoded already; of others the
    `task` is known, or follows from them. Samples with the `hashes` of training samples are noted.
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
    if target is None:
        target, encoded, found = encode(name, given, task)
        notes += found
    else:
        encoded = {part: torch.as_tensor(labels) for part, labels in given.items()}
    rows = rows or split_rows(name, strata(target, encoded), split)
    notes += check_target(name, target, {p: encoded[of][at] for p, (of, at) in rows.items()})
    if target.task == REGRESSION:
        target, encoded = standardised(name, target, encoded, rows["train"][1])
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
        target=target,
        input_shape=shapes.pop(),
        features=tuple(features),
        columns=columns or {},
        notes=tuple(notes),
        rows=rows,
        sources=sources or {},
    )


def strata(target: Target, labels: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the number of the class of each sample; of numbers and several labels, one for all."""
    if target.task == CLASSIFICATION:
        return dict(labels)
    return {part: torch.zeros(len(of), dtype=torch.int64) for part, of in labels.items()}


def standardised(
    name: str, target: Target, numbers: Mapping[str, Tensor], train: Tensor
) -> tuple[Target, dict[str, Tensor]]:
    """Return numbers as (number - mean) / std of the training samples, and a target with those."""
    given = numbers["train"][train].double()
    pairs = zip(given.mean(0).tolist(), given.std(0, correction=0).tolist(), strict=True)
    target = replace(target, scaling=tuple(Scaling(*pair) for pair in pairs))
    scaled = {part: target.scaled(of) for part, of in numbers.items()}
    for part, of in scaled.items():
        for row, column in (~of.isfinite()).nonzero()[:1].tolist():
            raise DataError(
                f"{name}: numbers of a target must be within 3e38 standard deviations of their "
                f"mean, and {target.names[column]!r} has {float(numbers[part][row, column]):g} in "
                f"{part} (standard deviation {target.scaling[column].std:g}); use another unit, or "
                "leave such rows out"
            )
    return target, scaled


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
