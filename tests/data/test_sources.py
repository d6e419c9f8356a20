"""Every kind of data trains from the command line, and is read as it stands."""

import gzip
import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_breast_cancer

from plainfit import PlainfitError, open_data
from plainfit.common.errors import ConfigError
from plainfit.data.datasets import ImageDataset
from plainfit.data.loaders import get_data
from plainfit.data.splits import labels_of

# A rate that falls to 0: with a constant one, the last epoch is a matter of the last bits.
QUICK = ("--model", "mlp", "--optimizer", "adam", "--lr", 0.01, "--schedule", "one-cycle")


@pytest.fixture
def train(plainfit):
    def run(*arguments, out):
        code, output, errors = plainfit("train", *arguments, "--json", "--out", out)
        assert code == 0, errors
        return json.loads(output)

    return run


def write_folder(root: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = root / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{row:05}.png")
    return root


@pytest.fixture(scope="module")
def digits():
    data = open_data("digits")
    return data.train.tensors[0][:, 0].numpy(), data.train.tensors[1].numpy()


@pytest.fixture(scope="module")
def table():
    x, y = load_breast_cancer(return_X_y=True)
    columns = {f"c{i}": x[:, i] for i in range(8)}
    columns["size"] = np.where(x[:, 3] > 600, "large", "small")
    return pa.table({**columns, "diagnosis": np.where(y == 1, "benign", "malignant")})


def test_a_folder_of_real_mnist_trains(tmp_path, mnist_folder, train):
    mnist = open_data("mnist", data_dir=mnist_folder)
    images, labels = (tensor[:1500] for tensor in mnist.train.tensors)
    root = write_folder(tmp_path / "png", images[:, 0].numpy(), labels.numpy())
    result = train("--data", root, *QUICK, "--epochs", 5, out=tmp_path / "run")
    assert result["test"]["accuracy"] > 0.8
    read = open_data(root)
    assert read.input_shape == (1, 28, 28)
    assert read.counts() == {"train": 1048, "valid": 226, "test": 226}


def test_a_folder_of_images_trains_and_keeps_the_pixels(tmp_path, digits, train):
    images, labels = digits
    root = write_folder(tmp_path / "png", images[:400], labels[:400])
    result = train("--data", root, *QUICK, "--epochs", 6, out=tmp_path / "run")
    assert result["test"]["accuracy"] > 0.8
    data = open_data(root)
    assert isinstance(data.train, ImageDataset)
    seen = {
        tensor.numpy().tobytes() for part in data.parts().values() for tensor in part.tensors[0]
    }
    assert seen == {image.tobytes() for image in images[:400]}


def test_images_past_the_budget_are_read_lazily_and_train_to_the_same_bits(tmp_path, digits, train):
    root = write_folder(tmp_path / "png", digits[0][:200], digits[1][:200])
    results = [
        train(
            "--data",
            root,
            "--model",
            "logistic",
            "--epochs",
            2,
            "--memory-budget",
            budget,
            out=tmp_path / str(budget),
        )
        for budget in (0, 100)
    ]
    losses = [[row["train_loss"] for row in result["epochs"]] for result in results]
    assert losses[0] == losses[1]
    assert "read from disk" in open_data(root, memory_budget=0).notes[0]


def test_folders_of_train_valid_test_are_taken_as_they_are(tmp_path, digits):
    images, labels = digits
    for part, rows in {
        "train": range(300),
        "val": range(300, 360),
        "test": range(360, 400),
    }.items():
        write_folder(tmp_path / part, images[list(rows)], labels[list(rows)])
    assert open_data(tmp_path).counts() == {"train": 300, "valid": 60, "test": 40}


def test_images_of_different_sizes_and_colours_are_fitted(tmp_path):
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        (tmp_path / name).mkdir()
        for size in (20, 40, 80):
            Image.new("RGB", (size, 2 * size), colour).save(tmp_path / name / f"{size}.png")
    data = open_data(tmp_path)
    assert data.input_shape == (3, 64, 64)
    assert "images differ in size: fitted to 64x64" in data.notes[0]
    assert open_data(tmp_path, image_size=16).input_shape == (3, 16, 16)
    xb, yb = data.train.tensors
    assert data.classes == ("blue", "red")
    assert torch.equal(xb[:, 0].amax((1, 2)) == 255, yb == 1)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_trains(tmp_path, table, suffix, train):
    path = tmp_path / f"cancer{suffix}"
    if suffix == ".csv":
        pyarrow.csv.write_csv(table, path)
    else:
        pyarrow.parquet.write_table(table, path)
    arguments = ("--data", path, "--target", "diagnosis", "--model", "mlp", "--epochs", 10)
    assert train(*arguments, out=tmp_path / "run")["test"]["accuracy"] > 0.85
    data = open_data(path, target="diagnosis")
    assert data.classes == ("benign", "malignant")
    assert data.features == (*(f"c{i}" for i in range(8)), "size=large", "size=small")
    xb = data.train.tensors[0]
    torch.testing.assert_close(xb[:, :8].mean(0), torch.zeros(8), atol=1e-6, rtol=0)
    torch.testing.assert_close(xb[:, :8].std(0, correction=0), torch.ones(8), atol=1e-6, rtol=0)
    assert torch.equal(xb[:, 8:].sum(1), torch.ones(len(xb)))


def test_an_npz_trains_and_its_own_split_is_kept(tmp_path, digits, train):
    images, labels = digits
    path = tmp_path / "digits.npz"
    np.savez(
        path, x_train=images[:900], y_train=labels[:900], x_test=images[900:], y_test=labels[900:]
    )
    result = train("--data", path, *QUICK, "--epochs", 6, out=tmp_path / "run")
    assert result["test"]["accuracy"] > 0.8
    data = open_data(path)
    assert isinstance(data.train, ImageDataset)
    assert torch.equal(data.test.tensors[0][:, 0], torch.from_numpy(images[900:]))
    assert sum(data.counts().values()) == len(images)


def test_npz_layouts(tmp_path):
    labels = np.arange(20) % 2
    for shape, dtype, expected in [
        ((20, 8, 9, 3), np.uint8, (3, 8, 9)),
        ((20, 3, 8, 9), np.uint8, (3, 8, 9)),
        ((20, 8, 9), np.uint8, (1, 8, 9)),
        ((20, 5), np.float64, (5,)),
        ((20, 5), np.int32, (5,)),
    ]:
        np.savez(tmp_path / "a.npz", x=np.ones(shape, dtype), y=labels[:, None])
        assert open_data(tmp_path / "a.npz").input_shape == expected


def test_the_tutorials_pickle_trains(tmp_path, digits, train):
    images, labels = digits
    rows = (images.reshape(len(images), -1) / 256).astype(np.float32)
    cuts = [(0, 900), (900, 1100), (1100, 1259)]
    sets = tuple((rows[a:b], labels[a:b]) for a, b in cuts)
    path = tmp_path / "digits.pkl.gz"
    path.write_bytes(gzip.compress(pickle.dumps(sets, protocol=2)))
    result = train("--data", path, *QUICK, "--epochs", 6, out=tmp_path / "run")
    assert result["test"]["accuracy"] > 0.8
    data = open_data(path)
    assert torch.equal(data.train.tensors[0][:, 0], torch.from_numpy(images[:900]))


def test_a_split_is_stratified_seeded_and_apart(tmp_path, digits):
    first, again, other = (open_data("digits", split_seed=seed) for seed in (0, 0, 1))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    for counts in zip(*first.class_counts().values(), strict=True):
        assert counts[1] == counts[2] == round(0.15 * sum(counts))
    assert sum(first.counts().values()) == 1797
    np.savez(tmp_path / "ids.npz", x=np.arange(1000)[:, None], y=np.arange(1000) % 7)
    parts = open_data(tmp_path / "ids.npz").parts().values()
    ids = torch.cat([part.tensors[0].flatten() for part in parts])
    assert sorted(ids.tolist()) == list(range(1000))


def test_the_shares_of_the_parts(tmp_path):
    data = open_data("digits", valid_share=0.3, test_share=0)
    assert data.test is None
    for counts in zip(*data.class_counts().values(), strict=True):
        assert counts[1] == round(0.3 * sum(counts))
    x, y = np.arange(103)[:, None], np.array([0, 1] * 50 + [2] * 3)
    np.savez(tmp_path / "ids.npz", x=x, y=y)
    data = open_data(tmp_path / "ids.npz", valid_share=0.5, test_share=0.48)
    assert data.class_counts() == {"train": [1, 1, 1], "valid": [25, 25, 1], "test": [24, 24, 1]}
    x, y = np.arange(300)[:, None], np.arange(300) % 3
    np.savez(tmp_path / "even.npz", x=x, y=y)
    assert open_data(tmp_path / "even.npz").class_counts()["valid"] == [15, 15, 15]
    for seed in range(3):
        data = open_data(tmp_path / "even.npz", stratify=False, split_seed=seed)
        assert sum(data.class_counts()["valid"]) == 45 != 3 * max(data.class_counts()["valid"])
        ids = torch.cat([part.tensors[0].flatten() for part in data.parts().values()])
        assert sorted(ids.tolist()) == list(range(300))
    x, y = x[:103], np.array([0, 1] * 50 + [2] * 3)
    for shares in ({"valid_share": 0.0}, {"valid_share": 0.5, "test_share": 0.5}):
        with pytest.raises(
            ConfigError, match=r"^valid_share must be above 0, and below 1 together"
        ):
            open_data("digits", **shares)
    np.savez(tmp_path / "test.npz", x=x, y=y, x_test=x, y_test=y)
    assert open_data(tmp_path / "test.npz", valid_share=0.5).counts()["valid"] == 52
    with pytest.raises(ConfigError, match=r"^test_share is for parts that are .* its own"):
        open_data(tmp_path / "test.npz", test_share=0.5)
    np.savez(tmp_path / "valid.npz", x=x, y=y, x_valid=x, y_valid=y)
    with pytest.raises(ConfigError, match=r"^valid_share is for parts that are drawn"):
        open_data(tmp_path / "valid.npz", valid_share=0.5)
    np.savez(tmp_path / "own.npz", x=x, y=y, x_valid=x, y_valid=y, x_test=x, y_test=y)
    with pytest.raises(ConfigError, match=r"^stratify is for parts that are drawn"):
        open_data(tmp_path / "own.npz", stratify=False)


def test_a_class_of_two_or_three_samples_reaches_the_parts_it_can(tmp_path):
    labels = np.array([0] * 40 + [1] * 2 + [2] * 3)
    np.savez(tmp_path / "few.npz", x=np.arange(45)[:, None], y=labels)
    counts = open_data(tmp_path / "few.npz").class_counts()
    assert {part: of[1:] for part, of in counts.items()} == {
        "train": [1, 1], "valid": [1, 1], "test": [0, 1],
    }  # fmt: skip


def test_bad_images_are_all_named_or_skipped_and_counted(tmp_path, digits):
    root = write_folder(tmp_path / "png", digits[0][:60], digits[1][:60])
    (root / "0" / "broken.png").write_bytes(b"not a picture")
    whole = next((root / "1").glob("*.png")).read_bytes()
    (root / "1" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "2" / "notes.txt").write_text("hello")
    (root / "2" / ".DS_Store").write_text("ignored")
    with pytest.raises(PlainfitError, match="3 of 63 are not") as caught:
        open_data(root)
    assert all(name in str(caught.value) for name in ("0/broken.png", "1/cut.png", "2/notes.txt"))
    data = open_data(root, skip_bad=True)
    assert sum(data.counts().values()) == 60
    assert data.notes == ("3 of 63 images could not be read and are left out",)


def test_large_images_are_refused_before_they_are_decoded(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.new("1", (5001, 5000)).save(tmp_path / name / "large.png")
    with pytest.raises(
        PlainfitError, match=r"a/large.png, b/large.png \(larger than 25 megapixels\)"
    ):
        open_data(tmp_path)


def test_images_with_damaged_notes_are_read_without_a_warning(tmp_path, digits):
    root = write_folder(tmp_path / "png", digits[0][:60], digits[1][:60])
    notes = b"Exif\0\0II*\0\x08\0\0\0\x40\0\x12\x01\x03\0"  # 64 of them, cut in the first
    Image.new("L", (8, 8)).save(root / "0" / "noted.jpg", exif=notes)
    assert sum(open_data(root).counts().values()) == 61


def test_the_three_lines_take_any_source():
    data = open_data("digits")
    train_dl, valid_dl = get_data(data.train, data.valid, bs=64)
    xb, yb = next(iter(train_dl))
    assert xb.dtype == torch.float32
    assert 0 <= xb.min() <= xb.max() < 1
    assert len(next(iter(valid_dl))[0]) == 128
    assert yb.dtype == torch.int64
    assert torch.equal(labels_of(data.valid), torch.cat([yb for _, yb in valid_dl]))


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_a_path_is_never_a_name_and_is_not_advised_to_be_itself(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PlainfitError, match="no file or folder") as caught:
        open_data(Path(name))
    assert f"for the data of that name pass the str {name!r}" in str(caught.value)
    assert "did you mean" not in str(caught.value)
    with pytest.raises(PlainfitError, match="did you mean 'digits'"):
        open_data("digit")
    with pytest.raises(PlainfitError, match=r"no file or folder digit$"):
        open_data(Path("digit"))


def test_a_folder_with_the_name_of_a_dataset_is_opened_as_a_path(tmp_path, monkeypatch, digits):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "digits", digits[0][:40], digits[1][:40] % 2)
    assert open_data("digits").classes == tuple("0123456789")
    for source in (Path("digits"), "./digits", tmp_path / "digits"):
        assert open_data(source).classes == ("0", "1")
