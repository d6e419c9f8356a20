"""Tables: .csv, .parquet, .arrow and .feather files with a column to predict.

An Arrow table is mapped. If its features do not fit in memory, they are written row by row to a
temporary file first: an Arrow file stores column after column, so that reading random rows from it
would read most of it for every batch.
"""

import re
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from plainfit.common.errors import DataError, near_miss, raised_as
from plainfit.data import splits
from plainfit.data.ondisk import BLOCK, DiskRows
from plainfit.data.splits import DataSplits, Samples, as_floats

ARROW = (".arrow", ".feather")
USUAL_TARGETS = ("target", "label", "class", "y")
WHOLE = re.compile("0|-?[1-9][0-9]*")  # whole numbers as they are usually written
MOST_CATEGORIES = 1000  # per column; each becomes an input, so names and dates are refused


def read_table(
    path: Path, target: str | None = None, split_seed: int = 0, memory_budget: int = 2048
) -> DataSplits:
    """Return the rows of a table as float32 features and classes; see `open_data`.

    Numbers are standardised by the mean and standard deviation of the training rows. A text column
    becomes one 0/1 feature for each category in the training rows. Labels keep their text.
    """
    columns = read_columns(path)
    target = find_target(path, list(columns), target)
    labels = label_texts(path, target, columns.pop(target))
    if not columns:
        raise DataError(f"{path}: a table must have columns beside the target {target!r}")
    classes, encoded = splits.encode_labels(str(path), {"train": labels})
    train_rows = splits.split_rows(encoded, split_seed)["train"][1].numpy()
    if len(train_rows) == 0:
        raise DataError(f"{path}: a table must have rows, at least two of each class")
    samples: Samples
    notes = notes_on_codes(path, columns)
    if path.suffix.lower() in ARROW and 4 * len(labels) * len(columns) > memory_budget * 2**20:
        samples, made = write_rows(path, columns, train_rows)
        features = tuple(columns)
        notes.append(f"larger than {memory_budget} MiB: read from disk as it is used")
    else:
        values, made = make_features(path, columns, train_rows)
        samples = torch.from_numpy(np.stack(list(values.values()), axis=1, dtype=np.float32))
        features = tuple(values)
        notes += notes_on(values, made, len(train_rows))
    return splits.make_splits(
        str(path),
        {"train": (samples, encoded["train"])},
        split_seed=split_seed,
        classes=classes,
        features=features,
        columns=made,
        notes=notes,
    )


def read_columns(path: Path) -> dict[str, Any]:
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    try:
        if path.suffix.lower() == ".csv":
            table = pyarrow.csv.read_csv(path)
        elif path.suffix.lower() in ARROW:
            table = map_arrow(path)
        else:
            with pyarrow.parquet.ParquetFile(path) as file:
                numbers = file.metadata.num_rows * file.metadata.num_columns
                if 8 * numbers > splits.most_memory(path):
                    raise OSError(f"it claims to hold {numbers} values")
                table = file.read()
        table.validate(full=True)
        names = table.column_names
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the table cannot be read ({error})") from error
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise DataError(f"{path}: columns must have different names, got {twice[0]!r} twice")
    numbers = [float(name) for name in names if splits.NUMBER.fullmatch(name)]
    if len(numbers) == len(names) > 1 and numbers != list(range(len(names))):
        raise DataError(
            f"{path}: a table must begin with the names of its columns, got the numbers "
            f"{splits.shortened(names)}; add a first row with names"
        )
    if table.num_rows == 0:
        raise DataError(f"{path}: a table must have rows, and it has none")
    return dict(zip(names, table.columns, strict=True))


def frame_columns(frame: Any) -> dict[str, Any]:
    """Return the columns of a data frame by name, as those of a file are read."""
    import pyarrow

    with raised_as(DataError, "the data frame must be one that pyarrow reads"):
        if hasattr(frame, "iloc"):  # of pandas, whose index is no column
            table = pyarrow.Table.from_pandas(frame, preserve_index=False)
        else:
            table = pyarrow.table(frame)
    return dict(zip(table.column_names, table.columns, strict=True))


def map_arrow(path: Path) -> Any:
    import pyarrow
    import pyarrow.ipc

    with pyarrow.memory_map(str(path)) as source:
        content = source.read_buffer()
    try:
        table = pyarrow.ipc.open_file(content).read_all()
    except pyarrow.ArrowInvalid as error:
        raise OSError(f"{error}; write it with pyarrow.ipc.new_file") from error
    mapped = range(content.address, content.address + content.size + 1)
    chunks = [chunk for column in table.columns for chunk in column.chunks]
    buffers = [buffer for chunk in chunks for buffer in chunk.buffers()]
    if any(buffer and buffer.size and buffer.address not in mapped for buffer in buffers):
        raise OSError("it is compressed; write it with compression='uncompressed'")
    return table


def find_target(path: Path, names: list[str], target: str | None) -> str:
    usual = [name for name in names if name.lower() in USUAL_TARGETS]
    if target is None and len(usual) == 1:
        target = usual[0]
    if target is None:
        raise DataError(
            f"{path}: the column to predict must be named with target; the columns are "
            f"{', '.join(names)}"
        )
    if target not in names:
        raise DataError(
            f"{path} has no column {target!r}: choose target from {', '.join(names)}"
            f"{near_miss(target, names)}"
        )
    return target


def check_column(path: Path, name: str, column: Any) -> NDArray[Any]:
    """Return a column without missing values as float64, integers or objects (text)."""
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
        return np.array(column.to_pylist(), dtype=object)  # not as wide as the longest cell
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


def label_texts(path: Path, name: str, column: Any) -> NDArray[Any]:
    """Return labels as they are written: 01 is not 1, and true is not 1.

    Whole numbers are numbers, in their order; those of any size are told apart.
    """
    import pyarrow

    values = check_column(path, name, column)
    if pyarrow.types.is_floating(column.type) and path.suffix.lower() != ".csv":
        return values
    if path.suffix.lower() == ".csv":
        column = csv_texts(path, [name])[name]
    texts = column.cast(pyarrow.string()).to_pylist()
    if all(WHOLE.fullmatch(text) for text in set(texts)):
        return np.array([int(text) for text in texts], dtype=object)
    if values.dtype.kind == "f":
        splits.check_whole(str(path), "train", values)
    return np.array(texts, dtype=object)


def csv_texts(path: Path, names: list[str]) -> dict[str, Any]:
    """Return columns of a CSV file as they are written."""
    import pyarrow
    import pyarrow.csv

    types = dict.fromkeys(names, pyarrow.string())
    options = pyarrow.csv.ConvertOptions(include_columns=names, column_types=types)
    return dict(zip(names, pyarrow.csv.read_csv(path, convert_options=options), strict=True))


def notes_on_codes(path: Path, columns: Mapping[str, Any]) -> list[str]:
    """Name numbers that lose digits, as codes do: zeros in front of them, or by rounding."""
    import pyarrow
    from pyarrow import compute, types

    def is_large(column: Any) -> bool:
        ends = compute.min_max(column).values()
        return any(end.is_valid and abs(end.as_py()) >= 2**53 for end in ends)

    is_csv = path.suffix.lower() == ".csv"
    whole = [name for name, column in columns.items() if types.is_integer(column.type)]
    floats = [name for name, column in columns.items() if types.is_floating(column.type)]
    large = [name for name in whole + floats * is_csv if is_large(columns[name])]
    asked = [name for name in columns if name in large or (name in whole and is_csv)]
    texts = csv_texts(path, asked) if is_csv and asked else columns
    notes = []
    for name in asked:
        column, lost = texts[name].cast(pyarrow.string()), ""
        zeros = compute.sum(compute.match_like(column, "0_%")).as_py()
        if zeros and name in whole:
            lost = f"{zeros} numbers begin with a 0, which is lost"
        if name in large:
            found = column.filter(compute.match_substring_regex(column, "^[-+]?[0-9]{16,}$"))
            distinct = compute.unique(found).to_pylist()
            if (left := len(set(map(float, distinct)))) < len(distinct):
                lost = f"{len(distinct)} numbers beyond 2**53 are rounded to {left}"
        if lost:
            remedy = "if they are codes, put a letter before each, or remove the column"
            notes.append(f"column {name!r}: {lost}; {remedy}")
    return notes


def notes_on(values: Mapping[str, NDArray[Any]], made: Mapping[str, Any], rows: int) -> list[str]:
    """Say which text columns are mostly different texts, or have unseen ones."""
    texts = {name: info.get("categories", []) for name, info in made.items()}
    return [
        f"column {name!r} is text: {len(categories)} categories in {rows} training rows"
        for name, categories in texts.items()
        if 2 * len(categories) > rows
    ] + unseen(values, made)


def unseen(values: Mapping[str, NDArray[Any]], made: Mapping[str, Any]) -> list[str]:
    notes = []
    for name, info in made.items():
        if categories := info.get("categories"):
            known = np.any([values[f"{name}={text}"] for text in categories], axis=0)
            if count := int((~known).sum()):
                notes.append(f"column {name!r}: {count} rows have a text that no training row has")
    return notes


def make_features(
    path: Path, columns: Mapping[str, Any], train_rows: NDArray[np.int64]
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the features by name, and how each column became some of them."""
    values = {name: check_column(path, name, column) for name, column in columns.items()}
    categories = find_categories(path, values, train_rows)
    features: dict[str, NDArray[Any]] = {}
    made: dict[str, Any] = {}
    for name, column in values.items():
        is_text = name in categories
        stats = {"categories": categories[name]} if is_text else mean_and_std(column[train_rows])
        made[name] = stats
        features |= features_of(path, name, column, stats)
    if len(features) < len(values) - len(categories) + sum(map(len, categories.values())):
        raise DataError(
            f"{path}: a column must not have the name of another column's category, such as a=b"
        )
    return features, made


def features_of(
    path: Path, name: str, column: NDArray[Any], made: Mapping[str, Any]
) -> dict[str, NDArray[Any]]:
    """Return what a column becomes: a feature for each category, or itself, standardised."""
    if "categories" not in made:
        return {name: standardise(path, name, column, made)}
    numbers = {category: number for number, category in enumerate(made["categories"])}
    codes = np.array([numbers.get(value, -1) for value in column.tolist()])
    return {f"{name}={text}": codes == number for text, number in numbers.items()}


def features_like(
    path: Path, columns: Mapping[str, Any], made: Mapping[str, Any]
) -> tuple[NDArray[np.float32], list[str]]:
    """Return the rows of a table, float32, made as those of another one were; and notes."""
    features: dict[str, NDArray[Any]] = {}
    for name, info in made.items():
        if name not in columns:
            raise DataError(f"{path} must have a column {name!r}{near_miss(name, columns)}")
        column = check_column(path, name, columns[name])
        if (column.dtype.kind == "O") != ("categories" in info):
            kind = "text" if "categories" in info else "numbers"
            raise DataError(
                f"{path}: column {name!r} must be {kind}, as in the training; convert it"
            )
        features |= features_of(path, name, column, info)
    return np.stack(list(features.values()), axis=1, dtype=np.float32), unseen(features, made)


def find_categories(
    path: Path, values: Mapping[str, NDArray[Any]], train_rows: NDArray[np.int64]
) -> dict[str, list[str]]:
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
    if 4 * inputs * len(train_rows) > splits.most_memory(path):
        raise DataError(
            f"{path}: the text columns have {inputs} categories, too many for a table of "
            f"{len(train_rows)} training rows; remove columns that only name the rows"
        )
    return found


def mean_and_std(train: NDArray[Any]) -> dict[str, float]:
    """Return the mean and standard deviation of training values; the latter is 1 instead of 0."""
    with np.errstate(over="ignore", invalid="ignore"):  # an overflow becomes NaN, and is refused
        std = train.std()
        std = float(std or 1.0) if np.isfinite(std) else np.nan
        return {"mean": float(train.mean()), "std": std}


def standardise(
    path: Path, name: str, values: NDArray[Any], stats: Mapping[str, float], first: int = 0
) -> NDArray[np.float32]:
    """Return (values - mean) / std; `first` is the table row of the first value, for messages."""
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = (values - stats["mean"]) / stats["std"]
    rows = np.arange(first, first + len(values))
    return as_floats(str(path), f"column {name!r}, standardised,", scaled, rows)


def write_rows(
    path: Path, columns: Mapping[str, Any], train_rows: NDArray[np.int64]
) -> tuple[DiskRows, dict[str, dict[str, float]]]:
    """Write the columns, standardised, row by row to a temporary file beside the table, and map it.

    Return the rows, and the mean and std of each column. The file has no name and disappears with
    the process.
    """
    stats = {}
    for name, column in columns.items():
        values = check_column(path, name, column)
        if values.dtype == object:
            raise DataError(
                f"{path}: columns of a table read from disk must be numbers, and {name!r} is text; "
                "convert it to numbers, or raise memory_budget"
            )
        stats[name] = mean_and_std(values[train_rows])
    count, step = len(values), max(1, BLOCK // (8 * len(columns)))
    try:
        with tempfile.TemporaryFile(dir=path.parent) as file:
            for first in range(0, count, step):
                block = np.empty((min(step, count - first), len(columns)), np.float32)
                for at, (name, column) in enumerate(columns.items()):
                    values = check_column(path, name, column.slice(first, step))
                    block[:, at] = standardise(path, name, values, stats[name], first)
                file.write(block.data)
            file.flush()
            array = np.memmap(file, np.float32, "r", shape=(count, len(columns)))
    except OSError as error:
        raise DataError(
            f"{path}: a table read from disk needs {4 * count * len(columns)} bytes for a "
            f"temporary file in {path.parent} ({error.strerror or error}); free some space, or "
            "raise memory_budget"
        ) from error
    # The rows were checked when they were written.
    rows = torch.arange(count)
    return DiskRows(str(path), array, lambda block, _: torch.from_numpy(block), rows), stats
