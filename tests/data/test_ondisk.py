"""Arrays and Arrow tables past the memory budget: read from disk, with the bits of memory."""

import json
import pickle
import resource
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

import plainfit as pf
from plainfit.common.devices import cpu_threads
from plainfit.common.seeding import epoch_order
from plainfit.data import ondisk
from plainfit.data.ondisk import DiskImages, DiskRows
from plainfit.data.tables import table

N = 300


def labels(n=N):
    return np.arange(n) * 7 % 3


def numbers(dtype, *shape):
    return (np.random.default_rng(0).standard_normal((N, *shape)) * 50).astype(dtype)


def images(*shape):
    return np.random.default_rng(0).integers(0, 256, (N, *shape), np.uint8)


ARRAYS = {
    "float32": (numbers("<f4", 13), (13,)),
    "float64": (numbers("<f8", 13), (13,)),
    "big-endian": (numbers(">f4", 5), (5,)),
    "int16": (numbers("<i2", 3, 4), (3, 4)),
    "bool": (numbers("<f4", 9) > 0, (9,)),
    "floats of images": (numbers("<f4", 4, 6, 3), (3, 4, 6)),
    "gray images": (images(5, 4), (1, 5, 4)),
    "color images": (images(5, 4, 3), (3, 5, 4)),
    "images, channels first": (images(3, 4, 5), (3, 4, 5)),
    "bytes": (images(20), (20,)),
}


def write(folder, **arrays):
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def write_arrow(path, *, rows_in_batch=110, **columns):
    table = pa.table(columns)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as out:
        out.write_table(table, max_chunksize=rows_in_batch)
    return path


def training(data):
    """The losses of every step and the figures of two epochs, and the parameters."""
    train_dl, valid_dl = pf.get_data(data.train, data.valid, bs=32, seed=5)
    model, opt = pf.get_model(
        "mlp", lr=0.01, input_shape=data.input_shape, classes=len(data.classes), device="cpu"
    )
    history = pf.fit(2, model, F.cross_entropy, opt, train_dl, valid_dl, echo=None)
    valid = [row["valid_loss"] for row in history.epochs]
    return history.step_losses, valid, list(model.parameters())


def check_same(memory, disk):
    assert memory.notes == ()
    assert disk.notes == ("larger than 0 MiB: read from disk as it is used",)
    assert (disk.input_shape, disk.classes) == (memory.input_shape, memory.classes)
    assert disk.class_counts() == memory.class_counts()
    assert disk.fingerprint == memory.fingerprint
    losses, valid, parameters = training(memory)
    disk_losses, disk_valid, disk_parameters = training(disk)
    assert (disk_losses, disk_valid) == (losses, valid)
    assert all(map(torch.equal, disk_parameters, parameters))


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_train_to_the_same_bits_from_disk(tmp_path, kind):
    x, shape = ARRAYS[kind]
    folder = write(tmp_path, x=x, y=labels())
    disk = pf.open_data(folder, memory_budget=0)
    assert isinstance(
        disk.train, DiskImages if "images" in kind and x.dtype == np.uint8 else DiskRows
    )
    assert disk.input_shape == shape
    check_same(pf.open_data(folder), disk)


def test_arrow_tables_train_to_the_same_bits_from_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "BLOCK", 8 * 4 * 70)  # written 70 rows at a time
    path = write_arrow(
        tmp_path / "a.arrow",
        a=numbers("<f4")[:, ...],
        b=numbers("<f8") * 1e12,
        c=numbers("<i8") + 2**40,
        d=numbers("<f4") > 0,
        kind=pa.array([f"class {label}" for label in labels()]).dictionary_encode(),
    )
    memory, disk = (pf.open_data(path, target="kind", memory_budget=mib) for mib in (2048, 0))
    assert isinstance(disk.train, DiskRows)
    assert disk.classes == ("class 0", "class 1", "class 2")
    assert disk.features == memory.features == ("a", "b", "c", "d")
    check_same(memory, disk)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.arrow"]


def test_batches_from_disk_are_the_rows_of_the_file(tmp_path):
    x, y = numbers("<f4", 13), labels()
    data = pf.open_data(write(tmp_path, x=x, y=y), memory_budget=0)
    at = data.train.at
    assert sorted(torch.cat([data.train.at, data.valid.at, data.test.at]).tolist()) == list(
        range(N)
    )
    assert data.train.array is data.valid.array is data.test.array  # no copy for the split
    train_dl, valid_dl = pf.get_data(data.train, data.valid, bs=32, seed=5)
    order = at[epoch_order(len(at), 5, 0, True)].numpy()
    for step, (xb, yb) in enumerate(train_dl):
        rows = order[step * 32 : step * 32 + 32]
        assert np.array_equal(xb, x[rows])
        assert np.array_equal(yb, y[rows])
        assert xb.data_ptr() % 64 == 0  # as torch allots it: elsewhere F.linear may round otherwise
    assert np.array_equal(torch.cat([xb for xb, _ in valid_dl]), x[data.valid.at])
    assert np.array_equal(data.test[3][0], x[data.test.at[3]])
    assert data.test.rows(torch.tensor([3, 1])).at.tolist() == data.test.at[[3, 1]].tolist()


def test_a_stock_loader_with_workers_reads_the_same(tmp_path):
    data = pf.open_data(write(tmp_path, x=numbers("<f4", 13), y=labels()), memory_budget=0)
    batches = list(DataLoader(data.train, batch_size=50, num_workers=1))
    assert torch.equal(
        torch.cat([xb for xb, _ in batches]), data.train.gather(torch.arange(210))[0]
    )
    with pytest.raises(TypeError, match=r"x\.npy is mapped in this process only"):
        pickle.dumps(data.train)


def test_given_parts_are_kept(tmp_path):
    x, y = numbers("<f4", 4), labels()
    folder = write(
        tmp_path, x_train=x[:200], y_train=y[:200], x_val=x[200:250], y_val=y[200:250],
        x_test=x[250:], y_test=y[250:],
    )  # fmt: skip
    memory, disk = (pf.open_data(folder, memory_budget=mib) for mib in (2048, 0))
    assert disk.counts() == {"train": 200, "valid": 50, "test": 50}
    check_same(memory, disk)


def test_only_what_is_past_the_budget_is_read_from_disk(tmp_path):
    folder = write(tmp_path, x=np.zeros((2**16, 8), np.float32), y=np.arange(2**16) % 2)
    assert pf.open_data(folder, memory_budget=2).notes == ()
    assert pf.open_data(folder, memory_budget=1).notes
    bytes_ = write(tmp_path / "b", x=np.zeros((2**16, 4, 4), np.uint8), y=np.arange(2**16) % 2)
    assert pf.open_data(bytes_, memory_budget=1).notes == ()


@contextmanager
def allocating_at_most(mib):
    """Let this process allocate so much more memory; mapped files do not count."""
    status = Path("/proc/self/status").read_text()
    now = int(status.split("VmData:")[1].split()[0]) * 1024
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (now + mib * 2**20, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


@pytest.mark.skipif(sys.platform != "linux", reason="its limits on memory are Linux's")
@pytest.mark.parametrize("kind", ["npy", "arrow"])
def test_data_from_disk_is_not_held_in_memory(tmp_path, kind):
    n = 2**17  # 64 MiB
    x, y = np.zeros((n, 128), np.float32), np.arange(n) % 2
    x[:, 0] = np.arange(n)
    if kind == "npy":
        path = write(tmp_path / "npy", x=x, y=y)
    else:
        path = write_arrow(
            tmp_path / "a.arrow", rows_in_batch=2**14, y=y, **{f"x{i}": x[:, i] for i in range(128)}
        )
    del x
    with cpu_threads(1), allocating_at_most(48):  # the stack of a thread counts
        data = pf.open_data(path, memory_budget=48)
        assert data.fingerprint
        for dl in pf.get_data(data.train, data.valid, bs=1024):
            for _ in dl:
                pass
        # The control, several times: the process may have freed blocks for a first one.
        with pytest.raises((MemoryError, RuntimeError, pa.ArrowMemoryError)):
            _ = [pf.open_data(path) for _ in range(6)]


def test_a_file_that_is_cut_while_it_is_used_is_an_error(tmp_path):
    data = pf.open_data(write(tmp_path, x=numbers("<f4", 13), y=labels()), memory_budget=0)
    with (tmp_path / "x.npy").open("r+b") as file:
        file.truncate(2000)
    with pytest.raises(
        pf.PlainfitError, match=r"x\.npy must not change while it is in use, and it was cut short"
    ):
        data.train.gather(torch.arange(len(data.train)))


def bad(at):
    x = numbers("<f4", 4)
    x[at, 2] = np.nan
    return x


def huge():
    x = numbers("<f8", 4)
    x[250, 0] = 1e300
    return x


@pytest.mark.parametrize("budget", [0, 2048])
@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": numbers("<f4", 4)}, "must hold x and y, or x_train and y_train; it holds x"),
        ({"y": labels()}, "must hold x and y, or x_train and y_train; it holds y"),
        (
            {"x_train": numbers("<f4", 4), "y_train": labels(), "x_valid": numbers("<f4", 4)},
            "x_valid and y_valid must come together",
        ),
        ({"x": numbers("<f4", 4), "y": labels(299)}, "got 300 samples and 299 labels in train"),
        ({"x": numbers("<f4"), "y": labels()}, "must be numbers of shape"),
        ({"x": numbers("<f4", 4).astype("<U5"), "y": labels()}, "must be numbers of shape"),
        ({"x": numbers("<f4", 4), "y": labels() + np.inf}, "labels must be classes"),
        ({"x": bad(299), "y": labels()}, "x has NaN or infinity in row 299"),
        ({"x": bad(7), "y": labels()}, "x has NaN or infinity in row 7"),
        ({"x": huge(), "y": labels()}, "x has NaN or infinity in row 250"),
        (
            {"x_train": numbers("<f4", 4), "y_train": labels(),
             "x_test": numbers("<f4", 5), "y_test": labels()},
            r"samples must have one shape, got \[\(4,\), \(5,\)\]",
        ),
    ],
)  # fmt: skip
def test_arrays_that_cannot_be_trained_on_are_refused(tmp_path, monkeypatch, budget, arrays, says):
    monkeypatch.setattr(ondisk, "BLOCK", 16 * 40)  # 40 rows at a time
    with pytest.raises(pf.PlainfitError, match=says):
        pf.open_data(write(tmp_path / "data", **arrays), memory_budget=budget)


@pytest.mark.parametrize("budget", [0, 2048])
def test_files_that_are_not_what_they_claim_are_refused(tmp_path, budget):
    folder = write(tmp_path, x=numbers("<f4", 4), y=labels())
    whole = (folder / "x.npy").read_bytes()
    for content, says in [
        (whole[:-1], "the .npy file cannot be read"),
        (whole[:50], "the .npy file cannot be read"),
        (b"", "the .npy file cannot be read"),
        (whole.replace(b"(300, 4)", b"(-30, 4)"), "the .npy file cannot be read"),
        (whole.replace(b"'<f4'", b"'<U0'"), "must be numbers of shape"),
        (whole.replace(b"(300, 4)", b"(3**9,4"), "the .npy file cannot be read"),
    ]:
        (folder / "x.npy").write_bytes(content)
        with pytest.raises(pf.PlainfitError, match=says):
            pf.open_data(folder, memory_budget=budget)


@pytest.mark.parametrize("budget", [0, 2048])
@pytest.mark.parametrize("name", ["x", "y"])
def test_python_objects_are_refused_and_not_unpickled(tmp_path, budget, name):
    arrays = {"x": numbers("<f4", 4), "y": labels()}
    arrays[name] = arrays[name].astype(object)
    with pytest.raises(
        pf.PlainfitError,
        match=rf"{name}\.npy: the \.npy file cannot be read .*Python objects.*; save an array of n",
    ):
        pf.open_data(write(tmp_path, **arrays), memory_budget=budget)


def test_fortran_order_is_read_into_memory_only(tmp_path):
    x = numbers("<f4", 4)
    write(tmp_path, x=np.asfortranarray(x), y=labels())
    write(tmp_path / "c", x=x, y=labels())
    with pytest.raises(pf.PlainfitError, match=r"must be in C order.*save np\.ascontiguousarray"):
        pf.open_data(tmp_path, memory_budget=0)
    assert pf.open_data(tmp_path).fingerprint == pf.open_data(tmp_path / "c").fingerprint


@pytest.mark.parametrize("budget", [0, 2048])
def test_arrow_files_that_cannot_be_mapped_are_refused(tmp_path, budget):
    table = pa.table({"a": numbers("<f4"), "y": labels()})
    whole = write_arrow(tmp_path / "a.arrow", a=numbers("<f4"), y=labels()).read_bytes()
    (tmp_path / "cut.arrow").write_bytes(whole[:-100])
    pyarrow.feather.write_feather(table, tmp_path / "lz4.feather")
    pyarrow.feather.write_feather(table, tmp_path / "zstd.feather", compression="zstd")
    with (
        pa.OSFile(str(tmp_path / "s.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as out,
    ):
        out.write_table(table)
    for name, says in [
        ("cut.arrow", "cannot be read .*write it with pyarrow.ipc.new_file"),
        ("s.arrow", "cannot be read .*write it with pyarrow.ipc.new_file"),
        ("lz4.feather", "it is compressed; write it with compression='uncompressed'"),
        ("zstd.feather", "it is compressed; write it with compression='uncompressed'"),
    ]:
        with pytest.raises(pf.PlainfitError, match=says):
            pf.open_data(tmp_path / name, memory_budget=budget)
    pyarrow.feather.write_feather(table, tmp_path / "u.feather", compression="uncompressed")
    assert pf.open_data(tmp_path / "u.feather", memory_budget=budget).features == ("a",)


@pytest.mark.parametrize(
    ("column", "says"),
    [
        ([f"a{i}" for i in range(300)], "column 'b' is text with 210 categories in 210 training"),
        ([None] * 300, "'b' has no value"),
        ([1.0] * 299 + [float("inf")], "'b' has an infinite one in data row 300"),
        ([1e308, -1e308] * 150, "column 'b' has 1e.308 in data row 1"),
    ],
)
def test_columns_that_cannot_be_read_from_disk_are_refused(tmp_path, column, says):
    path = write_arrow(tmp_path / "a.arrow", a=numbers("<f4"), b=column, y=labels())
    with pytest.raises(pf.PlainfitError, match=says):
        pf.open_data(path, memory_budget=0)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.arrow"]


def test_a_value_too_large_once_standardised_is_named_by_its_row(tmp_path, monkeypatch):
    path, column = tmp_path / "a.arrow", np.arange(N) % 2.0
    write_arrow(path, a=column, y=labels())
    row = int(pf.open_data(path, memory_budget=0).valid.at[-1])
    column[row] = 1e300
    write_arrow(path, a=column, y=labels())
    monkeypatch.setattr(table, "BLOCK", 8 * 70)
    for budget in (0, 2048):
        with pytest.raises(pf.PlainfitError, match=f"'a' has 1e.300 in data row {row + 1}$"):
            pf.open_data(path, memory_budget=budget)


def test_a_full_disk_is_an_error_that_says_what_is_needed(tmp_path, monkeypatch):
    path = write_arrow(tmp_path / "a.arrow", a=numbers("<f4"), y=labels())

    def full(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(table.tempfile, "TemporaryFile", full)
    with pytest.raises(pf.PlainfitError, match=r"needs 1200 bytes .* \(No space left on device"):
        pf.open_data(path, memory_budget=0)


def test_a_run_from_disk_can_be_reported_and_repeated(tmp_path, plainfit):
    folder = write(tmp_path / "data", x=images(8, 8), y=labels())
    results = []
    for mib in (0, 100):
        out = tmp_path / f"run{mib}"
        arguments = ["train", "--data", folder, "--memory-budget", mib, "--model", "logistic"]
        for command in ([*arguments, "--epochs", 2, "--out", out], ["report", out]):
            code, _, errors = plainfit(*command)
            assert (code, errors) == (0, "")
        record = json.loads((out / "run.json").read_text())
        results.append((record["data"]["fingerprint"], (out / "model.safetensors").read_bytes()))
        assert (out / "report.html").exists()
    assert results[0] == results[1]
