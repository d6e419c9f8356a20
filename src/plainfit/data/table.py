"""Tables: .csv and .parquet files with a column to predict."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from plainfit.data.splits import DataSplits, assemble, encode_labels, split_rows
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
    _, encoded = encode_labels(str(path), {"train": labels.tolist()})
    train_rows = split_rows(encoded, split_seed)["train"][1].numpy()
    if len(train_rows) == 0:
        raise DataError(f"{path}: a table must have rows, at least two of each class")
    features: dict[str, NDArray[Any]] = {}
    for name, column in values.items():
        features |= encode_column(path, name, column, train_rows)
    samples = torch.from_numpy(np.stack(list(features.values()), axis=1).astype(np.float32))
    return assemble(
        str(path),
        {"train": (samples, labels.tolist())},
        input_shape=(len(features),),
        split_seed=split_seed,
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
            table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: the table cannot be read ({error})") from error
    names = table.column_names
    twice = sorted({name for name in names if names.count(name) > 1})
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
    """Return a column as float64, integers or text, after checking that no value is missing."""
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
        return np.array(column.to_pylist(), dtype=np.str_)
    if kinds.is_boolean(kind) or kinds.is_integer(kind):
        return np.asarray(column.to_numpy()).astype(np.int64)
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


def encode_column(
    path: Path, name: str, values: NDArray[Any], train_rows: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """Return the features that a column becomes, by name."""
    train = values[train_rows]
    if values.dtype.kind != "U":
        spread = train.std()
        return {name: (values - train.mean()) / (spread if spread > 0 else 1.0)}
    categories = np.unique(train)
    if len(categories) > MOST_CATEGORIES:
        raise DataError(
            f"{path}: a text column must have at most {MOST_CATEGORIES} categories, and {name!r} "
            f"has {len(categories)}; remove it if it only names the rows"
        )
    return {f"{name}={category}": (values == category) * 1.0 for category in categories.tolist()}
