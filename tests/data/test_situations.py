"""The rows of the table "Files as people have them" in docs/data.md, each as a small file."""

import json
import re

import numpy as np
import pytest
from PIL import Image, ImageDraw

from plainfit import open_data
from plainfit.common.errors import DataError

RNG = np.random.default_rng(0)
Y = RNG.integers(0, 2, 90)
X = (RNG.normal(size=90) + Y).round(3)
ROWS = list(enumerate(zip(X.tolist(), Y.tolist(), strict=True)))
SORTED = sorted(Y.tolist())
CODE = 2**53 + 1


def comma(number):
    return str(number).replace(".", ",")


TABLES = {  # the names, a row, the options, and what is said: a note, or an error; none is ""
    "semi.csv": (
        "x;z;target",
        lambda i, x, y: f"{comma(x)};{i % 9};{y}",
        {},
        "separated by a semicolon",
    ),
    "bom.csv": ("\ufefftarget,x", lambda i, x, y: f"{y},{x}", {}, ""),
    "latin.csv": (
        "x,city,target",
        lambda i, x, y: f"{x},{['Köln', 'Málaga', 'Ulm'][i % 3]},{y}",
        {},
        "read as Windows-1252",
    ),
    "cities.csv": (
        "x,city,target",
        lambda i, x, y: f"{x},{['Köln', 'Málaga'][y]},{y}",
        {},
        "error: column 'city' is the target under another name",
    ),
    "utf16.csv": ("x,target", lambda i, x, y: f"{x},{y}", {}, "the text is UTF-16"),
    "tab.tsv": ("x\ttarget", lambda i, x, y: f"{x}\t{y}", {}, ""),
    "missing.csv": (
        "age,x,target",
        lambda i, x, y: f"{'' if i % 7 == 0 else i % 50},{x},{y}",
        {},
        "13 of 90 values missing",
    ),
    "question.csv": (
        "hp,x,target",
        lambda i, x, y: f"{'?' if i == 3 else i % 50},{x},{y}",
        {},
        "1 of 90 values missing, first in data row 4",
    ),
    "date.csv": (
        "day,x,target",
        lambda i, x, y: f"2026-01-{1 + i % 28:02},{x},{y}",
        {},
        "'day' has dates (ISO 8601)",
    ),
    "bool.csv": ("x,target", lambda i, x, y: f"{x},{bool(y)}", {}, ""),
    "id.csv": ("id,x,target", lambda i, x, y: f"{i},{x},{SORTED[i]}", {}, "error: --drop id"),
    "name.csv": ("name,x,target", lambda i, x, y: f"person{i},{x},{y}", {}, "error: --drop name"),
    "bigint.csv": (
        "big,x,target",
        lambda i, x, y: f"{CODE + i},{x},{y}",
        {},
        "beyond 2**53 are rounded",
    ),
    "one.csv": ("x,target", lambda i, x, y: f"{x},yes", {}, "error: at least two classes"),
    "rare.csv": (
        "x,target",
        lambda i, x, y: f"{x},{'rare' if i == 0 else 'ab'[y]}",
        {},
        "test has no samples of 'rare'",
    ),
    "price.csv": ("x,target", lambda i, x, y: f"{x},{2 * x + 0.5:.3f}", {}, ""),
    "rooms.csv": (
        "x,target",
        lambda i, x, y: f"{x},{i % 12}",
        {},
        "the 12 whole numbers of the target",
    ),
    "ages.csv": ("x,target", lambda i, x, y: f"{x},{i}", {}, "error: --task regression"),
    "tags.csv": (
        "x,tags",
        lambda i, x, y: f"{x},{'|'.join(['hot'] * (x > 0) + ['big'] * y)}",
        {"target": "tags"},
        "labels are separated by '|'",
    ),
    "sentences.csv": (
        "text,target",
        lambda i, x, y: f'"{["bad", "good"][y]} {["it", "so", "oh"][i % 3]} was {i % 9}",{y}',
        {},
        "",
    ),
    "text.csv": ("text,target", lambda i, x, y: f'"w{i} is, so {x}",{y}', {}, "error: --drop text"),
}
CLASSES = {"bool.csv": ("False", "True"), "tags.csv": ("big", "hot"), "price.csv": ()}


@pytest.mark.parametrize("name", TABLES)
def test_tables(tmp_path, name):
    header, row, options, says = TABLES[name]
    encoding = {"latin.csv": "cp1252", "utf16.csv": "utf-16"}.get(name, "utf-8")
    text = "\n".join([header, *(row(i, x, y) for i, (x, y) in ROWS)])
    (tmp_path / name).write_bytes(text.encode(encoding))
    if says.startswith("error: "):
        with pytest.raises(DataError, match=re.escape(says[7:])):
            open_data(tmp_path / name, **options)
        return
    data = open_data(tmp_path / name, **options)
    notes = [note for note in data.notes if "of a training row" not in note]
    assert says in "; ".join(notes)
    assert notes or not says
    assert says or not notes
    if name in CLASSES:
        assert data.classes == CLASSES[name]


def noise(mode="RGB"):
    return Image.fromarray(RNG.integers(0, 255, (8, 8, 3), np.uint8)).convert(mode)


def circle(number):
    image = Image.new("RGBA", (8, 8))
    ImageDraw.Draw(image).ellipse([1, 1, 5 + number % 2, 6], fill=(0, 0, 0, 255))
    return image


FOLDERS = {  # the files, and what is said
    "parts": (
        {
            f"{part}/{c}/{i}.png": noise()
            for part in ("training", "testing")
            for c in "ab"
            for i in range(6)
        },
        "",
    ),
    "alpha": (
        {f"{c}/{i}.png": circle(i) for c in "ab" for i in range(6)},
        "12 of 12 images have transparency: drawn on white",
    ),
    "modes": (
        {
            f"{c}/{i}.{end}": noise(mode)
            for c in "ab"
            for i, (mode, end) in enumerate(
                [("RGB", "png"), ("CMYK", "jpg"), ("LA", "png"), ("RGB", "tiff"), ("RGB", "png")]
            )
        },
        "2 of 10 images are CMYK: converted",
    ),
    "flat": (
        {f"train/{c}/{i}.png": noise() for c in "ab" for i in range(6)} | {"test/0.png": noise()},
        "1 image in test has no class and is kept",
    ),
    "copies": (
        {f"{c}/{i}.png": image for c in "ab" for image in [noise()] for i in range(8)},
        "images are equal to training images",
    ),
    "listed": (
        {f"images/{i:03}.png": noise() for i in range(12)},
        "labels are the column 'label' of",
    ),
    "others": (
        {f"images/{i}.png": noise() for i in range(12)},
        "error: must be called labels.csv, and there is train.csv",
    ),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_folders(tmp_path, name):
    files, says = FOLDERS[name]
    for path, image in files.items():
        (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / name / path)
    table = {"listed": "labels.csv", "others": "train.csv"}.get(name)
    if table:
        rows = [f"images/{i:03},{'rgb'[i % 3]}" for i in range(12)]
        (tmp_path / name / table).write_text("\n".join(["file,label", *rows]))
    if says.startswith("error: "):
        with pytest.raises(DataError, match=re.escape(says[7:])):
            open_data(tmp_path / name)
        return
    data = open_data(tmp_path / name)
    assert says in "; ".join(data.notes)
    assert says or not data.notes
    assert set(data.classes) == set("rgb" if name == "listed" else "ab")


def test_a_last_batch_of_one_row(tmp_path, plainfit):
    rows = "\n".join(f"{i % 7},{i % 3},{'ab'[i % 2]}" for i in range(40))
    (tmp_path / "last_of_one.csv").write_text(f"x,z,target\n{rows}\n")
    size = open_data(tmp_path / "last_of_one.csv").counts()["train"] - 1
    train = ("train", "--data", tmp_path / "last_of_one.csv", "--epochs", 1, "--batch-size", size)
    code, _, errors = plainfit(*train, "--out", tmp_path / "run")
    assert (code, errors) == (0, "")
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n"
        "def norm(in_features, classes):\n"
        "    return nn.Sequential(nn.BatchNorm1d(in_features), nn.Linear(in_features, classes))\n"
    )
    code, _, errors = plainfit(*train, "--model", "nets:norm")
    assert code == 2
    assert "set --drop-last, or choose another --batch-size" in errors


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "x,target\n1,a\n2\n\n  \n3,b,c\n",
            "must have 2 cells, as many as there are names, and line 3 has 1, line 6 has 3",
        ),
        ('x,target\n1,a\n"2,b\n3,a\n4,b\n', "line 3 has 1; mend"),
        ("x,target\n", "it must have rows below the names of its columns"),
        ("", "it must have rows below the names of its columns"),
        ("x,x,target\n" + "1,2,0\n2,1,1\n" * 9, "different names, got 'x' twice; rename one"),
        ("x,target\n" + "1,\n" * 9, "there must be rows with a value of target, and none has"),
        ("x,target\n" + "1,2026-01-01\n2,2026-01-02\n", "at least two of each class, of which it"),
    ],
)
def test_files_without_a_meaning_are_refused_in_our_words(tmp_path, text, says):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=re.escape(says)):
        open_data(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("header", "last", "says"),
    [
        ("x,target", "Total,\n", "1 of 91 rows have no target, the first is data row 91: left out"),
        ("x,target", ",\n,\n  \n", "2 of 92 rows have no target, the first is data row 91: left"),
        ("x,price", f"Total,{sum(X):.3f}", "the last row is 'Total': left out"),
        ("x,target,,", ",,,\n", "1 of 91 rows have no target"),
    ],
)
def test_rows_that_are_no_samples_are_left_out(tmp_path, header, last, says):
    ends = "," * (header.count(",") - 1)
    target = header.split(",")[1]
    rows = [f"{x},{x * 2 if target == 'price' else y}{ends}" for _, (x, y) in ROWS]
    (tmp_path / "t.csv").write_text("\n".join([header, *rows, last]))
    (tmp_path / "plain.csv").write_text("\n".join([header, *rows]))
    data = open_data(tmp_path / "t.csv", target=target, numeric="x")
    assert any(note.startswith(says) for note in data.notes)
    assert (
        data.fingerprint
        == open_data(tmp_path / "plain.csv", target=target, numeric="x").fingerprint
    )


def test_the_last_row_of_several_sums_is_no_total(tmp_path):
    rows = [f"{x},{['sum', 'mean'][i % 3 % 2]},{y}" for i, (x, y) in ROWS]
    (tmp_path / "t.csv").write_text("\n".join(["x,op,target", *rows]))
    assert sum(open_data(tmp_path / "t.csv").counts().values()) == 90
    rows = [json.dumps({"x": x, "tags": None if y else "a|b"}) for _, (x, y) in ROWS]
    (tmp_path / "t.jsonl").write_text("\n".join(rows))
    data = open_data(tmp_path / "t.jsonl", target="tags", task="multi-label")
    assert sum(data.counts().values()) == 90


def test_bytes_that_are_no_text(tmp_path):
    text = "\n".join(["x,target", *(f"{x},{y}" for _, (x, y) in ROWS)])
    (tmp_path / "plain.csv").write_text(text)
    (tmp_path / "spaces.csv").write_text(text.replace(",", " "))
    plain = open_data(tmp_path / "plain.csv").fingerprint
    assert open_data(tmp_path / "spaces.csv").fingerprint == plain
    (tmp_path / "t.csv").write_bytes(text.encode("utf-16-le"))
    with pytest.raises(DataError, match="bytes of 0, as no UTF-8 has; is it --encoding utf-16-le"):
        open_data(tmp_path / "t.csv")
    assert open_data(tmp_path / "t.csv", encoding="utf-16-le").fingerprint == plain
    (tmp_path / "t.csv").write_bytes("x,target\n1,東京\n2,大阪\n".encode("shift-jis"))
    with pytest.raises(DataError, match="another encoding; --encoding names it, such as shift_jis"):
        open_data(tmp_path / "t.csv")


def test_a_text_of_one_column_is_no_title(tmp_path):
    rows = [f"{'abc'[i % 3]} was {'fine; ' * (i % 3 > 0)}so" for i in range(60)]
    (tmp_path / "t.csv").write_text("\n".join(["review", *rows]))
    with pytest.raises(DataError, match="the columns are review"):
        open_data(tmp_path / "t.csv")
