"""Columns that give the target away, or only name the rows: refused or noted, by one option."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plainfit.common.errors import DataError, quoted
from plainfit.data.alone import GAPS, number
from plainfit.data.tables.preparing import Made
from plainfit.data.tables.values import Dates, Texts, Values, date_formats
from plainfit.data.targets import lookalikes

MOST_INPUTS = 50  # of a text column, unless it is named as categorical
MARKS_OF_GAPS = {-1, -9, -99, -999, -9999, -99999, 999, 9999, 99999}
MOST_CATEGORIES = 1000  # of one that is named
MOST_EMBEDDED = 10_000
FIRST = 1000  # rows from which most columns show that there is nothing to guard against
MULTIPLIER = np.uint64(6364136223846793005)  # Knuth's, for a linear congruence modulo 2**64
LONG = 20  # characters, of texts that may be sentences
FEW_ROWS = 20  # too few to tell from chance


def check_column(
    name: str, values: Values, made: Made, labels: NDArray[Any], train: int, *, asked: bool
) -> list[str]:
    """Refuse or note a column by its values and the labels; `asked` is one that the user named.

    The labels are classes, shape (samples,), or others, shape (samples, targets).
    """
    categories = made.get("categories", [])
    drop = f"leave it out by --drop {quoted(name)}"
    is_long_text = sum(map(len, categories)) > LONG * len(categories)
    most = MOST_CATEGORIES if asked else MOST_INPUTS
    if "embedded" in made:  # texts of which half are there once, such as names, are not wanted
        most = MOST_EMBEDDED if asked else max(most, min(train // 2, MOST_EMBEDDED))
    if len(categories) > most:
        keep = "" if asked else f", or keep it by --categorical {quoted(name)}"
        numbers = "" if asked else near_others(values)
        each = f"at most {most} are embedded" if "embedded" in made else "each would be an input"
        if is_long_text:
            keep += f", or have its words be the input by --text {quoted(name)}"
        raise DataError(
            f"column {name!r} is text with {len(categories)} categories in {train} training rows, "
            f"and {each}: {drop}{keep}{numbers}"
        )
    if isinstance(values, Dates):
        parts = ", ".join(made["date"])
        return [f"column {name!r} has dates ({values.format}); the inputs are their {parts}"]
    if asked:
        return []
    keep = f"--{'categorical' if categories else 'numeric'} {quoted(name)}"
    codes: NDArray[Any] = values.codes if isinstance(values, Texts) else values
    is_long = len(codes) >= FEW_ROWS
    is_target = labels.ndim == 2 and any(np.array_equal(codes, each) for each in labels.T)
    if is_long and (is_target or any(is_renamed(codes, each) for each in columns_of(labels))):
        raise DataError(
            f"column {name!r} is the target under another name, each value with one of its own: "
            f"{drop}, or keep it by {keep}"
        )
    if codes is values and differ_and_whole(codes):
        if is_long and labels.ndim == 1 and is_sorted(codes, labels):
            raise DataError(
                f"column {name!r} has another whole number in each row, and the classes are sorted "
                f"by it, as by the number of a row: {drop}, or keep it by {keep}"
            )
        if int(codes.max()) - int(codes.min()) == len(codes) - 1:  # in a row, in any order
            return [f"column {name!r} numbers the rows: --drop {quoted(name)} leaves it out"]
    if codes is not values and (numbers := near_others(values)):
        return [f"column {name!r} is text{numbers}"]
    if is_long_text and len(categories) > MOST_INPUTS:
        words = f"--text {quoted(name)} takes their words"
        return [f"column {name!r} has {len(categories)} texts, each a category; {words}"]
    if 2 * len(categories) > train:
        return [f"column {name!r} is text: {len(categories)} categories in {train} training rows"]
    if alike := lookalikes(categories, f"texts of column {name!r}"):
        return alike
    known = codes[~np.isnan(codes)] if codes is values else codes[:0]
    ends = {float(known.min()), float(known.max())} if len(known) else set()
    if ends and are_days(codes, min(ends), max(ends)):
        return [
            f"column {name!r} has numbers like the date {min(ends):.0f}, and stays a number; "
            "written as 2026-01-31, the parts of dates would be inputs"
        ]
    for mark in ends & MARKS_OF_GAPS:
        count, others = int((known == mark).sum()), known[known != mark]
        if count > 1 and len(others) and not (others < 0 if mark < 0 else 5 * others > mark).any():
            rest = "0 or more" if mark < 0 else f"up to {others.max():g}"
            return [
                f"column {name!r}: {count} of {len(codes)} values are {mark:g}, the others {rest}; "
                f"if it means a gap, --na {mark:g}"
            ]
    return [f"column {name!r} is constant: its input is 0"] if made.get("std") == 0 else []


def columns_of(labels: NDArray[Any]) -> list[NDArray[np.int64]]:
    """Return the labels of each target, numbered from 0; not amounts, most of which differ."""
    if labels.ndim == 1:
        return [labels]
    numbered = (np.unique(column, return_inverse=True)[1] for column in labels.T)
    return [numbers for numbers in numbered if 10 * numbers.max() < len(numbers)]


def is_renamed(codes: NDArray[Any], labels: NDArray[np.int64]) -> bool:
    """Return whether each value comes with one class, and each class with one value."""
    classes = int(labels.max()) + 1
    for rows in (FIRST, len(codes)):
        found, places = np.unique(codes[:rows], return_inverse=True)
        pairs = np.unique(places * classes + labels[:rows])
        if not len(found) == len(pairs) == len(np.unique(labels[:rows])):
            return False
    return classes > 1


def is_sorted(numbers: NDArray[Any], labels: NDArray[np.int64]) -> bool:
    """Return whether each class has all numbers of a range."""
    changes = int((np.diff(labels[np.argsort(numbers)]) != 0).sum())
    return changes == int(labels.max())


def are_days(numbers: NDArray[Any], least: float, most: float) -> bool:
    """Return whether numbers may be years, months and days, such as 20260131."""
    if not 19000101 <= least <= most <= 21001231:
        return False
    wrong = (numbers % 1 != 0) | (numbers % 100 > 31) | (numbers % 100 < 1)
    month = numbers // 100 % 100
    return not (~np.isnan(numbers) & (wrong | (month > 12) | (month < 1))).any()


@np.errstate(invalid="ignore")  # of a signalling NaN
def differ_and_whole(numbers: NDArray[Any]) -> bool:
    return all(
        bool((some == np.floor(some)).all()) and len(np.unique(some)) == len(some)
        for some in (numbers[:FIRST], numbers[: 50 * FIRST], numbers)
    )


def seen_in_training(
    inputs: Iterable[NDArray[Any]], parts: Mapping[str, NDArray[np.int64]]
) -> list[str]:
    """Count the rows of each other part that have the inputs of a training row."""
    keys = np.zeros(sum(map(len, parts.values())), np.uint64)
    for column in inputs:  # a hash: two other rows have one with a chance of 2**-64
        keys *= MULTIPLIER
        keys += column.astype(np.float32, copy=False).view(np.uint32)
    train, counted = np.sort(keys[parts["train"]]), []
    for part in [part for part in parts if part != "train"]:
        own = keys[parts[part]]
        at = np.searchsorted(train, own).clip(max=len(train) - 1)
        if seen := int((train[at] == own).sum()):
            counted.append(f"{seen} of {len(own)} in {part}")
    return [f"rows with the inputs of a training row: {', '.join(counted)}"] if counted else []


def near_others(values: Values) -> str:
    """Tell how a column can be numbers or dates, if half of it is."""
    assert isinstance(values, Texts)
    given = [name for name in values.names if name.strip() not in GAPS]
    some = given[:50]
    no_dates = [name for name in some if not date_formats(name)]
    if 2 * len(no_dates) < len(some):
        none = f", and {no_dates[0]!r} is none" if no_dates else ""
        return f"; dates must be written in one way, such as 2026-01-31{none}"
    units = {name.lstrip(" +-.,0123456789") for name in given}
    if len(units) == 1 and (unit := units.pop()).isalpha() and all(n[:1].isdigit() for n in given):
        return f"; without the {unit!r} in each of them, they would be numbers"
    others = [
        at
        for at, text in enumerate(values.names)
        if text.strip() not in GAPS and number(text) is number(text, ",") is None
    ]
    count = int(np.isin(values.codes, others).sum())
    if 2 * count > len(values.codes):
        return ""
    if not others:
        return "; they are numbers if --decimal or --numeric says so"
    such = f"such as {values.names[others[0]]!r}: --na names gaps in a .csv"
    return f"; {count} of {len(values.codes)} are no numbers, {such}"
