"""Metrics over batches of any sizes are those over the whole set."""

import math
from collections import namedtuple
from functools import partial

import numpy as np
import pytest
import sklearn.metrics
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import plainfit as pf
from plainfit.data.batches import join
from plainfit.training.history import read, weighted_mean
from plainfit.training.metrics import TAKEN, metric_name, named

SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=8)
CLASSES = 3


class Same(nn.Module):
    """Its inputs are its outputs, so that a test chooses the predictions."""

    def __init__(self, change=lambda xb: xb):
        super().__init__()
        self.change = change
        self.nothing = nn.Parameter(torch.zeros(1))

    def forward(self, xb):
        return self.change(xb)


def whole_set(sizes, seed=0):
    g = torch.Generator().manual_seed(seed)
    n = sum(sizes)
    out = torch.randn(n, CLASSES, generator=g, dtype=torch.float64)
    return out, torch.randint(CLASSES, (n,), generator=g)


def split(sizes, *tensors):
    return list(zip(*(tensor.split(sizes) for tensor in tensors), strict=True))


def rmse(out, yb):
    return (out[:, 0] - yb).square().mean().sqrt()


def f1(out, yb):
    return sklearn.metrics.f1_score(yb, out.argmax(1), average="macro", zero_division=0.0)


def hits(out, yb):
    return (out.argmax(1) == yb).double().mean()


def validated(dl, *metrics, model=None, loss_func=F.cross_entropy):
    return pf.validate(model or Same(), loss_func, dl, metrics=metrics)


@settings(deadline=None, max_examples=50)
@given(sizes=SIZES, seed=st.integers(0, 10**6))
def test_the_loss_and_functions_are_those_of_the_whole_set(sizes, seed):
    out, y = whole_set(sizes, seed)
    result = validated(split(sizes, out, y), pf.accuracy, hits, rmse, f1)
    assert result["loss"] == pytest.approx(F.cross_entropy(out, y).item(), rel=0, abs=1e-12)
    for metric in (pf.accuracy, hits, rmse, f1):
        assert result[metric.__name__] == float(metric(out, y))
    predictions = out.argmax(1).numpy()
    wanted = sklearn.metrics.accuracy_score(y.numpy(), predictions)
    assert result["hits"] == pytest.approx(wanted, rel=0, abs=1e-12)
    squares = sklearn.metrics.mean_squared_error(y.numpy(), out[:, 0].numpy())
    assert result["rmse"] == pytest.approx(squares**0.5, rel=0, abs=1e-12)


def test_means_over_batches_would_be_wrong():
    sizes = [9, 1, 4]
    out, y = whole_set(sizes)
    result = validated(split(sizes, out, y), rmse, f1)
    for metric in (rmse, f1):
        mean = sum(float(metric(*pair)) * len(pair[1]) for pair in split(sizes, out, y)) / 14
        assert abs(mean - result[metric.__name__]) > 1e-3


@settings(deadline=None, max_examples=50)
@given(values=st.lists(st.tuples(st.floats(-1e3, 1e3), st.integers(1, 99)), min_size=1))
def test_weighted_mean(values):
    numbers, weights = zip(*values, strict=True)
    wanted = np.average(np.float64(numbers), weights=np.float64(weights))
    assert weighted_mean(numbers, weights) == pytest.approx(wanted, rel=1e-12, abs=1e-12)


# losses that do not count by samples

WEIGHT = torch.tensor([0.5, 0.25, 10.0]).double()  # of each class


def aux(out, yb):
    return F.cross_entropy(out, yb, WEIGHT) + 0.5 * F.nll_loss(out.log_softmax(1), yb, WEIGHT)


LOSSES = {
    "lambda": lambda out, yb: F.cross_entropy(out, yb, weight=WEIGHT),
    "module": nn.CrossEntropyLoss(weight=WEIGHT),
    "smoothed": partial(F.cross_entropy, weight=WEIGHT, label_smoothing=0.1),
    "ignored": partial(F.cross_entropy, ignore_index=0),
    "nll": lambda out, yb: F.nll_loss(out.log_softmax(1), yb, WEIGHT, ignore_index=1),
    "scaled": lambda out, yb: 3 * F.cross_entropy(out, yb, WEIGHT),
    "two terms": aux,
    "sum": nn.CrossEntropyLoss(reduction="sum"),
    "sum over samples": lambda out, yb: F.cross_entropy(out, yb, reduction="sum") / len(yb),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_is_that_of_the_whole_set(name):
    sizes = [3, 7, 1, 64, 2]
    out, y = whole_set(sizes, seed=1)
    y[:3] = 0  # all ignored in the first batch
    got = validated(split(sizes, out, y), loss_func=LOSSES[name])["loss"]
    assert got == pytest.approx(float(LOSSES[name](out, y)), rel=1e-6)


def test_ignored_labels_of_dense_targets():
    out, y = torch.randn(6, CLASSES, 5), torch.randint(CLASSES, (6, 5))
    y[:2] = -100
    y[4, 1:] = -100
    got = validated(split([2, 2, 2], out, y))["loss"]
    assert got == pytest.approx(float(F.cross_entropy(out, y)), rel=1e-6)
    y[:] = -100
    assert math.isnan(validated(split([2, 2, 2], out, y))["loss"])


def test_probabilities_count_by_samples():
    out, y = torch.randn(9, CLASSES), torch.rand(9, CLASSES)
    loss = partial(F.cross_entropy, weight=WEIGHT.float())
    got = validated(split([4, 4, 1], out, y), loss_func=loss)["loss"]
    assert got == pytest.approx(float(loss(out, y)), rel=1e-6)


def test_the_bits_of_a_usual_loss_are_kept():
    out, y = whole_set(sizes := [64, 64, 3])
    losses = [float(F.cross_entropy(*pair)) for pair in split(sizes, out, y)]
    wanted = sum(loss * n for loss, n in zip(losses, sizes, strict=True)) / sum(sizes)
    assert validated(split(sizes, out, y))["loss"] == wanted


# objects


class Sum:
    """An object of one's own, without `to`."""

    def reset(self):
        self.value = 0.0

    def update(self, out, yb):
        self.value += out.sum().item()

    def compute(self):
        return self.value


def test_an_object_of_one_s_own():
    out, y = whole_set([4, 4, 1])
    result = validated(split([4, 4, 1], out, y), Sum())
    assert result["Sum"] == pytest.approx(out.sum().item(), abs=1e-12)


# outputs of any shape


def test_outputs_may_be_a_dict_a_tuple_or_a_named_tuple():
    Pair = namedtuple("Pair", "scores rest")
    sizes = [4, 3, 1]
    out, y = whole_set(sizes)
    changes = {
        "dict": (lambda xb: {"scores": xb, "rest": xb * 2}, lambda o: (o["scores"], o["rest"])),
        "tuple": (lambda xb: (xb, xb * 2), lambda o: o),
        "nested": (lambda xb: [xb, {"a": (xb * 2,)}], lambda o: (o[0], o[1]["a"][0])),
        "named tuple": (lambda xb: Pair(xb, xb * 2), lambda o: (o.scores, o.rest)),
    }
    for change, parts in changes.values():

        def right(o, yb, parts=parts):
            scores, rest = parts(o)
            assert torch.equal(scores, out)
            return torch.equal(rest, 2 * out) and torch.equal(yb, y)

        result = validated(
            split(sizes, out, y), right, model=Same(change),
            loss_func=lambda o, yb, parts=parts: F.cross_entropy(parts(o)[0], yb),
        )  # fmt: skip
        assert result["right"] == 1.0
        assert result["loss"] == pytest.approx(F.cross_entropy(out, y).item(), abs=1e-12)


def test_a_batch_that_is_no_pair_is_the_target_too():
    x = torch.rand(7, 2, dtype=torch.float64)
    dl = [{"x": part} for part in x.split([4, 3])]

    def distance(out, batch):
        return (out - batch["x"]).square().mean().sqrt()

    model = Same(lambda xb: xb["x"] ** 2)
    result = validated(dl, distance, model=model, loss_func=distance)
    assert result["distance"] == (x**2 - x).square().mean().sqrt().item()


def test_a_last_batch_of_one_that_was_squeezed_is_joined():
    out, _ = whole_set([3, 1])
    y = torch.rand(4, dtype=torch.float64)

    def distance(out, yb):
        assert out.shape == yb.shape == (4,)
        return (out - yb).abs().mean()

    result = validated(
        split([3, 1], out[:, :1], y), distance, model=Same(lambda xb: xb.squeeze()),
        loss_func=lambda out, yb: F.l1_loss(out.reshape(-1), yb),
    )  # fmt: skip
    assert result["distance"] == pytest.approx(result["loss"], abs=1e-12)


def test_texts_are_joined_in_their_order():
    assert join([["a", "b"], ["c"]], [2, 1]) == ["a", "b", "c"]
    assert join([["a", "b"], ["c", "d"]], [2, 2]) == ["a", "b", "c", "d"]
    assert join([("a", "b"), ("c", "d")], [2, 2]) == (["a", "c"], ["b", "d"])  # it has columns
    assert join([3, 4], [1, 1]) == [3, 4]


def test_a_list_with_an_entry_for_each_sample_is_one_of_samples():
    boxes = [torch.ones(3, 4) * i for i in range(5)]
    assert join([boxes[:3], boxes[3:]], [3, 2]) == boxes
    maps = [[torch.zeros(3, 8), torch.zeros(3, 2)], [torch.ones(2, 8), torch.ones(2, 2)]]
    assert [each.shape for each in join(maps, [3, 2])] == [(5, 8), (5, 2)]


@pytest.mark.parametrize(
    ("outs", "says"),
    [
        ([torch.zeros(2, 3), torch.zeros(2, 4)], "Sizes of tensors must match"),
        ([{"a": torch.zeros(2)}, {"b": torch.zeros(2)}], "could not be joined"),
        ([(torch.zeros(2),), (torch.zeros(2), torch.zeros(2))], r"zip\(\) argument 2 is longer"),
        ([torch.zeros(2), {"a": torch.zeros(2)}], "could not be joined"),
    ],
)
def test_batches_that_cannot_be_joined_are_said_to_be(outs, says):
    outputs = iter(outs)
    model = Same(lambda xb: next(outputs))
    dl = [(torch.zeros(2), torch.zeros(2))] * 2
    with pytest.raises(ValueError, match=says) as caught:
        validated(dl, hits, model=model, loss_func=lambda out, yb: torch.tensor(0.0))
    assert "could not be joined" in str(caught.value)
    assert "use an object with update and compute, as in torchmetrics" in str(caught.value)


def test_functions_that_keep_much_are_said_to(monkeypatch):
    monkeypatch.setattr("plainfit.training.metrics.MANY_BYTES", 300)
    out, y = whole_set([4, 4, 4])
    dl = split([4, 4, 4], out, y)
    with pytest.warns(RuntimeWarning, match=r"keep all predictions.* for hits; names, such as"):
        validated(dl, hits)
    validated(dl, pf.accuracy)
    validated(dl, Sum())


def test_objects_need_no_joining():
    dl = [(torch.zeros(2, 3), torch.tensor([0, 1])), (torch.zeros(2, 4), torch.tensor([0, 1]))]
    assert validated(dl, Sum())["Sum"] == 0.0


# sizes and names


def test_losses_of_shape_one_are_read_as_numbers():
    values = [torch.tensor([0.25]), torch.tensor(0.5), torch.tensor([[0.75]]), 1.0]
    assert read(values) == [0.25, 0.5, 0.75, 1.0]
    with pytest.raises(RuntimeError):
        read([torch.zeros(2)])


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (torch.tensor(0.5), {"m": 0.5}),
        (torch.tensor([0.5]), {"m": 0.5}),
        (0.1, {"m": 0.1}),
        (True, {"m": 1.0}),
        (np.float64(0.1), {"m": 0.1}),
        (np.array([0.1, 0.2]), {"m_0": 0.1, "m_1": 0.2}),
        (torch.tensor([[1, 2], [3, 4]]), {"m_0": 1.0, "m_1": 2.0, "m_2": 3.0, "m_3": 4.0}),
        ((torch.tensor(0.5), [0.25, 0.75]), {"m_0": 0.5, "m_1_0": 0.25, "m_1_1": 0.75}),
        ({"a": 0.5, "b": {"c": [1, 2]}}, {"a": 0.5, "c_0": 1.0, "c_1": 2.0}),
    ],
)
def test_values_are_named(value, wanted):
    result = named("m", value)
    assert result == wanted
    assert all(type(number) is float for number in result.values())


def test_names_of_functions_and_objects():
    assert [metric_name(metric) for metric in (f1, Sum(), pf.accuracy)] == ["f1", "Sum", "accuracy"]


def called(name, value=0.5):
    def metric(out, yb):
        return value

    metric.__name__ = name
    return metric


@pytest.mark.parametrize(
    "metrics",
    [
        [hits, hits],
        [Sum(), Sum()],
        *([called(name)] for name in TAKEN),
        [called("f1", [1, 2]), called("f1_0")],  # known only once they are computed
        [called("a", {"loss": 1.0})],
    ],
)
def test_two_figures_of_one_name_are_refused(metrics):
    dl = [(torch.zeros(2, CLASSES), torch.tensor([0, 1]))]
    with pytest.raises(ValueError, match=r"metrics must have different names, none of loss, epoch"):
        validated(dl, *metrics)


def test_every_column_of_the_history_is_taken():
    model = nn.Linear(2, 2)
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    dl = [(torch.zeros(2, 2), torch.tensor([0, 1]))]
    history = pf.fit(1, model, F.cross_entropy, opt, dl, dl, echo=None)
    assert {"loss", *history[0]} == set(TAKEN)


# objects of torchmetrics, which loads transformers: in the process that runs these tests only


@settings(deadline=None, max_examples=15)  # making these objects takes milliseconds
@given(sizes=SIZES, seed=st.integers(0, 10**6))
def test_objects_of_torchmetrics_are_those_of_the_whole_set(sizes, seed):
    import torchmetrics as tm

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
    import torchmetrics as tm

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
    import torchmetrics as tm

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
