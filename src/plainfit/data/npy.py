"""A folder of .npy files: held in memory, or read from disk as they are used."""

import math
import os
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plainfit.common.errors import DataError
from plainfit.data.arrays import as_labels, as_samples, find_parts, one_shape, read_header
from plainfit.data.ondisk import RowFile, open_rows
from plainfit.data.splits import DataSplits, Labels, Samples, assemble

TELLING = ("x.npy", "y.npy", "x_train.npy", "y_train.npy")


@dataclass(frozen=True)
class NpyFile:
    """What the first bytes of a .npy file say."""

    path: Path
    offset: int
    """Bytes before the values."""
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_fortran: bool

    @property
    def bytes_in_memory(self) -> int:
        """How many bytes its samples take: images one a value, other numbers four."""
        is_image = self.dtype == np.uint8 and len(self.shape) in (3, 4)
        return math.prod(self.shape) * (1 if is_image else 4)


def is_npy_folder(path: Path) -> bool:
    """Tell a folder of arrays from one of images."""
    return any((path / name).is_file() for name in TELLING)


def read_npy_folder(root: Path, split_seed: int = 0, memory_budget: int = 2048) -> DataSplits:
    """Return the arrays of a folder: `x.npy` and `y.npy`, or `x_train.npy`, `y_train.npy`, ...

    They are what those of a .npz file are (see `plainfit.data.arrays.read_npz`).

    Args:
        root: the folder.
        split_seed: seed of the stratified split, where there are no arrays for it.
        memory_budget: MiB; samples that take more stay on disk and are read as they are used.

    Raises:
        DataError: if a file cannot be read or holds something else.
    """
    paths = {path.stem: path for path in sorted(root.glob("*.npy"))}
    found = find_parts(root, "a folder of .npy files", list(paths))
    files = {part: read_npy_file(paths[x]) for part, (x, _) in found.items()}
    fits = sum(file.bytes_in_memory for file in files.values()) <= memory_budget * 2**20
    parts: dict[str, tuple[Samples, Labels]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for part, (x, y) in found.items():
        labels = as_labels(root, y, load(read_npy_file(paths[y])))
        samples: Samples
        if fits:
            samples = as_samples(str(root), x, load(files[part]))
            shapes[part] = tuple(samples.shape[1:])
        else:
            decode = partial(as_samples, str(root), x)
            samples, shapes[part] = open_rows(on_disk(files[part]), decode)
        parts[part] = (samples, labels)
    return assemble(
        str(root),
        parts,
        input_shape=one_shape(root, shapes),
        split_seed=split_seed,
        notes=[] if fits else [f"more than {memory_budget} MiB: read from disk as it is used"],
    )


def read_npy_file(path: Path) -> NpyFile:
    """Return what a .npy file says it holds, after checking that it is all there.

    Raises:
        DataError: if it is no such file, cut short, or holds Python objects.
    """
    try:
        with path.open("rb") as content, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy's, of how Python 2 wrote
            shape, is_fortran, dtype = read_header(content)
            offset = content.tell()
            if dtype.itemsize == 0 or min(shape, default=0) < 0:
                raise ValueError(f"it claims to hold {dtype} of shape {shape}")
    except Exception as error:  # headers fail in many ways when they are damaged
        raise DataError(f"{path}: the .npy file cannot be read ({error})") from error
    if dtype.hasobject:
        raise DataError(
            f"{path}: values must be numbers, or text of a fixed width, and it holds Python "
            "objects, which are never unpickled; save it with another dtype"
        )
    claimed, there = math.prod(shape) * dtype.itemsize, path.stat().st_size - offset
    if claimed > there:
        raise DataError(
            f"{path}: the file must hold its {claimed} bytes of values and is cut short at "
            f"{there}; write it again"
        )
    return NpyFile(path, offset, shape, dtype, is_fortran)


def load(file: NpyFile) -> NDArray[Any]:
    """Return the whole array."""
    flat = np.fromfile(file.path, file.dtype, math.prod(file.shape), offset=file.offset)
    return flat.reshape(file.shape, order="F" if file.is_fortran else "C")


def on_disk(file: NpyFile) -> RowFile:
    """Return the array as rows to read, after checking that it has some.

    Raises:
        DataError: if its rows are not each in one piece.
    """
    if file.is_fortran:
        raise DataError(
            f"{file.path}: rows that are read from disk must be in C order, and these are in "
            "Fortran order; save np.ascontiguousarray(x), or raise --memory-budget"
        )
    descriptor = os.open(file.path, os.O_RDONLY)
    return RowFile(str(file.path), descriptor, file.offset, file.dtype, file.shape)
