"""`labels.csv` gives the classes of a folder of images."""

import numpy as np
import pytest
import torch
from PIL import Image

from plainfit import PlainfitError, evaluate, load_run, open_data
from plainfit.data.splits import labels_of
from plainfit.runs.settings import RunConfig
from plainfit.runs.train import train


@pytest.fixture
def folder(tmp_path):
    """Return a function that writes gray images, and a file of labels with these lines."""

    def write(names, lines, place="labels.csv"):
        for at, name in enumerate(names):
            path = tmp_path / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((4, 4), at * 3, np.uint8)).save(path)
        (tmp_path / "data" / place).write_text("\n".join(lines), "utf-8")
        return tmp_path / "data"

    return write


def pixels_by_class(data):
    """The value of every image, which is three times its number, by class."""
    found = {name: [] for name in data.classes}
    for part in data.parts().values():
        x, y = part.tensors
        for value, label in zip(x[:, 0, 0, 0].tolist(), y.tolist(), strict=True):
            found[data.classes[label]].append(value // 3)
    return {name: sorted(rows) for name, rows in found.items()}


NUMBERS = range(30)
WANTED = {"even": [*range(0, 30, 2)], "odd": [*range(1, 30, 2)]}
LABELS = ["even", "odd"] * 15
SEPARATED = {";": "columns are separated by a semicolon", "\t": "columns are separated by a tab"}


@pytest.mark.parametrize(
    ("image", "header", "row"),
    [
        ("images/{:03}.png", "file,label", "images/{:03}.png,{}"),
        ("images/{:03}.png", "\ufefflabel;x;ID", "{1};0;{0:03}"),
        ("a/b/{}.png", "filename\ttarget", "b/{}\t{}"),
        ("a/b/{}.png", "Class,path", "{1},.\\a\\b\\{0}.png"),
        ("{}.png", "image,x,kind", "{0}.png,5,{1}"),
        ("train/na\u00efve {}.png", "id,label", "nai\u0308ve {},{}"),
    ],
)
def test_names_are_matched_as_people_write_them(folder, image, header, row):
    lines = [header, *(row.format(i, LABELS[i]) for i in reversed(NUMBERS)), ""]
    root = folder([image.format(i) for i in NUMBERS], lines)
    data = open_data(root, target="kind" if "kind" in header else None)
    assert pixels_by_class(data) == WANTED
    *guessed, note = data.notes
    separated = [text for mark, text in SEPARATED.items() if mark in header]
    assert [text.split(" (")[0] for text in guessed] == separated
    assert str(root / "labels.csv") in note


def test_a_file_beside_the_images_and_rows_and_images_without_each_other(folder, tmp_path):
    lines = ["file,label", *(f"{i}.png,{LABELS[i]}" for i in NUMBERS if i > 1), "x.png,odd"]
    root = folder([f"images/{i}.png" for i in NUMBERS], lines)
    data = open_data(root / "images")
    assert sum(data.counts().values()) == 28
    assert data.notes[1:] == (
        "1 of 29 rows of labels.csv name no image: x.png",
        "2 of 30 images have no row in labels.csv: left out",
    )


def test_parts_and_images_to_predict_beside_labels(folder):
    names = [f"{'val' if i < 6 else 'train'}/{i}.png" for i in NUMBERS]
    lines = ["file,label", *(f"{name},{LABELS[i]}" for i, name in enumerate(names))]
    root = folder([*names, *(f"test/{i}.png" for i in range(40))], lines)
    data = open_data(root)
    assert data.counts() == {"train": 24, "valid": 6}
    assert "40 images in test have no class and are kept for plainfit predict" in data.notes[1]
    assert "drawn" not in data.notes[1]


@pytest.mark.parametrize(
    ("header", "odd", "says"),
    [
        (
            "file,label",
            ["0.png,odd"],
            "0.png is odd, and even before .for several labels of",
        ),
        ("file,label", ["b/1,"], r"no label may be missing, and 1 of 31 are empty in train"),
        ("file,label", ["0.png"], "2 cells, as many as there are names, and line 32 has 1"),
        ("file,label", ["1,odd"], r"data row 31: 1 could be a/1.png or b/1.png; write its folder"),
        ("file,label", [f"q{i},odd" for i in range(40)], r"40 of 70 do not: q0, .*q9 and 30 more"),
        (
            "name,label",
            [],
            r"must name a column of files, such as file, got \['name'",
        ),
        ("file,a,b", [], "column to predict must be named with target; the columns are a, b$"),
    ],
)
def test_labels_that_cannot_be_used_say_why(folder, header, odd, says):
    extra = ",5" * (header.count(",") - 1)
    lines = [header, *(f"a/{i}.png,{LABELS[i]}{extra}" for i in NUMBERS), *odd]
    root = folder([*(f"a/{i}.png" for i in NUMBERS), "b/1.png"], lines)
    if header == "name,label":
        (root / "b/1.png").unlink()
        (root / "b").rmdir()  # else the folders are classes
    with pytest.raises(PlainfitError, match=says.replace("|", r"\|")):
        open_data(root)


def test_labels_of_images_may_be_numbers_or_several(folder):
    images = [f"{i}.png" for i in NUMBERS]
    root = folder(images, ["file,label", *(f"{name},{i / 2}" for i, name in enumerate(images))])
    data = open_data(root)
    numbers = data.target.restored(torch.cat([labels_of(part) for part in data.parts().values()]))
    wanted = pytest.approx([i / 2 for i in NUMBERS], abs=1e-6)
    assert numbers.flatten().sort().values.tolist() == wanted
    folder([], ["file,label", *(f"{i}.png,{'a|b|'[i % 3 :]}" for i in NUMBERS)])
    data = open_data(root)
    assert (data.task, data.classes) == ("multi-label", ("a", "b"))
    assert data.class_counts()["train"] == [labels_of(data.train)[:, i].sum() for i in range(2)]
    rows = [f"{i}.png,{label}" for i in NUMBERS for label in ("odd", "all")[i % 2 == 0 :]]
    folder([], ["file,label", *rows])
    data = open_data(root, task="multi-label")
    assert sum(of[0] for of in data.class_counts().values()) == 30


def test_unknown_columns_are_refused(folder):
    images = [f"{i}.png" for i in NUMBERS]
    root = folder(images, ["file,label", *(f"{name},{i % 2}" for i, name in enumerate(images))])
    with pytest.raises(PlainfitError, match=r"no column 'lable' for .*; did you mean 'label'\?"):
        open_data(root, target="lable")
    folder([], ["file,label", ""])
    with pytest.raises(PlainfitError, match=r"labels.csv.*must have rows below the names"):
        open_data(root)
    folder([], ["file,label", "0.png,a", "1.png,b"])
    with pytest.raises(PlainfitError, match=r"28 of 30 in .* have none; add them"):
        open_data(root)


def test_a_table_that_names_no_files_leaves_the_folders_classes(folder):
    root = folder([f"{'ab'[i % 2]}/{i}.png" for i in NUMBERS], ["ClassId,Name", "a,apple"])
    assert open_data(root).classes == ("a", "b")
    with pytest.raises(PlainfitError, match=r"target is for a table or labels.csv, .* has none"):
        open_data(root, target="Name")
    with pytest.raises(PlainfitError, match=r"task is for a table or labels.csv, .* regression"):
        open_data(root, task="regression")
    assert open_data(root, task="classification").classes == ("a", "b")


def test_evaluate_reads_the_labels_too(folder, tmp_path):
    names = [f"{i}.png" for i in NUMBERS]
    root = folder(names, ["id,kind", *(f"{i},{label}" for i, label in enumerate(LABELS))])
    settings = {"model": "logistic", "epochs": 1, "out": tmp_path / "run"}
    train(RunConfig(data=str(root), target="kind", **settings), echo=None)
    run, data = load_run(tmp_path / "run"), open_data(root, target="kind")
    whole = [evaluate(run, part)["loss"] * len(part) for part in data.parts().values()]
    assert evaluate(run, root)["loss"] == pytest.approx(sum(whole) / 30, abs=1e-6)


SCORED = np.random.default_rng(0).normal(2, 3, (30, 2))
THERE = np.arange(30)[:, None] // [1, 2, 4] % 2


@pytest.mark.parametrize(
    ("task", "names", "values", "encoding"),
    [
        ("regression", ["x", "y"], SCORED, "cp1252"),
        ("multi-label", ["rain", "wind", "süß"], THERE, "utf-16"),
    ],
)
def test_several_targets_are_those_of_a_table(folder, tmp_path, task, names, values, encoding):
    """As trained on the columns of a table; `predict` and `evaluate` agree with the validation."""
    images = [f"{i}.png" for i in NUMBERS]
    root = folder(images, [])
    header = ";".join(["image name", *names, "other"])
    rows = [
        ";".join([f"images\\{i}", *(f"{x:g}".replace(".", ",") for x in values[i]), "é"])
        for i in NUMBERS
    ]
    (root / "images").mkdir()
    for name in images:
        (root / name).rename(root / "images" / name)
    (root / "labels.csv").write_text("\n".join([header, *rows]), encoding)
    target = ",".join(names)
    data = open_data(root, target=target)
    assert (data.task, data.target.names) == (task, tuple(names))
    assert data.notes[-1] == (
        f"labels are the columns {', '.join(map(repr, names))} of {root / 'labels.csv'}"
    )
    for part in data.parts().values():
        x, y = part.tensors
        wanted = [[float(f"{value:g}") for value in values[at // 3]] for at in x[:, 0, 0, 0]]
        found = data.target.restored(y) if task == "regression" else y
        assert torch.allclose(found, torch.tensor(wanted), atol=1e-5)
    settings = {"model": "logistic", "epochs": 1, "out": tmp_path / "run"}
    trained = train(RunConfig(data=str(root), target=target, **settings), echo=None)
    run = load_run(tmp_path / "run")
    whole = [evaluate(run, part)["loss"] * len(part) for part in data.parts().values()]
    assert evaluate(run, root)["loss"] == pytest.approx(sum(whole) / 30, rel=1e-5)
    assert evaluate(run)["loss"] == pytest.approx(trained.test["loss"], rel=1e-6)


def test_how_labels_are_written_may_be_set(folder):
    root = folder([f"{i}.png" for i in NUMBERS], ["file!price", *(f"{i}!{i},5" for i in NUMBERS)])
    data = open_data(root, delimiter="!", decimal=",")
    y = torch.cat([labels_of(part) for part in data.parts().values()])
    assert data.target.restored(y).sum() == pytest.approx(450)
    (root / "labels.csv").unlink()
    with pytest.raises(PlainfitError, match=r"delimiter is for a table or labels.csv, and .* none"):
        open_data(root / "..", delimiter="!")
