"""Datasets whose samples stay on disk: images in files, and rows of a mapped array.

Mapped pages belong to the kernel's page cache. They count towards the resident set (RSS) of the
process, but the kernel takes them back when memory is short; what the process allocates itself
stays a few batches (docs/decisions/0020-mapped-rows.md).
"""

import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
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


@dataclass(eq=False, repr=False)
class ImageFiles(Dataset[tuple[Tensor, Tensor]]):
    """Images read from disk one by one: floats in [0, 1), shape (channels, height, width)."""

    paths: Sequence[str]
    labels: Tensor
    shape: tuple[int, int, int]
    content_hash: str
    resize: str | None = None

    largest = 255.0

    def __post_init__(self) -> None:
        self.stamps = stamps(self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, rows: list[int]) -> list[tuple[Tensor, Tensor]]:
        pixels = np.stack([self.read(row) for row in rows])
        xb = bytes_to_floats(torch.from_numpy(pixels))
        return list(zip(xb, self.labels[rows], strict=True))

    def read(self, row: int) -> NDArray[np.uint8]:
        from plainfit.data.decoding import read_image  # late, as all that imports Pillow

        with unchanged(self.paths[row], self.stamps[row]):
            return read_image(self.paths[row], self.shape, self.resize)

    def rows(self, rows: Tensor) -> "ImageFiles":
        paths = [self.paths[row] for row in rows.tolist()]
        return replace(self, paths=paths, labels=self.labels[rows])

    def contents(self) -> Iterator[Any]:
        yield self.content_hash.encode()


def stamps(paths: Sequence[str]) -> Tensor:
    return torch.tensor([stamp(path) for path in paths], dtype=torch.int64)


@contextmanager
def unchanged(path: str, known: Tensor) -> Iterator[None]:
    """Refuse a file that is another one than when it had the stamp, or cannot be read any more."""
    from plainfit.data.decoding import BadImageError

    try:
        if (now := stamp(path)) and now != known:
            raise BadImageError("another file")
        yield
    except BadImageError as error:
        raise DataError(
            f"{path} must not change while it is in use, and it is {error} now"
        ) from error


def stamp(path: str) -> int:
    """Return a number that changes when a file is written or replaced; 0 for one that is gone."""
    try:
        status = os.stat(path)  # noqa: PTH116  # before each image: no Path is made
    except OSError:
        return 0
    return hash((status.st_size, status.st_mtime_ns, status.st_ino))


class DiskRows(Dataset[tuple[Tensor, Tensor]]):
    """The rows `at` of a mapped array, shape (rows, ...), as a dataset of (float32 values, label).

    `path` is for messages.
    """

    labels: Tensor
    largest: float  # absolute value

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

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.__getitems__([index])[0]

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


class DiskImages(DiskRows):
    """Rows of bytes that are images, and floats in [0, 1) when read."""


LazyImages = ImageFiles | DiskImages
LazySamples = ImageFiles | DiskRows


def open_rows(path: str, array: NDArray[Any], decode: Decode) -> DiskRows:
    """Return all rows of a mapped array, after checking each, as a dataset yet without labels."""
    at = torch.arange(len(array))
    rows = DiskRows(path, array, decode, at)
    if rows.read(at[:1]).dtype == torch.uint8:
        rows = DiskImages(path, array, decode, at)
    ends = (torch.stack(torch.aminmax(rows.read(block))) for block in rows.blocks())
    rows.largest = max((float(pair.abs().max()) for pair in ends), default=0.0)
    return rows
