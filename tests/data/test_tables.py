"""Tables as people have them: how they are read, what their columns become, what is refused."""

import datetime
import gzip
import json
from itertools import chain

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch
from sklearn.impute import SimpleImputer
from sklearn.metrics import balanced_accuracy_score
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from plainfit import open_data
from plainfit.common.errors import DataError, PlainfitError
from plainfit.data.parts import split_rows
from plainfit.data.splits import labels_of
from plainfit.data.tables import guards
from plainfit.data.tables.reading import TableOptions, read_columns
from plainfit.runs.folder import open_run
from plainfit.runs.inference import predict
from plainfit.runs.tasks import balanced_accuracy

N = 60
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=N).round(3), np.arange(N) % 2
DECIMALS = [str(x).replace(".", ",") for x in X]


def written(folder, rows, header="x,target", name="t.csv", encoding="utf-8"):
    path = folder / name
    content = "\n".join([header, *rows]).encode(encoding)
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def inputs(data, name):
    at = data.features.index(name)
    return torch.cat([part.tensors[0][:, at] for part in data.parts().values()]).double().numpy()


POINTS = [f"{x},{y}" for x, y in zip(X, Y, strict=True)]
SEPARATED = "columns are separated by a {} (--delimiter changes it)"
COMMAS = "numbers have a decimal comma (--decimal changes it)"


@pytest.mark.parametrize(
    ("name", "rows", "header", "encoding", "notes"),
    [
        ("t.csv", POINTS, "x,target", "utf-8-sig", []),
        ("t.csv", [f"{x};{y}" for x, y in zip(DECIMALS, Y, strict=True)], "x;target", "utf-8",
         [SEPARATED.format("semicolon"), COMMAS]),
        ("t.csv", [f'"{x}",{y}' for x, y in zip(DECIMALS, Y, strict=True)], "x,target", "utf-8",
         [COMMAS]),
        ("t.csv", [row.replace(",", "|") for row in POINTS], "x|target", "utf-8",
         [SEPARATED.format("pipe")]),
        ("t.csv", [row.replace(",", "\t") for row in POINTS], "x\ttarget", "utf-8",
         [SEPARATED.format("tab")]),
        ("t.tsv", [row.replace(",", "\t") for row in POINTS], "x\ttarget", "utf-8", []),
        ("t.csv.gz", POINTS, "x,target", "utf-8", []),
        ("t.csv", POINTS, "x,target", "utf-16", ["the text is UTF-16 (--encoding changes it)"]),
    ],
)  # fmt: skip
def test_a_file_is_read_however_it_is_written(tmp_path, name, rows, header, encoding, notes):
    data = open_data(written(tmp_path, rows, header, name, encoding))
    plain = open_data(written(tmp_path, POINTS, name="plain.csv"))
    assert (data.fingerprint, data.features, list(data.notes)) == (plain.fingerprint, ("x",), notes)


MANY = (X * 1234.5).round(2)
GERMAN = [f"{x:,.2f}".translate(str.maketrans(",.", ".,")) for x in MANY]


@pytest.mark.parametrize(
    "texts",
    [
        [f"{x:,.2f}" for x in MANY],
        GERMAN,
        [f"-${-x:,.2f}" if x < 0 else f"${x:,.2f}" for x in MANY],
        [f"{x} €" for x in GERMAN],
        [f"{x:.2f}%" for x in MANY],
        [f" {x:.2f}".replace("-", "\u2212") for x in MANY],
        [f"{x:,.2f} USD".replace(",", "'") for x in MANY],
        [f"({-x:.2f})" if x < 0 else f"{x:.2f}" for x in MANY],
    ],
)
def test_numbers_as_people_write_them(tmp_path, texts):
    rows = [f'"{text}",{y}' for text, y in zip(texts, Y, strict=True)]
    data = open_data(written(tmp_path, rows))
    plain = open_data(
        written(tmp_path, [f"{x},{y}" for x, y in zip(MANY, Y, strict=True)], name="plain.csv")
    )
    assert data.fingerprint == plain.fingerprint
    assert any(note.startswith("column 'x' has numbers, written as") for note in data.notes)
    rows = [f'{y},"{text}"' for text, y in zip(texts, Y, strict=True)]
    assert open_data(written(tmp_path, rows, "x,target")).task == "regression"
    kept = open_data(written(tmp_path, rows, "target,x"), categorical="x")
    assert "categories" in kept.columns["x"]


def test_numbers_that_may_be_others_are_no_numbers(tmp_path):
    groups = ["1,234", "5,678"], ["+49 123 456", "12345"], ["1.5", "2.5 mm"], ["$1.50", "€1.50"]
    for codes in groups:
        rows = [f'"{codes[i % 3 % 2]}",{y}' for i, y in enumerate(Y)]
        assert "categories" in open_data(written(tmp_path, rows)).columns["x"]
    frame = pa.table({"x": [f"{i % 7:05d}" for i in range(N)], "target": list(map(int, Y))})
    pa.parquet.write_table(frame, tmp_path / "t.parquet")  # texts, which are meant
    assert "categories" in open_data(tmp_path / "t.parquet").columns["x"]


@pytest.mark.parametrize(
    ("first", "header", "notes"),
    [
        ("# measured in May\n# by us, and others\n", "x,target", 1),
        ("sep=,\n", "x,target", 1),
        ("Sales 2026\n\n", "x,target", 1),
        ("", " x , target", 0),
        ("", "#x,target", 0),
    ],
)
def test_what_is_before_and_around_names_is_no_part_of_them(tmp_path, first, header, notes):
    data = open_data(written(tmp_path, POINTS, first + header))
    plain = open_data(written(tmp_path, POINTS, name="plain.csv"))
    assert torch.equal(data.train.tensors[0], plain.train.tensors[0])
    assert len(data.notes) == notes


def test_values_that_may_mean_something_else_are_noted(tmp_path):
    for value, says in {
        "-999": "column 'n': 6 of 60 values are -999, the others 0 or more; if it",
        "9999": "column 'n': 6 of 60 values are 9999, the others up to 6; if it means a gap, --na",
        "4O": "column 'n' is text; 6 of 60 are no numbers, such as '4O': --na names gaps in a .csv",
        "#DIV/0!": "column 'n': 6 of 60 values missing",
        "20260131": "column 'd' has numbers like the date 20260101, and stays a number",
    }.items():
        rows = [
            f"{value if i % 10 == 0 else i % 7},{x},{'' if i == 5 else 20260101 + i % 31},{y}"
            for i, (x, y) in enumerate(zip(X, Y, strict=True))
        ]
        data = open_data(written(tmp_path, rows, "n,x,d,target"))
        assert any(note.startswith(says) for note in data.notes), data.notes
    texts = [str(i) if i % 9 else "n/a" for i in range(99)]
    frame = pd.DataFrame({"n": texts, "target": np.arange(99) % 2})
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="they are numbers if --decimal or --numeric says so"):
        open_data(tmp_path / "t.parquet")
    assert open_data(tmp_path / "t.parquet", numeric="n").columns["n"]["gaps"] == 11
    rows = [
        f"{['Rome', 'rome', 'Bern'][i % 3]},{x},{y}"
        for i, (x, y) in enumerate(zip(X, Y, strict=True))
    ]
    (note,) = open_data(written(tmp_path, rows, "city,x,target")).notes
    assert note == "texts of column 'city' that look alike are kept apart: 'Rome' and 'rome'"
    rows = [f"{x},{i % 12}" for i, x in enumerate(X)]
    (note, *_) = open_data(written(tmp_path, rows)).notes
    assert note == "the 12 whole numbers of the target are classes (--task regression: amounts)"


def test_labels_as_people_write_them(tmp_path):
    sets = [["hot", "big"], ["hot"], []]
    for form, task in ((str, None), (", ".join, "multi-label")):
        rows = [f'{x},"{form(sets[i % 3])}"' for i, x in enumerate(X)]
        data = open_data(written(tmp_path, rows), task=task)
        assert (data.task, data.classes) == ("multi-label", ("big", "hot"))
    yes = ["yes", "No"]
    rows = [f"{x},{yes[i % 2]},{yes[i % 3 // 2]}" for i, x in enumerate(X)]
    data = open_data(written(tmp_path, rows, "x,red,blue"), target="red,blue")
    assert data.task == "multi-label"
    assert torch.cat([y for _, y in (p.tensors for p in data.parts().values())]).sum(
        0
    ).tolist() == [
        30,
        40,
    ]


def test_a_name_with_blanks_is_quoted_in_remedies(tmp_path):
    rows = [f"p{i},{i % 2}" for i in range(99)]
    with pytest.raises(DataError, match=r"--drop 'the name', or keep it by --categorical 'the na"):
        open_data(written(tmp_path, rows, "the name,target"))


def test_several_targets_of_text(tmp_path):
    rows = [f"{x},{'ab'[i % 2]},{i % 3}" for i, x in enumerate(X)]
    path = written(tmp_path, rows, "x,kind,other")
    with pytest.raises(DataError, match=r"each of several targets .* 'kind' .* joined as a\|b$"):
        open_data(path, target="kind,other")


def test_text_that_is_not_utf_8(tmp_path):
    rows = [f"{['Köln', 'Málaga', 'Ulm'][i % 3]},{y}" for i, y in enumerate(Y)]
    for encoding in ("cp1252", "latin-1"):
        data = open_data(written(tmp_path, rows, "city,target", encoding=encoding))
        assert data.features == ("city=Köln", "city=Málaga", "city=Ulm")
        said = "the text is not UTF-8: read as Windows-1252 (--encoding changes it)"
        assert data.notes[0] == said
    data = open_data(tmp_path / "t.csv", encoding="cp1250")
    assert (said in data.notes, data.features[0]) == (False, "city=Köln")


def test_breaks_and_separators_within_cells(tmp_path):
    rows = [f'"a, {i % 3}\n; b",{y}' for i, y in enumerate(Y)]
    data = open_data(written(tmp_path, rows, "text,target"))
    assert data.features == tuple(f"text=a, {i}\n; b" for i in range(3))
    assert sum(data.counts().values()) == N


@pytest.mark.parametrize("gap", ["", "?", "NA", "n/a", "-", "null", "NaN", " "])
def test_gaps_among_numbers(tmp_path, gap):
    ages = [gap if i % 7 == 0 else str(i % 40) for i in range(N)]
    rows = [f"{age},{x},{y}" for age, x, y in zip(ages, X, Y, strict=True)]
    data = open_data(written(tmp_path, rows, "age,x,target"))
    assert data.features == ("age", "age is missing", "x")
    assert inputs(data, "age is missing").sum() == sum(age == gap for age in ages)
    made = data.columns["age"]
    assert data.notes == (
        f"column 'age': 9 of 60 values missing, first in data row 1: filled with the median "
        f"{made['fill']:g}, and marked in an input of its own (--missing changes it)",
    )


def test_what_is_learned_is_that_of_scikit_learn_on_the_training_rows(tmp_path):
    frame = pd.DataFrame({"x": X, "age": np.where(np.arange(N) % 7, np.arange(N) * 3.7, np.nan)})
    frame["city"] = np.array(["Bonn", "Rom", "Ulm", "Wien"])[RNG.integers(0, 4, N)]
    frame["target"] = Y
    pyarrow.parquet.write_table(pa.Table.from_pandas(frame), tmp_path / "t.parquet")
    for how in ("median", "mean"):
        data = open_data(tmp_path / "t.parquet", missing=how)
        made = data.columns
        x = data.train.tensors[0][:, 0].double() * made["x"]["std"] + made["x"]["mean"]
        frame_x = frame.x.round(3).tolist()
        rows = frame.iloc[[frame_x.index(round(value, 3)) for value in x.tolist()]]
        filled = SimpleImputer(strategy=how, add_indicator=True).fit_transform(rows[["age"]])
        scaled = StandardScaler().fit_transform(np.column_stack([rows.x, filled[:, 0]]))
        cities = OneHotEncoder(sparse_output=False).fit_transform(rows[["city"]])
        wanted = np.column_stack([scaled, filled[:, 1], cities])
        assert data.features == ("x", "age", "age is missing", *sorted(data.features[3:]))
        np.testing.assert_allclose(data.train.tensors[0].numpy(), wanted, atol=1e-6)


def test_other_ways_with_gaps(tmp_path):
    rows = [f"{'' if i < 9 else x},{'' if i % 30 == 4 else 'ab'[i % 3 > 1]},{y}"
            for i, (x, y) in enumerate(zip(X, Y, strict=True))]  # fmt: skip
    path = written(tmp_path, rows, "x,kind,target")
    data = open_data(path)
    assert data.features == ("x", "x is missing", "kind=", "kind=a", "kind=b")
    data = open_data(path, missing="drop")
    assert data.notes == ("10 of 60 rows have a gap in x, kind: left out",)
    assert (sum(data.counts().values()), data.features) == (50, ("x", "kind=a", "kind=b"))
    rows = [f"{'' if y else x},{x if y else ''},{y}" for x, y in zip(X, Y, strict=True)]
    empty = written(tmp_path, rows, "a,b,target", "empty.csv")
    with pytest.raises(DataError, match="all rows have a gap in a, b, and none is left; fill"):
        open_data(empty, missing="drop")
    with pytest.raises(DataError, match="column 'x' has 9 missing, the first in data row 1"):
        open_data(path, missing="error")
    with pytest.raises(
        PlainfitError, match=r"unknown way with missing values 'median ': .*did you"
    ):
        open_data(path, missing="median ")


def test_texts_that_mean_a_gap_can_be_named(tmp_path, monkeypatch):
    rows = [f"{x if i % 20 else '-999'},{i if i % 9 else 'unknown'},{y}"
            for i, (x, y) in enumerate(zip(X, Y, strict=True))]  # fmt: skip
    path = written(tmp_path, rows, "x,hp,target")
    monkeypatch.setattr(guards, "MOST_INPUTS", 30)
    with pytest.raises(DataError, match="7 of 60 are no numbers, such as 'unknown': --na names"):
        open_data(path)
    data = open_data(path, na="unknown,-999")
    assert data.features == ("x", "x is missing", "hp", "hp is missing")
    pyarrow.parquet.write_table(pa.table({"x": X, "y": Y}), tmp_path / "t.parquet")
    with pytest.raises(PlainfitError, match=r"na is for text files such as .csv, and"):
        open_data(tmp_path / "t.parquet", na="-999")


def test_texts_named_as_gaps_are_gaps_in_columns_of_every_kind(tmp_path):
    words = ["Rome", "Bern", "unknown", " unknown ", "?"]
    rows = [
        f"{words[i % 5]},{['07', 'unknown'][i % 7 == 0]},{['$1.50', 'unknown'][i % 9 == 0]},"
        f"2026-01-0{1 + i % 9 if i % 8 else 'unknown'},id{i},{['a', 'b', 'unknown'][i % 10 % 3]}"
        for i in range(N)
    ]
    rows = [row.replace("2026-01-0unknown", "unknown") for row in rows]
    path = written(tmp_path, rows, "city,code,price,day,id,target")
    options = {"na": "unknown", "categorical": "code", "drop": "id"}
    data = open_data(path, **options)
    assert data.classes == ("a", "b")
    assert [f for f in data.features if "=" in f] == [
        *("city=", "city=?", "city=Bern", "city=Rome", "code=", "code=07")
    ]
    assert data.columns["price"]["mean"] == 1.5
    assert data.columns["day"]["format"] == "ISO 8601"
    data = open_data(path, missing="drop", **options)
    assert not any("unknown" in name or name[-1] in "=g" for name in data.features)
    kept = [row for row in rows if "unknown" not in row]
    assert sum(data.counts().values()) == len(kept)
    table = read_columns(path, TableOptions(na="id3,unknown"))
    assert table.texts(["id"])["id"][3].as_py() == "id3"  # as it is written
    rows = [f"{x},{['red|blue', 'red', '', 'unknown'][i % 4]}" for i, x in enumerate(X)]
    data = open_data(written(tmp_path, rows), na="unknown")
    assert (data.classes, sum(data.counts().values())) == (("blue", "red"), 45)


@pytest.mark.parametrize(
    ("header", "units", "row", "is_left_out"),
    [
        ("weight,height,target", "kg,cm,", lambda i: f"{i}.5,{i % 9},{'ab'[i % 2]}", True),
        (
            "day;t;p;target",
            "UTC;°C;hPa;-",
            lambda i: f"2026-01-0{1 + i % 9};{i},5;{'?' if i % 3 else i};{i % 2}",
            True,
        ),
        ("t,target", "°C,", lambda i: f"{i},{'ab'[i % 2]}", True),
        ("x,z,target", "m/s,1/s,", lambda i: f"{i},$1.50,{i % 2}", True),
        ("x,target", "err,yes", lambda i: f"{i},{['yes', 'no'][i % 2]}", False),
        ("x,target", "?,1", lambda i: f"{i},{i % 2}", False),
        ("city,target", "Rome,a", lambda i: f"{['Rome', 'Bern'][i % 3 > 1]},{'ab'[i % 2]}", False),
    ],
)
def test_a_row_of_units_below_the_names(tmp_path, header, units, row, is_left_out):
    rows = [row(i) for i in range(1, N)]
    for more in ([], ["# a title"]):
        data = open_data(written(tmp_path, [*more, header, units, *rows][1:], [*more, header][0]))
        said = [note for note in data.notes if "a row of units below the names" in note]
        assert len(said) == is_left_out
        if is_left_out:
            plain = open_data(written(tmp_path, rows, header, "plain.csv"))
            assert data.fingerprint == plain.fingerprint
            own = said[0].partition("--na ")[2].partition(" keeps it")[0]
            kept = open_data(tmp_path / "t.csv", na=own).notes
            assert any(note.startswith("1 of 60 rows have no target") for note in kept)


def test_the_index_of_a_data_frame_is_no_column(tmp_path):
    frame = pd.DataFrame({"x": X, "target": Y}, index=[i % 7 for i in range(N)])
    frame.to_parquet(tmp_path / "t.parquet")
    assert open_data(tmp_path / "t.parquet").features == ("x",)


def test_days_that_are_none(tmp_path):
    rows = [f"{1 + i % 28:02}.{['01', '02'][i % 2]}.2026,{x},{y}"
            for i, (x, y) in enumerate(zip(X, Y, strict=True))]  # fmt: skip
    assert "day.month" in open_data(written(tmp_path, rows, "day,x,target")).features
    data = open_data(written(tmp_path, [*rows[:-1], "31.02.2026,1.5,1"], "day,x,target"))
    said = "column 'day' is text; dates must be written in one way, such as 2026-01-31"
    assert any(note.startswith(said[:23]) for note in data.notes)
    assert "day.month" not in data.features


FIRST, HOUR = datetime.datetime(2026, 1, 31), datetime.timedelta(hours=1)
DAYS = [FIRST + HOUR * (24 * 7 * i + i % 3) for i in range(N)]


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("%Y-%m-%d", "ISO 8601"), ("%Y-%m-%d %H:%M:%S", "ISO 8601"), ("%d.%m.%Y", "%d.%m.%Y"),
        ("%m/%d/%Y", "%m/%d/%Y"), ("%d/%m/%Y", "%d/%m/%Y"), ("%Y/%m/%d", "%Y/%m/%d"),
        ("%d.%m.%y", "%d.%m.%y"), ("%d-%m-%Y", "%d-%m-%Y"), ("%d-%b-%Y", "%d-%b-%Y"),
        ("%d %B %Y", "%d %B %Y"), ("%m/%d/%Y %I:%M %p", "%m/%d/%Y %I:%M %p"),
        ("%Y-%m-%dT%H:%M:%SZ", "ISO 8601"),
    ],
)  # fmt: skip
def test_dates_become_numbers(tmp_path, form, said):
    texts = [day.strftime(form) for day in DAYS]
    texts[3] = "-"
    rows = [f"{text},{x},{y}" for text, x, y in zip(texts, X, Y, strict=True)]
    path = written(tmp_path, rows, "day,x,target")
    data = open_data(path)
    has_hours = "%H" in form or "%I" in form
    parts = ["year", "month", "day", "weekday", *["hour"] * has_hours, "days"]
    assert data.features == (*(f"day.{part}" for part in parts), "day is missing", "x")
    said = f"column 'day' has dates ({said}); the inputs are their "
    assert data.notes[0] == said + ", ".join(parts)
    made = data.columns["day"]
    given = [day if has_hours else day.replace(hour=0) for i, day in enumerate(DAYS) if i != 3]
    epoch = datetime.datetime(1970, 1, 1)
    for part, values in {
        "year": [day.year for day in given],
        "month": [day.month for day in given],
        "day": [day.day for day in given],
        "weekday": [day.weekday() for day in given],
        "days": [(day - epoch) / datetime.timedelta(days=1) for day in given],
    }.items():
        of_part = made["date"][part]
        found = inputs(data, f"day.{part}") * of_part["std"] + of_part["mean"]
        there = sorted(found[inputs(data, "day is missing") == 0])
        np.testing.assert_allclose(there, sorted(values), atol=1e-2)


def test_dates_as_texts_of_parquet(tmp_path):
    for form in ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d"):
        frame = pd.DataFrame({"day": [day.strftime(form) for day in DAYS], "target": Y})
        frame.to_parquet(tmp_path / "t.parquet")
        frame.to_csv(tmp_path / "t.csv", index=False)
        found = open_data(tmp_path / "t.parquet")
        assert found.columns["day"]["format"] == "ISO 8601"
        assert found.fingerprint == open_data(tmp_path / "t.csv").fingerprint


def test_what_is_neither_a_date_nor_a_number(tmp_path):
    rows = [f"{1 + i % 9}/{1 + i % 4}/2026,{y}" for i, y in enumerate(Y)]
    assert len(open_data(written(tmp_path, rows, "day,target")).features) > 20
    days = ["2026-01-31", "31.12.2025", "2026-02-30"]
    rows = [f"{days[i % 20 % 3]},{y}" for i, y in enumerate(Y)]
    said = "dates must be written in one way, such as 2026-01-31, and '2026-02-30' is none"
    assert f"column 'day' is text; {said}" in open_data(written(tmp_path, rows, "day,target")).notes
    rows = [f"{i % 9} kg,{y}" for i, y in enumerate(Y)]
    (note, *_) = open_data(written(tmp_path, rows, "weight,target")).notes
    said = "column 'weight' is text; without the 'kg' in each of them, they would be numbers"
    assert note == said


def test_true_and_false(tmp_path):
    rows = [f"{[True, False, True][i % 3]},{bool(y)}" for i, y in enumerate(Y)]
    data = open_data(written(tmp_path, rows, "x,target"))
    assert (data.classes, data.features) == (("False", "True"), ("x",))


def test_kinds_can_be_set(tmp_path):
    rows = [f"{i % 4:02},{i % 3},person{i},{y}" for i, y in enumerate(Y)]
    path = written(tmp_path, rows, "code,n,name,target")
    data = open_data(path, categorical="code", drop="name")
    assert data.features == ("code=00", "code=01", "code=02", "code=03", "n")
    assert len(open_data(path, categorical="name, code").features) == 4 + 1 + 44
    for options, says in (
        ({"drop": "nam"}, "has no column 'nam' for --drop: .*; did you mean 'name'"),
        ({"drop": "name", "numeric": "name"}, "and 'name' is named twice"),
        ({"drop": "name,code,n"}, "must have columns beside the target"),
        (
            {"numeric": "name"},
            "'name' must be numbers: 60 of 60 are not, 'person0' in data row 1, ",
        ),
        ({"delimiter": "comm"}, "delimiter must be comma, .*, space or one character"),
        ({"decimal": ";"}, "decimal must be . or ,"),
        ({"encoding": "utf-9"}, "encoding must be one that Python .*got 'utf-9'"),
    ):
        with pytest.raises(PlainfitError, match=says):
            open_data(path, **options)


def rows_of(data):
    """The rows of each part, by the column `row` that numbers them."""
    at, made = data.features.index("row"), data.columns["row"]
    return {
        name: (part.tensors[0][:, at].double() * made["std"] + made["mean"]).round().int().tolist()
        for name, part in data.parts().items()
    }


def test_groups_of_rows_stay_in_one_part(tmp_path):
    # 20 groups: 1 is not 01.
    who = [f"{'0' * (i // 10 % 2)}{i % 10}" for i in range(N)]
    path = written(tmp_path, [f"{a},{i},{y}" for i, (a, y) in enumerate(zip(who, Y, strict=True))],
                   "who,row,target")  # fmt: skip
    data = open_data(path, group_by="who")
    assert data.features == ("row",)
    rows = rows_of(data)
    assert sorted(chain(*rows.values())) == list(range(N))
    groups = {part: {who[i] for i in of_part} for part, of_part in rows.items()}
    assert [len(groups[part]) for part in ("train", "valid", "test")] == [12, 4, 4]
    assert len(set.union(*groups.values())) == 20
    assert open_data(path, group_by="who", drop="who").fingerprint == data.fingerprint
    only_valid = open_data(path, group_by="who", valid_share=0.5, test_share=0)
    assert only_valid.counts() == {"train": 30, "valid": 30}
    # A group of two columns is that of both.
    rows = [f"{a[0]},{a[-1]},{len(a)},{i},{Y[i]}" for i, a in enumerate(who)]
    both = open_data(written(tmp_path, rows, "a,b,c,row,target"), group_by="a, b,c")
    groups = {part: {who[i] for i in of_part} for part, of_part in rows_of(both).items()}
    assert [len(groups[part]) for part in ("train", "valid", "test")] == [12, 4, 4]
    for options, says in (
        ({"group_by": "woh"}, "no column 'woh' for --group-by: .*; did you mean 'who'"),
        ({"group_by": "target"}, "no column 'target' for --group-by"),
        ({"group_by": "who", "categorical": "who"}, "and 'who' is named twice"),
        ({"group_by": "who", "order_by": "row"}, "^order_by takes the last rows, and groups are"),
    ):
        with pytest.raises(PlainfitError, match=says):
            open_data(written(tmp_path, [f"a,{i},{y}" for i, y in enumerate(Y)], "who,row,target"),
                      **options)  # fmt: skip
    rows = [f"{'?' if i == 7 else i % 9},{i},{y}" for i, y in enumerate(Y)]
    with pytest.raises(DataError, match="'who' has 1 missing, the first in data row 8; fill"):
        open_data(written(tmp_path, rows, "who,row,target"), group_by="who")


@pytest.mark.parametrize("form", ["%Y-%m-%d %H:%M", "%d.%m.%Y", "%j"])
def test_the_last_rows_by_a_column_are_the_test_set(tmp_path, form):
    days = RNG.permutation(N)
    times = [datetime.datetime(2026, 1, 1) + datetime.timedelta(days=int(day)) for day in days]
    rows = [f"{at:{form}},{i},{y}" for i, (at, y) in enumerate(zip(times, Y, strict=True))]
    path = written(tmp_path, rows, "when,row,target")
    data = open_data(path, order_by="when", test_share=0.2)
    wanted = [sorted(part) for part in np.split(np.argsort(days), [N - 21, N - 12])]
    assert list(rows_of(data).values()) == wanted
    assert any(name.startswith("when") for name in data.features)
    note = next(note for note in data.notes if note.startswith("rows are ordered by when: train"))
    begins = [np.argsort(days)[at] for at in (0, N - 21, N - 12)]
    for part, at in zip(("train", "valid", "test"), begins, strict=True):
        value = f"{times[at]:{form}}".lstrip("0" if form == "%j" else "")
        assert f"{part} from {value}" in note
    assert open_data(path, order_by="when", test_share=0.2, drop="when").features == ("row",)
    only = open_data(path, order_by="when", test_share=0)
    assert only.test is None
    assert rows_of(only)["valid"] == sorted(np.argsort(days)[-9:])


def test_what_orders_rows_has_no_gaps_and_is_no_text(tmp_path):
    path = written(tmp_path, [f"{'' if i == 3 else i},w{i % 3},{y}" for i, y in enumerate(Y)],
                   "n,week,target")  # fmt: skip
    for name, says in (
        ("n", "'n' has 1 missing, the first in data row 4"),
        ("week", "rows are ordered by numbers or dates, and column 'week' is text, such as 'w0'"),
        ("m", "no column 'm' for --order-by"),
    ):
        with pytest.raises(DataError, match=says):
            open_data(path, order_by=name)
    data = open_data(path, order_by="n", missing="drop")
    assert data.counts() == {"train": N - 19, "valid": 9, "test": 9}


def test_options_override_what_is_guessed(tmp_path):
    rows = [f'"{1 + i % 9},{i % 9:03}";{y}' for i, y in enumerate(Y)]
    path = written(tmp_path, rows, "x;target")
    assert len(open_data(path).features) == 9  # thousands, or three decimals: left as text
    data = open_data(path, decimal=",", delimiter="semicolon")
    assert (data.features, COMMAS in data.notes) == (("x",), False)
    assert max(inputs(data, "x") * data.columns["x"]["std"] + data.columns["x"]["mean"]) < 10


@pytest.mark.parametrize(
    ("column", "option", "says"),
    [
        ([f"person{i % 57}" for i in range(N)], "categorical", "is text with 42 categories in 44"),
        (Y.argsort().argsort(), "numeric", "has another whole number in each row, and the classes"),
        (np.array(["no", "yes"])[Y], "categorical", "is the target under another name, each"),
        (Y.argsort().argsort() * 3.0 + 7, "numeric", "has another whole number in each row"),
        (3.5 - Y, "numeric", "is the target under another name, each value with one of its own"),
    ],
)  # fmt: skip
def test_columns_that_give_the_target_away_are_refused(tmp_path, monkeypatch, column, option, says):
    monkeypatch.setattr(guards, "MOST_INPUTS", 30)
    rows = [f"{value},{x},{y}" for value, x, y in zip(column, X, Y, strict=True)]
    path = written(tmp_path, rows, "c,x,target")
    ways = f"leave it out by --drop c, or keep it by --{option} c"
    with pytest.raises(DataError, match=f"column 'c' {says}.*: {ways}"):
        open_data(path)
    assert open_data(path, drop="c").features == ("x",)
    assert len(open_data(path, **{option: "c"}).features) > 1


def test_columns_without_use_are_noted(tmp_path):
    rows = [f"{(i * 7) % N + 5},1,{x},{y}" for i, (x, y) in enumerate(zip(X, Y, strict=True))]
    data = open_data(written(tmp_path, rows, "id,one,x,target"))
    assert data.notes == (
        "column 'id' numbers the rows: --drop id leaves it out",
        "column 'one' is constant: its input is 0",
    )
    assert set(inputs(data, "one")) == {0}


def test_columns_that_are_no_whole_numbers_after_all(tmp_path):
    """Arrow infers types from the first MiB."""
    count = 90_000
    numbers, codes = np.arange(count) * 7919 % 100_003 + 1_000_000, np.arange(count) % 9 + 1
    columns = {
        "decimal": numbers.astype(str), "text": codes.astype(str), "code": codes.astype(str),
        "target": np.array(["no", "yes"])[numbers % 2],
    }  # fmt: skip
    columns = {name: column.astype(object) for name, column in columns.items()}
    columns["decimal"][-1], columns["text"][-1], columns["code"][-1] = "8.5", "x", "007"
    table = pa.table({name: pa.array(column, pa.string()) for name, column in columns.items()})
    path = tmp_path / "t.csv"
    pyarrow.csv.write_csv(table, path, pyarrow.csv.WriteOptions(quoting_style="none"))
    assert path.read_bytes().index(b"8.5") > 2**20
    data = open_data(path)
    assert data.notes == (
        "column 'code': 1 number begins with a 0, which is lost; if they are codes, "
        "--categorical code or --drop code",
        "column 'text' is text; 1 of 90000 are no numbers, such as 'x': --na names gaps in a .csv",
    )
    for at, kind in ((0, pa.float64()), (2, pa.int64())):
        table = table.set_column(at, table.column_names[at], table[at].cast(kind))
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    assert open_data(tmp_path / "t.parquet").fingerprint == data.fingerprint


def test_an_index_without_a_name_is_left_out(tmp_path):
    said = "the column without a name only numbers the rows, or is empty: left out"
    for first in (range(N), [""] * N):
        for name in ("", "Unnamed: 0"):
            rows = [f"{i},{x},{y}" for i, x, y in zip(first, X, Y, strict=True)]
            data = open_data(written(tmp_path, rows, f"{name},x,target"))
            assert (data.features, data.notes) == (("x",), (said,))
    rows = [f"{x * 2},{x},{y}" for x, y in zip(X, Y, strict=True)]
    assert open_data(written(tmp_path, rows, ",x,target")).features == ("", "x")


def test_all_problems_are_named_at_once(tmp_path):
    rows = [",".join(["", *[f"a{i}"] * 11, str(y)]) for i, y in enumerate(Y)]
    path = written(tmp_path, rows, ",".join(["empty", *(f"c{i}" for i in range(11)), "target"]))
    with pytest.raises(DataError) as error:
        open_data(path, numeric=",".join(f"c{i}" for i in range(11)))
    assert str(error.value).count("must be numbers") == 9
    assert "'empty' has no values" in str(error.value)
    assert str(error.value).endswith("; and 2 more problems")


def test_clean_numbers_keep_their_bits(tmp_path):
    path = written(tmp_path, POINTS)
    data = open_data(path)
    whole = [float(row.split(",")[0]) for row in POINTS]
    train = np.array([whole[i] for i in train_rows_of(data)])
    mean, std = train.mean(), train.std()
    assert data.columns["x"] == {"mean": mean, "std": std, "fill": float(np.median(train))}
    wanted = ((train - mean) / std).astype(np.float32)
    assert torch.equal(data.train.tensors[0][:, 0], torch.from_numpy(wanted))


def train_rows_of(data):
    """The rows of the training, from the split of the labels."""
    rows = split_rows("t", {"train": torch.from_numpy(Y)})["train"][1]
    assert torch.equal(labels_of(data.train), torch.from_numpy(Y)[rows])
    return rows.tolist()


def test_the_command_shows_what_each_column_becomes(plainfit, tmp_path):
    rows = [f"{'' if i == 4 else x},{'abc'[i % 3]},1,2026-01-{1 + i % 28:02},{y}"
            for i, (x, y) in enumerate(zip(X, Y, strict=True))]  # fmt: skip
    written(tmp_path, rows, "x,kind,one,day,target")
    code, out, errors = plainfit("data", "t.csv")
    assert code == 0, errors
    lines = out.splitlines()
    x = open_data(tmp_path / "t.csv").columns["x"]
    assert lines[lines.index("column  what it becomes") :][:5] == [
        "column  what it becomes",
        f"x       number: (x - {x['mean']:g}) / {x['std']:g}; 1 gap filled with {x['fill']:g}"
        f"{', and marked in an input of its own' * x.get('marked', False)}",
        "kind    text: 3 categories, a, b, c",
        "one     number: constant: 0",
        "day     date (ISO 8601): year, month, day, weekday, days",
    ]
    made = json.loads(plainfit("data", "t.csv", "--json")[1])["preprocessing"]["columns"]
    assert made["x"] == x
    assert x["gaps"] == 1


def test_classes_of_very_different_sizes_are_not_judged_by_accuracy_alone(plainfit, tmp_path):
    y = (np.arange(200) % 20 == 0).astype(int)
    rows = [f"{x},{label}" for x, label in zip(RNG.normal(size=200), y, strict=True)]
    written(tmp_path, rows)
    command = ("train", "--data", "t.csv", "--model", "logistic", "--epochs", 1, "--out", "run")
    code, out, errors = plainfit(*command)
    assert code == 0, errors
    data = open_run(tmp_path / "run").open_data()
    guess = predict(open_run(tmp_path / "run"), data.test, output="classes")
    test = open_run(tmp_path / "run").record["test"]
    wanted = balanced_accuracy_score(labels_of(data.test), guess)
    assert test["balanced_accuracy"] == pytest.approx(wanted)
    said = "; the largest class alone is 0.9333 of the samples"
    assert f"balanced accuracy {wanted:.4f}, loss " in out
    assert said in out


def test_balanced_accuracy_is_that_of_scikit_learn():
    scores, labels = torch.tensor(RNG.normal(size=(50, 4))), torch.tensor(RNG.integers(0, 3, 50))
    wanted = balanced_accuracy_score(labels, scores[:, :3].argmax(1))
    assert float(balanced_accuracy(scores[:, :3], labels)) == pytest.approx(wanted)


def test_rows_that_are_in_two_parts_are_counted(tmp_path):
    rows = [f"{x},{'abc'[i % 3]},{y}" for i, (x, y) in enumerate(zip(X, Y, strict=True))]
    data = open_data(written(tmp_path, [*rows, *rows[:20]], "x,kind,target"))
    train = {tuple(row) for row in data.train.tensors[0].tolist()}
    counts = {part: sum(tuple(row) in train for row in getattr(data, part).tensors[0].tolist())
              for part in ("valid", "test")}  # fmt: skip
    assert sum(counts.values()) > 0
    shown = [f"{count} of 12 in {part}" for part, count in counts.items() if count]
    assert data.notes == (f"rows with the inputs of a training row: {', '.join(shown)}",)


def coded(n=N, names=12):
    rng = np.random.default_rng(1)
    city = np.array([f"c{at}" for at in rng.integers(0, names, n)], object)
    city[rng.random(n) < 0.1] = ""
    columns = {"x": rng.normal(size=n), "city": city, "code": rng.integers(0, 30, n)}
    return pd.DataFrame({**columns, "kind": [*"aabb"] * (n // 4), "target": [*"yn"] * (n // 2)})


@pytest.mark.parametrize(("name", "budget"), [("t.csv", 2048), ("t.arrow", 2048), ("t.arrow", 0)])
def test_categories_are_embedded_as_their_numbers(tmp_path, name, budget):
    frame, path = coded(), tmp_path / name
    if name == "t.csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_feather(path, compression="uncompressed")
    data = open_data(path, categorical="code", embed_above=8, memory_budget=budget)
    assert data.features == ("x", "city", "code", "kind=a", "kind=b")
    parts = {part: np.stack([x.numpy() for x, _ in of]) for part, of in data.parts().items()}
    rows = np.concatenate([*parts.values()])
    own = frame.iloc[np.lexsort((frame.x,))]  # the parts are shuffled: both in the order of x
    rows, train = (
        rows[np.lexsort((rows[:, 0],))],
        np.isin(np.sort(rows[:, 0]), parts["train"][:, 0]),
    )
    texts = own[["city", "code"]].astype(str)
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    wanted = encoder.fit(texts[train]).transform(texts) + 1
    np.testing.assert_array_equal(rows[:, 1:3], wanted)
    counts = [len(found) + 1 for found in encoder.categories_]
    assert data.embeddings == {"1": counts[0], "2": counts[1]}
    note = f"categories are embedded: city ({counts[0] - 1}), code ({counts[1] - 1})"
    assert note in data.notes


def test_what_is_not_embedded(tmp_path):
    frame = coded(2 * N).assign(who=[f"p{at}" for at in range(2 * N)])
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert open_data(tmp_path / "t.csv", drop="who", embed_above=13).embeddings == {}
    with pytest.raises(DataError, match="84 training rows, and at most 50 are embedded: leave"):
        open_data(tmp_path / "t.csv", embed_above=8)


def test_signalling_nans_are_gaps_without_a_warning(tmp_path):
    a = np.arange(60) / 7
    a[7] = np.frombuffer(bytes.fromhex("010000000000f47f"))[0]
    table = pa.table({"a": a, "target": np.arange(60) % 2})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    assert open_data(tmp_path / "t.parquet").train.tensors[0].isfinite().all()
