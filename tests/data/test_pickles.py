"""Pickled arrays are read without running the pickle: right ones exactly, wrong ones not at all."""

import copyreg
import os
import pickle
import random
import struct
import time

import numpy as np
import pytest

from plainfit.common.errors import DataError
from plainfit.data.mnist import read_pickled_arrays


def read(content: bytes):
    return read_pickled_arrays(content, "some.pkl")


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def dumps(*sets, protocol: int = 2) -> bytes:
    return pickle.dumps(sets, protocol=protocol)


def three_pairs(dtype, order="C"):
    rows = np.arange(12).reshape(3, 4)
    return tuple(
        (np.asarray(rows + n, dtype=dtype, order=order), np.array([1, 2, n], dtype=np.int64))
        for n in range(3)
    )


# what is read


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<i8", ">i8", "u1", "?", "<f8"])
def test_arrays_read_back_equal(protocol, order, dtype):
    sets = three_pairs(dtype, order)
    result = read(pickle.dumps(sets, protocol=protocol))
    for pair, (x, y) in zip(result, sets, strict=True):
        assert pair[0].dtype == x.dtype
        assert pair[0].shape == x.shape
        assert np.array_equal(pair[0], x)
        assert np.array_equal(pair[1], y)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_byte_value_floats_of_all_kinds_and_shared_arrays(protocol):
    x = np.array([0.1, -0.0, np.inf, np.nan, 1e-45], np.float32)
    every = np.arange(256, dtype=np.uint8)
    result = read(dumps(x, every, [x, np.array(7)], protocol=protocol))
    assert result[0].tobytes() == x.tobytes() == result[2][0].tobytes()
    assert np.array_equal(result[1], every)
    assert result[2][1] == 7


@pytest.mark.parametrize("protocol", [3, 4, 5])  # NumPy writes none of these in protocol 2
def test_an_empty_array(protocol):
    assert read(dumps(np.ones((2, 0)), protocol=protocol))[0].shape == (2, 0)


def test_a_name_in_the_message_is_short_and_without_control_characters():
    content = b"\x80\x04" + text("os\n\x1b[2J") + text("x" * 1000) + b"\x93."
    with pytest.raises(DataError) as caught:
        read(content)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_that_are_views_of_larger_ones(protocol):
    x = np.arange(24).reshape(4, 6)
    result = read(dumps(x[::2, 1:4], x.T, protocol=protocol))
    assert np.array_equal(result[0], x[::2, 1:4])
    assert np.array_equal(result[1], x.T)


def python2_pickle(x: np.ndarray, module: str) -> bytes:
    """Write what Python 2's cPickle wrote: raw data in a BINSTRING, shape and dtype around it."""
    raw = x.tobytes()
    dtype = name("numpy", "dtype") + b"U\x02f4K\x00K\x01\x87R"
    dtype += b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = name(module, "_reconstruct") + name("numpy", "ndarray") + b"K\x00\x85U\x01b\x87R"
    shape = b"".join(b"K" + bytes([size]) for size in x.shape)
    state = b"(K\x01(" + shape + b"t" + dtype + b"\x89T" + struct.pack("<i", len(raw)) + raw + b"t"
    return b"\x80\x02" + array + state + b"b\x85."


def test_a_pickle_of_python_2():
    x = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    modern = python2_pickle(x, "numpy._core.multiarray")
    assert np.array_equal(pickle.loads(modern, encoding="latin1")[0], x)  # it is a real pickle
    for content in (modern, python2_pickle(x, "numpy.core.multiarray")):
        assert np.array_equal(read(content)[0], x)


# what is refused


class Calls:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def array_of(shape: bytes, code: str = "u1", data: bytes = b"abc") -> bytes:
    dtype = name("numpy", "dtype") + text(code) + b"\x85R"
    raw = b"B" + struct.pack("<I", len(data)) + data
    return (
        name("numpy._core.numeric", "_frombuffer") + b"(" + raw + dtype + shape + text("C") + b"tR."
    )


ARRAY = np.arange(3)
BOMB = b")q\x00" + b"h\x00h\x00\x86q\x00" * 60  # a tuple of 2**60 in 240 bytes
GETATTR = name("builtins", "getattr") + name("importlib", "import_module")

# Each of these makes the folder at `path` when it is unpickled: the test sees to it that it does.
LIVE = {
    "os.mkdir, protocol 0": lambda path: pickle.dumps(Calls(os.mkdir, path), 0),
    "os.mkdir, protocol 2": lambda path: pickle.dumps(Calls(os.mkdir, path), 2),
    "os.mkdir, protocol 5": lambda path: pickle.dumps(Calls(os.mkdir, path), 5),
    "os.system": lambda path: pickle.dumps(Calls(os.system, f"mkdir {path}")),
    "eval": lambda path: name("builtins", "eval") + text(f"__import__('os').mkdir({path!r})")
    + b"\x85R.",
    "exec": lambda path: name("builtins", "exec") + text(f"import os; os.mkdir({path!r})")
    + b"\x85R.",
    "getattr": lambda path: GETATTR + text("os") + b"\x85R" + text("mkdir") + b"\x86R"
    + text(path) + b"\x85R.",
    "__setstate__": lambda path: name("functools", "partial") + name("os", "getcwd") + b"\x85R("
    + name("os", "mkdir") + text(path) + b"\x85}}tb)R.",
    "INST": lambda path: b"(" + text(path) + b"ios\nmkdir\n.",
    "OBJ": lambda path: b"(" + name("os", "mkdir") + text(path) + b"o.",
    "STACK_GLOBAL": lambda path: b"\x80\x04" + text("os") + text("mkdir") + b"\x93" + text(path)
    + b"\x85R.",
    "a dotted name": lambda path: b"\x80\x04" + text("numpy") + text("lib._npyio_impl.os.mkdir")
    + b"\x93" + text(path) + b"\x85R.",
    "EXT1": lambda path: b"\x82\xf5" + text(path) + b"\x85R.",
    "beside a good array": lambda path: dumps((ARRAY, Calls(os.mkdir, path))),
    "in an array of objects": lambda path: dumps(np.array([Calls(os.mkdir, path)], dtype=object)),
    "after a huge memo index": lambda path: b"Nr\xff\xff\xff\x00" + name("os", "mkdir")
    + text(path) + b"\x85R.",
}  # fmt: skip

# These would do other harm, or are no description of an array.
REFUSED = {
    "numpy.load": name("numpy", "load") + text("x") + b"\x85R.",
    "persistent id as text": b"Pid\n.",
    "persistent id": text("id") + b"Q.",
    "EXT4": b"\x84\x01\x00\x00\x00.",
    "NEWOBJ": name("numpy", "ndarray") + b"K\x03\x85\x81.",
    "NEWOBJ_EX": name("numpy", "ndarray") + b")}\x92.",
    "BUILD on a name": name("numpy", "dtype") + b")b.",
    "BUILD of attributes": name("numpy", "ndarray") + b"}" + text("a") + b"Nsb.",
    "ndarray of 2**62 bytes": name("numpy", "ndarray") + b"\x8a\x08" + bytes(7) + b"\x40\x85R.",
    "encode as utf-8": name("_codecs", "encode") + text("x") + text("utf-8") + b"\x86R.",
    "a call of a call": b"N)R.",
    "a name alone": name("numpy", "ndarray") + b".",
    "a dtype alone": name("numpy", "dtype") + text("f4") + b"\x85R.",
    "text": text("hello") + b".",
    "number": b"K\x01.",
    "dict": pickle.dumps({"a": ARRAY}),
    "set": pickle.dumps({1}, 4),
    "out-of-band buffer": b"\x80\x05\x97.",
    "array of text": dumps(np.array(["a"])),
    "array of dates": dumps(np.array(["2020-01-01"], dtype="M8[D]")),
    "array of records": dumps(np.zeros(2, [("a", "f4")])),
    "complex array": dumps(np.zeros(2, complex)),
    "masked array": dumps(np.ma.array([1, 2], mask=[0, 1])),
    "numpy scalar": dumps(np.float32(1)),
    "memo of nothing": b"h\x07.",
    "append to text": text("a") + b"Na.",
    "append to nothing": b"N(Ne.",
    "list in itself": b"]q\x00h\x00a.",
    "nested 100,000 deep": b")" + b"\x85" * 100_000 + b".",
    "two to the power of 60 tuples": BOMB + b".",
    "as the name of a module": BOMB + text("x") + b"\x93.",
    "as a dtype": name("numpy", "dtype") + BOMB + b"\x85R.",
    "as a shape": array_of(BOMB),
    "dtype with brackets": name("numpy", "dtype") + text("(" * 9) + b"\x85R.",
    "empty": b"",
    "no stop": b"\x80\x02N",
    "unknown instruction": b"\xff.",
    "odd escapes in text": b"S'\\d'\n.",
    "many instructions": b"]" * 200_000 + b".",
    "no pickle": b"PK\x03\x04",
}


def test_there_are_enough_of_them():
    assert len(LIVE) + len(REFUSED) >= 40


@pytest.fixture
def extension():
    copyreg.add_extension("posix", "mkdir", 0xF5)
    yield
    copyreg.remove_extension("posix", "mkdir", 0xF5)
    copyreg.clear_extension_cache()


@pytest.mark.usefixtures("extension")
@pytest.mark.parametrize("kind", LIVE)
def test_an_exploit_is_refused_and_not_run(tmp_path, kind):
    canary = tmp_path / "canary"
    content = LIVE[kind](str(canary))
    with pytest.raises(
        DataError, match=r"some\.pkl: a pickle must describe .*nothing of it was run"
    ):
        read(content)
    assert not canary.exists()
    pickle.loads(content)  # the control: the exploit does work
    assert canary.is_dir()


def test_a_known_name_of_another_module_is_refused_by_name():
    content = array_of(b"K\x03\x85").replace(b"numpy._core.numeric", b"evil")
    with pytest.raises(DataError, match=r"this one names 'evil\._frombuffer'"):
        read(content)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_array_is_refused(kind):
    started = time.process_time()
    with pytest.raises(DataError, match=r"some\.pkl: "):
        read(REFUSED[kind])
    assert time.process_time() - started < 5


def test_the_hand_made_array_is_a_good_one():
    assert read(array_of(b"K\x03\x85")).tolist() == [97, 98, 99]


@pytest.mark.parametrize(
    "content",
    [
        array_of(b"K\x04\x85"),
        array_of(b"K\x02\x85"),
        array_of(b"J\xfd\xff\xff\xff\x85"),  # -3
        array_of(b"J\xfd\xff\xff\xffJ\xff\xff\xff\xff\x86"),  # -3 by -1
        array_of(b"N\x85"),
        array_of(text("abc")),
        array_of(text("")),
        array_of(b"K\x03"),
        array_of(b"K\x03" + b"\x85" * 3),
        array_of(b"(" + b"K\x01" * 99 + b"K\x03t"),
        array_of(b"(\x8a\xff" + b"\x7f" * 255 + b"q\x00" + b"h\x00" * 90_000 + b"t"),
        array_of(b"K\x03\x85", code="O"),
        array_of(b"K\x03\x85", code="no such"),
        array_of(b"K\x03\x85", code="V1"),
        array_of(b"K\x03\x85", code="(1"),
        array_of(b"K\x03\x85", code="u1,"),
        array_of(b"K\x03\x85", code="(3,)u1"),
        array_of(b"K\x03\x85", code="f4"),
        array_of(b"K\x00\x85", code="f0", data=b""),
    ],
)
def test_an_unsound_array_is_refused(content):
    with pytest.raises(DataError, match=r"some\.pkl: "):
        read(content)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickle_cut_anywhere_is_damaged(protocol):
    content = dumps((np.arange(4, dtype=np.float32), np.arange(4)), protocol=protocol)
    assert len(content) > 150
    for length in range(0, len(content), 1 if protocol == 2 else 3):
        with pytest.raises(DataError, match=r"some\.pkl: "):
            read(content[:length])


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickle_with_changed_bytes_is_read_or_refused_and_no_more(protocol):
    content = dumps((np.arange(4, dtype=np.float32), np.arange(4)), protocol=protocol)
    rng = random.Random(protocol)
    refused = 0
    for _ in range(1000):
        changed = bytearray(content)
        for _ in range(rng.choice([1, 1, 2, 5])):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        try:
            read(bytes(changed))
        except DataError:
            refused += 1
    assert refused > 400


def test_an_empty_array_of_protocol_2_is_read():
    read = read_pickled_arrays(pickle.dumps([np.zeros((0, 4), np.float32)], protocol=2), "e.pkl")
    assert read[0].shape == (0, 4)
