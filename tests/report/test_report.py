"""The page about a run, compared with what is known otherwise."""

import base64
import json
import re
import shlex
from io import BytesIO
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

import plainfit as pf
from pages import Page, change_record, quiet
from plainfit.report.charts import BOTTOM, TOP
from plainfit.report.comparison import Comparison
from plainfit.report.page import write_report
from plainfit.runs.folder import Run
from plainfit.runs.settings import RunConfig

HOSTILE = "</style></title><script>alert(1)</script>\"'&<img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def page(digits_run, tmp_path_factory):
    return Page(write_report(digits_run, tmp_path_factory.mktemp("page") / "report.html"))


def by_hand(folder):
    """Return labels, predictions, probabilities and losses on the digits' test set."""
    weights = load_file(folder / "model.safetensors")
    xb, yb = pf.open_data("digits").test[:]
    scores = (xb.flatten(1) @ weights["lin.weight"].T + weights["lin.bias"]).double()
    return yb, scores.argmax(1), scores.softmax(1), F.cross_entropy(scores, yb, reduction="none")


def test_the_data_is_read_once(digits_run, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(Run, "open_data", lambda run: calls.append(run) or run.config.open_data())
    page = Page(write_report(digits_run, tmp_path / "report.html"))
    assert len(calls) == 1
    assert "Confusion matrix" in page.tables


def test_the_confusion_matrix_and_the_scores_are_those_computed_by_hand(digits_run, page):
    labels, predicted, *_ = by_hand(digits_run)
    pairs = list(zip(labels.tolist(), predicted.tolist(), strict=True))
    matrix = page.tables["Confusion matrix"]
    assert matrix[0][1:] == [row[0] for row in matrix[1:]] == list("0123456789")
    for true, row in enumerate(matrix[1:]):
        assert row[1:] == [str(pairs.count((true, other)) or "·") for other in range(10)]
    scores = page.tables["Classes"]
    assert scores[0] == ["class", "precision", "recall", "F1", "support"]
    for label, row in enumerate(scores[1:11]):
        hits = pairs.count((label, label))
        there, said = labels.tolist().count(label), predicted.tolist().count(label)
        expected = [hits / said, hits / there, 2 * hits / (there + said)]
        assert row == [str(label), *(f"{value:.3f}" for value in expected), str(there)]
    means = [np.mean([float(row[i]) for row in scores[1:11]]) for i in (1, 2, 3)]
    assert [float(text) for text in scores[11][1:4]] == pytest.approx(means, abs=1e-3)
    assert scores[11][4] == str(len(labels))


def test_the_hardest_samples_are_those_with_the_highest_loss(digits_run, page):
    labels, predicted, probabilities, losses = by_hand(digits_run)
    shown = re.findall(r'<figure class="(right|wrong)">(.*?)</figure>', page.source, re.DOTALL)
    rows = losses.argsort(descending=True)[:12].tolist()
    spaced = [round(i * (len(losses) - 1) // 11) for i in range(12)]
    assert len(shown) == 24
    for row, (kind, inner) in zip([*rows, *spaced], shown, strict=True):
        true, said = int(labels[row]), int(predicted[row])
        assert kind == ("right" if true == said else "wrong")
        assert f"loss {losses[row]:.3f}, row {row}</small>" in inner
        assert f"class {true}, predicted as {said} with" in inner
        assert f"<span>{probabilities[row, said]:.3f}</span>" in inner
        if true != said:
            assert f"<span>{probabilities[row, true]:.3f}</span>" in inner


def test_the_pictures_are_the_samples_pixel_by_pixel(digits_run, page):
    *_, losses = by_hand(digits_run)
    hardest = int(losses.argmax())
    png = base64.b64decode(page.all("img")[0]["src"].partition("base64,")[2])
    with Image.open(BytesIO(png)) as image:
        pixels = np.array(image)
    test = pf.open_data("digits").test
    assert (pixels == test.tensors[0][hardest, 0].numpy()).all()


def test_results_curves_and_machine_are_those_of_the_files(digits_run, page):
    record = json.loads((digits_run / "run.json").read_text())
    rows = [json.loads(line) for line in (digits_run / "metrics.jsonl").read_text().splitlines()]
    best = min(rows, key=lambda row: row["valid_loss"])
    assert record["best"] == best
    results = [row[1:] for row in page.tables["Results"]]
    values = [(row["valid_loss"], row["accuracy"]) for row in (rows[-1], best)]
    values.insert(0, (record["test"]["loss"], record["test"]["accuracy"]))
    assert results == [["loss", "accuracy"], *([f"{x:.4f}" for x in pair] for pair in values)]
    again = f"accuracy {record['test']['accuracy']:.4f}, loss {record['test']['loss']:.4f}."
    assert again in page.text
    assert "650" in page.text
    assert dict(page.tables["Versions and machine"])["torch"] == torch.__version__
    assert dict(page.tables["Data and model"])["fingerprint"] == record["data"]["fingerprint"]
    assert dict(page.tables["Settings"])["lr"] == "0.05(not the default)"
    assert page.tables["Layers"][1] == ["lin", "Linear", "10", "650"]
    assert len(page.tables["All epochs"]) == 1 + len(rows)
    assert [f"{row['accuracy']:.4f}" for row in rows] == [
        row[3] for row in page.tables["All epochs"][1:]
    ]


def test_a_smoothed_loss_has_one_value_everywhere(tmp_path):
    folder = quiet(tmp_path / "run", label_smoothing=0.2)
    record = json.loads((folder / "run.json").read_text())
    assert record["loss"] == "torch.nn.functional:cross_entropy, label_smoothing=0.2"
    page = Page(write_report(folder))
    assert f"loss {record['test']['loss']:.4f}." in page.text


def test_the_curves_have_every_point_in_its_place(digits_run, page):
    steps = [line.split(",") for line in (digits_run / "steps.csv").read_text().splitlines()[1:]]
    rates = [float(step[3]) for step in steps]
    assert len(rates) == 3 * 20
    (svg,) = re.findall(r"<svg[^>]*learning rate by step.*?</svg>", page.source, re.DOTALL)
    (line,) = re.findall(r'class="line"[^>]* d="M([^"]*)"', svg)
    ys = [float(point.split(" ")[1]) for point in line.split("L")]
    assert len(ys) == len(rates)
    # A straight relation between values and places, with the highest rate at the top.
    expected = np.interp(rates, [min(rates), max(rates)], [max(ys), min(ys)])
    assert ys == pytest.approx(expected.tolist(), abs=0.11)
    assert TOP <= min(ys) < max(ys) <= BOTTOM


def test_the_page_loads_nothing_and_runs_nothing(page, digits_run, tmp_path):
    pages = [page, Page(Comparison([digits_run]).write(tmp_path / "one.html"))]
    for one in pages:
        source = re.sub(r"base64,[\w+/=]*", "", one.source)
        assert not re.search(r"https?:|//|@import|url\(|<script|<link|<iframe|href=", source)
        assert all(img["src"].startswith("data:image/png;base64,") for img in one.all("img"))
        assert one.source.count("src=") == len(one.all("img"))
        (policy,) = one.all("meta", **{"http-equiv": "Content-Security-Policy"})
        assert policy["content"].startswith("default-src 'none';")


def test_the_page_can_be_read_on_a_phone_on_paper_at_night_and_aloud(page, digits_run, tmp_path):
    for one in (page, Page(Comparison([digits_run] * 2).write(tmp_path / "two.html"))):
        (viewport,) = one.all("meta", name="viewport")
        assert viewport["content"] == "width=device-width, initial-scale=1"
        assert "@media print" in one.source
        assert "prefers-color-scheme: dark" in one.source
        regions = one.all("div", role="region")
        assert len(regions) == len(one.all("table")) > 0
        assert all(r["class"].startswith("scroll") and r["tabindex"] == "0" for r in regions)
        assert all(r["aria-label"] for r in regions)
        assert {attrs.get("scope") for attrs in one.all("th")} == {"row", "col"}
        assert all(len(img["alt"]) > 10 for img in one.all("img"))
        for svg in one.all("svg"):
            assert svg.get("aria-hidden") == "true" or (svg["role"] == "img" and svg["aria-label"])
        levels = [int(name[1]) for name, _, _ in one.tags if re.fullmatch("h[1-6]", name)]
        assert levels.count(1) == 1
        assert levels[0] == 1
        assert all(b <= a + 1 for a, b in pairwise(levels))


def test_names_are_text_whatever_is_in_them(page, digits_run, tmp_path):
    labels = np.array([HOSTILE, "{{ 7 * 7 }}", "</svg>"] * 20)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", x=rng.integers(0, 256, (60, 6, 6), dtype=np.uint8), y=labels)
    folder = tmp_path / "<script>alert(3)<" / 'run" onload=alert(4) <b>'
    quiet(folder, data=str(tmp_path / "data.npz"), epochs=1)
    known = page.elements() | Page(Comparison([digits_run]).write(tmp_path / "a.html")).elements()
    hostile = Page(write_report(folder))
    for one in (hostile, Page(Comparison([folder, folder]).write(tmp_path / "b.html"))):
        assert one.elements() <= known
        assert 'run" onload=alert(4) <b>' in one.text
    names = [row[0] for row in hostile.tables["Classes"][1:-1]]
    assert sorted(names) == sorted([HOSTILE, "{{ 7 * 7 }}", "</svg>"])
    assert all("<script>" in text for text in hostile.tables["Confusion matrix"][0][1:2])


def test_a_name_that_is_no_text_becomes_one(copied):
    folder = copied.rename(copied.with_name("a\udcffb"))
    assert "<h1>a?b</h1>" in write_report(folder).read_text()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"state": "pruned"}, "the run is pruned, and a training goes on to"),
        ({"lengths": [{"from_step": 30, "epochs": 2}], "first_epochs": 1},
         "its schedule was first over 1 epochs, and was resumed with 2"),
        ({"data": "moved"}, "the data must exist, and there is no file or folder"),
    ],
)  # fmt: skip
def test_a_command_that_would_train_something_else_says_so(copied, changes, reason):
    record = json.loads((copied / "run.json").read_text())
    record["config"]["schedule"] = "one-cycle"
    if "data" in changes:
        record["config"]["data"] = "moved/data.npz"
    else:
        record |= changes
    (copied / "run.json").write_text(json.dumps(record))
    text = Page(write_report(copied)).text
    assert "trains the same again" not in text
    assert f"does not train the same: {reason}" in text


def test_the_command_gives_the_same_settings(copied, tmp_path, monkeypatch):
    from plainfit.cli import app

    given = RunConfig(
        data="my data/it's", data_dir=tmp_path, target="a b", skip_bad=True, epochs=7, lr=1e-05,
        momentum=0.1, optimizer="rmsprop", seed=3, batch_size=10, out=tmp_path / "elsewhere",
    )  # fmt: skip
    change_record(copied, config=given.to_dict())
    assert given.command() in Page(write_report(copied)).text
    for config in (given, RunConfig(), RunConfig(lr="auto", detect_anomaly=True, clip=1.5)):
        command = shlex.split(config.command())
        seen = []
        monkeypatch.setattr(
            "plainfit.runs.train.train", lambda c, seen=seen, **_: seen.append(c) or 1 / 0
        )
        CliRunner().invoke(app, command[1:])
        assert command[0] == "plainfit"
        assert seen[0].to_dict() | {"out": None} == config.to_dict() | {"out": None}
        assert len(command) == 2 + sum(
            1 if value is True else 2
            for name, value in config.to_dict().items()
            if name != "out" and value != RunConfig().to_dict()[name]
        )


def test_the_same_run_gives_the_same_page_where_it_is_asked_for(digits_run, tmp_path):
    pages = [write_report(digits_run, tmp_path / name) for name in ("a.html", "b.html")]
    assert pages == [tmp_path / "a.html", tmp_path / "b.html"]
    assert pages[0].read_bytes() == pages[1].read_bytes()
    state = torch.get_rng_state()
    assert write_report(digits_run) == digits_run / "report.html"
    assert torch.equal(torch.get_rng_state(), state)
