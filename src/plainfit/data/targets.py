"""What a model is to predict: one class of several, several labels at once, or numbers."""

import sys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plainfit.common.errors import DataError, near_miss, shortened
from plainfit.data.alone import NUMBER

CLASSIFICATION, REGRESSION, MULTI_LABEL = "classification", "regression", "multi-label"
SEGMENTATION = "segmentation"  # a class for each pixel
TASKS = (CLASSIFICATION, REGRESSION, MULTI_LABEL)

MOST_CLASSES = 10_000  # more classes mean a column of identifiers or of measurements
FEW_WHOLE = 10  # that need no note
MOST_WHOLE = 30  # whole numbers that are classes without a question
SEVERAL = ("|", ";")  # between labels; a comma may be in the name of a class

Labels = Sequence[Any] | NDArray[Any] | Tensor


class Scaling(NamedTuple):
    """The mean and the standard deviation of a number in the training set."""

    mean: float
    std: float


@dataclass(frozen=True)
class Target:
    """What the outputs of a model stand for."""

    names: tuple[str, ...]
    """Of the classes, the labels or the numbers, one for each output."""
    task: str = CLASSIFICATION
    scaling: tuple[Scaling, ...] = field(default=())
    """Of the numbers: a model predicts (number - mean) / std."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes or labels; empty for numbers."""
        return () if self.task == REGRESSION else self.names

    def scaled(self, numbers: Tensor) -> Tensor:
        """Standardise numbers, shape (samples, targets): float32."""
        mean, std = torch.tensor(self.scaling, dtype=torch.float64).unbind(1)
        return ((numbers.double() - mean) / std).float()

    def restored(self, out: Tensor) -> Tensor:
        """Turn what a model predicts, shape (samples, targets), back into numbers: float32."""
        mean, std = torch.tensor(self.scaling, dtype=torch.float64).unbind(1)
        return (out.cpu().double() * std + mean).float()

    def encoded(self, name: str, labels: Labels) -> Tensor:
        if self.task == REGRESSION:
            return self.scaled(torch.from_numpy(as_numbers(name, "y", labels)))
        if self.task == MULTI_LABEL and np.ndim(labels) == 2:
            return torch.from_numpy(np.asarray(labels, np.float32))
        values = [str(value) for value in label_array(name, "y", labels, self.task).tolist()]
        sets = split_labels(values) if self.task == MULTI_LABEL else [[text] for text in values]
        numbers = {text.strip(): number for number, text in enumerate(self.names)}
        if unknown := sorted(set().union(*sets) - numbers.keys()):
            raise DataError(
                f"{name}: labels must be among {shortened(self.names)}, got {shortened(unknown)}"
                f"{near_miss(unknown[0], numbers)}"
            )
        if self.task == MULTI_LABEL:
            return membership(sets, self.names)
        return torch.tensor([numbers[text] for text in values], dtype=torch.int64)

    def text(self, y: Tensor) -> str:
        if self.task == CLASSIFICATION:
            return self.names[int(y)]
        if self.task == SEGMENTATION:
            return ", ".join(self.names[number] for number in y.unique().tolist() if number >= 0)
        if self.task == MULTI_LABEL:
            return SEVERAL[0].join(n for n, there in zip(self.names, y, strict=True) if there)
        return ", ".join(f"{number:.6g}" for number in self.restored(y).tolist())

    def to_dict(self) -> dict[str, Any]:
        """Return the record for `run.json`."""
        scaling = [scaling._asdict() for scaling in self.scaling]
        targets = dict(zip(self.names, scaling, strict=True)) if scaling else {}
        return {"task": self.task, "classes": list(self.classes), "targets": targets}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Target":
        targets = record.get("targets") or {}
        scaling = tuple(Scaling(**values) for values in targets.values())
        return cls(tuple(targets or record["classes"]), record.get("task", CLASSIFICATION), scaling)


def encode(
    name: str, labels: Mapping[str, Labels], task: str | None = None, names: Sequence[str] = ()
) -> tuple[Target, dict[str, Tensor], list[str]]:
    """Return what the labels of all parts are, the labels as numbers, and notes.

    Classes are int64, shape (samples,); several labels 0 or 1, float32, shape (samples, labels);
    numbers float64, shape (samples, targets), not yet standardised. Without a `task` it follows
    from the values. The `names` are those of columns.
    """
    arrays = {part: np.asarray(values) for part, values in labels.items()}
    if len(shapes := {values.shape[1:] for values in arrays.values()}) > 1:
        raise DataError(
            f"{name}: the labels of all parts must have one shape, got {sorted(shapes)}"
        )
    notes: list[str] = []
    if task is None:
        task, notes = find_task(name, list(arrays.values()))
    width = arrays["train"].shape[1] if arrays["train"].ndim == 2 else 1
    names = tuple(names) if len(names) == width else tuple(f"y{i}" for i in range(width))
    if task == REGRESSION:
        numbers = {p: torch.from_numpy(as_numbers(name, p, v)) for p, v in arrays.items()}
        return Target(names, task), numbers, notes
    if task == CLASSIFICATION:
        classes, encoded = encode_classes(name, arrays)
        return Target(tuple(classes), task), encoded, notes
    if width > 1:
        for part, values in arrays.items():
            if wrong := set(np.unique(values).tolist()) - {0, 1}:
                raise DataError(
                    f"{name}: several labels must each be 0 or 1, got {min(wrong)} in {part}"
                )
        encoded = {part: torch.from_numpy(np.float32(values)) for part, values in arrays.items()}
        return Target(names, task), encoded, notes
    texts = {part: label_array(name, part, values, task) for part, values in arrays.items()}
    sets = {part: split_labels([str(t) for t in values.tolist()]) for part, values in texts.items()}
    found = tuple(sorted({label for of in sets.values() for each in of for label in each}))
    return Target(found, task), {p: membership(of, found) for p, of in sets.items()}, notes


def find_task(name: str, arrays: Sequence[NDArray[Any]]) -> tuple[str, list[str]]:
    """Return the task that fits the labels, and a note if another one would, too."""
    values = np.concatenate([np.asarray(array) for array in arrays])
    if values.ndim == 2:
        if set(np.unique(values).tolist()) - {0, 1}:
            return REGRESSION, []
        if (values.sum(1) == 1).all():
            raise DataError(
                f"{name}: each row of labels of shape {values.shape} has a single 1: take "
                "argmax(1) of them for classes, or set task (--task multi-label)"
            )
        return MULTI_LABEL, []
    if values.dtype.kind == "f" and np.isfinite(values).all() and (values % 1 != 0).any():
        return REGRESSION, []
    if values.dtype.kind in "iuf":
        if (count := len(np.unique(values))) > MOST_WHOLE:
            raise DataError(
                f"{name}: the target has {count} different whole numbers, which may be classes or "
                "amounts: set task (--task regression or --task classification)"
            )
        few = f"the {count} whole numbers of the target are classes (--task regression: amounts)"
        return CLASSIFICATION, [few] if count > FEW_WHOLE else []
    try:
        distinct = sorted({str(value) for value in {*values.tolist()}})
        task, notes = task_of_texts(distinct)
    except (ValueError, SystemError, TypeError):  # no text, which is refused for classes
        return CLASSIFICATION, []
    if task == CLASSIFICATION and MOST_WHOLE < len(distinct) > len(values) / 2:
        raise DataError(
            f"{name}: the target has {len(distinct)} different texts in {len(values)} rows, such "
            f"as {distinct[0]!r}, as ids or amounts with units are: choose another target, or set "
            "task (--task classification)"
        )
    return task, notes


def task_of_texts(distinct: Sequence[str]) -> tuple[str, list[str]]:
    are_lists = all(text[:1] + text[-1:] == "[]" for text in distinct)
    marks = [m for m in (*SEVERAL, *("," * are_lists)) if any(m in text for text in distinct)]
    parts = set().union(*split_labels(distinct)) if marks else set()
    if marks and (are_lists or len(parts) < len(distinct)):
        return MULTI_LABEL, [
            f"labels are separated by {marks[0]!r}: each of {len(parts)} is there or not (--task "
            "classification takes each whole text for a class)"
        ]
    return CLASSIFICATION, []


def split_labels(texts: Sequence[str]) -> list[list[str]]:
    """Return the labels of each sample.

    >>> split_labels(["rain|wind", "", "sun"])
    [['rain', 'wind'], [], ['sun']]
    """
    mark = next((mark for mark in (*SEVERAL, ",") if any(mark in text for text in texts)), None)
    parts = ([text] if mark is None else text.strip("[]").split(mark) for text in texts)
    return [[label for of in each if (label := of.strip(" '\""))] for each in parts]


def membership(sets: Sequence[Sequence[str]], names: Sequence[str]) -> Tensor:
    numbers = {label: number for number, label in enumerate(names)}
    matrix = torch.zeros(len(sets), len(names))
    for row, labels in enumerate(sets):
        matrix[row, [numbers[label] for label in labels]] = 1
    return matrix


def as_numbers(name: str, part: str, labels: Labels) -> NDArray[np.float64]:
    """Return numbers of shape (samples, targets), after checking that they are."""
    values = np.asarray(labels)
    if values.dtype.kind not in "iufb" or values.ndim not in (1, 2):
        raise DataError(
            f"{name}: for regression the target must be numbers, one or several for a sample, got "
            f"{values.dtype} of shape {values.shape} in {part}"
        )
    numbers = values.astype(np.float64).reshape(len(values), -1)
    if not (finite := np.isfinite(numbers).all(1)).all():
        raise DataError(
            f"{name}: the target must be finite numbers, and has NaN or infinity in row "
            f"{int((~finite).argmax())} of {part}"
        )
    return numbers


def check_target(name: str, target: Target, parts: Mapping[str, Tensor]) -> list[str]:
    """Check that what is to be predicted can be learned from the training set; return notes."""
    for part, labels in parts.items():
        if len(labels) == 0:
            has = f", of which it has {len(target.names)}" * (target.task == CLASSIFICATION)
            raise DataError(
                f"{name}: {part} must have samples, and none could be taken from the training set; "
                f"provide at least two of each class{has}"
            )
    if target.task == CLASSIFICATION:
        return [*lookalikes(target.names), *check_classes(name, target.names, parts)]
    train = parts["train"]
    if target.task == SEGMENTATION:
        counts = per_class(train, len(target.names)).tolist()
        absent = [repr(of) for of, count in zip(target.names, counts, strict=True) if not count]
        return [f"train has no pixels of {shortened(absent)}"] if absent else []
    if target.task == REGRESSION:
        for column, of in zip(train.unbind(1), target.names, strict=True):
            if column.min() == column.max():
                raise DataError(
                    f"{name}: the target must vary, and {of!r} is {float(column[0]):g} in every "
                    "training row"
                )
        return []
    if not target.names:
        raise DataError(f"{name}: there must be labels, and no sample has one")
    absent = [of for of, seen in zip(target.names, train.any(0).tolist(), strict=True) if not seen]
    none = f"no training sample has the labels {shortened([*map(repr, absent)])}"
    return [*lookalikes(target.names), *([none] if absent else [])]


def per_class(labels: Tensor, count: int) -> Tensor:
    """Return how often each class is among labels, of which it may be given for each sample."""
    if labels.dim() == 2:
        return labels.sum(0).long()[:count]
    return labels[labels >= 0].bincount(minlength=count)


def encode_classes(name: str, labels: Mapping[str, Labels]) -> tuple[list[str], dict[str, Tensor]]:
    """Number the distinct labels 0, 1, ... in sorted order; return their names and the numbers."""
    arrays = {part: label_array(name, part, values) for part, values in labels.items()}
    if len({values.dtype.kind in "iu" for values in arrays.values()}) > 1:
        raise DataError(f"{name}: labels must be numbers in all parts, or text in all")
    if np.result_type(*arrays.values()).kind == "f":  # of int64 and uint64: numbers would merge
        arrays = {part: values.astype(object) for part, values in arrays.items()}
    found = np.concatenate(list(arrays.values()))
    is_object = found.dtype == object  # which a set tells apart much faster
    distinct = np.array(sorted({*found.tolist()}), object) if is_object else np.unique(found)
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


def label_array(name: str, part: str, labels: Labels, task: str = CLASSIFICATION) -> NDArray[Any]:
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
    if (kind := values.dtype.kind) in "iu" or (kind == "O" and {*map(type, values)} <= {int}):
        return values
    if kind == "b":
        values, kind = values.astype(str), "U"
    if not (kind in "SU" or all(issubclass(t, str) for t in {*map(type, values)})):
        raise DataError(f"{name}: labels must be names or whole numbers, got {values.dtype}")
    try:
        if kind == "S":
            values = np.char.decode(values, "utf-8")
        texts = {value.strip() for value in {*values.tolist()}}
        "".join(texts).encode()
        if any(ord(max(text)) > sys.maxunicode for text in texts - {""}):
            raise ValueError("a code point is out of range")
    except (ValueError, SystemError) as error:  # NumPy's text may hold invalid characters
        raise DataError(f"{name}: class names must be valid text ({error})") from error
    if task == CLASSIFICATION and "" in texts:
        empty = sum(not value.strip() for value in values.tolist())
        raise DataError(
            f"{name}: no label may be missing, and {empty} of {len(values)} are empty in {part}; "
            "where a sample may have none or several, set task (--task multi-label)"
        )
    return values


def check_whole(name: str, part: str, labels: NDArray[np.float64]) -> None:
    bad = ~(np.abs(labels) < 2.0**53) | (labels != np.floor(labels))  # beyond, numbers merge
    if bad.any():
        raise DataError(
            f"{name}: labels must be classes (names or whole numbers), got decimal, huge or "
            f"missing numbers in {part}, in {int(bad.sum())} of {len(labels)} rows; for numbers "
            "set task to regression"
        )


def lookalikes(classes: Sequence[str], what: str = "classes") -> list[str]:
    """Note texts that differ only in case, spaces, or how letters or a number are written."""
    alike: dict[Decimal | str, list[str]] = {}
    for name in classes:
        text = " ".join(unicodedata.normalize("NFKC", name).split())
        key = Decimal(text) if NUMBER.fullmatch(text) else text.casefold()
        alike.setdefault(key, []).append(repr(name))
    groups = [" and ".join(names) for names in alike.values() if len(names) > 1]
    return [f"{what} that look alike are kept apart: {shortened(groups)}"] if groups else []


def check_classes(name: str, classes: Sequence[str], parts: Mapping[str, Tensor]) -> list[str]:
    """Check that every class can be learned; note those that are in the training set only."""
    if len(classes) < 2:
        raise DataError(f"{name}: there must be at least two classes, got {list(classes)}")
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
