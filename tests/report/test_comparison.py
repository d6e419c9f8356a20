"""The page that compares runs, and the charts."""

import json
import re
import shutil
from itertools import pairwise

import pytest

from pages import Page, change_record, quiet
from plainfit.report import charts, comparison_rows, write_comparison, write_report


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    return quiet(tmp_path_factory.mktemp("digits") / "first", schedule="cosine", lr=0.05)


def test_comparison_rows_are_the_figures_of_the_runs(digits_run, tmp_path):
    second = quiet(tmp_path / "second", epochs=2, seed=1, lr=0.3)
    rows = comparison_rows([digits_run, second])
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
    page = Page(write_comparison([digits_run, second], tmp_path / "page.html"))
    assert page.tables["Settings that differ"] == [
        ["run", "epochs", "lr", "seed"], ["first", "3", "0.05", "0"], ["second", "2", "0.3", "1"],
    ]  # fmt: skip
    charts_there = re.findall(r'<svg viewBox="0 0 360 210".*?</svg>', page.source, re.DOTALL)
    assert len(charts_there) == 2
    for svg in charts_there:
        drawn = re.findall(r'<polyline class="line (c\d) d0" points="([^"]*)"', svg)
        assert {color: len(points.split()) for color, points in drawn} == {"c0": 3, "c1": 2}
    rows = comparison_rows([digits_run, second])
    for text, row in zip(page.tables["Results"][1:], rows, strict=True):
        assert text[0] == row["run"]
        assert text[4] == f"{row['best_valid_loss']:.4f}"
        assert text[-1] == "650"
    assert "different data" not in page.text
    change_record(
        second, data=json.loads((second / "run.json").read_text())["data"] | {"fingerprint": "x"}
    )
    page = Page(write_comparison([digits_run, second], tmp_path / "page.html"))
    assert "trained on different data" in page.text


def test_the_best_epoch_is_not_the_last(digits_run, tmp_path):
    folder = shutil.copytree(digits_run, tmp_path / "run")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows[1] |= {"valid_loss": 0.01, "accuracy": 0.25}
    rows[0] |= {"valid_loss": float("nan")}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (figures,) = comparison_rows([folder])
    assert figures["best_epoch"] == 1
    assert (figures["best_valid_loss"], figures["best_accuracy"]) == (0.01, 0.25)
    assert figures["last_accuracy"] == rows[2]["accuracy"]
    results = Page(write_report(folder)).tables["Results"]
    assert results[2][:2] == ["validation set, last epoch (2)", f"{rows[2]['valid_loss']:.4f}"]
    assert results[3] == ["validation set, best epoch (1)", "0.0100", "0.2500"]


def test_equal_runs_differ_in_no_setting(digits_run, tmp_path):
    page = Page(write_comparison([digits_run] * 2, tmp_path / "page.html"))
    assert "Settings that differ None." in page.text
    assert "Settings that differ" not in page.tables


def test_runs_of_one_name_are_told_apart_by_their_paths(digits_run, tmp_path):
    other = shutil.copytree(digits_run, tmp_path / "other" / digits_run.name)
    names = [row["run"] for row in comparison_rows([digits_run, other])]
    assert names == [str(digits_run), str(other)]


def test_charts_break_where_a_value_is_not_finite():
    nan = float("nan")
    chart = charts.draw_chart("loss", "step", [charts.Line("a", range(5), [1, 2, nan, 3, 4])])
    assert [len(piece.split()) for piece in chart.lines[0].pieces] == [2, 2]
    assert len(chart.lines[0].marks) == 4
    assert charts.draw_chart("loss", "step", [charts.Line("a", [0], [nan])]) is None
    flat = charts.draw_chart("loss", "step", [charts.Line("a", [1], [0.0])])
    assert flat.lines[0].pieces == ["200.0,93.0"]


def test_the_scale_is_logarithmic_where_values_differ_by_much():
    wide = [charts.Line("a", range(3), [1, 0.1, 0.01])]
    places = [charts.draw_chart("x", "y", wide, log=log).lines[0].marks for log in (True, False)]
    steps = [[b.y - a.y for a, b in pairwise(marks)] for marks in places]
    assert steps[0][0] == pytest.approx(steps[0][1], abs=0.11)
    assert steps[1][0] > 5 * steps[1][1]
    chart = charts.draw_chart("x", "y", wide, log=True)
    assert chart.note == "logarithmic scale"
    assert [tick.text for tick in chart.y_ticks] == ["0.01", "0.1", "1"]
    with_zero = [charts.Line("a", range(2), [1, 0])]
    assert charts.draw_chart("x", "y", with_zero, log=True).note == ""
