"""How the columns of a table become inputs: learned from the training rows, then applied to any.

What is learned is plain JSON, a dict for each column. Of numbers it holds `mean` and `std` (0 where
all are equal: the input is 0 then), `fill` for gaps, `marked` if gaps have an input of their own,
and a `decimal` comma; of text the `categories`, and `embedded` if they become one input: the number
of the category from 1, and 0 for any other; or the `vocabulary` of its words or a `tokenizer`
(`text`); of dates the same as of numbers for each part of the `date`. `gaps` counts those of the
whole table.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from plainfit.common.errors import DataError, near_miss, plural, quoted, shortened
from plainfit.data.alone import text_numbers
from plainfit.data.splits import MOST_NAMED
from plainfit.data.tables.reading import Table
from plainfit.data.tables.text import described_text, unknown_share
from plainfit.data.tables.values import Dates, Texts, Values, values_of

Made = dict[str, Any]
AT_ONCE = 4096  # rows that are stacked within the processor's cache


def learn(
    name: str, values: Values, train_rows: NDArray[np.int64], missing: str, embed_above: int | None
) -> Made:
    if isinstance(values, Texts):
        found = np.unique(values.codes[train_rows]).tolist()
        made: Made = {"categories": sorted(values.names[at] for at in found)}
        is_embedded = embed_above is not None and len(found) > embed_above
        return made | ({"embedded": True} if is_embedded else {})
    if gaps_in(values)[train_rows].all():
        raise DataError(f"column {name!r} has no value in the training rows: --drop {quoted(name)}")
    if isinstance(values, Dates):
        parts = {part: numbers[train_rows] for part, numbers in values.parts.items()}
        if not np.nan_to_num(parts["hour"]).any():
            del parts["hour"]
        date = {part: learn_numbers(numbers, missing) for part, numbers in parts.items()}
        gaps = {"marked": True} if any(part.pop("marked", False) for part in date.values()) else {}
        return {"date": date, "format": values.format, **gaps}
    return learn_numbers(values[train_rows], missing)


def learn_numbers(train: NDArray[Any], missing: str) -> Made:
    gaps = gaps_in(train)
    given = train[~gaps] if gaps.any() else train
    made: Made = {}
    with np.errstate(over="ignore", invalid="ignore"):  # an overflow becomes NaN, and is refused
        if missing in ("median", "mean"):
            made["fill"] = float(np.median(given) if missing == "median" else given.mean())
        if gaps.any():
            train, made["marked"] = np.where(gaps, made.get("fill", np.nan), train), True
        std = train.std()
        std = float(std) if np.isfinite(std) else np.nan
        return {"mean": float(train.mean()), "std": std, **made}


def gaps_in(values: Values) -> NDArray[np.bool_]:
    """Return which values are gaps; one in a text column is a category of its own."""
    if isinstance(values, Texts):
        return np.zeros(len(values.codes), bool)
    if isinstance(values, Dates):
        values = values.parts["days"]
    return np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), bool)


def inputs_of(name: str, values: Values, made: Made, first: int = 0) -> dict[str, NDArray[Any]]:
    """Return what a column becomes, by name; `first` is the row of the first value, for errors."""
    if isinstance(values, Texts):
        numbers = {text: number for number, text in enumerate(made["categories"])}
        known = np.array([numbers.get(text, -1) for text in values.names], np.int64)
        codes = known[values.codes] if len(known) else values.codes
        if "embedded" in made:
            return {name: codes + 1}
        return {f"{name}={text}": codes == number for text, number in numbers.items()}
    found = {}
    if isinstance(values, Dates):
        for part, of_part in made["date"].items():
            found[f"{name}.{part}"] = standardise(name, values.parts[part], of_part, first)
    else:
        found[name] = standardise(name, values, made, first)
    return found | ({f"{name} is missing": gaps_in(values)} if made.get("marked") else {})


def standardise(
    name: str, values: NDArray[Any], made: Mapping[str, Any], first: int
) -> NDArray[np.float32]:
    """Return (values - mean) / std as float32, gaps filled; 0 if all training values were equal."""
    gaps = gaps_in(values)
    if gaps.any():
        if "fill" not in made:
            raise DataError(
                f"no value may be missing, and column {name!r} has {int(gaps.sum())} missing, the "
                f"first in data row {first + int(gaps.argmax()) + 1}; fill them in, or remove the "
                "rows (in a training, --missing median fills them)"
            )
        values = np.where(gaps, made["fill"], values)
    if made["std"] == 0:
        return np.zeros(len(values), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = ((values - made["mean"]) / made["std"]).astype(np.float32)
    finite = np.isfinite(scaled)
    if not finite.all():
        raise DataError(
            f"numbers must be finite as float32 (below 3.4e38) when standardised, and column "
            f"{name!r} has {values[at := int(np.abs(values).argmax())]:g} in data row "
            f"{first + at + 1}"
        )
    return np.asarray(scaled)


def add_inputs(inputs: dict[str, NDArray[Any]], more: dict[str, NDArray[Any]]) -> None:
    if twice := sorted(more.keys() & inputs.keys()):
        raise DataError(f"two columns would become the input {twice[0]!r}: rename or --drop one")
    inputs |= more


def stacked(inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    count = len(next(iter(inputs.values())))
    rows, block = torch.empty((count, len(inputs))), torch.empty((len(inputs), AT_ONCE))
    for first in range(0, count, AT_ONCE):
        some = block[:, : count - first]
        for at, column in enumerate(inputs.values()):
            some[at] = torch.from_numpy(column[first : first + AT_ONCE])
        rows[first : first + AT_ONCE] = some.T
    return rows.numpy()


def prepared(table: Table, made: Mapping[str, Made]) -> tuple[NDArray[Any], list[str]]:
    inputs: dict[str, NDArray[Any]] = {}
    problems, notes = [], []
    for name, info in made.items():
        if name not in table.columns:
            problems.append(f"there must be a column {name!r}{near_miss(name, table.columns)}")
            continue
        try:
            decimal = table.decimal or info.get("decimal", ".")
            values = values_of(name, table.columns[name], kind_of(info), decimal)
            if "length" in info and isinstance(values, Texts):  # no other column is an input
                numbers = text_numbers(values.names, info)[values.codes]
                note = f"column {name!r}: {unknown_share(numbers)} of the words are unknown"
                return numbers, [note] * ("vocabulary" in info and bool((numbers == 1).any()))
            add_inputs(inputs, inputs_of(name, values, info))
        except DataError as error:
            problems.append(str(error))
            continue
        notes += notes_on(name, values, info)
    refuse(table.path, problems)
    return stacked(inputs), notes


def kind_of(made: Made) -> str:
    """Return `number`, `text`, or the format of a date."""
    return "text" if made.keys() & {"categories", "length"} else made.get("format", "number")


def notes_on(name: str, values: Values, made: Made, how: str = "") -> list[str]:
    """Count the gaps that were filled, and the texts that no training row has."""
    if isinstance(values, Texts):
        known = {*made["categories"]}
        unknown = [at for at, text in enumerate(values.names) if text not in known]
        count = int(np.isin(values.codes, unknown).sum())
        rows = plural(count, "row has", "rows have")
        return [f"column {name!r}: {rows} a text that no training row has"] * bool(count)
    gaps = gaps_in(values)
    if not gaps.any() or "fill" not in made.get("date", {}).get("days", made):
        return []
    changes = " (--missing changes it)" if how else ""
    return [
        f"column {name!r}: {int(gaps.sum())} of {len(gaps)} values missing, first in data row "
        f"{int(gaps.argmax()) + 1}: filled with {how}{fill_text(made)}{changes}"
    ]


def described(made: Made) -> str:
    """Return in words what a column becomes.

    >>> described({"mean": 2.5, "std": 0.5, "fill": 3.0, "marked": True, "gaps": 4})
    'number: (x - 2.5) / 0.5; 4 gaps filled with 3, and marked in an input of its own'
    >>> described({"categories": ["", "b"]})
    'text: 2 categories, (empty), b'
    """
    gaps = ""
    if "gaps" in made:
        gaps = f"; {plural(made['gaps'], 'gap')} filled with {fill_text(made)}"
    if "length" in made:
        return described_text(made)
    if "categories" in made:
        categories = [category or "(empty)" for category in made["categories"]]
        embedded = ", embedded" * ("embedded" in made)
        count = plural(len(categories), "category", "categories")
        return f"text: {count}{embedded}, {shortened(categories)}"
    if "date" in made:
        return f"date ({made['format']}): {', '.join(made['date'])}{gaps}"
    scaled = f"(x - {made['mean']:g}) / {made['std']:g}" if made["std"] else "constant: 0"
    return f"number: {scaled}{gaps}"


def fill_text(made: Made) -> str:
    marked = ", and marked in an input of its own" if made.get("marked") else ""
    if "date" in made:
        return f"{np.datetime64(int(made['date']['days']['fill']), 'D')}{marked}"
    return f"{made['fill']:g}{marked}"


def refuse(path: Path, problems: list[str]) -> None:
    """Raise all problems of a file in one error, of which it names the first ten."""
    if problems:
        more = len(problems) - MOST_NAMED
        shown = "; ".join(problems[:MOST_NAMED])
        also = f"; and {plural(more, 'more problem')}" if more > 0 else ""
        raise DataError(f"{path}: {shown}{also}")


def refuse_gaps(path: Path, name: str, gaps: NDArray[np.bool_]) -> None:
    if gaps.any():
        raise DataError(
            f"{path}: no value may be missing, and column {name!r} has {int(gaps.sum())} missing, "
            f"the first in data row {int(gaps.argmax()) + 1}; fill them in or remove the rows"
        )
