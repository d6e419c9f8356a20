"""The predictions of a trained model: scores of each class, confusion matrix, single samples."""

import base64
import math
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from torch import Tensor, nn
from torch.utils.data import Dataset

from plainfit.data.datasets import ImageDataset
from plainfit.data.loaders import make_loader
from plainfit.data.ondisk import LazyImages
from plainfit.data.segmentation import overlaid
from plainfit.data.splits import DataSplits
from plainfit.data.tables.text import readable_text
from plainfit.data.targets import SEGMENTATION
from plainfit.training.metrics import accuracy
from plainfit.training.validation import validate

MAX_CLASSES = 30  # in the tables of a page; of more, those with the lowest F1
MAX_SAMPLES, MAX_COLUMNS = 12, 8
LARGEST_SIDE, SMALL_SIDE = 192, 64  # pixels: twice what the page shows; up to where each is seen


class ClassScore(NamedTuple):
    """How well a class is told from the others; NaN stands for 0 of 0."""

    precision: float
    recall: float
    f1: float
    iou: float
    support: int
    name: str
    label: int


class Outputs(NamedTuple):
    """What a model gives for the test set, or else for the validation set."""

    part: str
    dataset: Dataset[Any]
    loss: float
    out: Tensor
    labels: Tensor
    losses: Tensor
    """Of each sample."""

    def hardest(self) -> list[int]:
        return self.losses.argsort(descending=True, stable=True)[:MAX_SAMPLES].tolist()


def outputs_of(
    model: nn.Module, data: DataSplits, batch_size: int, loss_func: Callable[..., Tensor]
) -> Outputs:
    """Predict with the loss of the training, which takes `reduction="none"` for each sample's."""
    part, dataset = ("validation set", data.valid) if data.test is None else ("test set", data.test)
    whole: list[Tensor] = []

    def keep(out: Tensor, yb: Tensor) -> float:
        whole.extend([out.cpu(), yb.cpu()])
        return 0.0

    loader = make_loader(dataset, batch_size * 2, False)  # the batches of the run's own test
    loss = validate(model, loss_func, loader, metrics=[keep])["loss"]
    out, labels = whole
    losses = loss_func(out, labels, reduction="none").view(len(labels), -1).mean(1)
    return Outputs(part, dataset, loss, out, labels, losses)


def of_classes(outputs: Outputs, data: DataSplits) -> dict[str, Any]:
    """Return what the page shows of a classification or a segmentation."""
    part, dataset, loss, out, labels, losses = outputs
    probabilities = out.softmax(dim=1)
    confidence, predicted = probabilities.max(dim=1)
    n = len(labels)
    known = labels >= 0
    pairs = (labels[known], predicted[known])
    scores = class_scores(*pairs, data.classes)
    shown = worst_classes(scores)

    def describe(row: int) -> dict[str, Any]:
        if data.task == SEGMENTATION:
            x, y = dataset[row]
            masks = [overlaid(x, classes) for classes in (y, predicted[row])]
            picture, is_small = thumbnail(torch.cat([x.expand(3, -1, -1), *masks], 2), dataset)
            described = {"picture": picture, "is_small": is_small, "loss": float(losses[row])}
            right = (predicted[row] == y)[y >= 0]
            return described | {"row": row, "right": float(right.double().mean())}
        true, guess = int(labels[row]), int(predicted[row])
        x = dataset[row][0]
        picture, is_small = thumbnail(x, dataset)
        return {
            "row": row,
            "true": data.classes[true],
            "predicted": data.classes[guess],
            "is_right": true == guess,
            "confidence": float(confidence[row]),
            "true_probability": float(probabilities[row, true]),
            "loss": max(0.0, float(losses[row])),  # never -0.0
            "picture": picture,
            "is_small": is_small,
            "features": [] if picture else features_of(x, data),
        }

    most = min(MAX_SAMPLES, n)
    return {
        "part": part,
        "loss": loss,
        "accuracy": float(accuracy(out, labels)),
        "scores": shown,
        "mean": np.nanmean([score[:4] for score in scores], axis=0).tolist(),
        "samples": len(pairs[0]),
        "are_pixels": data.task == SEGMENTATION,
        "classes": len(scores),
        "confusion": confusion_rows(*pairs, shown, len(scores)),
        "columns": column_names(data),
        "wrong": [describe(row) for row in outputs.hardest()],
        "some": [describe(i * (n - 1) // max(1, most - 1)) for i in range(most)],
    }


def class_scores(labels: Tensor, predicted: Tensor, classes: Sequence[str]) -> list[ClassScore]:
    places = range(len(classes))
    columns = precision_recall_fscore_support(
        labels.numpy(), predicted.numpy(), labels=places, zero_division=np.nan
    )
    precision, recall, f1, support = columns
    of_classes = (precision, recall, f1, f1 / (2 - f1), support)  # by their counts, that is IoU
    table = zip(*(column.tolist() for column in of_classes), classes, places, strict=True)
    return [ClassScore(*row) for row in table]


def worst_classes(scores: list[ClassScore]) -> list[ClassScore]:
    """Return all classes in order, or the worst if they are too many for a page."""
    if len(scores) <= MAX_CLASSES:
        return scores
    # Classes without samples and predictions come last; among equals, the largest comes first.
    worst = sorted(scores, key=lambda score: (math.isnan(score.f1), score.f1, -score.support))
    return worst[:MAX_CLASSES]


def confusion_rows(
    labels: Tensor, predicted: Tensor, shown: Sequence[ClassScore], classes: int
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
        places[labels].numpy(), places[predicted].numpy(), labels=range(len(names))
    ).tolist()
    return list(zip(names, counts, strict=True))


def column_names(data: DataSplits) -> list[str]:
    if len(data.input_shape) != 1:
        return []
    if data.vocabulary is not None:
        return list(data.columns)
    shown = range(min(MAX_COLUMNS, data.input_shape[0]))
    return [data.features[i] if data.features else f"feature {i}" for i in shown]


def features_of(x: Tensor, data: DataSplits) -> list[str]:
    """Return what a table shows of a sample: its first values, or the words of a text."""
    if data.vocabulary is None:
        return [f"{value:.4g}" for value in x[:MAX_COLUMNS].tolist()] if x.dim() == 1 else []
    (made,) = data.columns.values()
    return [readable_text(x.tolist(), made)]


def thumbnail(x: Tensor, dataset: Dataset[Any]) -> tuple[str, bool]:
    """Return a PNG as a data URI, empty without an image; and whether to show pixels as squares."""
    if x.dim() != 3 or x.shape[0] not in (1, 3):
        return "", False
    if isinstance(dataset, ImageDataset | LazyImages):
        x = x * 256
    else:  # floats in any range: scale from the darkest to the lightest of this sample
        low, high = x.min(), x.max()
        x = (x - low) / (high - low).clamp_min(1e-30) * 255
    pixels = x.clamp(0, 255).to(torch.uint8).permute(1, 2, 0).squeeze(-1)
    image = Image.fromarray(pixels.numpy())
    is_small = max(image.size) <= SMALL_SIDE
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    return data_uri(image), is_small


def data_uri(image: Image.Image) -> str:
    png = BytesIO()
    image.save(png, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
