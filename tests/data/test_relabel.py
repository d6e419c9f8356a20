"""New data has other labels where that was decided, and is else the old data, byte by byte."""

import gzip

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from plainfit.common.errors import DataError
from plainfit.data.layout import LabelOptions
from plainfit.data.relabel import edited_table, write_images, write_table
from plainfit.data.tables.reading import TableOptions

OPTIONS = TableOptions()
LABELS = {"1": "a", "2": "b", "3": "a", "4": "b"}
CHANGES = {"1": "b", "3": None}  # the first becomes as the last with that class


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"x,y\n1,a\n2,b\n3,a\n4,b\n", b"x,y\n1,b\n2,b\n4,b\n"),
        (b"x,y\n[cm],\n1,a\n2,b\n3,a\n4,b\n", b"x,y\n[cm],\n1,b\n2,b\n4,b\n"),
        (b"y;x\r\na;1\r\nb;2\r\n\r\na;3\r\nb;4", b"y;x\r\nb;1\r\nb;2\r\n\r\nb;4"),
        (b'#\nx,y\n"1\n",a\n2,b\n3,a\n"4,""",b \n', b'#\nx,y\n"1\n",b \n2,b\n"4,""",b \n'),
        (b'x,y\n1," a"\n2,"b"\n3,a\n4,"b"\n', b'x,y\n1,"b"\n2,"b"\n4,"b"\n'),
        (b"\xef\xbb\xbfx\ty\n\ta\n5\tb\n6\ta\n\tb\n", b"\xef\xbb\xbfx\ty\n\tb\n5\tb\n\tb\n"),
        (b"x,y,\n1,a,\n2,b,\n3,a,\n4,b,\n", b"x,y,\n1,b,\n2,b,\n4,b,\n"),
        ("x,y\né,a\n2,b\n3,a\n4,b\n".encode("cp1252"), "x,y\né,b\n2,b\n4,b\n".encode("cp1252")),
        ("x,y\n1,a\n2,b\n3,a\n4,b\n".encode("utf-16"), "x,y\n1,b\n2,b\n4,b\n".encode("utf-16")),
    ],
    ids=[
        "plain",
        "units",
        "blank line",
        "breaks",
        "quoted",
        "tabs",
        "mark at the end",
        "cp1252",
        "utf-16",
    ],
)
def test_lines_stay_as_they_are_written(tmp_path, before, after):
    path, out = tmp_path / "t.csv", tmp_path / "new.csv"
    path.write_bytes(before)
    write_table(path, out, OPTIONS, "y", LABELS, CHANGES)
    assert out.read_bytes() == after
    assert path.read_bytes() == before


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=6)


@settings(max_examples=50)
@given(
    rows=st.lists(st.tuples(TEXT, st.sampled_from("ab"), TEXT), min_size=4, max_size=8),
    changed=st.sets(st.integers(1, 4)),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_any_text_in_other_columns_is_kept(tmp_path_factory, rows, changed, end):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    names = ["x", "y", "z"]

    def written(rows):
        quoted = (",".join(f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in r) for r in rows)
        return (end.join([",".join(names), *quoted]) + end).encode()

    rows = [*rows, ("p", "a", "q"), ("p", "b", "q")]
    labels = {str(row): of for row, (_, of, _) in enumerate(rows, 1)}
    changes = {str(row): None if row % 2 else "b" for row in changed}
    path.write_bytes(written(rows))
    got = edited_table(path, TableOptions(delimiter=","), "y", labels, changes)
    wanted = [
        (x, changes.get(str(row), y), z)
        for row, (x, y, z) in enumerate(rows, 1)
        if changes.get(str(row), y) is not None
    ]
    assert got == written(wanted)


def test_other_formats(tmp_path):
    rows = [{"x": [1, None], "y": y, "z": {"é": 0.1}} for y in "abab"]
    wanted = [rows[1], rows[1], rows[3]]
    table = pyarrow.Table.from_pylist(rows).replace_schema_metadata({"who": "me"})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    with pyarrow.ipc.new_file(tmp_path / "t.arrow", table.schema) as file:
        file.write_table(table)
    lines = ['{"x":1, "y":"%s"}' % y for y in "abab"]  # noqa: UP031
    (tmp_path / "t.jsonl").write_text("\n".join(lines) + "\n\n")
    (tmp_path / "t.tsv.gz").write_bytes(gzip.compress(b"x\ty\n1\ta\n2\tb\n3\ta\n4\tb\n"))
    for end in ("parquet", "arrow", "jsonl", "tsv.gz"):
        out = tmp_path / f"new.{end}"
        write_table(tmp_path / f"t.{end}", out, OPTIONS, "y", LABELS, CHANGES)
    for new in (
        pyarrow.parquet.read_table(tmp_path / "new.parquet"),
        pyarrow.ipc.open_file(tmp_path / "new.arrow").read_all(),
    ):
        assert new.to_pylist() == wanted
        assert new.schema.equals(table.schema)
        assert new.schema.metadata[b"who"] == b"me"
    lines = [lines[1].replace(":1,", ": 1,").replace('"y":', '"y": '), lines[1], lines[3], "", ""]
    assert (tmp_path / "new.jsonl").read_text() == "\n".join(lines)
    assert gzip.decompress((tmp_path / "new.tsv.gz").read_bytes()) == b"x\ty\n1\tb\n2\tb\n4\tb\n"


@pytest.mark.parametrize(
    ("out", "labels", "changes", "message"),
    [
        ("new.parquet", LABELS, CHANGES, "must end with .csv"),
        ("t.csv", LABELS, CHANGES, "must have a new name"),
        ("new.csv", LABELS | {"9": "c"}, {"1": "c"}, "must be a table that can be written anew"),
    ],
)
def test_what_is_no_such_table_is_refused(tmp_path, out, labels, changes, message):
    path = tmp_path / "t.csv"
    path.write_text("x,y\n1,a\n2,b\n3,a\n4,b\n")
    with pytest.raises(DataError, match=message):
        write_table(path, tmp_path / out, OPTIONS, "y", labels, changes)
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]


def draw_images(root, names):
    for at, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), at).save(path)


def images_in(root):
    """The gray of each image, by its path."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*.png")}


@pytest.mark.parametrize(
    ("layout", "other"),
    [
        ("{label}/{n}.png", "train"),
        ("train/{label}/{n}.png", "train"),
        ("{label}/train/{n}.png", "dog"),
        ("{label}/cat/{n}.png", "dog"),
    ],
)
def test_images_move_to_the_folder_of_their_class(tmp_path, layout, other):
    root = tmp_path / "data"
    labels = {layout.format(label=of, n=n): of for of in ("cat", other) for n in range(4)}
    draw_images(root, labels)
    before = images_in(root)
    first, second, third = (layout.format(label="cat", n=n) for n in range(3))
    changes = {first: other, second: None, third: other}
    new = write_images(root, tmp_path / "new", LabelOptions(), labels, changes)
    moved = layout.format(label=other, n="0.cat")  # as there is a 0.png, it has its old class
    after = images_in(new)
    assert after.pop(moved) == before[first]
    assert after.pop(layout.format(label=other, n="2.cat")) == before[third]
    assert after == {p: c for p, c in before.items() if p not in changes}
    assert images_in(root) == before


@pytest.mark.parametrize("place", ["labels.csv", "../labels.csv"])
def test_a_file_of_labels_has_the_new_classes(tmp_path, place):
    root = tmp_path / "data"
    names = [f"{n}.png" for n in range(6)]
    draw_images(root, names)
    (root / "no-row.png").write_bytes((root / "0.png").read_bytes())
    prefix = "data/" if place.startswith("..") else "./"
    rows = [f"{prefix}{name};{'ab'[n % 2]};{n}" for n, name in enumerate(names)]
    text = "\r\n".join(["file;label;other", *rows, "gone.png;a;9", rows[0], ""])
    (root / place).write_text(text, newline="")
    labels = {name: "ab"[n % 2] for n, name in enumerate(names)}
    changes = {"0.png": "b", "3.png": None}
    options = LabelOptions("label")
    new = write_images(root, tmp_path / "new", options, labels, changes)
    assert new == tmp_path / ("new/data" if place.startswith("..") else "new")
    assert {p.name for p in new.rglob("*.png")} == {*names} - {"3.png"}
    assert (new / place).read_bytes().decode() == text.replace("0.png;a", "0.png;b").replace(
        rows[3] + "\r\n", ""
    )


def test_a_folder_that_has_changed_is_refused(tmp_path):
    root, labels = tmp_path / "data", {f"{of}/{n}.png": of for of in "ab" for n in range(3)}
    draw_images(root, labels)
    (root / "a/0.png").unlink()
    with pytest.raises(DataError, match=r"1 are not there any more: a/0\.png"):
        write_images(root, tmp_path / "new", LabelOptions(), labels, {"a/1.png": "b"})
    assert [p.name for p in tmp_path.iterdir()] == ["data"]
