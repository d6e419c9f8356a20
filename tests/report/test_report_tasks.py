"""The page about a run that predicts numbers or several labels."""

import math
import re

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from sklearn import metrics

import plainfit as pf
from pages import Page, quiet
from plainfit.data.splits import labels_of
from plainfit.report.page import write_report
from plainfit.report.predictions import number_charts
from plainfit.runs.folder import open_run


def table_of_task(tmp_path, **columns):
    x = np.random.default_rng(0).normal(size=(300, 3)).round(3)
    targets = {name: make(x) for name, make in columns.items()}
    frame = pd.DataFrame(x, columns=list("abc")).assign(**targets)
    frame.to_csv(tmp_path / "t.csv", index=False)
    options = {"target": ",".join(columns), "model": "mlp", "optimizer": "adam", "lr": 0.01}
    folder = quiet(tmp_path / "run", data=str(tmp_path / "t.csv"), **options)
    run = open_run(folder)
    test = run.open_data().test
    return Page(write_report(folder)), run, pf.predict(run.model, test), labels_of(test)


def test_the_page_of_a_regression_has_errors_in_units_as_of_scikit_learn(tmp_path):
    made = {
        "price": lambda x: 5e4 + 9e3 * x[:, 0] + 4e3 * x[:, 1] ** 2,
        "rate": lambda x: x[:, 2] - x[:, 0],
    }
    page, run, out, labels = table_of_task(tmp_path, **made)
    true, said = (run.target.restored(y).double().numpy() for y in (labels, out))
    for place, row in enumerate(page.tables["Errors"][1:]):
        y, guess = true[:, place], said[:, place]
        errors = metrics.mean_absolute_error(y, guess), metrics.root_mean_squared_error(y, guess)
        shown = [float(text.replace(",", "")) for text in row[1:]]
        assert row[0] == ["price", "rate"][place]
        assert shown == pytest.approx([*errors, metrics.r2_score(y, guess)], rel=0.005)
    row = int((out - labels).square().mean(1).argmax())
    hardest = page.tables["Highest loss"]
    assert hardest[0][:4] == ["row", "price, true", "price, predicted", "price, residual"]
    assert hardest[1][0] == str(row)
    assert [float(text.replace(",", "")) for text in hardest[1][1:4]] == pytest.approx(
        [true[row, 0], said[row, 0], true[row, 0] - said[row, 0]], abs=0.51
    )
    titles = re.findall(r"<b>((?:price|rate): [^<]*)</b>", page.source)
    kinds = ("predicted by true", "residuals (true - predicted)")
    assert titles == [f"{name}: {kind}" for name in made for kind in kinds]
    assert page.source.count("<circle") >= 4 * len(labels)
    assert "Confusion" not in page.text


def test_of_many_samples_some_are_drawn_and_none_that_is_not_finite():
    true = torch.arange(5001.0)
    predicted = true.clone()
    predicted[:2] = torch.tensor([math.nan, math.inf])
    charts = number_charts("y", true, predicted)
    assert [str(chart.svg).count("<circle") for chart in charts] == [1000, 1000]
    assert charts[0].note == "1,000 of 5,001 samples"
    assert number_charts("y", true, true * math.nan) == []


def test_the_page_of_several_labels_has_scores_as_of_scikit_learn(tmp_path):
    def tags(x):
        return ["|".join(np.array(["sun", "rain"])[row > 0.2]) for row in x[:, :2]]

    page, _, out, labels = table_of_task(tmp_path, tags=tags)
    there, said = labels.numpy() > 0, out.numpy() > 0
    scores = metrics.precision_recall_fscore_support(there, said, zero_division=np.nan)
    rows = page.tables["Labels"]
    assert rows[0] == ["label", "precision", "recall", "F1", "support"]
    for name, row, *of_label in zip(["rain", "sun"], rows[1:], *scores, strict=False):
        assert row == [name, *(f"{x:.3f}" for x in of_label[:3]), str(of_label[3])]
    assert rows[3][:4] == ["mean of all", *(f"{np.nanmean(of):.3f}" for of in scores[:3])]
    assert f"subset accuracy {metrics.accuracy_score(there, said):.4f}." in page.text
    losses = F.binary_cross_entropy_with_logits(out, labels, reduction="none").mean(1)
    row = int(losses.argmax())
    names = [name for name, seen in zip(["rain", "sun"], there[row], strict=True) if seen]
    likely = zip(["rain", "sun"], out[row].sigmoid().tolist(), strict=True)
    guess = ", ".join(f"{name} {p:.3f}" for name, p in likely if p > 0.5) or "none"
    assert page.tables["Highest loss"][1][:3] == [str(row), ", ".join(names) or "none", guess]
