"""What a trained model says of every sample of a data set, and how right it is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from torch import Tensor, nn

from plainfit.data.loaders import make_loader
from plainfit.data.splits import DataSplits
from plainfit.training.loop import validate
from plainfit.training.metrics import accuracy

MOST_CLASSES = 30  # in the tables of a page; of more, those with the lowest F1


@dataclass(frozen=True)
class Evaluation:
    """The predictions for a part of the data, one value a sample."""

    part: str
    labels: Tensor
    predicted: Tensor
    confidence: Tensor
    """The probability of the predicted class."""
    losses: Tensor
    figures: dict[str, float]
    """Loss and accuracy over the whole part."""


class Outcomes:
    """Keeps what is needed of each sample, as `validate` goes by; scores of all classes are not."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all."""
        self.rows: list[tuple[Tensor, ...]] = []

    def update(self, out: Tensor, yb: Tensor) -> None:
        """Take in a batch: scores of shape (batch, classes), labels of shape (batch,)."""
        confidence, predicted = out.softmax(dim=1).max(dim=1)
        losses = F.cross_entropy(out, yb, reduction="none")
        self.rows.append(tuple(t.cpu() for t in (yb, predicted, confidence, losses)))

    def compute(self) -> dict[str, float]:
        """Return no figure: what counts is in `rows`."""
        return {}


def evaluate(model: nn.Module, data: DataSplits, batch_size: int) -> Evaluation:
    """Predict the test set, or the validation set where there is none."""
    part, dataset = ("valid", data.valid) if data.test is None else ("test", data.test)
    outcomes = Outcomes()
    loader = make_loader(dataset, batch_size * 2, False)  # the batches of the run's own test
    metrics: list[Any] = [accuracy, outcomes]
    figures = validate(model, F.cross_entropy, loader, metrics=metrics)
    labels, predicted, confidence, losses = map(torch.cat, zip(*outcomes.rows, strict=True))
    return Evaluation(part, labels, predicted, confidence, losses, figures)


@dataclass(frozen=True)
class ClassScore:
    """How well one class is told from the others; NaN is 0 of 0."""

    label: int
    name: str
    precision: float
    recall: float
    f1: float
    support: int


def class_scores(evaluation: Evaluation, classes: Sequence[str]) -> list[ClassScore]:
    """Return the scores of every class."""
    precision, recall, f1, support = precision_recall_fscore_support(
        evaluation.labels.numpy(),
        evaluation.predicted.numpy(),
        labels=range(len(classes)),
        zero_division=np.nan,
    )
    rows = zip(range(len(classes)), classes, precision, recall, f1, support, strict=True)
    return [
        ClassScore(label, name, float(p), float(r), float(f), int(n))
        for label, name, p, r, f, n in rows
    ]


def mean_scores(scores: Sequence[ClassScore]) -> ClassScore:
    """Return the mean over the classes, each counting the same, and the sum of the support."""
    table = [(score.precision, score.recall, score.f1) for score in scores]
    precision, recall, f1 = np.nanmean(table, axis=0).tolist()
    return ClassScore(-1, "mean", precision, recall, f1, sum(score.support for score in scores))


def classes_shown(scores: Sequence[ClassScore]) -> list[ClassScore]:
    """Return all classes in order, or the worst, where they are too many for a page."""
    if len(scores) <= MOST_CLASSES:
        return list(scores)
    # Classes that are neither there nor predicted come last; of equals, the largest first.
    worst = sorted(scores, key=lambda score: (math.isnan(score.f1), score.f1, -score.support))
    return worst[:MOST_CLASSES]


@dataclass(frozen=True)
class Cell:
    """How many samples of a true class were given a predicted one."""

    count: int
    percent: int
    """How deep to colour it: the root of its share of the row, so that few errors are seen too."""
    kind: str
    """`right`, `wrong`, or `mixed` for classes taken together."""


def confusion_rows(
    evaluation: Evaluation, shown: Sequence[ClassScore], classes: int
) -> list[tuple[str, list[Cell]]]:
    """Return a row for each true class: its name, and a cell for each predicted class.

    Where not all classes are shown, the others are one last row and one last column.
    """
    others = len(shown)
    places = torch.full((classes,), others)
    places[[score.label for score in shown]] = torch.arange(others)
    names = [score.name for score in shown]
    if classes > others:
        names.append(f"other {classes - others:,} classes")
    counts = confusion_matrix(
        places[evaluation.labels].numpy(),
        places[evaluation.predicted].numpy(),
        labels=range(len(names)),
    ).tolist()
    rows = []
    for true, (name, line) in enumerate(zip(names, counts, strict=True)):
        whole = sum(line) or 1
        kinds = ["wrong"] * len(line)
        kinds[true] = "mixed" if true == others else "right"
        cells = [
            Cell(count, round(100 * math.sqrt(count / whole)), kind)
            for count, kind in zip(line, kinds, strict=True)
        ]
        rows.append((name, cells))
    return rows
