"""The predictions of a trained model: scores of each class, confusion matrix, single samples."""

import base64
import math
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from plainfit.data.datasets import ImageDataset
from plainfit.data.loaders import make_loader
from plainfit.data.ondisk import LazyImages
from plainfit.data.segmentation import overlaid
from plainfit.data.splits import DataSplits
from plainfit.data.tables.text import readable_text
from plainfit.data.targets import SEGMENTATION
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
    whole: list[Tensor] = []

    def keep(out: Tensor, yb: Tensor) -> float:
        whole.extend([out.cpu(), yb.cpu()])
        return 0.0

    scored = score(model, data, batch_size, loss_func, keep)
    out, labels = whole
    losses = loss_func(out, labels, reduction="none").view(len(labels), -1).mean(1)
    return Outputs(*scored, out, labels, losses)


def score(
    model: nn.Module, data: DataSplits, batch_size: int, loss_func: Any, metric: Any
) -> tuple[str, Dataset[Any], float]:
    """Return which part is scored, its samples, and the loss."""
    part, dataset = ("validation set", data.valid) if data.test is None else ("test set", data.test)
    loader = make_loader(dataset, batch_size * 2, False)  # the batches of the run's own test
    return part, dataset, validate(model, loss_func, loader, metrics=[metric])["loss"]


class Counts:
    """A metric that counts labels by their class and the predicted one, batch by batch.

    It keeps what is predicted of the samples with the highest loss and of some others:
    probabilities, shape (classes,), or the class of each pixel.
    """

    def __init__(self, loss_func: Callable[..., Tensor], classes: int, some: Sequence[int]) -> None:
        self.loss_func, self.classes, self.some = loss_func, classes, {*some}

    def reset(self) -> None:
        self.seen = 0
        self.samples: dict[int, tuple[float, Tensor]] = {}  # loss and prediction, by row
        self.hardest: list[int] = []
        self.pairs: list[tuple[Tensor, Tensor]] = []  # classes * label + prediction, how often

    def update(self, out: Any, yb: Any) -> None:
        out, yb = out.cpu(), yb.cpu()
        guess, known = out.argmax(1), yb >= 0
        pairs = self.classes * yb[known] + guess[known]
        self.pairs.append(pairs.unique(return_counts=True))
        losses = self.loss_func(out, yb, reduction="none").view(len(yb), -1).mean(1).tolist()
        kept = guess.byte() if yb.dim() > 1 else out.softmax(1)
        rows = range(self.seen, self.seen + len(yb))
        found = self.samples | dict(zip(rows, zip(losses, kept, strict=True), strict=True))
        ranks = [(-math.inf if math.isnan(of[0]) else -of[0], row) for row, of in found.items()]
        self.hardest = [row for _, row in sorted(ranks)[:MAX_SAMPLES]]
        chosen = {*self.hardest} | self.some & found.keys()
        self.samples = {row: (found[row][0], found[row][1].clone()) for row in chosen}
        self.seen += len(yb)

    def compute(self) -> float:
        return 0.0


def of_classes(
    model: nn.Module, data: DataSplits, batch_size: int, loss_func: Callable[..., Tensor]
) -> dict[str, Any]:
    """Return what the page shows of a classification or a segmentation."""
    n, classes = [*data.counts().values()][-1], len(data.classes)
    most = min(MAX_SAMPLES, n)
    some = [i * (n - 1) // max(1, most - 1) for i in range(most)]
    counts = Counts(loss_func, classes, some)
    part, dataset, loss = score(model, data, batch_size, loss_func, counts)
    pairs, times = map(torch.cat, zip(*counts.pairs, strict=True))
    true, said = pairs // classes, pairs % classes
    hits = torch.where(true == said, times, 0)
    found, guessed, present = (
        of.bincount(weights, classes)
        for of, weights in ((true, hits), (said, times), (true, times))
    )
    scores = class_scores(found, guessed, present, data.classes)
    shown = worst_classes(scores)

    def describe(row: int) -> dict[str, Any]:
        (x, y), (loss, predicted) = dataset[row], counts.samples[row]
        if data.task == SEGMENTATION:
            masks = [overlaid(x, of_pixels) for of_pixels in (y, predicted.long())]
            picture, is_small = thumbnail(torch.cat([x.expand(3, -1, -1), *masks], 2), dataset)
            described = {"picture": picture, "is_small": is_small, "loss": loss}
            right = (predicted == y)[y >= 0]
            return described | {"row": row, "right": float(right.double().mean())}
        label, guess = int(y), int(predicted.argmax())
        picture, is_small = thumbnail(x, dataset)
        return {
            "row": row,
            "true": data.classes[label],
            "predicted": data.classes[guess],
            "is_right": label == guess,
            "confidence": float(predicted[guess]),
            "true_probability": float(predicted[label]),
            "loss": max(0.0, loss),  # never -0.0
            "picture": picture,
            "is_small": is_small,
            "features": [] if picture else features_of(x, data),
        }

    return {
        "part": part,
        "loss": loss,
        "accuracy": float(hits.sum() / times.sum()),
        "scores": shown,
        "mean": np.nanmean([score[:4] for score in scores], axis=0).tolist(),
        "samples": int(times.sum()),
        "are_pixels": data.task == SEGMENTATION,
        "classes": len(scores),
        "confusion": confusion_rows(true, said, times, shown, classes),
        "columns": column_names(data),
        "wrong": [*map(describe, counts.hardest)],
        "some": [*map(describe, some)],
    }


def class_scores(
    hits: Tensor, predicted: Tensor, present: Tensor, classes: Sequence[str]
) -> list[ClassScore]:
    """Return the scores of classes or labels by their counts, each of shape (classes,)."""
    hits, predicted, present = hits.double(), predicted.double(), present.double()
    either = predicted + present
    shares = (hits / predicted, hits / present, 2 * hits / either, hits / (either - hits))
    numbers = [*(share.tolist() for share in shares), present.long().tolist()]
    rows = zip(*numbers, classes, range(len(classes)), strict=True)
    return [ClassScore(*row) for row in rows]


def worst_classes(scores: list[ClassScore]) -> list[ClassScore]:
    """Return all classes in order, or the worst if they are too many for a page."""
    if len(scores) <= MAX_CLASSES:
        return scores
    # Classes without samples and predictions come last; among equals, the largest comes first.
    worst = sorted(scores, key=lambda score: (math.isnan(score.f1), score.f1, -score.support))
    return worst[:MAX_CLASSES]


def confusion_rows(
    true: Tensor, predicted: Tensor, times: Tensor, shown: Sequence[ClassScore], classes: int
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
    counts = torch.zeros(len(names), len(names), dtype=torch.int64)
    counts.index_put_((places[true], places[predicted]), times, accumulate=True)
    return list(zip(names, counts.tolist(), strict=True))


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
    image, png = Image.fromarray(pixels.numpy()), BytesIO()
    is_small = max(image.size) <= SMALL_SIDE
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    image.save(png, format="PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
    return uri, is_small
