"""Arrays: .npz files, and folders of .npy files that are read into memory or mapped."""

import math
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from functools import partial
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plainfit.common.errors import DataError, shortened
from plainfit.data.ondisk import open_rows
from plainfit.data.parts import Split
from plainfit.data.splits import PARTS, DataSplits, Samples, as_floats, make_splits, most_memory
from plainfit.data.targets import Labels

USUAL_FILES = ("x.npy", "y.npy", "x_train.npy", "y_train.npy")


def read_npz(path: Path, split: Split, task: str | None = None) -> DataSplits:
    """Return the arrays of a .npz file; pickled objects in it are refused.

    It holds `x` and `y`, or `x_train` and `y_train`, with or without `x_valid`, `y_valid`, `x_test`
    and `y_test`; the notes name other arrays. Bytes of shape (samples, height, width), (samples,
    height, width, channels) or (samples, channels, height, width) are images; other numbers become
    float32.
    """
    arrays = read_zipped_arrays(path)
    found = find_parts(path, "a .npz file", list(arrays))
    notes = notes_on(list(arrays), found, arrays)
    parts: dict[str, tuple[Samples, Labels]] = {
        part: (as_samples(str(path), x, arrays[x]), as_labels(path, y, arrays[y]))
        for part, (x, y) in found.items()
    }
    return make_splits(str(path), parts, split=split, task=task, notes=notes)


def read_npy_folder(
    root: Path, split: Split, memory_budget: int = 2048, task: str | None = None
) -> DataSplits:
    """Return the arrays of a folder: the same ones as in a .npz file, as `x.npy`, `y.npy`, ...

    Samples that take more than `memory_budget` MiB are mapped and read as they are used.
    """
    paths = {path.stem: path for path in sorted(root.glob("*.npy"))}
    found = find_parts(root, "a folder of .npy files", list(paths))
    mapped = {name: map_array(paths[name]) for pair in found.values() for name in pair}
    fits = sum(size_in_memory(mapped[x]) for x, _ in found.values()) <= memory_budget * 2**20
    parts: dict[str, tuple[Samples, Labels]] = {}
    for part, (x, y) in found.items():
        decode = partial(as_samples, str(root), x)
        if fits:
            samples: Samples = decode(np.array(mapped[x]))
        elif mapped[x].flags.c_contiguous:
            samples = open_rows(str(paths[x]), mapped[x], decode)
        else:
            raise DataError(
                f"{paths[x]}: arrays read from disk must be in C order, got Fortran order; save "
                "np.ascontiguousarray(x), or raise memory_budget"
            )
        parts[part] = (samples, as_labels(root, y, np.array(mapped[y])))
    notes = notes_on(list(paths), found, mapped)
    if not fits:
        notes.append(f"larger than {memory_budget} MiB: read from disk as it is used")
    return make_splits(str(root), parts, split=split, task=task, notes=notes)


def map_array(path: Path) -> np.memmap[Any, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy's, about headers of Python 2
            return np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # damaged headers fail in many ways
        raise DataError(
            f"{path}: the .npy file cannot be read ({error}); save an array of numbers, or of text "
            "of a fixed width, with np.save"
        ) from error


def size_in_memory(array: NDArray[Any]) -> int:
    return array.size * (1 if array.dtype == np.uint8 and array.ndim in (3, 4) else 4)


def find_parts(path: Path, what: str, names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return the names of the samples and the labels of each part, whatever their case is."""
    known = {name.lower(): name for name in names}
    found: dict[str, tuple[str, str]] = {}
    held = f"it holds {', '.join(names) or 'nothing'}"
    for end, part in {"": "train", **{f"_{name}": part for name, part in PARTS.items()}}.items():
        x, y = f"x{end}", f"y{end}"
        if end and (x in known) != (y in known):
            raise DataError(f"{path}: {x} and {y} must come together, and one is missing; {held}")
        if not {x, y} <= known.keys():
            continue
        if part in found or len(known) < len(names):
            raise DataError(f"{path}: there must be one x and one y for each part; {held}")
        found[part] = (known[x], known[y])
    if "train" not in found:
        raise DataError(f"{path}: {what} must hold x and y, or x_train and y_train; {held}")
    return found


def notes_on(
    names: Sequence[str], found: Mapping[str, tuple[str, str]], arrays: Mapping[str, NDArray[Any]]
) -> list[str]:
    notes = []
    if others := [name for name in names if name not in chain(*found.values())]:
        notes.append(
            f"arrays that are not used: {shortened(others)} (the parts are called x_train, "
            "x_valid and x_test)"
        )
    name = found["train"][0]
    x = arrays[name]
    if x.ndim == 4 and x.shape[1::2] in ((1, 1), (1, 3), (3, 1), (3, 3), (4, 4)):
        notes.append(f"{name} of shape {x.shape} is read as (samples, channels, height, width)")
    return notes


def in_torch_order(images: NDArray[Any]) -> NDArray[Any]:
    """Return (samples, channels, height, width); TensorFlow has the channels last."""
    _, first, _, last = images.shape
    is_last = (last in (1, 3) and first not in (1, 3)) or (last == 4 and first not in (1, 3, 4))
    return images.transpose(0, 3, 1, 2) if is_last else images


def read_zipped_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of a .npz file, by name.

    `np.load` does the same, but allocates as many numbers as the file claims to hold.
    """
    try:
        with warnings.catch_warnings(), zipfile.ZipFile(path) as file:
            warnings.simplefilter("ignore")  # NumPy's, about headers of Python 2
            members = [member for member in file.infolist() if member.filename.endswith(".npy")]
            claimed = sum(max(member.file_size, member.compress_size) for member in members)
            if claimed > most_memory(path):
                raise ValueError(f"it claims to hold {claimed} bytes")
            return {
                member.filename.removesuffix(".npy"): parse_npy(file.read(member))
                for member in members
            }
    except Exception as error:  # damaged zip files and headers fail in many ways
        raise DataError(
            f"{path}: the .npz file cannot be read ({error or type(error).__name__})"
        ) from error


def parse_npy(content: bytes) -> NDArray[Any]:
    """Return the array in a .npy file without a copy, so that it cannot be larger than the file."""
    file, npy = BytesIO(content), np.lib.format
    is_first = npy.read_magic(file) == (1, 0)
    read_header = npy.read_array_header_1_0 if is_first else npy.read_array_header_2_0
    shape, is_fortran, dtype = read_header(file)
    if min(shape, default=0) < 0:
        raise ValueError(f"a shape must not be negative, got {shape}")
    values = np.frombuffer(content, dtype, math.prod(shape), file.tell())
    return values.reshape(shape, order="F" if is_fortran else "C")


def as_samples(
    path: str, name: str, array: NDArray[Any], rows: NDArray[np.int64] | None = None
) -> Tensor:
    """Return an array as uint8 images or float32 values, after checking it; see `as_floats`."""
    if array.ndim < 2 or array.dtype.kind not in "fiub" or 0 in array.shape[1:]:
        raise DataError(
            f"{path}: {name} must be numbers of shape (samples, ...), got {array.dtype} of shape "
            f"{array.shape}"
        )
    if array.ndim == 4:
        array = in_torch_order(array)
    if array.ndim == 3 and array.dtype == np.uint8:
        array = array[:, None]
    if array.ndim == 4 and array.dtype == np.uint8:
        return torch.from_numpy(np.require(array, requirements=["C", "W"]))
    return torch.from_numpy(as_floats(path, name, array, rows))


def as_labels(path: Path, name: str, array: NDArray[Any]) -> NDArray[Any]:
    labels = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if labels.ndim not in (1, 2):
        raise DataError(
            f"{path}: {name} must have one label per sample, or a row of them, got shape "
            f"{labels.shape}"
        )
    return labels
