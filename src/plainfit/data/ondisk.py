"""Datasets whose samples stay on disk: images in files, and rows of a mapped array.

Mapped pages belong to the kernel's page cache. They count towards the resident set (RSS) of the
process, but the kernel takes them back when memory is short; what the process allocates itself
stays a few batches (docs/decisions/0020-mapped-rows.md).
"""

import mmap
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from plainfit.common.errors import DataError
from plainfit.data.datasets import bytes_to_floats

BLOCK = 2**24  # bytes read at once when all rows are read in turn

Decode = Callable[[NDArray[Any], NDArray[np.int64]], Tensor]
"""Turns rows as they are in the file, and their numbers, into float32 values or uint8 images."""


class LazySamples(Dataset[tuple[Tensor, Tensor]]):
    """Samples on disk: `plainfit.data.folder.ImageFiles` or `DiskRows`."""

    labels: Tensor
    shape: tuple[int, ...]  # of one sample
    largest: float  # absolute value, before bytes are divided

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, rows: list[int]) -> list[tuple[Tensor, Tensor]]:
        raise NotImplementedError

    def rows(self, rows: Tensor) -> "LazySamples":
        """Return a dataset of the same kind with these rows only, yet without labels."""
        raise NotImplementedError

    def contents(self) -> Iterator[Any]:
        """Yield bytes that depend on every sample, to be hashed."""
        raise NotImplementedError


class LazyImages(LazySamples):
    """Images, which are floats in [0, 1) when read."""

    largest = 255.0


class DiskRows(LazySamples):
    """The rows `at` of a mapped array, shape (rows, ...), as a dataset of (float32 values, label).

    `path` is for messages.
    """

    def __init__(self, path: str, array: NDArray[Any], decode: Decode, at: Tensor) -> None:
        self.path = path
        self.array = array
        self.decode = decode
        self.at = at
        self.shape = tuple(self.read(at[:1]).shape[1:])

    def __getstate__(self) -> None:  # NumPy would write all rows
        raise TypeError(f"{self.path} is mapped in this process only; open it in the other one")

    def __len__(self) -> int:
        return len(self.at)

    def __getitems__(self, rows: list[int]) -> list[tuple[Tensor, Tensor]]:
        return list(zip(*self.gather(torch.tensor(rows)), strict=True))

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        # Copied to memory that torch allocates: NumPy's has other alignment, for which F.linear
        # may round differently (see `plainfit.data.loaders.TensorLoader`).
        xb = self.read(self.at[rows]).clone()
        return bytes_to_floats(xb) if xb.dtype == torch.uint8 else xb, self.labels[rows]

    def read(self, at: Tensor) -> Tensor:
        mapped: Any = self.array.base  # to read past the end of the file would be a SIGBUS
        if isinstance(mapped, mmap.mmap) and mapped.size() < len(mapped):
            raise DataError(f"{self.path} must not change while it is in use, and it was cut short")
        return self.decode(self.array[at.numpy()], at.numpy())

    def rows(self, rows: Tensor) -> "DiskRows":
        return type(self)(self.path, self.array, self.decode, self.at[rows])

    def blocks(self) -> tuple[Tensor, ...]:
        row_bytes = self.array.nbytes // max(1, len(self.array))
        blocks: tuple[Tensor, ...] = self.at.split(max(1, BLOCK // max(1, row_bytes)))
        return blocks

    def contents(self) -> Iterator[Any]:
        yield f"{self.read(self.at[:1]).dtype}{(len(self), *self.shape)}".encode()
        for at in self.blocks():
            yield self.read(at).contiguous().view(torch.uint8).numpy().data


class DiskImages(DiskRows, LazyImages):
    """Rows of bytes that are images."""


def open_rows(path: str, array: NDArray[Any], decode: Decode) -> DiskRows:
    """Return all rows of a mapped array, after checking each, as a dataset yet without labels."""
    at = torch.arange(len(array))
    rows = DiskRows(path, array, decode, at)
    if rows.read(at[:1]).dtype == torch.uint8:
        rows = DiskImages(path, array, decode, at)
    ends = (torch.stack(torch.aminmax(rows.read(block))) for block in rows.blocks())
    rows.largest = max((float(pair.abs().max()) for pair in ends), default=0.0)
    return rows
