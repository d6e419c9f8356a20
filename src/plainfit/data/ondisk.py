"""Rows that are too many for memory: read from their file, batch by batch, as they are used.

They are read and not mapped. A mapped page counts as the process's memory until it is given back,
and for one row the kernel maps sixteen: batches of 1,024 rows of 256 bytes, from 2.5 GB that were
in the page cache, took 5.6 ms where the pages were given back, and 1.3 ms where the rows are read
(docs/log.md).
"""

import math
import os
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plainfit.common.errors import DataError
from plainfit.data.lazy import Digest, LazyImages, LazySamples
from plainfit.data.loaders import bytes_to_floats

BLOCK = 2**24  # bytes that are read at once where all rows are gone through

Decode = Callable[[NDArray[Any], NDArray[np.int64]], Tensor]
"""Turns rows as they are in the file, and their numbers, into float32 or into uint8 images."""


class RowFile:
    """An array in a file, row by row in C order.

    Args:
        name: of the file, for messages.
        descriptor: of the open file; closed with this object.
        offset: bytes before the first row.
        dtype: of the values.
        shape: of the array: (rows, ...).
    """

    def __init__(
        self, name: str, descriptor: int, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]
    ) -> None:
        self.name = name
        self.descriptor = descriptor
        self.offset = offset
        self.dtype = dtype
        self.shape = shape
        self.row_bytes = dtype.itemsize * math.prod(shape[1:])
        weakref.finalize(self, os.close, descriptor)
        if not hasattr(os, "pread"):
            raise DataError(
                f"{name}: this system cannot read rows from disk as they are used; raise "
                "--memory-budget to hold them in memory"
            )

    def __getstate__(self) -> None:
        raise TypeError(f"{self.name} is open in this process only; open the data in the other one")

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return these rows, shape (len(rows), ...); consecutive ones are read at once.

        Raises:
            DataError: if the file has become shorter.
        """
        starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
        lengths = np.diff(starts, append=len(rows)) * self.row_bytes
        offsets = rows[starts] * self.row_bytes + self.offset
        content = bytearray().join(  # can be written to, as torch wants it
            [
                os.pread(self.descriptor, length, offset)
                for length, offset in zip(lengths.tolist(), offsets.tolist(), strict=True)
            ]
        )
        if len(content) != len(rows) * self.row_bytes:
            raise DataError(
                f"{self.name} must stay as it is while it is used, and it was cut short"
            )
        return np.frombuffer(content, self.dtype).reshape(-1, *self.shape[1:])


class DiskRows(LazySamples):
    """Rows of a file as a data set of (float32 values, label).

    Args:
        file: that has the rows.
        decode: makes samples of them.
        at: the rows of the file that are in this data set, int64, shape (samples,).
        labels: int64, shape (samples,), once they are known.
    """

    def __init__(
        self, file: RowFile, decode: Decode, at: Tensor, labels: Tensor | None = None
    ) -> None:
        self.file = file
        self.decode = decode
        self.at = at
        if labels is not None:
            self.labels = labels

    def __len__(self) -> int:
        return len(self.at)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        xb, yb = self.gather(torch.tensor([index]))
        return xb[0], yb[0]

    def __getitems__(self, rows: list[int]) -> list[tuple[Tensor, Tensor]]:
        """Return these samples, as a stock `DataLoader` asks for them."""
        return list(zip(*self.gather(torch.tensor(rows)), strict=True))

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the batch of these samples: values and labels."""
        # A copy, in memory of torch's: NumPy's starts at other offsets, for which F.linear may
        # round differently (see `TensorLoader`).
        return self.read(self.at[rows]).clone(), self.labels[rows]

    def read(self, at: Tensor) -> Tensor:
        """Return these rows of the file as they would be in memory."""
        numbers = at.numpy()
        return self.decode(self.file.read(numbers), numbers)

    def rows(self, rows: Tensor) -> "DiskRows":
        """Return the same with these rows only; the rows themselves are not copied."""
        return type(self)(self.file, self.decode, self.at[rows])

    def blocks(self) -> tuple[Tensor, ...]:
        """Return the rows of the file that are in this data set, some at a time."""
        blocks: tuple[Tensor, ...] = self.at.split(max(1, BLOCK // max(1, self.file.row_bytes)))
        return blocks

    def check(self) -> None:
        """Read all rows.

        Raises:
            DataError: if one cannot be trained on.
        """
        for at in self.blocks():
            self.read(at)

    def hash_into(self, digest: Digest) -> None:
        """Let the hash take in what it would of the same rows in memory."""
        first = self.read(self.at[:1])
        digest.update(f"{first.dtype}{(len(self), *first.shape[1:])}".encode())
        for at in self.blocks():
            digest.update(self.read(at).contiguous().view(torch.uint8).numpy().data)


class DiskImages(DiskRows, LazyImages):
    """Rows of bytes that are images: floats in [0, 1) when read."""

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the batch of these samples: float32 (samples, channels, height, width), labels."""
        images, labels = super().gather(rows)
        return bytes_to_floats(images), labels


def open_rows(file: RowFile, decode: Decode) -> tuple[DiskRows, tuple[int, ...]]:
    """Return all rows of a file as a data set that has no labels yet, and the shape of a sample.

    Raises:
        DataError: if a row cannot be trained on: all are read.
    """
    at = torch.arange(file.shape[0])
    rows = DiskRows(file, decode, at)
    first = rows.read(at[:1])
    if first.dtype == torch.uint8:
        rows = DiskImages(file, decode, at)
    rows.check()
    return rows, tuple(first.shape[1:])
