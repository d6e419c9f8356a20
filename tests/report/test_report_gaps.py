"""The page about a run that lacks something, has much of it, or has no images."""

import base64
import json
import math
import re
from io import BytesIO

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from sklearn.metrics import confusion_matrix

import plainfit as pf
from pages import Page, absent, change_record, quiet
from plainfit.common.errors import RunError
from plainfit.report.comparison import Comparison
from plainfit.report.page import write_report
from plainfit.report.predictions import MAX_CLASSES, MAX_SAMPLES, Counts
from plainfit.runs.folder import open_run


def test_what_is_no_run_or_cannot_be_written_is_one_line(digits_run, tmp_path):
    with pytest.raises(RunError, match=r"must be a run folder with a run.json, and has none$"):
        write_report(tmp_path)
    with pytest.raises(RunError, match=r"no/page.html must be writable"):
        write_report(digits_run, tmp_path / "no" / "page.html")
    with pytest.raises(RunError, match="needs at least one run"):
        Comparison([]).write(tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_a_page_without_its_data_says_so(tmp_path):
    path = tmp_path / "data.npz"
    x, y = np.random.default_rng(0).normal(size=(60, 5)), np.arange(60) % 3
    np.savez(path, x=x, y=y)
    folder = quiet(tmp_path / "run", data=str(path))
    assert absent(Page(write_report(folder))) == set()
    np.savez(path, x=x + 1, y=y)
    page = Page(write_report(folder))
    assert len(absent(page)) == 4
    assert f"trained on, and {path} has changed since" in page.text
    path.unlink()
    page = Page(write_report(folder))
    assert len(absent(page)) == 4
    assert f"there is no file or folder {path}" in page.text
    assert page.tables["Layers"]
    assert len(page.tables["Results"]) == 4
    assert page.all("svg")


def test_scores_are_counted_batch_by_batch_and_few_samples_are_kept():
    draw = torch.Generator().manual_seed(0)
    out, yb = (
        torch.randn(90, 3, 5, 4, generator=draw),
        torch.randint(-1, 3, (90, 5, 4), generator=draw),
    )
    yb[yb < 0] = -100
    out[7, :, 0, 0], yb[7, 0, 0] = math.nan, 1
    counts = Counts(F.cross_entropy, 3, range(0, 90, 10))
    counts.reset()
    for rows in torch.arange(90).split(8):
        counts.update(out[rows], yb[rows])
    losses = F.cross_entropy(out, yb, reduction="none").flatten(1).mean(1)
    assert counts.hardest == losses.argsort(descending=True, stable=True)[:MAX_SAMPLES].tolist()
    assert counts.samples.keys() == {*counts.hardest, *range(0, 90, 10)}
    for row, (_, mask) in counts.samples.items():
        assert torch.equal(mask, out[row].argmax(0))
        assert mask.untyped_storage().nbytes() == 20
    pairs, times = map(torch.cat, zip(*counts.pairs, strict=True))
    matrix = torch.zeros(9, dtype=torch.int64).index_add(0, pairs, times).view(3, 3)
    known = yb >= 0
    assert matrix.tolist() == confusion_matrix(yb[known], out.argmax(1)[known]).tolist()


def test_a_page_without_its_model_says_so(copied):
    record = json.loads((copied / "run.json").read_text())
    del record["parameters"]
    model = record["model"]
    record["model"] = model | {"target": "no_such_module:Net"}
    (copied / "run.json").write_text(json.dumps(record))
    page = Page(write_report(copied))
    assert len(absent(page)) == 4
    assert "Layers" not in page.tables
    assert page.text.count("the module 'no_such_module' must be a file") == 2
    assert Comparison([copied]).rows[0]["parameters"] is None
    change_record(copied, model=model)
    (copied / "model.safetensors").write_bytes(b"no weights")
    assert "must hold the weights of" in Page(write_report(copied)).text


def test_an_unfinished_run_gives_what_is_there(copied):
    (copied / "model.safetensors").unlink()
    change_record(copied, state="started", test=None, last=None)
    with (copied / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "train_l')
    page = Page(write_report(copied))
    assert "started" in page.text
    assert "1 of the 4 lines of metrics.jsonl cannot be read" in page.text
    assert "must hold model.safetensors, which is written when the run finishes" in page.text
    assert len(absent(page)) == 4
    assert [row[0] for row in page.tables["Results"]][1].startswith(
        "validation set, last epoch (2)"
    )
    assert page.tables["Layers"][1] == ["lin", "Linear", "10", "650"]
    for name in ("metrics.jsonl", "steps.csv"):
        (copied / name).unlink()
    page = Page(write_report(copied))
    assert "There are no results yet" in page.text
    assert "0 of 3" in page.text
    assert not page.all("svg")
    (row,) = Comparison([copied]).rows
    assert (row["state"], row["epochs"], row["best_epoch"]) == ("started", 0, None)
    assert (
        "no run has finished its first epoch"
        in Page(Comparison([copied]).write(copied / "c.html")).text
    )


def test_without_steps_the_curves_by_step_are_left_out(copied):
    def titles():
        return re.findall(r"<figcaption><b>(.*?)</b>", write_report(copied).read_text())

    curves = ["loss", "accuracy", "training loss", "learning rate"]
    assert titles()[:4] == curves
    (copied / "steps.csv").unlink()
    assert titles()[:4][:2] == curves[:2]
    assert not set(titles()) & set(curves[2:])


def test_many_steps_are_drawn_as_means(copied):
    lines = [f"{step},0,{1 + step % 2},0.5" for step in range(100_000)]
    (copied / "steps.csv").write_text("step,epoch,loss,lr\n" + "\n".join(lines) + "\n")
    page = Page(write_report(copied))
    assert "each point is the mean of 250 steps" in page.text
    assert "training loss by step: loss from 1.5 to 1.5" in page.source
    assert len(page.source) < 100_000


def test_a_table_shows_rows_and_no_pictures(tmp_path):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(80, 12))
    y = np.where(x[:, 0] + 0.5 * rng.normal(size=80) > 0, "yes", "no")
    heads = [f"height <{i}>" for i in range(12)]
    lines = [",".join([*heads, "target"])]
    lines += [",".join([*map(str, row), label]) for row, label in zip(x, y, strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    folder = quiet(tmp_path / "run", data=str(tmp_path / "t.csv"))
    page = Page(write_report(folder))
    assert not page.all("img")
    table = page.tables["Samples with the highest loss"]
    assert table[0][:6] == ["row", "true", "predicted", "loss", "p(true)", "p(predicted)"]
    assert table[0][6:] == heads[:8]
    weights, data = load_file(folder / "model.safetensors"), pf.open_data(tmp_path / "t.csv")
    xb, yb = data.test[:]
    scores = xb @ weights["lin.weight"].T + weights["lin.bias"]
    losses = F.cross_entropy(scores, yb, reduction="none")
    row = int(losses.argmax())
    assert table[1][:2] == [str(row), data.classes[yb[row]]]
    assert float(table[1][3]) == pytest.approx(float(losses[row]), abs=1e-3)
    assert [float(text) for text in table[1][6:]] == pytest.approx(xb[row, :8].tolist(), rel=1e-3)
    assert table[1][2] == "✗ " + data.classes[scores[row].argmax()]


def test_the_validation_set_serves_where_there_is_no_test_set(tmp_path):
    rng, parts = np.random.default_rng(0), {}
    for part, n in (("train", 60), ("valid", 21)):  # floats of any range
        parts |= {f"x_{part}": 9 * rng.random((n, 3, 6, 7)) - 5, f"y_{part}": np.arange(n) % 3}
    np.savez(tmp_path / "data.npz", **parts)
    page = Page(write_report(quiet(tmp_path / "run", data=str(tmp_path / "data.npz"))))
    assert "Of the validation set: a row for each true class" in page.text
    assert "test set" not in page.text
    assert page.tables["Classes"][-1][-1] == "21"
    first = page.all("img")[12]  # the first of the samples that are evenly spaced
    with Image.open(BytesIO(base64.b64decode(first["src"].partition("base64,")[2]))) as image:
        pixels = np.array(image)
    x = parts["x_valid"][0].transpose(1, 2, 0)
    expected = (x - x.min()) / (x.max() - x.min()) * 255
    assert pixels.shape == (6, 7, 3)
    assert abs(pixels - expected).max() <= 1


def test_of_many_classes_the_worst_are_shown(tmp_path):
    classes = 70
    y = np.repeat(np.arange(classes), 10)
    x = np.eye(classes)[y] + np.random.default_rng(0).normal(size=(len(y), classes)) * 0.35
    np.savez(tmp_path / "data.npz", x=x, y=np.array([f"c{label:02}" for label in y]))
    folder = quiet(tmp_path / "run", data=str(tmp_path / "data.npz"))
    page = Page(write_report(folder))
    weights, data = load_file(folder / "model.safetensors"), pf.open_data(tmp_path / "data.npz")
    xb, yb = data.test[:]
    predicted = (xb @ weights["lin.weight"].T + weights["lin.bias"]).argmax(1)
    both = [(yb == label).sum() + (predicted == label).sum() for label in range(classes)]
    hits = [((yb == label) & (predicted == label)).sum() for label in range(classes)]
    f1 = {f"c{i:02}": float(2 * h / n) for i, (h, n) in enumerate(zip(hits, both, strict=True))}
    shown = [row[0] for row in page.tables["Classes"][1:-1]]
    assert len(shown) == MAX_CLASSES == 30
    assert max(f1[name] for name in shown) <= min(f1[name] for name in f1 if name not in shown)
    assert [float(row[3]) for row in page.tables["Classes"][1:-1]] == pytest.approx(
        [f1[name] for name in shown], abs=1e-3
    )
    assert float(page.tables["Classes"][-1][3]) == pytest.approx(
        np.mean(list(f1.values())), abs=1e-3
    )
    matrix = page.tables["Confusion matrix"]
    assert matrix[0][1:] == [*shown, "other 40 classes"]
    numbers = np.array([[int(text.replace("·", "0")) for text in row[1:]] for row in matrix[1:]])
    assert numbers.sum() == len(yb)
    assert numbers.sum(1)[:-1].tolist() == [int((yb == int(name[1:])).sum()) for name in shown]
    assert numbers.sum(0)[:-1].tolist() == [int((predicted == int(n[1:])).sum()) for n in shown]
    assert "Shown are the 30 classes of 70" in page.text


def test_an_older_run_has_the_defaults_of_newer_settings(copied):
    config = json.loads((copied / "run.json").read_text())["config"]
    del config["clip"], config["batch_size"]
    change_record(copied, config=config)
    assert open_run(copied).settings["batch_size"] == 64
    assert absent(Page(write_report(copied))) == set()
    change_record(copied, config=config | {"warp": 9})
    page = Page(write_report(copied))
    assert page.text.count("it does not know warp") == 2
    assert len(absent(page)) == 4
