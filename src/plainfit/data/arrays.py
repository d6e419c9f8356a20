"""Arrays: scikit-learn's digits, and .npz files."""

import math
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plainfit.common.errors import DataError
from plainfit.data.splits import DataSplits, as_floats, assemble, most_memory

PART_NAMES = {"train": ("train",), "valid": ("valid", "val"), "test": ("test",)}


def read_digits(split_seed: int = 0) -> DataSplits:
    """Return the UCI handwritten digits that come with scikit-learn: 1,797 images of 8x8 pixels.

    Their gray values 0 to 16 are stretched to bytes, 0 to 255, so that they are images like any
    other. Source: https://archive.ics.uci.edu/dataset/80 (the test part), CC BY 4.0.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    return assemble(
        "digits",
        {"train": (images, digits.target)},
        input_shape=(1, 8, 8),
        split_seed=split_seed,
        classes=tuple("0123456789"),
    )


def read_npz(path: Path, split_seed: int = 0) -> DataSplits:
    """Return the arrays of a .npz file; nothing pickled in it is ever loaded.

    It holds `x` and `y`, or `x_train`, `y_train` and perhaps `x_valid`, `y_valid`, `x_test`,
    `y_test`. Bytes of shape (samples, height, width), (samples, height, width, channels) or
    (samples, channels, height, width) are images; other numbers become float32 as they are.

    Raises:
        DataError: if the file cannot be read or holds something else.
    """
    arrays = read_arrays(path)
    parts, shapes = {}, {}
    for part, (x, y) in find_parts(path, "a .npz file", list(arrays)).items():
        samples = as_samples(str(path), x, arrays[x])
        parts[part], shapes[part] = (samples, as_labels(path, y, arrays[y])), samples.shape[1:]
    return assemble(str(path), parts, input_shape=one_shape(path, shapes), split_seed=split_seed)


def find_parts(path: Path, what: str, names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return the names of the samples and of the labels, for each part that there is."""
    pairs = (
        {"train": [("x", "y")]}
        if "x" in names and "y" in names
        else {
            part: [(f"x_{name}", f"y_{name}") for name in called]
            for part, called in PART_NAMES.items()
        }
    )
    found = {}
    for part, candidates in pairs.items():
        for x, y in candidates:
            if x in names and y in names:
                found[part] = (x, y)
            elif x in names or y in names:
                raise DataError(
                    f"{path}: {x} and {y} must be there together, and one is missing; it holds "
                    f"{', '.join(names)}"
                )
    if "train" not in found:
        raise DataError(
            f"{path}: {what} must hold x and y, or x_train and y_train, and holds "
            f"{', '.join(names) or 'nothing'}"
        )
    return found


def one_shape(path: Path, shapes: Mapping[str, Sequence[int]]) -> tuple[int, ...]:
    """Return the shape of a sample, which is the same in all parts."""
    different = {tuple(shape) for shape in shapes.values()}
    if len(different) > 1:
        raise DataError(f"{path}: samples must have one shape, got {sorted(different)}")
    return different.pop()


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of a .npz file, by name in lower case.

    `np.load` does the same, but makes room for as many numbers as the file claims to have.
    """
    try:
        with warnings.catch_warnings(), zipfile.ZipFile(path) as file:
            warnings.simplefilter("ignore")  # NumPy's, of how Python 2 wrote
            members = [member for member in file.infolist() if member.filename.endswith(".npy")]
            unpacked = sum(member.file_size for member in members)
            if unpacked > most_memory(path):
                raise ValueError(f"it claims to unpack to {unpacked} bytes")
            return {
                member.filename.removesuffix(".npy").lower(): read_npy(file, member)
                for member in members
            }
    except Exception as error:  # zip files and headers fail in many ways when they are damaged
        raise DataError(
            f"{path}: the .npz file cannot be read ({error or type(error).__name__})"
        ) from error


def read_npy(file: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    """Return one array, after checking that it is no larger than its member of the zip file."""
    with file.open(member) as content:
        shape, _, dtype = read_header(content)
        if math.prod(shape) * dtype.itemsize > member.file_size:
            raise ValueError(f"an array of shape {shape} has {member.file_size} bytes")
        content.seek(0)
        array: NDArray[Any] = np.lib.format.read_array(content, allow_pickle=False)
        return array


def read_header(content: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return the shape of a .npy file's array, whether it is in Fortran order, and its dtype."""
    npy = np.lib.format
    first = npy.read_magic(content) == (1, 0)
    header = npy.read_array_header_1_0 if first else npy.read_array_header_2_0
    return header(content)


def as_samples(
    path: str, name: str, array: NDArray[Any], rows: NDArray[np.int64] | None = None
) -> Tensor:
    """Return an array as uint8 images or float32 values, after checking that it is that.

    Args:
        path: of the file, for messages.
        name: of the array, for messages.
        array: all samples, or some of them.
        rows: which ones, where those are not 0, 1, ...
    """
    if array.ndim < 2 or array.dtype.kind not in "fiub" or 0 in array.shape[1:]:
        raise DataError(
            f"{path}: {name} must be numbers of shape (samples, ...), got {array.dtype} of shape "
            f"{array.shape}"
        )
    if array.ndim == 4 and array.shape[3] in (1, 3) and array.shape[1] not in (1, 3):
        array = array.transpose(0, 3, 1, 2)  # (samples, height, width, channels), as in TensorFlow
    if array.ndim == 3 and array.dtype == np.uint8:
        array = array[:, None]
    if array.ndim == 4 and array.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(array))
    return torch.from_numpy(as_floats(path, name, array, rows))


def as_labels(path: Path, name: str, array: NDArray[Any]) -> NDArray[Any]:
    """Return labels of shape (samples,); a column of shape (samples, 1) is accepted."""
    labels = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if labels.ndim != 1:
        raise DataError(
            f"{path}: {name} must have one label a sample, got shape {labels.shape}; of one-hot "
            "rows take argmax(1)"
        )
    return labels
