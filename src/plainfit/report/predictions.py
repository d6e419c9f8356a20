"""The sections of a page about predictions: scores, confusion matrix, errors, single samples."""

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
from plainfit.data.targets import MULTI_LABEL, REGRESSION, SEGMENTATION
from plainfit.report.charts import Axis, Chart, Series, draw_chart, number_text
from plainfit.report.rendering import share, value_text
from plainfit.training.metrics import mae, r2, rmse, subset_accuracy
from plainfit.training.validation import validate

MAX_CLASSES = 30  # in the tables of a page; of more, those with the lowest F1
MAX_SAMPLES, MAX_COLUMNS = 12, 8
MAX_POINTS, MAX_TARGETS = 1000, 4  # of a chart; of the charts and of a sample
LARGEST_SIDE, SMALL_SIDE = 192, 64  # pixels: twice what the page shows; up to where each is seen


class Section(NamedTuple):
    """A heading, a text, and what is below it; pictures take the place of the table."""

    title: str
    text: str
    table: dict[str, Any]
    charts: Sequence[Chart] = ()
    pictures: Sequence[dict[str, Any]] = ()


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
    hits, predicted, present = hits.double(), predicted.double(), present.double()
    either = predicted + present
    shares = (hits / predicted, hits / present, 2 * hits / either, hits / (either - hits))
    numbers = [*(share.tolist() for share in shares), present.long().tolist()]
    rows = zip(*numbers, classes, range(len(classes)), strict=True)
    return [ClassScore(*row) for row in rows]


def worst_classes(scores: list[ClassScore]) -> list[ClassScore]:
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
    image = Image.fromarray(pixels.numpy())
    is_small = max(image.size) <= SMALL_SIDE
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    return data_uri(image), is_small


def data_uri(image: Image.Image) -> str:
    png = BytesIO()
    image.save(png, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()


def predict(
    model: nn.Module, data: DataSplits, batch_size: int, loss_func: Callable[..., Tensor]
) -> dict[str, Any]:
    if data.task not in (REGRESSION, MULTI_LABEL):
        return of_classes(model, data, batch_size, loss_func)
    of_task = of_numbers if data.task == REGRESSION else of_labels
    return {"sections": of_task(outputs_of(model, data, batch_size, loss_func), data)}


def again(outputs: Outputs) -> str:
    return (
        f"Of the {outputs.part}, predicted again for this page with the weights at the end of the "
        f"run: loss {value_text('loss', outputs.loss)}"
    )


def of_numbers(outputs: Outputs, data: DataSplits) -> list[Section]:
    target = data.target
    true, predicted = target.restored(outputs.labels), target.restored(outputs.out)
    rows, heads, charts = [], [], []
    formats = [format_for(scaling.std) for scaling in target.scaling]
    for place, (name, scaling) in enumerate(zip(target.names, target.scaling, strict=True)):
        out, y = (of[:, place : place + 1].double() for of in (outputs.out, outputs.labels))
        values = mae(out, y, scaling.std), rmse(out, y, scaling.std), r2(out, y)
        rows.append([name, *(number_text(float(value)) for value in values)])
        if place < MAX_TARGETS:
            of = f"{name}, " if len(target.names) > 1 else ""
            heads += [f"{of}{what}" for what in ("true", "predicted", "residual")]
            charts += number_charts(name, true[:, place], predicted[:, place])

    def cells(row: int) -> list[str]:
        pairs = zip(formats, true[row].tolist(), predicted[row].tolist(), strict=True)
        texts = [text(x) for text, y, out in pairs for x in (y, out, y - out)]
        return texts[: len(heads)]

    shown = f"; charts of the first {MAX_TARGETS} targets" * (len(target.names) > MAX_TARGETS)
    table = {"head": ["target", "MAE", "RMSE", "R²"], "rows": rows}
    about = f"{again(outputs)}. MAE and RMSE are in the units of the target{shown}."
    return [Section("Errors", about, table, charts), highest_loss(outputs, data, heads, cells)]


def format_for(std: float) -> Callable[[float], str]:
    """Return what writes numbers of a standard deviation, to three digits of it.

    >>> format_for(25.3)(1234.567), format_for(6000.0)(123456.7), format_for(1e-9)(0.5e-9)
    ('1,234.6', '123,457', '5e-10')
    """
    digits = max(0, 2 - math.floor(math.log10(std)))
    return lambda value: f"{value:,.{digits}f}" if digits < 8 else f"{value:.4g}"


def number_charts(name: str, true: Tensor, predicted: Tensor) -> list[Chart]:
    finite = predicted.isfinite().nonzero().squeeze(1)
    rows = finite[:: -(-len(finite) // MAX_POINTS) or 1]
    ys, outs = true[rows].double(), predicted[rows].double()
    texts = [
        f"row {row}: true {number_text(y)}, predicted {number_text(out)}"
        for row, y, out in zip(rows.tolist(), ys.tolist(), outs.tolist(), strict=True)
    ]
    note = f"{len(rows):,} of {len(true):,} samples" if len(rows) < len(true) else ""
    drawn = []
    for title, x_label, line, xs, points, ends in [
        ("predicted by true", "true", "predicted = true", ys, outs, lambda x: x),
        ("residuals (true - predicted)", "predicted", "0", outs, ys - outs, lambda x: 0.0),
    ]:
        series = [Series("samples", xs.tolist(), points.tolist(), 0, texts)]
        if len(xs):
            span = [float(xs.min()), float(xs.max())]
            series.insert(0, Series(line, span, [*map(ends, span)], 1, has_marks=False))
        about = f"{name}: {title}"
        summary = f"{about}, {len(rows)} samples"
        drawn.append(draw_chart(about, Axis(x_label), series, note=note, summary=summary))
    return [chart for chart in drawn if chart]


def of_labels(outputs: Outputs, data: DataSplits) -> list[Section]:
    names, there, said = data.classes, outputs.labels > 0, outputs.out > 0
    probabilities = outputs.out.sigmoid()
    scores = class_scores((there & said).sum(0), said.sum(0), there.sum(0), names)
    shown = worst_classes(scores)
    mean = torch.tensor([score[:3] for score in scores]).nanmean(0).tolist()
    rows = [[score.name, *map(share, score[:3]), f"{score.support:,}"] for score in shown]
    rows.append(["mean of all", *map(share, mean), f"{int(there.sum()):,}"])
    least = f", of the {len(shown)} labels of {len(names):,} with the lowest F1"
    text = (
        f"{again(outputs)}, subset accuracy {subset_accuracy(outputs.out, outputs.labels):.4f}. A "
        "label is predicted where its probability is over 0.5. Scores of each label"
        f"{least * (len(shown) < len(names))}:"
    )
    table = {"head": ["label", "precision", "recall", "F1", "support"], "rows": rows}

    def cells(row: int) -> list[str]:
        likely = [
            f"{name} {share(probability)}"
            for name, probability in zip(names, probabilities[row].tolist(), strict=True)
            if probability > 0.5
        ]
        true = data.target.text(there[row]).replace("|", ", ")
        return [true or "none", ", ".join(likely) or "none", f"{outputs.losses[row]:.3f}"]

    heads = ["true", "predicted", "loss"]
    return [Section("Labels", text, table), highest_loss(outputs, data, heads, cells)]


def highest_loss(
    outputs: Outputs, data: DataSplits, heads: Sequence[str], cells: Callable[[int], list[str]]
) -> Section:
    rows, pictures = [], []
    for row in outputs.hardest():
        x = outputs.dataset[row][0]
        picture, is_small = thumbnail(x, outputs.dataset)
        texts = cells(row)
        rows.append([str(row), *texts, *features_of(x, data)])
        if picture:
            pairs = list(zip(heads, texts, strict=True))
            pictures.append({"row": row, "src": picture, "is_small": is_small, "pairs": pairs})
    columns = column_names(data)
    text = f"The samples of the {outputs.part} with the highest loss, the highest first"
    seen = ", with the first values that the model sees of each" if columns else ""
    table = {"head": ["row", *heads, *columns], "rows": rows}
    return Section("Highest loss", f"{text}{seen}.", table, pictures=pictures)
