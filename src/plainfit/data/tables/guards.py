"""Columns that give the target away, or only name the rows: refused or noted, by one option."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plainfit.common.errors import DataError
from plainfit.data.tables.preparing import Made
from plainfit.data.tables.values import Dates, Texts, Values, is_number

MOST_INPUTS = 50  # of a text column, unless it is named as categorical
MOST_CATEGORIES = 1000  # of one that is named
FIRST = 1000  # rows from which most columns show that there is nothing to guard against
MULTIPLIER = np.uint64(6364136223846793005)  # Knuth's, for a linear congruence modulo 2**64
LONG = 20  # characters, of texts that may be sentences
FEW_ROWS = 20  # too few to tell from chance


def check_column(
    name: str, values: Values, made: Made, labels: NDArray[np.int64], train: int, *, asked: bool
) -> list[str]:
    """Refuse or note a column by its values and the labels; `asked` is one that the user named."""
    categories = made.get("categories", [])
    drop = f"leave it out by --drop {name}"
    if len(categories) > (MOST_CATEGORIES if asked else MOST_INPUTS):
        keep = "" if asked else f", or keep it by --categorical {name}"
        numbers = "" if asked else near_numbers(values)
        if sum(map(len, categories)) > LONG * len(categories):
            keep += f", or have its words be the input by --text {name}"
        raise DataError(
            f"column {name!r} is text with {len(categories)} categories in {train} training rows, "
            f"and each would be an input: {drop}{keep}{numbers}"
        )
    if isinstance(values, Dates):
        parts = ", ".join(made["date"])
        return [f"column {name!r} has dates ({values.format}); the inputs are their {parts}"]
    if asked:
        return []
    keep = f"--{'categorical' if categories else 'numeric'} {name}"
    codes: NDArray[Any] = values.codes if isinstance(values, Texts) else values
    is_long = len(codes) >= FEW_ROWS
    if is_long and is_renamed(codes, labels):
        raise DataError(
            f"column {name!r} is the target under another name, each value with one class: {drop}, "
            f"or keep it by {keep}"
        )
    if codes is values and differ_and_whole(codes):
        changes = int((np.diff(labels[np.argsort(codes)]) != 0).sum())
        if is_long and changes == int(labels.max()):
            raise DataError(
                f"column {name!r} has another whole number in each row, and the classes are sorted "
                f"by it, as by the number of a row: {drop}, or keep it by {keep}"
            )
        if numbers_rows(codes):
            return [f"column {name!r} numbers the rows: --drop {name} leaves it out"]
    if 2 * len(categories) > train:
        return [f"column {name!r} is text: {len(categories)} categories in {train} training rows"]
    return [f"column {name!r} is constant: its input is 0"] if made.get("std") == 0 else []


def is_renamed(codes: NDArray[Any], labels: NDArray[np.int64]) -> bool:
    """Return whether each value comes with one class, and each class with one value."""
    classes = int(labels.max()) + 1
    if classes < 2 or len(np.unique(codes[:FIRST])) > classes:
        return False
    found, places = np.unique(codes, return_inverse=True)
    return len(found) == classes == len(np.unique(places * classes + labels))


def differ_and_whole(numbers: NDArray[Any]) -> bool:
    """Return whether all numbers are whole, and each is there once."""
    return all(
        bool((some % 1 == 0).all()) and len(np.unique(some)) == len(some)
        for some in (numbers[:FIRST], numbers)
    )


def numbers_rows(numbers: NDArray[Any]) -> bool:
    """Return whether n different whole numbers are n in a row, in any order."""
    return int(numbers.max()) - int(numbers.min()) == len(numbers) - 1


def seen_in_training(
    inputs: Iterable[NDArray[Any]], parts: Mapping[str, NDArray[np.int64]]
) -> list[str]:
    """Count the rows of each other part that have the inputs of a training row."""
    keys = np.zeros(1, np.uint64)
    for column in inputs:  # a hash: two other rows have one with a chance of 2**-64
        keys = keys * MULTIPLIER + column.astype(np.float32).view(np.uint32)
    train, counted = np.sort(keys[parts["train"]]), []
    for part in [part for part in parts if part != "train"]:
        own = keys[parts[part]]
        at = np.searchsorted(train, own).clip(max=len(train) - 1)
        if seen := int((train[at] == own).sum()):
            counted.append(f"{seen} of {len(own)} in {part}")
    return [f"rows with the inputs of a training row: {', '.join(counted)}"] if counted else []


def near_numbers(values: Values) -> str:
    """Tell how a column can be numbers, if half of it is."""
    assert isinstance(values, Texts)
    others = [at for at, text in enumerate(values.names) if not is_number(text.replace(",", "."))]
    count = int(np.isin(values.codes, others).sum())
    if 2 * count > len(values.codes):
        return ""
    if not others:
        return "; they are numbers if --decimal or --numeric says so"
    shown = values.names[others[0]]
    return f"; {count} of {len(values.codes)} are no numbers, such as {shown!r}: --na names gaps"
