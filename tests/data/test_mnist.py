"""MNIST's files: parsed, checked by hash, downloaded from the first mirror that has them."""

import gzip
import hashlib
import pickle
import struct

import numpy as np
import pytest
import torch

from plainfit.common.errors import DataError, DownloadError
from plainfit.data import mnist
from plainfit.data.mnist import IdxSet, find_or_download, gunzip, parse_idx, read_mnist_pickle
from plainfit.data.splits import labels_of


def idx(array: np.ndarray) -> bytes:
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


IMAGES = np.arange(2 * 3 * 4).reshape(2, 3, 4)
CONTENT = idx(IMAGES)
PACKED = gzip.compress(CONTENT, mtime=0)
FILE = "some-images"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def fake_set(server, *mirrors: str, wanted: bytes = CONTENT) -> IdxSet:
    urls = tuple(f"{server.url}{mirror}/" for mirror in mirrors)
    return IdxSet(mirrors=urls, hashes={FILE: sha256(wanted)}, classes=("a", "b"))


# parsing


@pytest.mark.parametrize("shape", [(4,), (2, 3, 4), (0, 28, 28), (1, 1, 1, 1)])
def test_idx_is_read(shape):
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    result = parse_idx(idx(array), FILE)
    assert result.dtype == np.uint8
    assert result.shape == shape
    assert np.array_equal(result, array)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "must begin with 00 00 08"),
        (b"\0\0\x08", "must begin with 00 00 08"),
        (b"\0\0\x08\0", "must begin with 00 00 08"),
        (b"\0\0\x0d\x01\0\0\0\0", "must begin with 00 00 08"),
        (b"\0\x01\x08\x01\0\0\0\0", "must begin with 00 00 08"),
        (CONTENT[:10], "must begin with 00 00 08"),
        (PACKED, "must begin with 00 00 08"),
        (CONTENT[:-1], r"shape \(2, 3, 4\) must have 24 bytes of data, got 23"),
        (CONTENT + b"x", r"shape \(2, 3, 4\) must have 24 bytes of data, got 25"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "must have 79228162458924105385300197375 bytes"),
        (b"\0\0\x08\x04" + bytes(4) + b"\xff" * 12, "must hold at most 1 GiB"),
    ],
)
def test_what_is_no_idx_is_refused(content, says):
    with pytest.raises(DataError, match=f"some-images: .*{says}"):
        parse_idx(content, FILE)


def test_gunzip():
    assert gunzip(PACKED, FILE) == CONTENT


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (PACKED[:-9], "ends too soon"),
        (PACKED[:12], "ends too soon"),
        (b"", "ends too soon"),
        (b"not gzip at all", "is damaged"),
        (PACKED[:-8] + bytes(8), "is damaged"),
    ],
)
def test_a_damaged_compressed_file_is_refused(raw, says):
    with pytest.raises(DataError, match=f"some-images: the compressed file {says}"):
        gunzip(raw, FILE)


def test_a_file_that_unpacks_to_too_much_is_refused(monkeypatch):
    monkeypatch.setattr(mnist, "LARGEST_FILE", 1000)
    assert len(gunzip(gzip.compress(bytes(1000)), FILE)) == 1000
    with pytest.raises(DataError, match="unpacks to more than"):
        gunzip(gzip.compress(bytes(2000)), FILE)


# files that are there


@pytest.mark.parametrize("wanted", [CONTENT, PACKED], ids=["of the content", "of the .gz"])
def test_a_file_is_found_compressed_or_not(tmp_path, wanted):
    idx_set = IdxSet((), {FILE: sha256(wanted)}, ())
    (tmp_path / f"{FILE}.gz").write_bytes(PACKED)
    assert find_or_download(idx_set, FILE, tmp_path) == CONTENT
    if wanted is CONTENT:
        (tmp_path / f"{FILE}.gz").rename(tmp_path / FILE)
        assert find_or_download(idx_set, FILE, tmp_path) == CONTENT
        (tmp_path / FILE).write_bytes(CONTENT)
        assert find_or_download(idx_set, FILE, tmp_path) == CONTENT


@pytest.mark.parametrize("content", [CONTENT + b"x", PACKED[:-9], b""])
@pytest.mark.parametrize("file", [FILE, f"{FILE}.gz"])
def test_a_file_with_the_wrong_hash_is_named_and_left(tmp_path, file, content):
    path = tmp_path / file
    path.write_bytes(content)
    wanted = sha256(CONTENT)
    with pytest.raises(DataError, match=rf"{path} must have the SHA-256 {wanted}, .*delete it"):
        find_or_download(IdxSet((), {FILE: wanted}, ()), FILE, tmp_path)
    assert path.read_bytes() == content


# downloads


def test_the_first_mirror_with_the_right_file_is_used(tmp_path, server):
    server.pages = {
        f"/second/{FILE}.gz": gzip.compress(CONTENT + b"x"),
        f"/third/{FILE}.gz": PACKED,
        f"/fourth/{FILE}.gz": PACKED,
    }
    folder = tmp_path / "new" / "folder"
    idx_set = fake_set(server, "first", "second", "third", "fourth")
    assert find_or_download(idx_set, FILE, folder) == CONTENT
    asked = [f"/{mirror}/{FILE}.gz" for mirror in ("first", "second", "third")]
    assert server.asked == asked
    assert [path.name for path in folder.iterdir()] == [f"{FILE}.gz"]
    assert (folder / f"{FILE}.gz").read_bytes() == PACKED
    assert find_or_download(idx_set, FILE, folder) == CONTENT
    assert server.asked == asked  # the second time it is there


def test_when_all_mirrors_fail_each_is_named_and_nothing_is_left(tmp_path, server):
    server.pages = {f"/wrong/{FILE}.gz": b"wrong"}
    idx_set = fake_set(server, "missing", "wrong")
    closed = IdxSet((*idx_set.mirrors, "http://127.0.0.1:9/"), idx_set.hashes, ())
    with pytest.raises(DownloadError, match="could not be downloaded; tried ") as caught:
        find_or_download(closed, FILE, tmp_path)
    message = str(caught.value)
    assert f"{server.url}missing/{FILE}.gz (HTTP 404)" in message
    assert f"{server.url}wrong/{FILE}.gz (wrong SHA-256)" in message
    assert f"http://127.0.0.1:9/{FILE}.gz (ConnectionError)" in message
    assert (
        f"offline, put the file into {tmp_path}, or set data_dir to a folder that has it" in message
    )
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_breaks_off_leaves_nothing(tmp_path, server):
    server.pages = {f"/cut/{FILE}.gz": PACKED}
    server.cut_at = 20
    with pytest.raises(DownloadError, match=f"cut/{FILE}.gz"):
        find_or_download(fake_set(server, "cut"), FILE, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path, server):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"must be writable .*data_dir or the variable PLAINFIT_"):
        find_or_download(fake_set(server, "any"), FILE, tmp_path / "file" / "folder")
    assert server.asked == []


def test_the_cache_is_where_plainfit_data_says(tmp_path, monkeypatch):
    monkeypatch.setenv("PLAINFIT_DATA", str(tmp_path))
    assert mnist.cache_folder() == tmp_path
    monkeypatch.delenv("PLAINFIT_DATA")
    assert "plainfit" in mnist.cache_folder().parts


def test_a_whole_set_is_downloaded_split_and_found_again(tmp_path, server, monkeypatch):
    rng = np.random.default_rng(0)
    arrays = {
        mnist.TRAIN_X: rng.integers(256, size=(9, 5, 5)),
        mnist.TRAIN_Y: np.arange(9) % 2,
        mnist.TEST_X: rng.integers(256, size=(3, 5, 5)),
        mnist.TEST_Y: np.array([0, 1, 1]),
    }
    server.pages = {f"/m/{name}.gz": gzip.compress(idx(a)) for name, a in arrays.items()}
    hashes = {name: sha256(idx(a)) for name, a in arrays.items()}
    monkeypatch.setitem(mnist.IDX_SETS, "mnist", IdxSet((f"{server.url}m/",), hashes, ("a", "b")))
    monkeypatch.setattr(mnist, "TRAIN_SIZE", 6)
    monkeypatch.setenv("PLAINFIT_DATA", str(tmp_path))
    for _ in range(2):
        data = mnist.read_idx_set("mnist")
        assert data.counts() == {"train": 6, "valid": 3, "test": 3}
        assert data.classes == ("a", "b")
        images = torch.cat([data.train.tensors[0], data.valid.tensors[0]])[:, 0]
        assert np.array_equal(images, arrays[mnist.TRAIN_X])
        assert len(server.asked) == 4
    assert sorted(path.name for path in (tmp_path / "mnist").iterdir()) == sorted(
        f"{name}.gz" for name in arrays
    )


# the real thing


@pytest.fixture(scope="module")
def real(mnist_folder):
    return mnist.read_idx_set("mnist", mnist_folder)


def test_real_mnist(real):
    assert real.counts() == {"train": 50_000, "valid": 10_000, "test": 10_000}
    assert real.input_shape == (1, 28, 28)
    assert real.classes == tuple("0123456789")
    assert real.train.tensors[0].dtype == torch.uint8
    assert labels_of(real.train)[:5].tolist() == [5, 0, 4, 1, 9]
    assert labels_of(real.test)[:3].tolist() == [7, 2, 1]
    xb, _ = real.train[:1000]
    assert xb.mean().item() == pytest.approx(0.13, abs=0.01)  # the tutorial's pixels, in [0, 1)


def test_the_tutorials_pickle_is_the_same_images_bit_for_bit(real, tmp_path):
    sets = tuple(
        (
            part.tensors[0][:2000].view(-1, 784).numpy() / np.float32(256),
            part.tensors[1][:2000].numpy(),
        )
        for part in real.parts().values()
    )
    assert sets[0][0].dtype == np.float32
    path = tmp_path / "mnist.pkl.gz"
    path.write_bytes(gzip.compress(pickle.dumps(sets, protocol=2), compresslevel=1))
    data = read_mnist_pickle(path)
    assert data.counts() == dict.fromkeys(real.counts(), 2000)
    assert (data.classes, data.input_shape) == (real.classes, real.input_shape)
    for part, wanted in zip(data.parts().values(), real.parts().values(), strict=True):
        for ours, theirs in zip(part.tensors, wanted.tensors, strict=True):
            assert ours.dtype == theirs.dtype
            assert torch.equal(ours, theirs[:2000])
    assert torch.equal(data.train[:100][0].view(100, 784), torch.from_numpy(sets[0][0][:100]))


# other pickles


def write_pickle(path, x_train, y=None):
    y = np.arange(len(x_train)) % 2 if y is None else y
    path.write_bytes(pickle.dumps(tuple((x_train, y) for _ in range(3)), protocol=2))
    return path


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_other_values_stay_floats(tmp_path, dtype):
    x = np.random.default_rng(0).standard_normal((6, 9)).astype(dtype)
    data = read_mnist_pickle(write_pickle(tmp_path / "a.pkl", x))
    assert data.input_shape == (9,)
    assert torch.equal(data.train.tensors[0], torch.from_numpy(x).float())


@pytest.mark.parametrize(
    "x",
    [
        np.full((6, 4), 7, np.uint8),
        np.full((6, 4), 300),
        np.full((6, 4), -3.5),
        np.full((6, 4), 1e9),
        np.full((6, 4), 60_000, np.float16),
        np.full((6, 5), 0.5),
    ],
)
def test_what_is_no_byte_divided_by_256_is_float32(x, tmp_path):
    data = read_mnist_pickle(write_pickle(tmp_path / "a.pkl", x))
    assert torch.equal(data.train.tensors[0], torch.from_numpy(x.astype(np.float32)))


def test_a_first_row_that_looks_like_an_image_does_not_decide_the_shape(tmp_path):
    x = np.full((6, 9), 0.3, np.float32)
    x[0] = 0
    data = read_mnist_pickle(write_pickle(tmp_path / "a.pkl", x))
    assert data.input_shape == tuple(data.train[0][0].shape) == (9,)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([], "must hold"),
        (((np.ones((4, 4)), np.arange(4)),) * 2, "must hold"),
        ((np.ones((4, 4)), np.arange(4), np.arange(4)), "must hold"),
        (((np.ones(4), np.arange(4)),) * 3, "train must be an array of rows"),
        (((np.ones((4, 4)), np.arange(3)),) * 3, "got 4 samples and 3 labels in train"),
        (((np.ones((0, 4)), np.arange(0)),) * 3, "train must have samples"),
        (((np.ones((4, 0)), np.arange(4)),) * 3, "train must be an array of rows"),
        (((np.ones((4, 4)), np.array(4)),) * 3, "train must be an array of rows"),
        (((np.full((4, 4), 1e300), np.arange(4)),) * 3, "train has NaN or infinity in row 0"),
        (((np.ones((4, 4)), np.arange(4) * 1e300),) * 3, "labels must be classes"),
    ],
)
def test_a_pickle_of_something_else_is_refused(tmp_path, content, says):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(content, protocol=3))
    with pytest.raises(DataError, match=f"a.pkl: .*{says}"):
        read_mnist_pickle(path)


def test_a_pickle_with_nan_or_rows_of_two_lengths_is_refused(tmp_path):
    x, y = np.zeros((6, 4), np.float32), np.arange(6) % 2
    nan = x.copy()
    nan[3, 2] = np.nan
    for valid, says in ((nan, "valid has NaN"), (x[:, :3], "must have one shape")):
        path = tmp_path / "m.pkl"
        path.write_bytes(pickle.dumps(((x, y), (valid, y), (x, y)), protocol=2))
        with pytest.raises(DataError, match=says):
            read_mnist_pickle(path)


def test_a_signalling_nan_is_no_byte_and_no_warning():
    rows = np.full((1, 4), 0x7F800001, np.uint32).view(np.float32)
    assert not mnist.holds_bytes(rows)
