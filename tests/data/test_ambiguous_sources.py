"""What a source leaves open is resolved in one stated way and noted, or refused."""

import numpy as np
import pytest
from PIL import Image

from plainfit import open_data
from plainfit.common.errors import DataError

RNG = np.random.default_rng(0)


def x(n, *shape, factor=1.0):
    return (factor * RNG.random((n, *(shape or (3,))))).astype(np.float32)


def y(n):
    return np.arange(n) % 2


IMAGES = RNG.integers(0, 256, (40, 1, 4, 4), dtype=np.uint8)


@pytest.fixture(params=["npz", "folder"])
def write(request, tmp_path):
    def run(**arrays):
        if request.param == "npz":
            np.savez(tmp_path / "data.npz", **arrays)
            return tmp_path / "data.npz"
        for name, array in arrays.items():
            np.save(tmp_path / f"{name}.npy", array)
        return tmp_path

    return run


@pytest.mark.parametrize("name", ["test", "testing"])
@pytest.mark.parametrize("train", ["", "_train", "_training"])
def test_a_test_set_that_is_given_is_used(tmp_path, name, train):
    given = {
        f"x{train}": x(40),
        f"y{train}": y(40),
        f"X_{name}": x(30, factor=-2),
        f"Y_{name}": y(30),
    }
    np.savez(tmp_path / "data.npz", **given)
    data = open_data(tmp_path / "data.npz")
    assert data.counts()["test"] == 30
    assert float(data.test[:][0].max()) <= 0
    assert data.notes == ()


def test_arrays_that_are_not_used_are_named(write):
    data = open_data(write(x=x(40), y=y(40), x_heldout=x(5), sample_weight=x(40)))
    (note,) = data.notes
    assert note.startswith("arrays that are not used: ")
    assert all(name in note for name in ("x_heldout", "sample_weight"))


def test_arrays_that_are_not_used_are_not_read(tmp_path):
    for name, array in {"x": x(40), "y": y(40), "ids": np.array([{}], object)}.items():
        np.save(tmp_path / f"{name}.npy", array)
    assert "not used: ids (" in open_data(tmp_path).notes[0]


@pytest.mark.parametrize(
    "others",
    [
        {"x_train": x(40), "y_train": y(40)},
        {"x_valid": x(40), "y_valid": y(40), "x_val": x(40), "y_val": y(40)},
        {"X": x(40)},
    ],
)
def test_two_arrays_for_one_part_are_refused(write, others):
    with pytest.raises(DataError, match="there must be one x and one y for each part; it holds"):
        open_data(write(x=x(40), y=y(40), **others))


def test_a_part_without_labels_is_refused(write):
    with pytest.raises(DataError, match="x_test and y_test must come together, and one is missing"):
        open_data(write(x=x(40), y=y(40), x_test=x(9)))


@pytest.mark.parametrize(
    "test",
    [
        IMAGES.astype(np.float32),
        IMAGES / 256,
        IMAGES.astype(np.int64),
        IMAGES // 255,  # bytes too
    ],
)
def test_images_that_are_scaled_differently_are_refused(write, test):
    with pytest.raises(DataError, match="parts must be scaled alike"):
        open_data(write(x_train=IMAGES, y_train=y(40), x_test=test, y_test=y(40)))


@pytest.mark.parametrize("budget", [2048, 0])
def test_floats_that_are_scaled_differently(tmp_path, budget):
    arrays = {"x": IMAGES / 255, "y": y(40), "x_test": IMAGES / 1.0, "y_test": y(40)}

    def save(*shape):
        for name, array in arrays.items():
            np.save(tmp_path / f"{name}.npy", array.reshape(40, *shape) if "x" in name else array)

    for shape in ((1, 8, -1), (8, -1)):
        save(*shape)
        with pytest.raises(DataError, match="the images of all parts must be scaled alike, and"):
            open_data(tmp_path, memory_budget=budget)
    save(-1)
    *_, note = open_data(tmp_path, memory_budget=budget).notes
    assert note == "the parts seem to be scaled differently: they reach 1 in train, 255 in test"


@pytest.mark.parametrize(
    ("shape", "channels", "notes"),
    [
        ((40, 8, 8, 4), 4, 0),
        ((40, 4, 8, 8), 4, 0),
        ((40, 8, 8, 3), 3, 0),
        ((40, 4, 8, 3), 3, 0),
        ((40, 4, 8, 4), 4, 1),
        ((40, 3, 8, 3), 3, 1),
        ((40, 1, 8, 3), 1, 1),
        ((40, 8, 8), 1, 0),
    ],
)
def test_the_order_of_channels_is_said(write, shape, channels, notes):
    data = open_data(
        write(
            x=np.zeros(shape, np.uint8) + IMAGES[:, :1, 0, 0].reshape(-1, *[1] * (len(shape) - 1)),
            y=y(40),
        )
    )
    assert data.input_shape[0] == channels
    assert len(data.notes) == notes


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (np.array([2**53, 2**53 + 1]), ["9007199254740992", "9007199254740993"]),
        (np.array([2**63, 2**63 + 1], np.uint64), ["9223372036854775808", "9223372036854775809"]),
        (np.array([b"a", b"b"]), ["a", "b"]),
        (np.array([True, False]), ["False", "True"]),
        (np.array([1.0, 2.0], np.float16), ["1", "2"]),
        (np.array(["01", "1"]), ["01", "1"]),
    ],
)
def test_labels_of_arrays_keep_their_values(write, labels, classes):
    data = open_data(write(x=x(40), y=labels[y(40)]))
    assert list(data.classes) == classes
    assert [sum(counts) for counts in zip(*data.class_counts().values(), strict=True)] == [20, 20]


def test_labels_of_two_types_do_not_merge(write):
    large = {"x_train": x(40), "y_train": y(40) + 2**53, "x_test": x(40)}
    data = open_data(write(**large, y_test=(y(40) + 2**53).astype(np.uint64)))
    assert data.classes == (str(2**53), str(2**53 + 1))
    for others in (y(40) == 1, y(40).astype(str)):
        with pytest.raises(DataError, match="labels must be numbers in all parts, or text in all"):
            open_data(write(x_train=x(40), y_train=y(40), x_test=x(40), y_test=others))


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (np.array([2.0**53, 1.0]), "decimal, huge or missing numbers in train, in 20 of 40 rows"),
        (np.array([np.nan, 1.0]), "decimal, huge or missing numbers in train, in 20 of 40 rows"),
        (np.array(["a", " "]), "no label may be missing, and 20 of 40 are empty in train"),
        (np.array([b"a", b"\xff"]), "class names must be valid text"),
    ],
)
def test_labels_that_are_missing_or_merged_are_refused(write, labels, says):
    with pytest.raises(DataError, match=says):
        open_data(write(x=x(40), y=labels[y(40)]))


@pytest.mark.parametrize(
    ("labels", "classes", "notes"),
    [
        (["01", "1"], ["01", "1"], 1),
        (["true", "false"], ["false", "true"], 0),
        (["1.0", "1", "2"], ["1", "1.0", "2"], 1),
        (["1e3", "1000"], ["1000", "1e3"], 1),
        (["0x10", "16"], ["0x10", "16"], 0),
        (["a ", " b", "A"], ["A", "a", "b"], 1),
        (["NA", "EU"], ["EU", "NA"], 1),
        (["10", "9", "-1"], ["-1", "9", "10"], 0),
        ([str(10**30), str(10**30 + 1)], [str(10**30), str(10**30 + 1)], 0),
        ([str(2**63), str(2**63 + 1)], [str(2**63), str(2**63 + 1)], 0),
    ],
)
def test_labels_of_tables_keep_their_text(tmp_path, labels, classes, notes):
    rows = "".join(f"{i / 7},{label}\n" for i, label in enumerate(labels * 20))
    (tmp_path / "t.csv").write_text("a,target\n" + rows)
    data = open_data(tmp_path / "t.csv")
    assert list(data.classes) == classes
    assert {sum(counts) for counts in zip(*data.class_counts().values(), strict=True)} == {20}
    assert len(data.notes) == notes


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,target\n" + "1,x\n2,\n3,y\n" * 9, "no label may be missing, and 9 of 27 are empty"),
        ("a,target\n" + "1,0\n2,\n3,1\n" * 9, "column 'target' has 9 missing"),
        ("0.5,0\n" + "1.5,0\n2.5,1\n" * 9, "must begin with the names of its columns, got the num"),
    ],
)
def test_rows_of_a_table_are_not_lost_silently(tmp_path, text, says):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=says):
        open_data(tmp_path / "t.csv", target="0" if text[0] == "0" else None, missing="error")
    if text[0] == "a":
        data = open_data(tmp_path / "t.csv")
        note = "9 of 27 rows have no target, the first is data row 2: left out, and not counted"
        assert data.notes[0].startswith(note)
        assert sum(data.counts().values()) == 18


def test_labels_of_arrow_columns(tmp_path):
    import decimal

    import pyarrow as pa
    import pyarrow.parquet

    for labels, classes in (
        ([True, False], ("false", "true")),
        ([decimal.Decimal(2**60), decimal.Decimal(2**60 + 1)], (str(2**60), str(2**60 + 1))),
    ):
        table = pa.table({"a": [float(i) for i in range(40)], "target": labels * 20})
        pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
        assert open_data(tmp_path / "t.parquet").classes == classes


@pytest.mark.parametrize(
    ("suffix", "budget"), [("csv", 2048), ("parquet", 2048), ("arrow", 2048), ("arrow", 0)]
)
def test_codes_that_lose_digits_are_noted(tmp_path, suffix, budget):
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.feather
    import pyarrow.parquet

    long = [2**53 + row for row in range(40)]
    table = pa.table({"id": long, "n": [*range(40)], "x": [1e20] * 40, "y": [0, 1] * 20})
    path = tmp_path / f"t.{suffix}"
    if suffix == "csv":
        rows = [f"{i},{i % 3:03},{long[i]},{10**19 + i},{i},0.5,{i % 2}" for i in range(40)]
        path.write_text("\n".join(["id,zip,uid,huge,n,x,y", *rows]).replace("\n0,", "\n1,"))
    elif suffix == "parquet":
        pyarrow.parquet.write_table(table, path)
    else:
        pyarrow.feather.write_feather(table, path, compression="uncompressed")
    notes = list(open_data(path, memory_budget=budget).notes)
    remedy = "if they are codes, --categorical {0} or --drop {0}"
    rounded = f"40 numbers beyond 2**53 are rounded to 21; {remedy}"
    notes = [note for note in notes if "rows" not in note and "constant" not in note]
    if suffix == "csv":
        assert notes == [
            f"column 'zip': 40 numbers begin with a 0, which is lost; {remedy.format('zip')}",
            f"column 'uid': {rounded.format('uid')}",
            f"column 'huge': 40 numbers beyond 2**53 are rounded to 1; {remedy.format('huge')}",
        ]
    else:
        assert notes[0] == f"column 'id': {rounded.format('id')}"
        assert "rounded" not in "".join(notes[1:])


def test_texts_that_are_mostly_different_are_noted(tmp_path):
    rows = "".join(f'"x, {i}",{i % 2}\n' for i in range(40))
    (tmp_path / "t.csv").write_text("a,target\n" + rows)
    assert open_data(tmp_path / "t.csv").notes == (
        "column 'a' is text: 28 categories in 28 training rows",
        "column 'a': 12 rows have a text that no training row has",
    )


@pytest.fixture
def pictures(tmp_path):
    def run(*folders, size=(4, 4)):
        for at, name in enumerate(folders):
            (tmp_path / name).mkdir(parents=True, exist_ok=True)
            for k in range(12):
                Image.new("L", size, 20 * at + k).save(tmp_path / name / f"{k}.png")
        return tmp_path

    return run


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        ("bus car train/steam train/diesel", "bus, car would be neither"),
        ("train/cat train/dog valid", "for each class, and those in valid are in none; lay it out"),
        ("train/cat train/dog more", "more would be neither"),
        ("cat/old cat/new dog/old dog/new", "hold the same ones, new, old; call the parts train"),
        ("train/cat/old train/cat/new train/dog/old train/dog/new", "train: parts cannot be told"),
        ("cat/val cat/valid cat/train dog/val dog/valid dog/train", "cannot be told from classes"),
        ("train test", "those in test, train are in none; .* list file and label in .*/labels.csv"),
        ("images heatmaps", "images and masks must be in folders .* are heatmaps, images; rename"),
        ("training_set/cat training_set/dog test_set/cat test_set/dog", "the same ones, cat, dog"),
        ("test/cat test/dog valid/cat valid/dog", "test, valid would be neither"),
        ("train/cat train/dog val/cat valid/cat", "val would be neither or a part twice"),
        ("train/cat train/dog Train/cat", "or a part twice"),
        ("train/cat train/dog test/cat test/bird", "in the training set; missing: 'bird'"),
        ("train/Cat train/dog test/cat test/dog", "missing: 'cat'; did you mean 'Cat'"),
        ("train/cat test/cat", "at least two classes, got"),
        (
            "photos/train/cat photos/train/dog",
            "got only 'photos', .* open .*/photos$",
        ),
    ],
)
def test_folders_that_are_parts_and_classes_are_refused(pictures, folders, says):
    with pytest.raises(DataError, match=says):
        open_data(pictures(*folders.split()))


@pytest.mark.parametrize(
    ("folders", "file", "says"),
    [
        (
            "val2017 train2017",
            "annotations/all.json",
            "annotations must .* holds no images but all.j",
        ),
        (
            "train/images",
            "train/labels/0.txt",
            "holds no images but 0.txt .boxes of objects are not",
        ),
        ("train test", "train.csv", "must be called labels.csv, and there is train.csv$"),
        (
            "cat dog",
            "cat/note.txt dog/a.xml",
            r"2 of 26 are not: cat/note.txt, dog/a.xml .not a .p",
        ),
        ("cat dog", "empty/.DS_Store", "empty must hold images of class 'empty', and it is empty"),
    ],
)
def test_data_of_other_kinds_is_refused_in_one_line(pictures, folders, file, says):
    root = pictures(*folders.split())
    for name in file.split():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("{}")
    with pytest.raises(DataError, match=says):
        open_data(root)


def test_masks_are_no_images_of_a_class(pictures):
    root = pictures("cat", "dog")
    for at in range(12):
        (root / f"dog/{at}.png").rename(root / f"cat/{at}_mask.png")
        Image.new("L", (4, 4), at).save(root / f"dog/{at}.jfif", format="jpeg")
    with pytest.raises(DataError, match="the folders are cat, dog, and 0_mask seems to be a mask"):
        open_data(root)


@pytest.mark.parametrize(
    ("folders", "counts", "notes"),
    [
        ("cat dog", {"train": 16, "valid": 4, "test": 4}, []),
        (
            "cat dog _background_ .old",
            {"train": 16, "valid": 4, "test": 4},
            ["images and linked folders are left out (", "12 in .old, 12 in _background_"],
        ),
        ("bus car train", {"train": 24, "valid": 6, "test": 6}, ["read as a class, ", ": train"]),
        (
            "Training/cat Training/dog Testing/cat Testing/dog",
            {"train": 20, "valid": 4, "test": 24},
            [],
        ),
        (
            "trn/cat trn/dog DEV/cat DEV/dog test/cat test/dog",
            {"train": 24, "valid": 24, "test": 24},
            [],
        ),
        (
            "cat/train cat/test dog/train dog/test",
            {"train": 20, "valid": 4, "test": 24},
            ["each class has folders that are its parts: test, train"],
        ),
        (
            "train/cat train/dog test",
            {"train": 16, "valid": 4, "test": 4},
            [
                "12 images in test have no class and are kept for plainfit predict RUN ",
                "/test; the test set is drawn from the training images",
            ],
        ),
        (
            "train/cat train/dog testing/cat testing/dog Unlabelled",
            {"train": 20, "valid": 4, "test": 24},
            ["12 images in Unlabelled have no class and are kept for plainfit predict RUN "],
        ),
        (
            "train/cat train/dog test/cat",
            {"train": 20, "valid": 4, "test": 12},
            ["test has no samples of 'dog'"],
        ),
        (
            "cat/black cat/white dog",
            {"train": 24, "valid": 6, "test": 6},
            ["images in folders within a class belong to it: 12 in cat/black, 12 in cat/white"],
        ),
        ("cat Cat", {"train": 16, "valid": 4, "test": 4}, ["kept apart: 'Cat' and 'cat'"]),
    ],
)
def test_what_a_layout_leaves_open_is_noted(pictures, folders, counts, notes):
    data = open_data(pictures(*folders.split()))
    assert data.counts() == counts
    assert len(data.notes) == bool(notes)
    assert all(part in data.notes[0] for part in notes)


def test_every_image_that_is_left_out_is_counted(pictures, tmp_path, monkeypatch):
    root = pictures("train/cat", "train/dog", "annotations")
    for path in (root / "annotations").iterdir():
        path.rename(path.with_suffix(".xml"))
    for name in ("stray.png", "train/stray.PNG", "train/cat/.hidden.png"):
        Image.new("L", (4, 4)).save(root / name)
    (root / "train/dog/link.png").symlink_to("none.png")
    (root / "train/dog/more").symlink_to(root / "train/cat")
    monkeypatch.chdir(tmp_path)
    for place in (root, "."):
        (note,) = open_data(str(place)).notes
        assert note.endswith(": 1 in ., 1 in train, 1 in train/cat, 2 in train/dog")


def test_a_part_may_be_a_link(pictures, tmp_path):
    root = pictures("elsewhere/cat", "elsewhere/dog", "data/none")
    (root / "data/none").rename(root / "away")
    (root / "data/train").symlink_to(root / "elsewhere")
    data = open_data(root / "data")
    assert (data.counts()["train"], data.notes) == (16, ())


def test_large_images_are_fitted_with_a_note(pictures):
    root = pictures("cat", "dog", size=(513, 512))
    data = open_data(root)
    assert data.input_shape == (1, 64, 64)
    assert data.notes == (
        "images of 513x512 pixels are larger than 512x512: fitted to 64x64 (set image_size to "
        "change it)",
    )
    assert open_data(root, image_size=520).input_shape == (1, 520, 520)
    assert open_data(pictures("cat", "dog", size=(512, 512))).input_shape == (1, 512, 512)
