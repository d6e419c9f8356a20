"""The sections of a page about predictions, by task."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from plainfit.data.splits import DataSplits
from plainfit.data.targets import MULTI_LABEL, REGRESSION
from plainfit.report.charts import Axis, Chart, Series, draw_chart, number_text
from plainfit.report.predictions import (
    Outputs,
    class_scores,
    column_names,
    features_of,
    of_classes,
    outputs_of,
    thumbnail,
    worst_classes,
)
from plainfit.report.rendering import share, value_text
from plainfit.training.metrics import mae, r2, rmse, subset_accuracy

MAX_POINTS, MAX_TARGETS = 1000, 4  # of a chart; of the charts and of a sample


class Section(NamedTuple):
    """A heading, a text, and what is below it; pictures take the place of the table."""

    title: str
    text: str
    table: dict[str, Any]
    charts: Sequence[Chart] = ()
    pictures: Sequence[dict[str, Any]] = ()


def predict(
    model: nn.Module, data: DataSplits, batch_size: int, loss_func: Callable[..., Tensor]
) -> dict[str, Any]:
    """Return what the page shows of predictions for the test set, or else the validation set."""
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
    """Return errors of each target, its charts, and the samples with the highest loss."""
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
    """Return the scores of each label, and the samples with the highest loss."""
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
