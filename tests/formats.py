"""The formats that are fuzzed: valid inputs, what means something there, what must come of it."""

import gzip
import io
import json
import pickle
import pickletools
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
from PIL import Image
from torch.utils.data import TensorDataset

import plainfit.data.decoding
from fuzzing import Format
from mutations import mend_png
from plainfit.data.datasets import ImageDataset
from plainfit.data.folder import ImageFiles
from plainfit.data.mnist import gunzip, parse_idx, read_pickled_arrays
from plainfit.data.open_data import open_data
from plainfit.data.splits import DataSplits, labels_of

GZIP, ZIP = b"\x1f\x8b", b"PK"
LABELS = np.arange(12) % 2


def check_splits(content: bytes, data: DataSplits) -> None:
    """Assert what every source of data promises."""
    json.dumps(data.to_dict())  # as for run.json
    names, fewest = data.target.names, 2 if data.task == "classification" else 1
    assert len(set(names)) == len(names) >= fewest, "two classes or more, all different"
    assert all(name.encode() for name in names if name), "names of classes can be printed"
    assert all(size > 0 for size in data.input_shape), f"a sample of shape {data.input_shape}"
    assert not data.features or data.input_shape == (len(data.features),), "a name each feature"
    for part in data.parts().values():
        if isinstance(part, ImageFiles):
            assert tuple(part[0][0].shape) == data.input_shape, "images of the size that was said"
            continue
        assert isinstance(part, TensorDataset)
        xb, yb = part.tensors
        wanted = torch.uint8 if isinstance(part, ImageDataset) else torch.float32
        assert xb.dtype == wanted, f"samples are {xb.dtype}"
        assert tuple(xb.shape[1:]) == data.input_shape, f"samples of shape {tuple(xb.shape)}"
        assert len(xb) == len(yb) > 0, f"{len(xb)} samples and {len(yb)} labels"
        assert bool(torch.isfinite(xb).all()), "samples are finite"
        if data.task != "classification":
            assert yb.dtype == torch.float32, f"labels are {yb.dtype}"
            assert tuple(yb.shape[1:]) == (len(names),), f"labels of shape {tuple(yb.shape)}"
            assert bool(torch.isfinite(yb).all()), "labels are finite"
            continue
        assert yb.dtype == torch.int64, f"labels are {yb.dtype}"
        assert yb.dim() == 1, f"labels of shape {tuple(yb.shape)}"
        assert 0 <= int(yb.min()) <= int(yb.max()) < len(data.classes), "labels number the classes"
    if data.task == "classification":
        assert set(labels_of(data.train).tolist()) == set(range(len(data.classes))), "train has all"


def check_arrays(content: bytes, value: Any) -> None:
    """Assert that a pickle gave tuples of arrays of numbers and nothing else."""
    if isinstance(value, tuple):
        for item in value:
            check_arrays(content, item)
    else:
        assert isinstance(value, np.ndarray), f"a {type(value).__name__} beside the arrays"
        assert value.dtype.kind in "fiub", f"an array of {value.dtype}"
        assert value.nbytes <= len(content), "an array larger than the file"


def check_idx(content: bytes, array: Any) -> None:
    """Assert that an IDX file gave its own bytes, all of them."""
    plain = gunzip(content, "") if content[:2] == GZIP else content
    assert isinstance(array, np.ndarray)
    assert array.dtype == np.uint8
    assert 1 <= array.ndim <= 4
    assert plain[4 + 4 * array.ndim :] == array.tobytes(), "the bytes of the file"


def through_file(path: Path) -> Callable[[bytes], DataSplits]:
    """Return a reader of contents: each is written to this file and opened as a user would."""

    def read(content: bytes) -> DataSplits:
        path.write_bytes(content)
        return open_data(path)

    return read


# IDX


def read_idx(content: bytes) -> Any:
    """Unpack and parse as the reader of MNIST does, but for the hashes that none would pass."""
    return parse_idx(gunzip(content, "a.gz") if content[:2] == GZIP else content, "a")


def idx() -> Format:
    def written(*shape: int) -> bytes:
        sizes = b"".join(size.to_bytes(4, "big") for size in shape)
        return bytes([0, 0, 8, len(shape)]) + sizes + bytes(range(int(np.prod(shape))))

    plain = (written(4), written(3, 4, 5), written(2, 1, 3, 4), written(0, 28, 28))
    packed = tuple(gzip.compress(content, mtime=0) for content in plain)
    tokens = (b"\0\0\x08\x03", b"\0\0\x08\x01", b"\0\0\x0d\x03", b"\0\0\0\0", b"\xff" * 12, GZIP)

    def wrap(content: bytes, number: int) -> bytes:
        return gzip.compress(content, 1, mtime=0) if number % 4 == 0 else content

    return Format("IDX", read_idx, check_idx, plain + packed, tokens, wrap)


# tables


def csv(folder: Path) -> Format:
    rows = range(12)
    corpus = (
        "a,b,target\n" + "".join(f"{i},{i / 7},{i % 2}\n" for i in rows),
        "a,b,label\n" + "".join(f"{i * 10**6},{['red', 'green'][i % 2]},{i % 3}\n" for i in rows),
        "y,size\r\n" + "".join(f"{['no', 'yes'][i % 2]},{i}e{i}\r\n" for i in rows),
        'class,"b ""q"" c"\n' + "".join(f'{i % 2 == 0},"x, {i % 3}"\n' for i in rows),
        "\ufefftarget,a\n" + "".join(f"é{i % 2},{-i}\n" for i in rows),
    )
    tokens = (
        b"inf", b"-inf", b"nan", b"NaN", b"NULL", b"N/A", b"", b'"', b'""', b"\0", b"\xef\xbb\xbf",
        b"\xff\xfe", b"\xff", b"\xc3", b"\xed\xa0\x80", b",", b",,", b";", b"\t", b"\r", b"\n",
        b"\r\n", b"\n\n", b"target", b"label", b"true", b"False", b"1e308", b"-1e308", b"1e39",
        b"5e-324", b"2020-01-01", b"12:00:00", b"2020-01-01T00:00:00Z", b"a", b"b", b"=",
        b"\x1b[2J", b"\n1,2,3\n", b"x" * 300, b"0" * 300, "\u202e".encode(), "\U0001f600".encode(),
    )  # fmt: skip
    contents = tuple(text.encode() for text in corpus)
    return Format("CSV", through_file(folder / "a.csv"), check_splits, contents, tokens)


def parquet(folder: Path) -> Format:
    tables = (
        {"a": range(12), "target": LABELS},
        {"a": np.arange(12) / 7, "b": ["red", "green"] * 6, "y": LABELS == 0},
        {
            "a": pa.array(["u", "v"] * 6).dictionary_encode(),
            "y": np.arange(12, dtype=np.uint64) % 3,
        },
        {"a": pa.array([1, 2] * 6, pa.decimal128(8, 2)), "label": ["no", "yes"] * 6},
    )
    contents = []
    for columns in tables:
        out = io.BytesIO()
        table = pa.table({name: pa.array(column) for name, column in columns.items()})
        pyarrow.parquet.write_table(table, out, compression="none")
        contents.append(out.getvalue())
    tokens = (b"PAR1", b"PARE", b"target", b"ARROW:schema", b"\x15\x00", b"\x18\x06", b"\xff" * 9)
    # Arrow makes room for what a page claims to hold, up to 2 GiB, and touches none of it.
    return Format(
        "parquet", through_file(folder / "a.parquet"), check_splits, tuple(contents), tokens,
        most_memory=8 * 2**30,
    )  # fmt: skip


# npz

NAMES = (("x", "y"), ("x_train", "y_train", "x_valid", "y_valid", "x_test", "y_test"), ("y", "x"))
MAGIC = b"\x93NUMPY"


def npy(array: Any, version: tuple[int, int] | None = None) -> bytes:
    """Return an array in NumPy's format."""
    out = io.BytesIO()
    np.lib.format.write_array(out, np.asarray(array), version)
    return out.getvalue()


def zipped(content: bytes, number: int) -> bytes:
    """Zip arrays that stand one after the other, with right checksums; leave a zip as it is."""
    if content[:2] == ZIP:
        return content
    out = io.BytesIO()
    method = zipfile.ZIP_STORED if number % 3 else zipfile.ZIP_DEFLATED
    arrays = [part for part in re.split(b"(?=\x93NUMPY)", content) if part]
    names = NAMES[0] if len(arrays) < 3 else NAMES[1 + number % 7 // 6]
    with zipfile.ZipFile(out, "w", method) as file:
        for name, array in zip(names, arrays, strict=False):
            file.writestr(zipfile.ZipInfo(f"{name}.npy"), array, method)  # dated 1980
    return out.getvalue()


def npz(folder: Path) -> Format:
    images, rows = np.arange(108, dtype=np.uint8).reshape(12, 3, 3), np.arange(36.0).reshape(12, 3)
    arrays = (
        npy(images) + npy(LABELS),
        npy(images[..., None]) + npy(LABELS.astype(np.uint8)[:, None]),
        npy(rows.astype(">f4"), (2, 0)) + npy(np.array(["no", "yes"] * 6)),
        npy(np.asfortranarray(rows), (3, 0)) + npy(LABELS.astype(float)),
        (npy(rows) + npy(LABELS)) * 3,
        npy(rows.astype(np.float16)) + npy(np.array([b"no", b"yes"] * 6)),
    )
    tokens = (
        b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"x.npy",
        b"y.npy", b"x", MAGIC, MAGIC + b"\x01\x00", MAGIC + b"\x03\x00", b"'descr': ", b"'|O'",
        b"'<f8'", b"'<f4'", b"'<i8'", b"'<u8'", b"'|u1'", b"'|b1'", b"'<f16'", b"'<U3'", b"'|S1'",
        b"'<M8[D]'", b"'<c16'", b"'|V3'", b"[('a','<f4')]", b"'shape': ", b"(12,)", b"()", b"(0,)",
        b"(1099511627776,)", b"(-1,)", b"(12, 0)", b"(0, 3)", b"True", b"False", b"None", b"(" * 50,
        b"'", b"\\", b"\n", b"\0", b"\x00\x00\x80\x7f", b"\x00\x00\xc0\x7f", b"\xff\xef\x7f",
    )  # fmt: skip
    corpus = arrays + tuple(zipped(content, number) for number, content in enumerate(arrays))
    return Format("npz", through_file(folder / "a.npz"), check_splits, corpus, tokens, zipped)


# pickles

OPCODES = tuple(opcode.code.encode("latin-1") for opcode in pickletools.opcodes)
PICKLE_TOKENS = (
    *OPCODES, b"cos\nsystem\n", b"cbuiltins\neval\n", b"ios\nsystem\n", b"\x8c\x02os",
    b"\x8c\x02f4", b"\x8c\x02u1", b"\x8c\x02O8", b"\x8c\x03f16", b"\x8c\x01<", b"\x8c\x01>",
    b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"c_codecs\nencode\n", b"numpy._core.multiarray",
    b"\x8c\x06latin1", b"\x8a\x08" + bytes(7) + b"\x7f", b"\x8a\xff" + b"\x7f" * 255,
    b"J\xff\xff\xff\xff", b"K\x00\x85", b"r\xff\xff\xff\x7f", b"j\xff\xff\xff\x7f", b"h\x00",
    b"q\x00", b"tR", b"S'\\d'\n", b"I01\n", b"L1L\n", b"F1e999\n", b"V\\u12\n",
    b"\x8d" + b"\xff" * 8, b"]\x94h\x00a",
)  # fmt: skip


def pickled(dtype: Any, protocol: int, columns: int = 4) -> bytes:
    """Return three pairs of arrays, as in the tutorial's file."""
    rows = (np.arange(6 * columns).reshape(6, columns) / 256).astype(dtype)
    return pickle.dumps(
        ((rows, LABELS[:6]), (rows[:4], LABELS[:4]), (rows[:2], LABELS[:2])), protocol
    )


def pickles() -> Format:
    arrays = [np.arange(4, dtype=np.float32), (np.array(7), np.zeros((2, 0), "?"))]
    corpus = [pickle.dumps(arrays, protocol) for protocol in (2, 3, 4, 5)]
    corpus += [pickled(">f4", 2), pickled(np.uint8, 5)]

    def read(content: bytes) -> Any:
        return read_pickled_arrays(content, "a")

    return Format("pickle", read, check_arrays, tuple(corpus), PICKLE_TOKENS)


def mnist_pickle(folder: Path) -> Format:
    corpus = [pickled(np.float32, 2), pickled(np.float64, 4), pickled(np.int32, 5, 3)]
    corpus += [gzip.compress(content, mtime=0) for content in corpus]

    def wrap(content: bytes, number: int) -> bytes:
        return gzip.compress(content, 1, mtime=0) if number % 4 == 0 else content

    read = through_file(folder / "mnist.pkl.gz")
    return Format("mnist", read, check_splits, tuple(corpus), (*PICKLE_TOKENS, GZIP), wrap)


# images


def images(folder: Path) -> Format:
    """Two classes of three images, all the same file: the mutated one."""
    file = folder / "image"
    for name in ("a/1.png", "a/2.png", "a/3.png", "b/1.png", "b/2.png", "b/3.png"):
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "images" / name).symlink_to(file)

    def read(content: bytes) -> DataSplits:
        file.write_bytes(content)
        with mock.patch.object(plainfit.data.decoding, "MOST_PIXELS", 10**6):  # 25 times quicker
            return open_data(folder / "images", memory_budget=1)  # some are read lazily

    corpus = []
    for mode in ("L", "RGB", "P", "RGBA", "1"):
        for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"):
            out = io.BytesIO()
            exif = Image.Exif()
            exif[0x0112] = 6
            picture = Image.fromarray(np.arange(20, dtype=np.uint8).reshape(4, 5)).convert(mode)
            if (kind, mode) not in {("JPEG", "P"), ("JPEG", "RGBA")}:
                picture.save(out, kind, **({} if kind == "BMP" else {"exif": exif}))
                corpus.append(out.getvalue())
    tokens = (
        b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf", b"iCCP", b"acTL", b"zTXt", b"BM",
        b"\xff\xd8", b"\xff\xc0", b"\xff\xc2", b"\xff\xda", b"\xff\xe1", b"Exif\0\0II*\0",
        b"RIFF", b"GIF89a", b"II*\0", b"VP8 ", b"VP8L", b"VP8X", b"EXIF", b"ANIM",
        b"\x89PNG\r\n\x1a\n",
    )  # fmt: skip

    def wrap(content: bytes, number: int) -> bytes:
        return mend_png(content) if content[1:4] == b"PNG" and number % 2 else content

    return Format("images", read, check_splits, tuple(corpus), tokens, wrap)
