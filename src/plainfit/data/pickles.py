"""Reading arrays out of a pickle without running it.

A pickle is a program, and `pickle.load` runs it. This reader walks the instructions with
`pickletools` and understands only those that describe tuples, lists, numbers, text and NumPy
arrays; it imports nothing, calls nothing that the file names, and refuses all else. That is
enough for the tutorial's `mnist.pkl.gz`.
"""

import math
import pickletools
import re
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plainfit.common.errors import DataError

# The only names a file may mention; they stand for what NumPy's own pickles say of an array.
RECONSTRUCT, FROM_BUFFER, ENCODE = "_reconstruct", "_frombuffer", "encode"
NDARRAY, DTYPE = "ndarray", "dtype"
BYTES = "bytes"  # called without arguments: how protocol 2 writes no bytes at all
KNOWN_NAMES = {
    ("numpy.core.multiarray", RECONSTRUCT),
    ("numpy._core.multiarray", RECONSTRUCT),
    ("numpy.core.numeric", FROM_BUFFER),
    ("numpy._core.numeric", FROM_BUFFER),
    ("numpy", NDARRAY),
    ("numpy", DTYPE),
    ("_codecs", ENCODE),
    ("__builtin__", BYTES),
}
LITERALS = {
    "BININT", "BININT1", "BININT2", "LONG1", "BINSTRING", "SHORT_BINSTRING", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
DEEPEST = 8  # levels of tuples and lists; the tutorial's file has two
MOST_INSTRUCTIONS = 100_000  # each may take some hundred bytes; six arrays need a few hundred
MOST_DIMENSIONS = 64  # NumPy's own limit
LARGEST_SIZE = 2**63  # of one dimension
CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
MEMO_WRITES, MEMO_READS = {"BINPUT", "LONG_BINPUT"}, {"BINGET", "LONG_BINGET"}


class _Mark:
    """Where a tuple or list on the stack begins."""


@dataclass(frozen=True)
class _Name:
    """One of the known names."""

    name: str


@dataclass
class _Dtype:
    """A NumPy dtype as the file describes it."""

    code: str
    order: str = "="


@dataclass
class _Array:
    """A NumPy array as the file describes it."""

    shape: tuple[int, ...] = ()
    dtype: _Dtype | None = None
    fortran: bool = False
    data: Any = b""


class _RefusedError(Exception):
    """The file says something that a description of arrays does not."""


def read_pickled_arrays(content: bytes, name: str) -> Any:
    """Return the tuples and lists of NumPy arrays that a pickle describes.

    Args:
        content: the pickle, decompressed.
        name: of the file, for messages.

    Raises:
        DataError: if the file is damaged, or holds anything but arrays in tuples and lists.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes in text that is then refused
            return _to_numpy(_walk(content), {}, 0)
    except _RefusedError as error:
        raise DataError(
            f"{name}: a pickle must describe NumPy arrays in tuples and lists only, and this one "
            f"{error}; nothing of it was run"
        ) from error
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(
            f"{name}: the pickle is damaged ({type(error).__name__}: {error})"
        ) from error


def _walk(content: bytes) -> Any:
    """Follow the instructions and return what they leave on the stack."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    argument: Any
    for count, (opcode, argument, position) in enumerate(pickletools.genops(content)):
        name = opcode.name
        if count == MOST_INSTRUCTIONS:
            raise _RefusedError(f"has more than {MOST_INSTRUCTIONS} instructions")
        if name in LITERALS:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in SHORT_TUPLES:
            stack[-SHORT_TUPLES[name] :] = [tuple(stack[-SHORT_TUPLES[name] :])]
        elif name == "MARK":
            stack.append(_Mark)
        elif name == "TUPLE":
            stack.append(tuple(_pop_to_mark(stack)))
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "APPENDS":
            items = _pop_to_mark(stack)
            stack[-1].extend(items)
        elif name == "APPEND":
            item = stack.pop()
            stack[-1].append(item)
        elif name == "GLOBAL":
            stack.append(_known_name(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            stack[-2:] = [_known_name(*stack[-2:])]
        elif name == "REDUCE":
            stack[-2:] = [_reduce(*stack[-2:])]
        elif name == "BUILD":
            state = stack.pop()
            _build(stack[-1], state)
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in MEMO_WRITES:
            memo[argument] = stack[-1]
        elif name in MEMO_READS:
            stack.append(memo[argument])
        elif name == "STOP":
            return stack.pop()
        elif name not in {"PROTO", "FRAME"}:
            raise _RefusedError(f"has the instruction {name} at byte {position}")
    raise ValueError("it ends too soon")


def _pop_to_mark(stack: list[Any]) -> list[Any]:
    items: list[Any] = []
    while (item := stack.pop()) is not _Mark:
        items.append(item)
    return items[::-1]


def _known_name(module: Any, name: Any) -> _Name:
    if not isinstance(module, str) or not isinstance(name, str):
        raise TypeError("a name must be text")
    if (module, name) not in KNOWN_NAMES:
        raise _RefusedError(f"names {f'{module}.{name}'[:80]!r}")
    return _Name(name)


def _reduce(target: Any, arguments: Any) -> Any:
    """Stand in for calling a known name."""
    match target:
        case _Name(name=name) if name == ENCODE and arguments[1] == "latin1":
            return arguments[0]  # made bytes where an array needs them, and there once
        case _Name(name=name) if name == BYTES and arguments == ():
            return b""
        case _Name(name=name) if name == DTYPE:
            return _Dtype(arguments[0])
        case _Name(name=name) if name == RECONSTRUCT:
            return _Array()
        case _Name(name=name) if name == FROM_BUFFER:
            data, dtype, shape, order = arguments
            return _Array(shape, dtype, order == "F", data)
    raise _RefusedError("calls something else than NumPy's own makers of arrays")


def _build(target: Any, state: Any) -> None:
    """Stand in for setting the state of a dtype or an array."""
    if isinstance(target, _Dtype):
        target.order = state[1]
    elif isinstance(target, _Array):
        _, target.shape, target.dtype, target.fortran, target.data = state
    else:
        raise _RefusedError("sets the state of something else than an array")


def _to_numpy(value: Any, done: dict[Any, Any], depth: int) -> Any:
    """Return the value with arrays made, each part once however often the file refers to it."""
    if depth > DEEPEST:
        raise _RefusedError(f"nests deeper than {DEEPEST} levels")
    if id(value) not in done:
        if isinstance(value, tuple | list):
            done[id(value)] = tuple(_to_numpy(item, done, depth + 1) for item in value)
        elif isinstance(value, _Array):
            done[id(value)] = _array(value, done)
        else:
            kind = type(value).__name__.lstrip("_")
            raise _RefusedError(f"holds a {kind} where an array should be")
    return done[id(value)]


def _array(described: _Array, done: dict[Any, Any]) -> NDArray[Any]:
    """Make the array, after checking that its description is sound."""
    if not isinstance(described.dtype, _Dtype):
        raise _RefusedError("describes an array without a dtype")
    if not re.fullmatch("[fiub][1-9][0-9]?", described.dtype.code):
        raise _RefusedError(f"describes an array of {described.dtype.code[:80]!r}")
    dtype = np.dtype(described.dtype.code)
    if described.dtype.order in ("<", ">"):
        dtype = dtype.newbyteorder(described.dtype.order)  # type: ignore[arg-type]
    shape, data = described.shape, described.data
    if len(shape) > MOST_DIMENSIONS or not all(
        isinstance(size, int) and 0 <= size < LARGEST_SIZE for size in shape
    ):
        raise ValueError("the shape of an array must be a few whole numbers")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"an array of shape {shape} has {len(data)} bytes")
    if isinstance(data, str):  # where Python 2 or protocol 2 wrote the file: a character a byte
        if (key := ("bytes of", id(data))) not in done:  # many arrays may share one text
            done[key] = data.encode("latin-1")
        data = done[key]
    return np.frombuffer(data, dtype).reshape(shape, order="F" if described.fortran else "C")
