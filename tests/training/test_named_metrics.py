"""Metrics by name: those of scikit-learn over the whole set, whatever the batches are."""

import re
import sys
import weakref

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
import torch.nn.functional as F
from torch import nn

import plainfit as pf
from plainfit.common.errors import ConfigError
from plainfit.training.history import mode_of
from plainfit.training.metrics import Overlap
from plainfit.training.named_metrics import NAMES, made
from small import batches, fit, network, sgd

SIZES = [16, 1, 16, 7]
N = sum(SIZES)


class Same(nn.Module):
    """Its inputs are its outputs."""

    def __init__(self):
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))

    def forward(self, xb):
        return xb


def scored(out, yb, *metrics, sizes=SIZES):
    dl = list(zip(out.split(sizes), yb.split(sizes), strict=True))
    result = pf.validate(Same(), lambda out, yb: torch.tensor(0.0), dl, metrics=metrics)
    return {name: value for name, value in result.items() if name != "loss"}


def near(found, **wanted):
    assert found == pytest.approx(wanted, rel=1e-5, abs=1e-7)


@pytest.fixture
def g():
    return torch.Generator().manual_seed(0)


def of_classes(y, pred, labels):
    options = {"average": "macro", "labels": labels, "zero_division": 0.0}
    return {
        "f1": sk.f1_score(y, pred, **options),
        "dice": sk.f1_score(y, pred, **options),
        "iou": sk.jaccard_score(y, pred, **options),
        "precision": sk.precision_score(y, pred, **options),
        "recall": sk.recall_score(y, pred, **options),
    }


def test_classes(g):
    out, y = torch.randn(N, 7, generator=g), torch.randint(6, (N,), generator=g)
    pred = out.argmax(1)
    there = y.unique()
    names = ["f1", "dice", "iou", "precision", "recall"]
    near(scored(out, y, *names), **of_classes(y, pred, None))
    near(
        scored(out, y, "balanced_accuracy", "top2_accuracy", "top5_accuracy", "perplexity"),
        balanced_accuracy=sk.recall_score(y, pred, average="macro", labels=there),
        top2_accuracy=sk.top_k_accuracy_score(y, out, k=2, labels=range(7)),
        top5_accuracy=sk.top_k_accuracy_score(y, out, k=5, labels=range(7)),
        perplexity=float(F.cross_entropy(out, y).exp()),
    )


def test_roc_auc_of_classes_is_that_of_their_probabilities(g):
    out, y = 3 * torch.randn(N, 3, generator=g), torch.arange(N) % 3
    wanted = sk.roc_auc_score(y, out.double().softmax(1), multi_class="ovr")
    for scores in (out, out.log_softmax(1), out.double().softmax(1)):
        near(scored(scores, y, "roc_auc"), roc_auc=wanted)


@pytest.mark.parametrize("kind", [torch.float32, torch.int64, torch.bool])
@pytest.mark.parametrize("shapes", [((N, 1), (N, 1)), ((N, 1), (N,)), ((N,), (N,))])
def test_one_output_per_sample(kind, shapes, g):
    logits, y = 20 * torch.randn(N, generator=g), torch.rand(N, generator=g) > 0.4
    pred = logits > 0
    wanted = {
        "binary_accuracy": sk.accuracy_score(y, pred),
        "balanced_accuracy": sk.balanced_accuracy_score(y, pred),
        "f1": sk.f1_score(y, pred),
        "iou": sk.jaccard_score(y, pred),
        "roc_auc": sk.roc_auc_score(y, logits),
    }
    out, y = logits.reshape(shapes[0]), y.to(kind).reshape(shapes[1])
    near(scored(out, y, *wanted), **wanted)
    near(scored(out.double().sigmoid(), y, *wanted), **wanted)


@pytest.mark.parametrize("shape", [(N, 1, 3, 2), (N, 3, 2)])
def test_one_output_per_pixel(shape, g):
    out, y = torch.randn(N, 1, 3, 2, generator=g), torch.rand(shape, generator=g) > 0.4
    pred, labels = (out > 0).flatten(), y.flatten()
    near(
        scored(out, y.float(), "iou", "dice"),
        iou=sk.jaccard_score(labels, pred),
        dice=sk.f1_score(labels, pred),
    )


def test_a_batch_of_logits_that_look_like_probabilities_is_no_other_kind():
    out, y = torch.tensor([-3.0, 2.0, 0.1, 0.4, 0.2, 0.3]), torch.tensor([0, 1, 1, 1, 0, 1])
    result = scored(out, y, "binary_accuracy", "roc_auc", sizes=[2, 4])
    near(result, binary_accuracy=5 / 6, roc_auc=sk.roc_auc_score(y, out))
    with pytest.raises(ConfigError, match="the first batch were probabilities, and these are not"):
        scored(out.flip(0), y, "f1", sizes=[4, 2])


def test_several_labels_per_sample(g):
    out, y = torch.randn(N, 3, generator=g), (torch.rand(N, 3, generator=g) > 0.4).float()
    pred = (out > 0).float()
    names = ["f1", "dice", "iou", "precision", "recall"]
    near(scored(out, y, *names), **of_classes(y, pred, None))
    near(
        scored(out, y, "binary_accuracy", "roc_auc"),
        binary_accuracy=float((pred == y).float().mean()),
        roc_auc=sk.roc_auc_score(y, out),
    )


@pytest.mark.parametrize(("shape", "last"), [((5, 9), False), ((5, 9), True), ((7, 4, 6), False)])
def test_positions_and_ignored_labels(shape, last, g):
    out, y = torch.randn(N, *shape, generator=g), torch.randint(5, (N, *shape[1:]), generator=g)
    y[:20, 3:] = y[-1] = -100  # the last sample has no label at all
    counted = y != -100
    pred, labels = out.argmax(1)[counted], y[counted]
    wanted = {
        "accuracy": np.float32(sk.accuracy_score(labels, pred)).item(),
        "balanced_accuracy": sk.recall_score(labels, pred, average="macro", labels=labels.unique()),
        "f1": sk.f1_score(labels, pred, average="macro"),
        "perplexity": float(F.cross_entropy(out, y).exp()),
        "top3_accuracy": sk.top_k_accuracy_score(
            labels, out.movedim(1, -1)[counted], k=3, labels=range(shape[0])
        ),
    }
    out = out.movedim(1, -1) if last else out
    found = scored(out, y, *wanted)
    near(found, **wanted)
    assert found["accuracy"] == wanted["accuracy"] == float(pf.accuracy(out, y))


def test_numbers(g):
    x = torch.randn(N, 1, generator=g) + 1990  # sums of squares in float32 would lose R2
    y = x[:, 0] + 0.3 * torch.randn(N, generator=g)
    near(
        scored(x, y, "mae", "mse", "rmse", "r2"),
        mae=sk.mean_absolute_error(y, x),
        mse=sk.mean_squared_error(y, x),
        rmse=sk.root_mean_squared_error(y, x),
        r2=sk.r2_score(y.double(), x.double()),
    )
    out, y = torch.randn(N, 3, generator=g), torch.randn(N, 3, generator=g)
    near(scored(out, y, "mae", "r2"), mae=sk.mean_absolute_error(y, out), r2=sk.r2_score(y, out))


def test_perplexity_of_a_certain_mistake_is_finite():
    assert scored(torch.tensor([[0.0, 50.0]]), torch.tensor([0]), "perplexity", sizes=[1]) == {
        "perplexity": float(torch.tensor(50.0).exp())
    }


@pytest.mark.parametrize("metric", ["accuracy", pf.accuracy, "perplexity", "f1"])
def test_predictions_are_not_kept(metric):
    alive = []

    class Watched(Same):
        def forward(self, xb):
            out = xb + 0
            alive.append(weakref.ref(out))
            assert sum(ref() is not None for ref in alive) <= 2  # this one, and the last batch's
            return out

    dl = [(torch.rand(4, 3), torch.tensor([0, 1, 2, 0]))] * 6
    pf.validate(Watched(), F.cross_entropy, dl, metrics=[metric])
    assert len(alive) == 6


def test_names_are_columns_that_can_be_monitored():
    model, dl = network(), batches(10, 10)
    early = pf.EarlyStopping(monitor="f1", restore_best=True)
    history = fit(model, sgd(model), dl, dl, metrics=["accuracy", "f1"], callbacks=[early])
    assert early.best.mode == "max"
    with torch.no_grad():
        pred = torch.cat([model(xb).argmax(1) for xb, _ in dl])
    y = torch.cat([yb for _, yb in dl])
    near({"f1": history.best("f1")["f1"]}, f1=sk.f1_score(y, pred, average="macro"))


def test_a_loss_of_torch_allows_every_column_of_fit():
    model, dl = network(), batches(10, 10)
    for monitor in ("train_accuracy", "accuracy", "valid_loss", "late_loss", "late_accuracy"):
        early = pf.EarlyStopping(monitor=monitor)
        history = fit(
            model, sgd(model), dl, {"early": dl, "late": dl[1:]}, metrics=["accuracy"],
            train_metrics=["accuracy"], callbacks=[early],
        )  # fmt: skip
        assert history[early.best.epoch] == history.best(monitor)
    with pytest.raises(ConfigError, match="train_metrics must be 'accuracy' or functions, got f1"):
        fit(model, sgd(model), dl, train_metrics=["f1"])


def test_every_name_has_a_direction():
    modes = {name: mode_of(name) for name in NAMES}
    assert {name for name in NAMES if modes[name] == "min"} == {"mae", "mse", "perplexity", "rmse"}


@pytest.mark.parametrize(
    ("metrics", "says"),
    [
        (
            ["acuracy"],
            "unknown metric 'acuracy': choose from accuracy, .*; did you mean 'accuracy'",
        ),
        (["accuracy", pf.accuracy], "metrics must have different names"),
        (pf.accuracy, "metrics must be a list of names, functions or metric objects, got accuracy"),
    ],
)
def test_an_unknown_name_is_refused_before_the_first_step(metrics, says):
    model = network()
    with pytest.raises(ValueError, match=says):
        fit(model, sgd(model), lambda: pytest.fail("a step was taken"), metrics=metrics)
    with pytest.raises(ValueError, match=says):
        pf.validate(model, F.cross_entropy, [], metrics=metrics)


def test_a_missing_torchmetrics_is_said_to_be(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    assert made(["accuracy"]) == [pf.accuracy]
    with pytest.raises(
        ConfigError, match=r"'f1' needs pip install 'plainfit\[metrics\]', and failed"
    ):
        made(["f1"])


@pytest.mark.parametrize(
    ("name", "out", "yb", "says"),
    [
        ("accuracy", torch.rand(8, 5, 5), torch.zeros(8, 5).long(), "last dimension, and not in b"),
        ("perplexity", torch.rand(8, 5, 5), torch.zeros(8, 5).long(), "and not in both"),
        ("accuracy", torch.rand(8, 1), torch.ones(8, 1), "neither ('binary_accuracy' has none)"),
        ("accuracy", [torch.rand(8, 2)], torch.ones(8).long(), "outputs of list and targets of ("),
        ("f1", torch.rand(8, 1), torch.full((8, 1), 0.5), "labels must be whole numbers"),
        ("f1", torch.rand(2, 8), torch.ones(8, 2), "each target needs one output"),
        ("f1", torch.rand(8, 4, 4), torch.ones(8, 4, 4), "not clear which of the labels"),
        ("top1_accuracy", torch.rand(8, 1), torch.ones(8, 1), "and are in neither ('binary_a"),
        ("top5_accuracy", torch.rand(8, 3), torch.ones(8).long(), "but got 5 and 3"),
        ("mae", torch.rand(8, 2), torch.rand(4, 4), "each target needs one output"),
    ],
)
def test_what_a_name_cannot_score_is_one_line(name, out, yb, says):
    with pytest.raises(ConfigError, match=re.escape(says)) as caught:
        pf.validate(Same(), lambda out, yb: torch.tensor(0.0), [(out, yb)], metrics=[name])
    assert f"must fit the metric {name!r} (otherwise pass a function" in str(caught.value)


@pytest.mark.parametrize("shapes", [((8, 1), (8, 1)), ((8, 3), (8, 1))])
def test_accuracy_does_not_pair_each_sample_with_every_other(shapes):
    with pytest.raises(ValueError, match="labels need a score for each class, got "):
        pf.accuracy(torch.rand(shapes[0]), torch.ones(shapes[1]))


def test_the_overlap_of_pixels_is_that_of_the_whole_set(g):
    """Whatever the batches are; -100 does not count, nor does a class that is nowhere."""
    torchmetrics = pytest.importorskip("torchmetrics")
    out, yb = torch.randn(N, 4, 5, 6, generator=g), torch.randint(3, (N, 5, 6), generator=g)
    out[:, 3], yb[torch.rand(yb.shape, generator=g) < 0.2] = -9.0, -100
    task = {"task": "multiclass", "num_classes": 4, "ignore_index": -100}
    iou = torchmetrics.JaccardIndex(average=None, **task)(out, yb)
    dice = torchmetrics.F1Score(average=None, **task)(out, yb)
    found = scored(out, yb, Overlap("iou"), Overlap("dice"))
    near(found, iou=float(iou[:3].mean()), dice=float(dice[:3].mean()))
