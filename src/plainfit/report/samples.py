"""Single samples for a page: a picture or some values, the true class and the predicted one."""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from plainfit.data.loaders import ImageDataset
from plainfit.data.ondisk import LazyImages
from plainfit.data.splits import DataSplits
from plainfit.report.evaluation import Evaluation

MOST_WRONG, SOME, MOST_COLUMNS = 12, 12, 8
LARGEST_SIDE, SMALL_SIDE = 192, 64  # pixels: twice what the page shows; up to where each is seen


@dataclass(frozen=True)
class Thumbnail:
    """An image in the page."""

    uri: str
    is_small: bool
    """Whether its pixels are to be shown as squares."""


@dataclass(frozen=True)
class Sample:
    """A sample and what the model says of it."""

    row: int
    true: str
    predicted: str
    is_right: bool
    confidence: float
    """The probability of the predicted class."""
    true_probability: float
    loss: float
    picture: Thumbnail | None
    values: list[float]
    """The first features, where there is no picture."""


def most_wrong(evaluation: Evaluation) -> list[int]:
    """Return the rows with the highest loss, the highest first."""
    count = min(MOST_WRONG, len(evaluation.losses))
    rows: list[int] = evaluation.losses.argsort(descending=True, stable=True)[:count].tolist()
    return rows


def evenly_spaced(evaluation: Evaluation) -> list[int]:
    """Return some rows from the first to the last."""
    n = len(evaluation.losses)
    count = min(SOME, n)
    return [i * (n - 1) // max(1, count - 1) for i in range(count)]


def describe_samples(evaluation: Evaluation, data: DataSplits, rows: Sequence[int]) -> list[Sample]:
    """Return what a page shows of these rows."""
    dataset = data.parts()[evaluation.part]
    samples = []
    for row in rows:
        true, predicted = int(evaluation.labels[row]), int(evaluation.predicted[row])
        loss, x = max(0.0, float(evaluation.losses[row])), dataset[row][0]  # never -0.0
        picture = draw_picture(x, dataset)
        values = [] if picture or x.dim() != 1 else x[:MOST_COLUMNS].tolist()
        samples.append(
            Sample(
                row, data.classes[true], data.classes[predicted], true == predicted,
                float(evaluation.confidence[row]), math.exp(-loss), loss, picture, values,
            )
        )  # fmt: skip
    return samples


def column_names(data: DataSplits) -> list[str]:
    """Return the names of the features that `values` has; none for samples of another form."""
    if len(data.input_shape) != 1:
        return []
    shown = range(min(MOST_COLUMNS, data.input_shape[0]))
    return [data.features[i] if data.features else f"feature {i}" for i in shown]


def draw_picture(x: Tensor, dataset: Dataset[Any]) -> Thumbnail | None:
    """Return an image as PNG within the page; None if the sample is no image."""
    if x.dim() != 3 or x.shape[0] not in (1, 3):
        return None
    if isinstance(dataset, ImageDataset | LazyImages):
        x = x * 256
    else:  # floats of any range: from the darkest to the lightest of this sample
        low, high = x.min(), x.max()
        x = (x - low) / (high - low).clamp_min(1e-30) * 255
    pixels = x.clamp(0, 255).to(torch.uint8).permute(1, 2, 0).squeeze(-1)
    image, png = Image.fromarray(pixels.numpy()), BytesIO()
    is_small = max(image.size) <= SMALL_SIDE
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    image.save(png, format="PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
    return Thumbnail(uri, is_small)
