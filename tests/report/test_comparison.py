"""The page that compares runs."""

import json
import re
import shutil

import pytest

from pages import Page, change_record, quiet
from plainfit.models.build import Factory
from plainfit.report.comparison import Comparison
from plainfit.report.page import write_report


def test_the_rows_are_the_results_of_the_runs(digits_run, tmp_path):
    second = quiet(tmp_path / "second", epochs=2, seed=1, lr=0.3)
    rows = Comparison([digits_run, second]).rows
    assert [list(row) for row in rows] == [list(rows[0])] * 2
    for folder, row in zip((digits_run, second), rows, strict=True):
        record = json.loads((folder / "run.json").read_text())
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        epochs = [json.loads(line) for line in lines]
        assert row["run"] == folder.name
        assert row["epochs"] == len(epochs) == record["config"]["epochs"]
        assert row["best_epoch"] == record["best"]["epoch"]
        for name in ("valid_loss", "accuracy"):
            assert row[f"best_{name}"] == record["best"][name]
            assert row[f"last_{name}"] == epochs[-1][name]
        assert row["test_accuracy"] == record["test"]["accuracy"]
        assert row["seconds"] == pytest.approx(sum(epoch["seconds"] for epoch in epochs))
        trained = sum(1259 / epoch["samples_per_second"] for epoch in epochs)
        assert row["samples_per_second"] == pytest.approx(1259 * len(epochs) / trained)
        assert row["parameters"] == 650
    json.dumps(rows, allow_nan=False)


def test_a_comparison_shows_curves_results_and_what_differs(digits_run, tmp_path):
    second = quiet(tmp_path / "second", epochs=2, seed=1, lr=0.3, schedule="cosine")
    page = Page(Comparison([digits_run, second]).write(tmp_path / "page.html"))
    names, *rows = page.tables["Settings that differ"]
    assert [dict(zip(names, row, strict=True)) for row in rows] == [
        {"run": "first", "epochs": "3", "lr": "0.05", "seed": "0"},
        {"run": "second", "epochs": "2", "lr": "0.3", "seed": "1"},
    ]
    charts_there = re.findall(r'<svg viewBox="0 0 360 210".*?</svg>', page.source, re.DOTALL)
    assert len(charts_there) == 2
    for svg in charts_there:
        drawn = re.findall(r'<path class="line" style="stroke:var\(--(c\d)\)" d="([^"]*)"', svg)
        assert {color: line.count(" ") for color, line in drawn} == {"c0": 3, "c1": 2}
    rows = Comparison([digits_run, second]).rows
    for text, row in zip(page.tables["Results"][1:], rows, strict=True):
        assert text[0] == row["run"]
        assert text[4] == f"{row['best_valid_loss']:.4f}"
        assert text[-1] == "650"
    assert "different data" not in page.text
    change_record(
        second, data=json.loads((second / "run.json").read_text())["data"] | {"fingerprint": "x"}
    )
    page = Page(Comparison([digits_run, second]).write(tmp_path / "page.html"))
    assert "trained on different data" in page.text


def test_the_best_epoch_is_not_the_last(digits_run, tmp_path):
    folder = shutil.copytree(digits_run, tmp_path / "run")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows[1] |= {"valid_loss": 0.01, "accuracy": 0.25}
    rows[0] |= {"valid_loss": float("nan")}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (row,) = Comparison([folder]).rows
    assert row["best_epoch"] == 1
    assert (row["best_valid_loss"], row["best_accuracy"]) == (0.01, 0.25)
    assert row["last_accuracy"] == rows[2]["accuracy"]
    results = Page(write_report(folder)).tables["Results"]
    assert results[2][:2] == ["validation set, last epoch (2)", f"{rows[2]['valid_loss']:.4f}"]
    assert results[3] == ["validation set, best epoch (1)", "0.0100", "0.2500"]


def test_equal_runs_differ_in_no_setting(digits_run, tmp_path):
    page = Page(Comparison([digits_run] * 2).write(tmp_path / "page.html"))
    assert "Settings that differ None." in page.text
    assert "Settings that differ" not in page.tables


def test_runs_of_one_name_are_told_apart_by_their_paths(digits_run, tmp_path):
    other = shutil.copytree(digits_run, tmp_path / "other" / digits_run.name)
    names = [row["run"] for row in Comparison([digits_run, other]).rows]
    assert names == [str(digits_run), str(other)]


def test_a_comparison_builds_no_model(copied, plainfit, monkeypatch):
    monkeypatch.setattr(Factory, "build", None)
    code, printed, _ = plainfit("compare", copied, "--json")
    assert (code, json.loads(printed)["runs"][0]["parameters"]) == (0, 650)
    record = json.loads((copied / "run.json").read_text())
    del record["parameters"]  # as in a run of an older version
    (copied / "run.json").write_text(json.dumps(record))
    code, printed, _ = plainfit("compare", copied, "--json")
    assert (code, json.loads(printed)["runs"][0]["parameters"]) == (0, None)
    assert plainfit("runs", copied.parent)[0] == 0
