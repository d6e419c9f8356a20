"""Tables: .csv and .parquet files with a column to predict."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from plainfit.data.splits import (
    DataSplits,
    as_floats,
    assemble,
    encode_labels,
    most_memory,
    split_rows,
)
from plainfit.errors import DataError, near_miss

USUAL_TARGETS = ("target", "label", "class", "y")
MOST_CATEGORIES = 1000  # of one column: each becomes an input, so names and dates are refused


def read_table(path: Path, target: str | None = None, split_seed: int = 0) -> DataSplits:
    """Return the rows of a table, as float32 features and classes.

    Numbers are standardised by the mean and standard deviation of the training rows. Text columns
    become one 0/1 feature a category found in the training rows.

    Args:
        path: the file.
        target: the column to predict; by default one called target, label, class or y.
        split_seed: seed of the stratified split.

    Raises:
        DataError: if the file cannot be read, a value is missing, or there is no such column.
    """
    columns = read_columns(path)
    target = find_target(path, list(columns), target)
    labels = check_column(path, target, columns.pop(target))
    if not columns:
        raise DataError(f"{path}: a table must have columns beside the target {target!r}")
    values = {name: check_column(path, name, column) for name, column in columns.items()}
    classes, encoded = encode_labels(str(path), {"train": labels})
    train_rows = split_rows(encoded, split_seed)["train"][1].numpy()
    if len(train_rows) == 0:
        raise DataError(f"{path}: a table must have rows, at least two of each class")
    categories = find_categories(path, values, train_rows)
    features: dict[str, NDArray[Any]] = {}
    for name, column in values.items():
        if name in categories:
            features |= encode_text(name, column, categories[name])
        else:
            features[name] = standardise(path, name, column, train_rows)
    if len(features) < len(values) - len(categories) + sum(map(len, categories.values())):
        raise DataError(f"{path}: a column must not be called like another's category, such as a=b")
    samples = torch.from_numpy(np.stack(list(features.values()), axis=1, dtype=np.float32))
    return assemble(
        str(path),
        {"train": (samples, encoded["train"])},
        input_shape=(len(features),),
        split_seed=split_seed,
        classes=classes,
        features=tuple(features),
    )


def read_columns(path: Path) -> dict[str, Any]:
    """Return the columns of a file, by name, as pyarrow read them."""
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    try:
        if path.suffix.lower() == ".csv":
            table = pyarrow.csv.read_csv(path)
        else:
            with pyarrow.parquet.ParquetFile(path) as file:
                numbers = file.metadata.num_rows * file.metadata.num_columns
                if 8 * numbers > most_memory(path):
                    raise OSError(f"it claims to hold {numbers} values")
                table = file.read()
        table.validate(full=True)
        names = table.column_names
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the table cannot be read ({error})") from error
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise DataError(f"{path}: columns must have different names, got {twice[0]!r} twice")
    if table.num_rows == 0:
        raise DataError(f"{path}: a table must have rows, and it has none")
    return dict(zip(names, table.columns, strict=True))


def find_target(path: Path, names: list[str], asked: str | None) -> str:
    """Return the column to predict."""
    usual = [name for name in names if name.lower() in USUAL_TARGETS]
    if asked is None and len(usual) == 1:
        return usual[0]
    if asked in names:
        return str(asked)
    if asked is None:
        raise DataError(
            f"{path}: which column to predict must be said with --target; the columns are "
            f"{', '.join(names)}"
        )
    raise DataError(
        f"{path} has no column {asked!r}: choose --target from {', '.join(names)}"
        f"{near_miss(asked, names)}"
    )


def check_column(path: Path, name: str, column: Any) -> NDArray[Any]:
    """Return a column as float64, integers or objects (text), if no value is missing."""
    import pyarrow.types as kinds

    kind = column.type
    if kinds.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    missing = column.is_null(nan_is_null=kinds.is_floating(kind)).to_numpy()
    if missing.any():
        raise DataError(
            f"{path}: no value may be missing, and column {name!r} has "
            f"{int(missing.sum())} missing, the first in data row {int(missing.argmax()) + 1}; "
            "fill them in or remove the rows"
        )
    if kinds.is_string(kind) or kinds.is_large_string(kind):
        return np.array(column.to_pylist(), dtype=object)  # a cell as long as it is, no longer
    if kinds.is_boolean(kind) or kinds.is_integer(kind):
        whole = np.uint64 if kinds.is_uint64(kind) else np.int64
        return np.asarray(column.to_numpy()).astype(whole)
    if kinds.is_floating(kind) or kinds.is_decimal(kind):
        numbers = np.asarray(column.to_numpy()).astype(np.float64)
        if np.isfinite(numbers).all():
            return numbers
        raise DataError(
            f"{path}: numbers must be finite, and column {name!r} has an infinite one in data row "
            f"{int((~np.isfinite(numbers)).argmax()) + 1}"
        )
    raise DataError(
        f"{path}: columns must be numbers, text or true/false, and {name!r} is {kind}; "
        "convert or remove it"
    )


def standardise(
    path: Path, name: str, values: NDArray[Any], train_rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return numbers with the mean of the training rows taken off, in units of their spread."""
    train = values[train_rows]
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows becomes NaN, and is refused
        spread = train.std()
        unit = (spread if spread > 0 else 1.0) if np.isfinite(spread) else np.nan
        scaled = (values - train.mean()) / unit
    return as_floats(str(path), f"column {name!r}, standardised,", scaled)


def find_categories(
    path: Path, values: dict[str, NDArray[Any]], train_rows: NDArray[np.int64]
) -> dict[str, list[str]]:
    """Return the different texts in the training rows of each text column, sorted."""
    found = {
        name: sorted(set(column[train_rows].tolist()))
        for name, column in values.items()
        if column.dtype.kind == "O"
    }
    for name, categories in found.items():
        if len(categories) > MOST_CATEGORIES:
            raise DataError(
                f"{path}: a text column must have at most {MOST_CATEGORIES} categories, and "
                f"{name!r} has {len(categories)}; remove it if it only names the rows"
            )
    inputs = sum(map(len, found.values()))
    if 4 * inputs * len(train_rows) > most_memory(path):
        raise DataError(
            f"{path}: the text columns have {inputs} categories, too many for a table of "
            f"{len(train_rows)} training rows: remove those that only name the rows"
        )
    return found


def encode_text(name: str, values: NDArray[Any], categories: list[str]) -> dict[str, NDArray[Any]]:
    """Return the true/false features that a text column becomes, by name."""
    numbers = {category: number for number, category in enumerate(categories)}
    codes = np.array([numbers.get(value, -1) for value in values.tolist()])
    return {f"{name}={category}": codes == number for category, number in numbers.items()}
