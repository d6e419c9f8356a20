"""The predictions of a trained model: scores of each class, confusion matrix, single samples."""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from torch import Tensor, nn
from torch.utils.data import Dataset

from plainfit.data.loaders import ImageDataset, make_loader
from plainfit.data.ondisk import LazyImages
from plainfit.data.splits import DataSplits
from plainfit.training.loop import validate
from plainfit.training.metrics import accuracy

MAX_CLASSES = 30  # in the tables of a page; of more, those with the lowest F1
MAX_SAMPLES, MAX_COLUMNS = 12, 8
LARGEST_SIDE, SMALL_SIDE = 192, 64  # pixels: twice what the page shows; up to where each is seen


@dataclass(frozen=True)
class Evaluation:
    """The predictions for a part of the data, a value for each sample."""

    part: str
    labels: Tensor
    predicted: Tensor
    confidence: Tensor
    """The probability of the predicted class."""
    losses: Tensor
    metrics: dict[str, float]
    """Loss and accuracy over the whole part."""


class ClassScore(NamedTuple):
    """How well a class is told from the others; NaN stands for 0 of 0."""

    precision: float
    recall: float
    f1: float
    support: int
    name: str
    label: int


@dataclass(frozen=True)
class Sample:
    """A sample and its prediction."""

    row: int
    true: str
    predicted: str
    is_right: bool
    confidence: float
    """The probability of the predicted class."""
    true_probability: float
    loss: float
    picture: str
    """A PNG as a data URI; empty if the sample is not an image."""
    is_small: bool
    """Whether to show the pixels of the picture as squares."""
    values: list[float]
    """The first features, if there is no picture."""


@dataclass(frozen=True)
class Predictions:
    """The sections of a page about predictions."""

    part: str
    metrics: dict[str, float]
    scores: list[ClassScore]
    mean: list[float]
    """Precision, recall and F1, each the mean over all classes."""
    samples: int
    classes: int
    """The number of all classes, of which `scores` may be the worst."""
    confusion: list[tuple[str, list[int]]]
    columns: list[str]
    wrong: list[Sample]
    some: list[Sample]


class Outcomes:
    """A metric that keeps prediction and loss of each sample, without the scores of all classes."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.rows: list[tuple[Tensor, ...]] = []

    def update(self, out: Tensor, yb: Tensor) -> None:
        """Add a batch: scores of shape (batch, classes), labels of shape (batch,)."""
        confidence, predicted = out.softmax(dim=1).max(dim=1)
        losses = F.cross_entropy(out, yb, reduction="none")
        self.rows.append(tuple(t.cpu() for t in (yb, predicted, confidence, losses)))

    def compute(self) -> dict[str, float]:
        return {}


def predict(model: nn.Module, data: DataSplits, batch_size: int) -> Predictions:
    """Predict the test set, or the validation set if there is no test set."""
    evaluation = evaluate(model, data, batch_size)
    scores = class_scores(evaluation, data.classes)
    shown = classes_shown(scores)
    n = len(evaluation.losses)
    shown_samples = min(MAX_SAMPLES, n)
    hardest = evaluation.losses.argsort(descending=True, stable=True)[:shown_samples].tolist()
    spaced = [i * (n - 1) // max(1, shown_samples - 1) for i in range(shown_samples)]
    return Predictions(
        part={"valid": "validation set", "test": "test set"}[evaluation.part],
        metrics=evaluation.metrics,
        scores=shown,
        mean=np.nanmean([score[:3] for score in scores], axis=0).tolist(),
        samples=n,
        classes=len(scores),
        confusion=confusion_rows(evaluation, shown, len(scores)),
        columns=column_names(data),
        wrong=describe_samples(evaluation, data, hardest),
        some=describe_samples(evaluation, data, spaced),
    )


def evaluate(model: nn.Module, data: DataSplits, batch_size: int) -> Evaluation:
    part, dataset = ("valid", data.valid) if data.test is None else ("test", data.test)
    outcomes = Outcomes()
    loader = make_loader(dataset, batch_size * 2, False)  # the batches of the run's own test
    metrics: list[Any] = [accuracy, outcomes]
    values = validate(model, F.cross_entropy, loader, metrics=metrics)
    labels, predicted, confidence, losses = map(torch.cat, zip(*outcomes.rows, strict=True))
    return Evaluation(part, labels, predicted, confidence, losses, values)


def class_scores(evaluation: Evaluation, classes: Sequence[str]) -> list[ClassScore]:
    columns = precision_recall_fscore_support(
        evaluation.labels.numpy(),
        evaluation.predicted.numpy(),
        labels=range(len(classes)),
        zero_division=np.nan,
    )
    table = zip(*(column.tolist() for column in columns), classes, count(), strict=False)
    return [ClassScore(*row) for row in table]


def classes_shown(scores: Sequence[ClassScore]) -> list[ClassScore]:
    """Return all classes in order, or the worst if they are too many for a page."""
    if len(scores) <= MAX_CLASSES:
        return list(scores)
    # Classes without samples and predictions come last; among equals, the largest comes first.
    worst = sorted(scores, key=lambda score: (math.isnan(score.f1), score.f1, -score.support))
    return worst[:MAX_CLASSES]


def confusion_rows(
    evaluation: Evaluation, shown: Sequence[ClassScore], classes: int
) -> list[tuple[str, list[int]]]:
    """Return a row for each true class: its name, and a count for each predicted class.

    If not all classes are shown, the last row and the last column hold all others.
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
    return list(zip(names, counts, strict=True))


def describe_samples(evaluation: Evaluation, data: DataSplits, rows: Sequence[int]) -> list[Sample]:
    dataset = data.parts()[evaluation.part]
    samples = []
    for row in rows:
        true, predicted = int(evaluation.labels[row]), int(evaluation.predicted[row])
        loss, x = max(0.0, float(evaluation.losses[row])), dataset[row][0]  # never -0.0
        picture, is_small = thumbnail(x, dataset)
        values = [] if picture or x.dim() != 1 else x[:MAX_COLUMNS].tolist()
        samples.append(
            Sample(
                row, data.classes[true], data.classes[predicted], true == predicted,
                float(evaluation.confidence[row]), math.exp(-loss), loss, picture, is_small, values,
            )
        )  # fmt: skip
    return samples


def column_names(data: DataSplits) -> list[str]:
    """Return the names of the features in `Sample.values`."""
    if len(data.input_shape) != 1:
        return []
    shown = range(min(MAX_COLUMNS, data.input_shape[0]))
    return [data.features[i] if data.features else f"feature {i}" for i in shown]


def thumbnail(x: Tensor, dataset: Dataset[Any]) -> tuple[str, bool]:
    """Return `Sample.picture` and `Sample.is_small`."""
    if x.dim() != 3 or x.shape[0] not in (1, 3):
        return "", False
    if isinstance(dataset, ImageDataset | LazyImages):
        x = x * 256
    else:  # floats in any range: scale from the darkest to the lightest of this sample
        low, high = x.min(), x.max()
        x = (x - low) / (high - low).clamp_min(1e-30) * 255
    pixels = x.clamp(0, 255).to(torch.uint8).permute(1, 2, 0).squeeze(-1)
    image, png = Image.fromarray(pixels.numpy()), BytesIO()
    is_small = max(image.size) <= SMALL_SIDE
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    image.save(png, format="PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
    return uri, is_small
