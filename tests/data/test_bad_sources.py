"""Files that claim too much, or hold what cannot be kept: refused, with the reason."""

import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from plainfit import PlainfitError, open_data
from plainfit.data import splits


def npy(header: str) -> bytes:
    text = header.encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(96)


GOOD = "{'descr': '<f8', 'fortran_order': False, 'shape': (12, 1), }"


@pytest.mark.parametrize("header", [GOOD, GOOD.replace("12", "12L")])  # Python 2 wrote it so
def test_an_npz_is_read_whoever_wrote_it(tmp_path, header):
    path = tmp_path / "a.npz"
    np.savez(path, y=np.arange(12) % 2)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("x.npy", npy(header))
    assert open_data(path).input_shape == (1,)


@pytest.mark.parametrize(
    ("name", "header", "says"),
    [
        ("x.npy", GOOD.replace("12", "1099511627776"), "cannot be read"),
        ("x.npy", GOOD.replace("12", "2**40"), "cannot be read"),
        ("x.npy", GOOD.replace("12", "((("), "cannot be read"),
        ("x.npy", GOOD.replace("<f8", "|O"), "cannot be read"),
        ("x.npy", "", "cannot be read"),
        ("x", GOOD, "must hold x and y"),
    ],
)
def test_an_array_that_claims_too_much_or_is_none_is_refused(tmp_path, name, header, says):
    path = tmp_path / "a.npz"
    np.savez(path, y=np.arange(12) % 2)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(name, npy(header))
    with pytest.raises(PlainfitError, match=says):
        open_data(path)


def test_a_lone_array_is_no_npz(tmp_path):
    path = tmp_path / "a.npz"
    with path.open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(PlainfitError, match="cannot be read"):
        open_data(path)


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        (np.full((6, 1), 1e300), np.arange(6) % 2, "x has NaN or infinity in row 0"),
        (np.ones((6, 1)), np.array(1), "y must have one label per sample"),
        (np.ones((6, 1)), np.array([0, 1e300] * 3), "labels must be classes"),
        (np.ones((6, 1)), np.array([97, 0xD800] * 3, "<u4").view("<U1"), "must be valid text"),
        (np.ones((6, 1)), np.array([97, 0x7FFFFFFF] * 3, "<u4").view("<U1"), "must be valid text"),
    ],
)
def test_numbers_and_labels_that_cannot_be_kept_are_refused(tmp_path, x, y, says):
    np.savez(tmp_path / "a.npz", x=x, y=y)
    with pytest.raises(PlainfitError, match=says):
        open_data(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff\0,target\n" + b"1,0\n2,1\n" * 6, "cannot be read"),
        (
            b"a,target\n" + b"1,0\n2,1\n" * 6 + b"1e300,0\n",
            "when standardised, and column 'a' has 1e.300",
        ),
        (
            b"a,target\n" + b"1e308,0\n-1e308,1\n" * 6,
            "when standardised, and column 'a' has 1e.308",
        ),
        (b"a,target\n" + b"1,0\n2,1e300\n" * 6, "labels must be classes"),
        (b"a,a=b,target\n" + b"b,1,0\nc,2,1\n" * 6, "two columns would become the input 'a=b'"),
        (b"a," * 70_000 + b"y\n1,2", "70,001 columns, too many .* 140,005 bytes; .*in an .npz"),
        (b"a longer name," * 70_000, "70,001 columns, too many"),
    ],
)
def test_tables_that_cannot_be_kept_are_refused(tmp_path, content, says):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(PlainfitError, match=says):
        open_data(tmp_path / "a.csv")


def test_large_whole_numbers_and_text_with_a_nul_stay_apart(tmp_path):
    table = pa.table({"a": ["b", "b\0"] * 6, "y": np.array([1, 2**64 - 1] * 6, np.uint64)})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    data = open_data(tmp_path / "a.parquet")
    assert data.classes == ("1", "18446744073709551615")
    assert data.features == ("a=b", "a=b\0")


def write_npz(path):
    np.savez_compressed(path, x=np.zeros((2000, 60)), y=np.arange(2000) % 2)


def write_parquet(path):
    pyarrow.parquet.write_table(pa.table({"a": np.zeros(10**5), "y": np.arange(10**5) % 2}), path)


def write_csv(path):
    path.write_text("a,y\n" + "".join(f"c{i % 500},{i % 2}\n" for i in range(5000)))


@pytest.mark.parametrize(
    ("name", "write", "says"),
    [
        ("a.npz", write_npz, "it claims to hold 976256 bytes"),
        ("a.parquet", write_parquet, "it claims to hold 200000 values"),
        ("a.csv", write_csv, "more than 500 inputs, too many for a table of 3500 training rows"),
    ],
)
def test_what_unpacks_to_too_much_is_refused(tmp_path, monkeypatch, name, write, says):
    path = tmp_path / name
    write(path)
    options = {"categorical": "a"} if name == "a.csv" else {}
    assert open_data(path, **options).classes == ("0", "1")
    monkeypatch.setattr(splits, "LARGEST", 10_000)
    monkeypatch.setattr(splits, "MOST_TIMES", 50)
    with pytest.raises(PlainfitError, match=says):
        open_data(path, **options)
