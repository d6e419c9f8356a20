"""Tables: .csv, .parquet, .arrow and .feather files with a column to predict."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from plainfit.common.errors import DataError, near_miss
from plainfit.data.arrow import is_arrow, map_arrow, stored_rows
from plainfit.data.columns import check_column, standardise
from plainfit.data.splits import (
    DataSplits,
    Samples,
    assemble,
    encode_labels,
    most_memory,
    split_rows,
)

USUAL_TARGETS = ("target", "label", "class", "y")
MOST_CATEGORIES = 1000  # of one column: each becomes an input, so names and dates are refused


def read_table(
    path: Path, target: str | None = None, split_seed: int = 0, memory_budget: int = 2048
) -> DataSplits:
    """Return the rows of a table, as float32 features and classes.

    Numbers are standardised by the mean and standard deviation of the training rows. Text columns
    become one 0/1 feature a category found in the training rows.

    Args:
        path: the file.
        target: the column to predict; by default one called target, label, class or y.
        split_seed: seed of the stratified split.
        memory_budget: MiB; an Arrow table whose features take more is not held in memory: see
            `plainfit.data.arrow`.

    Raises:
        DataError: if the file cannot be read, a value is missing, or there is no such column.
    """
    columns = read_columns(path)
    target = find_target(path, list(columns), target)
    labels = check_column(path, target, columns.pop(target))
    if not columns:
        raise DataError(f"{path}: a table must have columns beside the target {target!r}")
    classes, encoded = encode_labels(str(path), {"train": labels})
    train_rows = split_rows(encoded, split_seed)["train"][1].numpy()
    if len(train_rows) == 0:
        raise DataError(f"{path}: a table must have rows, at least two of each class")
    samples: Samples
    features: tuple[str, ...]
    if is_arrow(path) and 4 * len(labels) * len(columns) > memory_budget * 2**20:
        features = tuple(columns)
        notes = [f"more than {memory_budget} MiB: read from disk as it is used"]
        columns.clear()
        samples = stored_rows(path, features, train_rows)
    else:
        made = make_features(path, columns, train_rows)
        features, notes = tuple(made), []
        samples = torch.from_numpy(np.stack(list(made.values()), axis=1, dtype=np.float32))
    return assemble(
        str(path),
        {"train": (samples, encoded["train"])},
        input_shape=(len(features),),
        split_seed=split_seed,
        classes=classes,
        features=features,
        notes=notes,
    )


def make_features(
    path: Path, columns: dict[str, Any], train_rows: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """Return the features that the columns become, by name."""
    values = {name: check_column(path, name, column) for name, column in columns.items()}
    categories = find_categories(path, values, train_rows)
    features: dict[str, NDArray[Any]] = {}
    for name, column in values.items():
        if name in categories:
            features |= encode_text(name, column, categories[name])
        else:
            features[name] = standardise(path, name, column, train_rows)
    if len(features) < len(values) - len(categories) + sum(map(len, categories.values())):
        raise DataError(f"{path}: a column must not be called like another's category, such as a=b")
    return features


def read_columns(path: Path) -> dict[str, Any]:
    """Return the columns of a file, by name, as pyarrow read them."""
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    try:
        if path.suffix.lower() == ".csv":
            table = pyarrow.csv.read_csv(path)
        elif is_arrow(path):
            table = map_arrow(path)
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
