"""Columns of a table: checked, and as numbers of one scale."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plainfit.common.errors import DataError
from plainfit.data.splits import as_floats


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
    mean, unit = spread(values[train_rows])
    return scale(path, name, values, mean, unit)


def spread(train: NDArray[Any]) -> tuple[float, float]:
    """Return the mean of a column's training rows, and their standard deviation; 1 for 0."""
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows becomes NaN, and is refused
        deviation = train.std()
        unit = (deviation if deviation > 0 else 1.0) if np.isfinite(deviation) else np.nan
        return float(train.mean()), float(unit)


def scale(
    path: Path, name: str, values: NDArray[Any], mean: float, unit: float, first: int = 0
) -> NDArray[np.float32]:
    """Return numbers less the mean, in such units; the first of them is that row of the table."""
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = (values - mean) / unit
    rows = np.arange(first, first + len(values))
    return as_floats(str(path), f"column {name!r}, standardised,", scaled, rows)
