"""Arrow tables: mapped, and rewritten row by row where they are too large for memory.

An Arrow file has its values column by column, so that each value of a row is in a page of its own.
Rows in a random order can be read from it only by reading most of it for every batch.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plainfit.common.errors import DataError
from plainfit.data.columns import check_column, scale, spread
from plainfit.data.ondisk import BLOCK, DiskRows, RowFile


def is_arrow(path: Path) -> bool:
    """Tell Arrow IPC files by their name."""
    return path.suffix.lower() in (".arrow", ".feather")


def map_arrow(path: Path) -> Any:
    """Return the `pyarrow.Table` of an Arrow IPC file; its values stay in the file.

    Raises:
        OSError: if it is no such file, or a compressed one.
        pyarrow.ArrowException: if it is damaged.
    """
    import pyarrow
    import pyarrow.ipc

    with pyarrow.memory_map(str(path)) as source:
        content = source.read_buffer()
    try:
        reader = pyarrow.ipc.open_file(content)
    except pyarrow.ArrowInvalid as error:
        raise OSError(f"{error}; write it with pyarrow.ipc.new_file") from error
    mapped = range(content.address, content.address + content.size + 1)
    batches = []
    for number in range(reader.num_record_batches):
        batch = reader.get_batch(number)
        buffers = [buffer for column in batch.columns for buffer in column.buffers()]
        if any(buffer and buffer.size and buffer.address not in mapped for buffer in buffers):
            raise OSError("it is compressed; write it with compression='uncompressed'")
        batches.append(batch)
    return pyarrow.Table.from_batches(batches, reader.schema)


def stored_rows(path: Path, features: tuple[str, ...], train_rows: NDArray[np.int64]) -> DiskRows:
    """Return the rows of these columns, standardised, from a temporary file beside the table.

    The file has no name and is gone with the process. The table is gone through twice, and mapped
    anew for each part, so that what was read does not stay in the process's memory.

    Raises:
        DataError: if a value is missing or no number, or the file cannot be written.
    """
    spreads = {name: spread(read_numbers(path, name)[train_rows]) for name in features}
    count, step = map_arrow(path).num_rows, max(1, BLOCK // (8 * len(features)))
    try:
        with tempfile.TemporaryFile(dir=path.parent) as file:
            for first in range(0, count, step):
                block = np.empty((min(step, count - first), len(features)), np.float32)
                table = map_arrow(path).slice(first, step)
                for at, (name, (mean, unit)) in enumerate(spreads.items()):
                    values = check_column(path, name, table.column(name))
                    block[:, at] = scale(path, name, values, mean, unit, first)
                file.write(block.data)
            file.flush()
            descriptor = os.dup(file.fileno())
    except OSError as error:
        raise DataError(
            f"{path}: a table that is not held in memory needs {4 * count * len(features)} bytes "
            f"for a temporary file in {path.parent} ({error.strerror or error}); make room, or "
            "raise --memory-budget"
        ) from error
    rows = RowFile(str(path), descriptor, 0, np.dtype(np.float32), (count, len(features)))
    return DiskRows(rows, as_tensor, torch.arange(count))


def read_numbers(path: Path, name: str) -> NDArray[Any]:
    """Return a column of numbers."""
    values = check_column(path, name, map_arrow(path).column(name))
    if values.dtype == object:
        raise DataError(
            f"{path}: columns of a table that is not held in memory must be numbers, and {name!r} "
            "is text; write it as numbers, or raise --memory-budget"
        )
    return values


def as_tensor(block: NDArray[Any], rows: NDArray[np.int64]) -> Tensor:
    """Return rows of float32, which were checked when they were written."""
    return torch.from_numpy(block)
