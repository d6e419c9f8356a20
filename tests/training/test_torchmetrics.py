"""Objects of torchmetrics, and functions beside them, over batches of any sizes."""

import pytest
import sklearn.metrics
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_metrics import CLASSES, SIZES, f1, hits, rmse, split, validated, whole_set
from torch import nn

import plainfit as pf
from plainfit.training.metrics import metric_name

tm = pytest.importorskip("torchmetrics")


@settings(max_examples=25)  # making these objects takes milliseconds
@given(sizes=SIZES, seed=st.integers(0, 10**6))
def test_objects_of_torchmetrics_are_those_of_the_whole_set(sizes, seed):
    out, y = whole_set(sizes, seed)
    score = tm.F1Score(task="multiclass", num_classes=CLASSES, average="macro", zero_division=0)
    each = tm.MetricCollection(
        {
            "recall": tm.Recall(task="multiclass", num_classes=CLASSES, average=None),
            "hamming": tm.HammingDistance(task="multiclass", num_classes=CLASSES, average="micro"),
        }
    )
    for _ in range(2):  # in the second validation, nothing of the first is left
        result = validated(split(sizes, out, y), hits, score, each, f1)
    assert list(result) == [
        "loss", "hits", "MulticlassF1Score", "hamming", "recall_0", "recall_1", "recall_2", "f1",
    ]  # fmt: skip
    present = sorted(set(y.tolist()) | set(out.argmax(1).tolist()))
    assert result["hits"] == float(hits(out, y))
    assert result["f1"] == f1(out, y)
    assert result["hamming"] == pytest.approx(1 - result["hits"], rel=0, abs=1e-6)
    assert result["MulticlassF1Score"] == pytest.approx(
        sklearn.metrics.f1_score(
            y, out.argmax(1), average="macro", labels=present, zero_division=0.0
        ),
        rel=0, abs=1e-6,
    )  # fmt: skip
    recalls = sklearn.metrics.recall_score(
        y, out.argmax(1), average=None, labels=range(CLASSES), zero_division=0.0
    )
    assert [result[f"recall_{i}"] for i in range(CLASSES)] == pytest.approx(recalls, abs=1e-6)


def test_functions_and_objects_may_be_mixed_in_any_order():
    # An object of torchmetrics says that it is equal to everything.
    accuracy = tm.Accuracy(task="multiclass", num_classes=CLASSES, average="micro")
    error = tm.MeanMetric()
    error.update = lambda out, yb: tm.MeanMetric.update(error, out)
    out, y = whole_set([5, 2])
    for metrics in ([hits, accuracy], [accuracy, hits], [accuracy, hits, rmse]):
        result = validated(split([5, 2], out, y), *metrics)
        assert list(result) == ["loss", *map(metric_name, metrics)]
        assert result["MulticlassAccuracy"] == pytest.approx(result["hits"])


def test_fit_puts_the_figures_into_the_history():
    recall = tm.Recall(task="multiclass", num_classes=CLASSES, average=None)
    x, y = whole_set([6, 3])
    torch.manual_seed(0)
    model = nn.Linear(CLASSES, CLASSES).double()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    dl = split([6, 3], x, y)
    history = pf.fit(
        2, model, F.cross_entropy, opt, dl, dl, metrics=[recall, pf.accuracy], echo=None
    )
    assert [name for name in history[0] if name[0] in "aM"] == [
        "MulticlassRecall_0", "MulticlassRecall_1", "MulticlassRecall_2", "accuracy",
    ]  # fmt: skip
    with torch.no_grad():
        wanted = sklearn.metrics.recall_score(
            y, model(x).argmax(1), average=None, zero_division=0.0
        )
    assert [history[1][f"MulticlassRecall_{i}"] for i in range(3)] == pytest.approx(wanted)
