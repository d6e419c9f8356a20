"""MNIST and Fashion-MNIST: IDX files, found or downloaded, or the tutorial's pickle.

Files are checked by hash. A pickle is a program, and `pickle.load` runs it. `read_pickled_arrays`
accepts only the instructions and names with which NumPy describes its arrays, and the names stand
for code in this module (docs/decisions/0021-restricted-unpickler.md).
"""

import hashlib
import math
import os
import pickle
import pickletools
import re
import warnings
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plainfit.common.errors import DataError
from plainfit.common.files import download
from plainfit.data.parts import USUAL, Split
from plainfit.data.splits import DataSplits, Samples, as_floats, make_splits
from plainfit.data.targets import Labels, Target

TRAIN_SIZE = 50_000  # the tutorial's split: the first 50,000 train, the last 10,000 validate
LARGEST_FILE = 2**30  # bytes; a compressed file that unpacks to more is refused
IDX_UINT8 = 8  # the type code of unsigned bytes (yann.lecun.org/exdb/mnist, "file format")
MOST_INSTRUCTIONS = 100_000  # of a pickle; six arrays need a few hundred
INSTRUCTIONS = {
    "PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "GLOBAL",
    "STACK_GLOBAL", "REDUCE", "BUILD", "STOP", "NONE", "NEWTRUE", "NEWFALSE", "EMPTY_TUPLE",
    "TUPLE1", "TUPLE2", "TUPLE3", "MARK", "TUPLE", "EMPTY_LIST", "APPEND", "APPENDS", "BININT",
    "BININT1", "BININT2", "LONG1", "BINSTRING", "SHORT_BINSTRING", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
DEEPEST = 8  # levels of tuples and lists in a pickle; the tutorial's file has two


class IdxSet(NamedTuple):
    mirrors: tuple[str, ...]
    hashes: dict[str, str]  # SHA-256 of the .gz file or of its content
    classes: tuple[str, ...]


TRAIN_X, TRAIN_Y = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_X, TEST_Y = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
IDX_SETS = {
    "mnist": IdxSet(
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        hashes={  # of the decompressed content
            TRAIN_X: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            TRAIN_Y: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            TEST_X: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            TEST_Y: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
        classes=tuple("0123456789"),
    ),
    "fashion-mnist": IdxSet(
        mirrors=(
            "https://fashion-mnist.s3.eu-central-1.amazonaws.com/",
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ),
        hashes={  # of the .gz files that its authors publish
            TRAIN_X: "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            TRAIN_Y: "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            TEST_X: "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            TEST_Y: "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
        classes=(
            "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
            "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
        ),
    ),
}  # fmt: skip


def read_idx_set(name: str, data_dir: str | Path | None = None, split: Split = USUAL) -> DataSplits:
    """Return MNIST or Fashion-MNIST in the tutorial's split, and the test images.

    Missing files are downloaded into `data_dir`, by default a folder of that name in
    `cache_folder()`.
    """
    folder = Path(data_dir or cache_folder() / name)
    idx_set = IDX_SETS[name]
    arrays = {
        file: torch.from_numpy(parse_idx(find_or_download(idx_set, file, folder), file).copy())
        for file in idx_set.hashes
    }
    images, labels = arrays[TRAIN_X].unsqueeze(1), arrays[TRAIN_Y].long()
    parts: dict[str, tuple[Samples, Labels]] = {
        "train": (images[:TRAIN_SIZE], labels[:TRAIN_SIZE]),
        "valid": (images[TRAIN_SIZE:], labels[TRAIN_SIZE:]),
        "test": (arrays[TEST_X].unsqueeze(1), arrays[TEST_Y].long()),
    }
    return make_splits(name, parts, split=split, target=Target(idx_set.classes))


def cache_folder() -> Path:
    import pooch

    return Path(os.environ.get("PLAINFIT_DATA") or pooch.os_cache("plainfit"))


def file_in(folder: Path, name: str) -> Path | None:
    """Return the file of a name, compressed or not; None if it is not there."""
    paths = (folder / f"{name}.gz", folder / name)
    return next((path for path in paths if path.is_file()), None)


def find_or_download(idx_set: IdxSet, name: str, folder: Path) -> bytes:
    wanted = idx_set.hashes[name]
    if path := file_in(folder, name):
        content = checked_content(path, wanted)
        if content is None:
            raise DataError(
                f"{path} must have the SHA-256 {wanted}, and has another one: it is damaged or "
                "another file; delete it to download it again"
            )
        return content
    return download(
        [f"{mirror}{name}.gz" for mirror in idx_set.mirrors],
        folder / f"{name}.gz",
        lambda path: checked_content(path, wanted),
        place="data_dir or the variable PLAINFIT_DATA",
        otherwise=f"put the file into {folder}, or set data_dir to a folder that has it",
    )


def checked_content(path: Path, wanted: str) -> bytes | None:
    """Return a file's decompressed content, or None if neither it nor the file has the hash."""
    raw = path.read_bytes()
    try:
        content = gunzip(raw, str(path)) if raw[:2] == b"\x1f\x8b" else raw
    except DataError:
        return None
    hashes = (hashlib.sha256(data).hexdigest() for data in (raw, content))
    return content if wanted in hashes else None


def gunzip(raw: bytes, name: str) -> bytes:
    """Decompress; refuse a file that is damaged or unpacks to more than `LARGEST_FILE` bytes."""
    unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)  # 16: with gzip's header
    try:
        content = unpacker.decompress(raw, LARGEST_FILE)
    except zlib.error as error:
        raise DataError(f"{name}: the compressed file is damaged ({error})") from error
    if not unpacker.eof:
        what = "unpacks to more than 1 GiB" if unpacker.unconsumed_tail else "ends too soon"
        raise DataError(f"{name}: the compressed file {what}")
    return content


def parse_idx(content: bytes, name: str) -> NDArray[np.uint8]:
    dimensions = content[3] if len(content) >= 4 else 0
    start = 4 + 4 * dimensions
    if content[:3] != bytes([0, 0, IDX_UINT8]) or not 1 <= dimensions <= 4 or len(content) < start:
        raise DataError(
            f"{name}: an IDX file of bytes must begin with 00 00 08 and 1 to 4 dimensions"
        )
    shape = np.frombuffer(content, ">u4", dimensions, 4).tolist()
    if math.prod(shape) != len(content) - start:
        raise DataError(
            f"{name}: an IDX file of shape {tuple(shape)} must have {math.prod(shape)} bytes of "
            f"data, got {len(content) - start}"
        )
    if math.prod(max(size, 1) for size in shape) > LARGEST_FILE:
        raise DataError(f"{name}: an IDX file must hold at most 1 GiB, got shape {tuple(shape)}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_mnist_pickle(path: Path, split: Split = USUAL) -> DataSplits:
    """Return the tutorial's `mnist.pkl.gz`: three pairs of arrays.

    Pixels that are bytes divided by 256, as in that file, are turned back into bytes: the same
    images as from the IDX files, bit for bit.
    """
    raw = path.read_bytes()
    content = gunzip(raw, path.name) if raw[:2] == b"\x1f\x8b" else raw
    arrays = read_pickled_arrays(content, path.name)
    sets = arrays if isinstance(arrays, tuple) else ()
    if len(sets) != 3 or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in sets):
        raise DataError(
            f"{path.name}: the pickle must hold ((x_train, y_train), (x_valid, y_valid), "
            "(x_test, y_test)), as the tutorial's mnist.pkl.gz does"
        )
    parts: dict[str, tuple[Tensor, Labels]] = {}
    as_bytes = all(isinstance(x, np.ndarray) and holds_bytes(x) for x, _ in sets)
    for part, (x, y) in zip(("train", "valid", "test"), sets, strict=True):
        if not (isinstance(x, np.ndarray) and x.ndim == 2 and x.shape[1] > 0) or not (
            isinstance(y, np.ndarray) and y.ndim == 1
        ):
            raise DataError(f"{path.name}: {part} must be an array of rows and one of labels")
        side = math.isqrt(x.shape[1])
        rows: Any = (x * 256).astype(np.uint8) if as_bytes else as_floats(path.name, part, x)
        parts[part] = (torch.from_numpy(rows.reshape(-1, 1, side, side) if as_bytes else rows), y)
    return make_splits(str(path), parts, split=split)


def holds_bytes(rows: NDArray[Any]) -> bool:
    if rows.dtype.kind != "f" or rows.ndim != 2 or math.isqrt(rows.shape[1]) ** 2 != rows.shape[1]:
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = rows * 256
    return bool(((scaled >= 0) & (scaled < 256) & (scaled == np.floor(scaled))).all())


def read_pickled_arrays(content: bytes, name: str) -> Any:
    """Return the tuples and lists of NumPy arrays in a pickle, as tuples."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd escapes in text, which is then refused
            check_instructions(content)
        return to_arrays(ArrayUnpickler(BytesIO(content), encoding="bytes").load(), {}, 0)
    except RefusedError as error:
        why = str(error)
    except (pickle.UnpicklingError, ArithmeticError, AttributeError, EOFError, LookupError,
            TypeError, ValueError) as error:  # fmt: skip
        why = f"is damaged ({type(error).__name__}: {error})"
    raise DataError(
        f"{name}: a pickle must describe NumPy arrays in tuples and lists only, and this one "
        f"{why}; nothing of it was run"
    )


class RefusedError(Exception):
    """The pickle holds something other than arrays."""


def check_instructions(content: bytes) -> None:
    """Check that a pickle only builds tuples, lists, numbers and text, and calls known names.

    The unpickler trusts a file further than it should: it allocates as many memo entries as an
    index says, hashes keys of any depth, and gives out cached extensions without `find_class`.
    """
    argument: Any
    for count, (opcode, argument, position) in enumerate(pickletools.genops(content)):
        if opcode.name not in INSTRUCTIONS:
            raise RefusedError(f"has the instruction {opcode.name} at byte {position}")
        if count == MOST_INSTRUCTIONS:
            raise RefusedError(f"has more than {MOST_INSTRUCTIONS} instructions")
        if opcode.name == "LONG_BINPUT" and argument > MOST_INSTRUCTIONS:
            raise RefusedError(f"has the memo index {argument} at byte {position}")


class ArrayUnpickler(pickle.Unpickler):
    """Loads arrays as `PickledArray`; finds no names but those that NumPy writes."""

    def __init__(self, file: BytesIO, *, encoding: str) -> None:
        super().__init__(file, encoding=encoding)
        self.encoded: dict[str, bytes] = {}

    def find_class(self, module: str, name: str) -> Any:
        found: dict[str, Any] = {
            "numpy.ndarray": None,  # only an argument of _reconstruct
            "numpy.dtype": PickledDtype,
            "numpy.core.multiarray._reconstruct": PickledArray,
            "numpy._core.multiarray._reconstruct": PickledArray,
            "numpy.core.numeric._frombuffer": from_buffer,
            "numpy._core.numeric._frombuffer": from_buffer,
            "_codecs.encode": self.encode,
            "__builtin__.bytes": lambda: b"",  # protocol 2 writes the bytes of an empty array so
        }
        if f"{module}.{name}" not in found:
            raise RefusedError(f"names {f'{module}.{name}'[:80]!r}")
        return found[f"{module}.{name}"]

    def encode(self, text: str, encoding: str) -> bytes:
        """Return the bytes of an array that protocol 2 writes as text; once, if arrays share it."""
        if not isinstance(text, str) or encoding != "latin1":
            raise RefusedError("encodes something other than the bytes of an array")
        if text not in self.encoded:
            self.encoded[text] = text.encode("latin-1")
        return self.encoded[text]


class PickledDtype:
    def __init__(self, code: str | bytes, *_: object) -> None:
        text = code.decode("ascii") if isinstance(code, bytes) else code
        if not re.fullmatch("[fiub][1-9][0-9]?", text):
            raise RefusedError(f"describes an array of {text[:80]!r}")
        self.dtype = np.dtype(text)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in (">", b">"):
            self.dtype = self.dtype.newbyteorder(">")


class PickledArray:
    """Stands in for an array made by `numpy._core.multiarray._reconstruct`."""

    array: NDArray[Any] | None = None

    def __init__(self, *_: object) -> None: ...  # the state has all that matters

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, data = state
        if not isinstance(dtype, PickledDtype):
            raise RefusedError("describes an array without a dtype")
        if len(shape) > 64 or not all(type(size) is int and 0 <= size < 2**63 for size in shape):
            raise ValueError("the shape of an array must be a few whole numbers")
        order: Any = "F" if is_fortran else "C"
        self.array = np.frombuffer(data, dtype.dtype).reshape(shape, order=order)


def from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> PickledArray:
    made = PickledArray()
    made.__setstate__((1, shape, dtype, order == "F", data))
    return made


def to_arrays(value: Any, done: dict[int, Any], depth: int) -> Any:
    """Make tuples of arrays; convert each part once, however often the file refers to it."""
    if depth > DEEPEST:
        raise RefusedError(f"nests more than {DEEPEST} levels deep")
    if isinstance(value, PickledArray) and value.array is not None:
        return value.array
    if not isinstance(value, tuple | list):
        raise RefusedError(f"holds a {type(value).__name__} where an array should be")
    if id(value) not in done:
        done[id(value)] = tuple(to_arrays(item, done, depth + 1) for item in value)
    return done[id(value)]
