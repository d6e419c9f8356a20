"""Damaged files: read rightly or refused, and never a crash, a hang, a warning or a memory bomb.

`make test` tries some hundred files per format, `make soak` hundreds of thousands.
"""

import contextlib
import dataclasses
import io
import pickle
import struct
import tempfile
import time
import warnings
import zipfile
import zlib
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

import formats
import fuzzing
from fuzzing import Format, fuzz, judge, limits, try_all
from mutations import Mutator
from plainfit.common.errors import DataError
from plainfit.data import mnist, splits

# name: how to make it, inputs in `make test`, inputs in `make soak`
SIZES = {
    "idx": (formats.idx, 1_000, 250_000),
    "csv": (formats.csv, 300, 210_000),
    "npz": (formats.npz, 400, 250_000),
    "pickles": (formats.pickles, 1_000, 250_000),
    "mnist_pickle": (formats.mnist_pickle, 600, 210_000),
    "parquet": (formats.parquet, 300, 100_000),
    "images": (formats.images, 100, 20_000),
}


@pytest.fixture(scope="module")
def folder():
    """A folder in memory where the system has one: each input is a file there."""
    memory = Path("/dev/shm")
    pool, threads = pa.default_memory_pool(), (pa.cpu_count(), pa.io_thread_count())
    pa.set_memory_pool(pa.system_memory_pool())  # others reserve more addresses than they use,
    pa.set_cpu_count(2)  # and each thread some
    pa.set_io_thread_count(2)
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as made:
        yield Path(made)
    pa.set_memory_pool(pool)
    pa.set_cpu_count(threads[0])
    pa.set_io_thread_count(threads[1])


def format_of(kind: str, folder: Path) -> Format:
    make = SIZES[kind][0]
    return make() if kind in ("idx", "pickles") else make(folder)


@pytest.mark.parametrize("kind", SIZES)
def test_damaged_files_are_read_or_refused(folder, kind):
    count = SIZES[kind][1]
    report = fuzz(format_of(kind, folder), count, seed=1, warm_up=count // 5)
    assert not report.kinds, report
    assert report.read > count // 100, report
    assert report.refused > count // 10, report


@pytest.mark.soak
@pytest.mark.parametrize("kind", SIZES)
def test_many_damaged_files_are_read_or_refused(folder, kind):
    count = SIZES[kind][2]
    report = fuzz(format_of(kind, folder), count, seed=2, warm_up=count // 50)
    print(f"\n{report}")
    assert not report.kinds
    assert report.read > count // 100
    assert report.read + report.refused == count
    assert report.memory < fuzzing.MOST_MEMORY // 2


def test_the_same_seed_gives_the_same_files(folder):
    def files(seed: int) -> list[bytes]:
        fmt = format_of("npz", folder)
        made = islice(Mutator(fmt.corpus, fmt.tokens, seed), 500)
        return [fmt.wrap(content, number) for number, content in enumerate(made)]

    first, again, other = files(1), files(1), files(2)
    assert first == again != other
    assert len(set(first)) > 400


# controls: what the fuzzer must find in readers that are worse than ours


def naive_idx(content: bytes) -> np.ndarray:
    *_, dimensions = struct.unpack_from("4B", content)
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def naive_npz(content: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(content)) as file:
        return {name: file[name] for name in file.files}


@pytest.mark.parametrize(
    ("kind", "read", "finds"),
    [
        ("idx", naive_idx, {"error", "ValueError"}),
        ("npz", naive_npz, {"BadZipFile", "ValueError", "TokenError"}),
    ],
)
def test_a_naive_reader_fails(folder, kind, read, finds):
    fmt = dataclasses.replace(format_of(kind, folder), read=read, check=lambda *_: None)
    report = fuzz(fmt, 1000, seed=1, warm_up=100)
    assert report.read > 0
    assert set(report.kinds) >= finds
    assert str(report).count("\n    ") > len(finds)


def test_unpickling_fails_on_a_cut_pickle():
    content = pickle.dumps([1, "a", 2.0])
    cut = [content[:length] for length in range(len(content))]
    fmt = Format("naive", pickle.loads, lambda *_: None, (content,), ())
    assert sum(try_all(fmt, cut).kinds.values()) == len(cut)


def endless(content: bytes) -> None:
    while True:
        with contextlib.suppress(Exception):
            time.perf_counter()


def slow_and_deaf(content: bytes) -> None:
    try:
        endless(content)
    except BaseException as error:
        raise DataError("late") from error


def greedy(content: bytes) -> None:
    try:
        bytearray(2**40)
    except MemoryError as error:
        raise DataError("too large") from error


@pytest.mark.parametrize(
    ("read", "verdict"),
    [
        (endless, "hang"),
        (slow_and_deaf, "hang"),
        (greedy, "memory: refused only when there was none left"),
        (lambda content: bytearray(2**40), "MemoryError: "),
        (lambda content: warnings.warn("odd", stacklevel=1), "UserWarning: odd"),
        (lambda content: np.float32(1e39) * np.ones(1), "RuntimeWarning: overflow"),
        (lambda content: exit(3), "SystemExit: 3"),
        (lambda content: content[9], "IndexError: "),
        (lambda content: np.full(3, np.nan), "broken promise: finite"),
        (lambda content: np.ones(3), "read"),
        (lambda content: mnist.parse_idx(content, "a"), "refused"),
    ],
)
def test_what_a_reader_must_not_do_is_seen(monkeypatch, read, verdict):
    def check(content, result):
        assert result is None or np.isfinite(result).all(), "finite"

    monkeypatch.setattr(fuzzing, "SLOWEST", 0.2)
    with limits() as heard:
        assert judge(Format("bad", read, check, (), ()), b"x", heard)[0].startswith(verdict)
        assert judge(Format("good", len, lambda *_: None, (), ()), b"x", heard)[0] == "read"


# bombs: files that are small and claim, or would become, what is huge


def gzip_bomb() -> bytes:
    """Return 1 GiB of zeros, gzipped into 1 MiB."""
    pack = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    start = pack.compress(bytes(2**20)) + pack.flush(zlib.Z_FULL_FLUSH)
    return start + (pack.compress(bytes(2**20)) + pack.flush(zlib.Z_FULL_FLUSH)) * 1023


def npz_of(member: bytes, claimed: int | None = None) -> bytes:
    """Return a zip file of one array that claims to unpack to so many bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x.npy", member)
        file.writestr("y.npy", formats.npy(np.arange(12) % 2))
    size = struct.pack("<I", len(member))
    return out.getvalue().replace(size, struct.pack("<I", claimed or len(member)))


def npy_header(shape: str, code: str = "<f8") -> bytes:
    header = f"{{'descr': '{code}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


def wide_text() -> str:
    """Return 100 columns of 999 categories in 1,500 rows: 400 MB of inputs."""
    rows = (f"{i % 2}" + f",c{i % 999}" * 100 for i in range(1500))
    return "target," + ",".join(f"f{i}" for i in range(100)) + "\n" + "\n".join(rows)


def parquet_of_one_value() -> bytes:
    """Return 10 million equal rows: some hundred bytes a million, and 160 MB when read."""
    out = io.BytesIO()
    million = pa.table({"a": np.zeros(10**6, np.int64), "target": np.zeros(10**6, np.int64)})
    with pyarrow.parquet.ParquetWriter(out, million.schema) as writer:
        for _ in range(10):
            writer.write_table(million)
    return out.getvalue()


def shared_text() -> bytes:
    """Return a pickle of 5,000 arrays, each of which encodes the same megabyte of text."""
    text = b"X" + struct.pack("<I", 2**20) + b"x" * 2**20 + b"q\x00"
    maker = b"cnumpy._core.numeric\n_frombuffer\nq\x01cnumpy\ndtype\nX\x02\x00\x00\x00u1\x85Rq\x02"
    encoded = b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R"
    array = b"h\x01(" + encoded + b"h\x02J\x00\x00\x10\x00\x85X\x01\x00\x00\x00CtR"
    return b"\x80\x02" + text + maker + b"](" + array * 5_000 + b"e."


def huge_shape() -> bytes:
    """Return a pickle whose shape is many large numbers, whose product takes days."""
    dtype = b"cnumpy\ndtype\nX\x02\x00\x00\x00u1\x85R"
    shape = b"(\x8a\xff" + b"\x7f" * 255 + b"q\x00" + b"h\x00" * 90_000 + b"t"
    return b"cnumpy._core.numeric\n_frombuffer\n(C\x01x" + dtype + shape + b"X\x01\x00\x00\x00CtR."


def npz_of_4_gib() -> bytes:
    """Return an npz of which an array of 12 numbers claims to take 4 GB of the file."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("x.npy", formats.npy(np.arange(12.0)))
    content = bytearray(out.getvalue())
    at = content.rindex(b"PK\x01\x02") + 20
    content[at : at + 4] = b"\xf0\xff\xff\xef"
    return bytes(content)


BOMBS = {
    "an IDX file of 2**128 bytes": ("idx", "refused", lambda: b"\0\0\x08\x04" + b"\xff" * 16),
    "an IDX file of no huge images": (
        "idx",
        "refused",
        lambda: b"\0\0\x08\x04" + bytes(4) + b"\xff" * 12,
    ),
    "an IDX file of 1 GiB of zeros": ("idx", "refused", gzip_bomb),
    "an npz of 2**40 numbers": ("npz", "refused", lambda: npz_of(npy_header("(1099511627776, 3)"))),
    "an npz of 3 GiB": (
        "npz",
        "refused",
        lambda: npz_of(npy_header("(400000000, 1)"), 3_200_000_200),
    ),
    "an npz of no bytes a number": (
        "npz",
        "refused",
        lambda: npz_of(npy_header("(1099511627776,)", "<U0")),
    ),
    "an npz of 4 GB in the file": ("npz", "refused", npz_of_4_gib),
    "a pickle of many instructions": ("pickles", "refused", lambda: b"]" * 2**22),
    "a gzipped pickle of 1 GiB": ("mnist_pickle", "refused", gzip_bomb),
    "a pickle of arrays of one text": ("pickles", "read", shared_text),
    "a pickle of a huge shape": ("pickles", "refused", huge_shape),
    "a table of many columns": ("csv", "refused", lambda: b"," * 70_000 + b"\n" + b"," * 70_000),
    "a table with one long cell": (
        "csv",
        "read",
        lambda: b"a,target\n" + b"x,0\ny,1\n" * 10_000 + b"z" * 10**6 + b",1\n",
    ),
    "a table with one long label": (
        "csv",
        "read",
        lambda: b"a,target\n" + b"1,x\n2,y\n2,x\n" * 10_000 + b"3," + b"z" * 10**6 + b"\n",
    ),
    "a table of many categories": ("csv", "refused", lambda: wide_text().encode()),
    "a table of equal rows": ("parquet", "refused", parquet_of_one_value),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_does_not_go_off(folder, monkeypatch, bomb):
    monkeypatch.setattr(mnist, "LARGEST_FILE", 2**24)  # 16 MiB, not 1 GiB, to be quicker
    monkeypatch.setattr(splits, "LARGEST", 2**26)  # 64 MiB, not 1 GiB
    kind, outcome, make = BOMBS[bomb]
    fmt, content = format_of(kind, folder), make()
    fmt.read(fmt.wrap(fmt.corpus[0], 1))  # imports and starts threads: they are not the bomb's
    with limits(2**29) as heard:
        assert judge(dataclasses.replace(fmt, check=lambda *_: None), content, heard)[0] == outcome
