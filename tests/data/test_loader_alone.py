"""`prepare.py`, which goes with an export, reads what `plainfit predict` reads, as it does."""

import csv
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from plainfit import open_data
from plainfit.common.errors import DataError
from plainfit.data.alone import prepare
from plainfit.data.tables.preparing import kind_of, prepared
from plainfit.data.tables.reading import TableOptions, frame_columns, read_columns

NUMBERS = [
    "1.5", " 1.5", "1.5 ", "-1.5", "+1.5", "\u22121.5", "(1.5)", "$1,234.50", "-$1,234.50", "$-5",
    "$ 5", "5 €", "5€", "5 USD", "CHF 1'234.50", "1\u2019234.50", "1 234.50", "1\u00a0234.50", "5%",
    "5 %", "(5%)", "($1,234.50)", "1e3", "1E-3", ".5", "5.", "1,234", "12,34", "true", "FALSE",
    "True", "", " ", "?", "NA", " NA", "n/a", "-", "#DIV/0!", "unknown", "inf", "-Infinity", "nan",
    "maybe", "5 kg", "--5", "1_000", "0x10", "1.5.2", "1e999", "५", "007", "<0.1", "$€5", "()", "$",
    "1,2,3",
]  # fmt: skip
TURNED = [text.translate(str.maketrans(",.", ".,")) for text in NUMBERS] + ["1.5", "1,5", "1.234"]
ISO = [
    "2026-01-31", " 2026-01-31", "2026-01-31 ", "2026-01-31T10:30:00", "2026-01-31 10:30",
    "2026-01-31T10:30:00Z", "2026-01-31T10:30:00+02:00", "0999-01-31", "2026-02-30", "?", "",
    "unknown", "31.01.2026", "2026-1-5", "2026-01", "5",
]  # fmt: skip
GERMAN = [
    "31.01.2026",
    " 31.01.2026",
    "1.2.2026",
    "31.02.2026",
    "2026-01-31",
    "31.01.26",
    "NA",
    "x",
]
WORDS = ["a", " a", "b", "c", "", " ", "?", "unknown", " unknown ", "NaN", "true", "1.0", "01"]
KINDS = {  # texts of the training, options, and those that come later
    "points": (["1.5", "2.5", "", "1234.5"], {}, NUMBERS),
    "money": (["$1.50", "$2.50", "?", "$1,234.50"], {}, NUMBERS),
    "commas": (["1,5", "2,5", "", "1234,5"], {"decimal": ","}, TURNED),
    "none": (["1.5", "2.5", "3.5", "4.5"], {"missing": "drop"}, NUMBERS),
    "flags": (["true", "false", "true", "false"], {}, NUMBERS),
    "iso": (["2026-01-31", "2026-02-28", "", "2026-03-01"], {}, ISO),
    "german": (["31.01.2026", "28.02.2026", "", "13.03.2026"], {}, GERMAN),
    "words": (["a", "b", "", "unknown"], {}, WORDS),
    "codes": (["01", "1.0", "a", "unknown"], {"categorical": "x", "embed_above": 2}, WORDS),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_predict_reads_the_loader_reads(tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts, given, later = KINDS[kind]
    options = {"na": "unknown", "delimiter": "|"} | given

    def written(texts):
        rows = [f"{text}|{'ab'[i % 5 > 2]}" for i, text in enumerate(texts)]
        Path("t.csv").write_text("\n".join(["x|target", *rows]))
        return Path("t.csv")

    made = open_data(written(texts * 15), **options).columns
    read, left, said = 0, set(), []
    for text in later:
        for some in ([text], [text, texts[0]], [text, "?"]):
            path = written(some)
            with path.open() as file:
                columns = pd.DataFrame(csv.DictReader(file, delimiter="|")).to_dict("list")
                given = [name for name, info in made.items() if kind_of(info) == "text"]
            found = wanted = None
            with suppress(DataError):
                wanted, _ = prepared(read_columns(path, TableOptions(**options), given), made)
            try:
                found = prepare(columns, {"columns": made})
            except ValueError as error:
                said.append(str(error))
            if wanted is None:
                assert found is None
            elif found is None:
                left.add(text)
            else:
                np.testing.assert_array_equal(found, wanted, text)
                read += 1
    # The decimal sign of a whole file, hexadecimal numbers, and dates that Arrow knows.
    assert left <= {"12,34", "0x10", "0999-01-31", "2026-01-31"}
    assert read > len(later)
    assert all(each.startswith(("column 'x' must ", "numbers must be finite")) for each in said)


def test_frames_as_pandas_and_others_hold_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    days = pd.to_datetime(["2026-01-31 00:00", None, "2026-03-01 10:00"])
    frame = pd.DataFrame({"day": days, "n": pd.array([1, None, 3], "Int64")})
    frame["x"] = np.float32([0.1, np.nan, 2])
    frame["flag"] = pd.array([True, None, False], "boolean")
    frame["word"] = pd.array(["a", None, "b"], "string")
    frame["zone"] = days.tz_localize("Europe/Berlin")
    many = pd.concat([frame] * 20, ignore_index=True).assign(target=["a", "b", "b"] * 20)
    many["word"] = ["b", "a", "a", None] * 15
    many.to_parquet("t.parquet")
    made = open_data("t.parquet").columns
    wanted, _ = prepared(frame_columns(frame), made)
    np.testing.assert_array_equal(prepare(frame, {"columns": made}), wanted)
    columns = {name: frame[name].to_numpy() for name in frame}
    np.testing.assert_array_equal(prepare(columns, {"columns": made}), wanted)


def test_a_frame_is_read_with_the_decimal_sign_of_the_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [f"{i % 7},{i % 10}23;{'ab'[i % 3 > 1]}" for i in range(60)]
    Path("t.csv").write_text("\n".join(["x;target", *rows]))
    made = open_data("t.csv").columns
    for text, value in {"1,234": 1.234, "1.234": 1234, "1.234,5": 1234.5}.items():
        (wanted,), _ = prepared(frame_columns(pd.DataFrame({"x": [value]})), made)
        assert prepared(frame_columns(pd.DataFrame({"x": [text]})), made)[0] == wanted
