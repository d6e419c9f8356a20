"""A picture of a data set: some samples of each class, or the spread of a table's columns."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from plainfit.common.errors import DataError
from plainfit.common.plots import Picture, histograms, sample_sheet
from plainfit.common.seeding import stream
from plainfit.data.augment import Pipeline
from plainfit.data.lazy import LazyImages
from plainfit.data.loaders import ImageDataset
from plainfit.data.splits import DataSplits, check_images, labels_of

MOST_CLASSES, EACH, MOST_COLUMNS = 10, 4, 12  # what fits on one screen
AUGMENTED = 5  # times that a sample is drawn as augmented


def draw_samples(data: DataSplits, path: Path) -> None:
    """Draw training samples into a picture file: the first few of each class, a column a class.

    Raises:
        DataError: if the file cannot be written.
    """
    train, labels = data.train, labels_of(data.train)
    if isinstance(train, ImageDataset | LazyImages) and data.input_shape[0] in (1, 3):
        shown = range(min(MOST_CLASSES, len(data.classes)))
        rows = [(labels == label).nonzero().flatten()[:EACH].tolist() for label in shown]
        picks = [
            (of_class[line], data.classes[label])
            for line in range(EACH)
            for label, of_class in zip(shown, rows, strict=True)
            if line < len(of_class)
        ]
        images = [train[row][0].permute(1, 2, 0).squeeze(-1).numpy() for row, _ in picks]
        figure = sample_sheet(images, [name for _, name in picks], columns=len(shown))
    else:
        xb = torch.stack([train[row][0].flatten() for row in range(min(1000, len(labels)))])
        names = data.features or [f"feature {i}" for i in range(xb.shape[1])]
        shown_names = list(names)[:MOST_COLUMNS]
        figure = histograms({name: xb[:, i].tolist() for i, name in enumerate(shown_names)})
    save(figure, path)


def draw_augmented(data: DataSplits, augment: str, seed: int, path: Path) -> None:
    """Draw a training sample of each class, and below it what augmentation makes of it.

    Args:
        data: images.
        augment: by name.
        seed: of the random numbers.
        path: of the picture.

    Raises:
        ConfigError: if the data are no images, or there is no such augmentation.
        DataError: if the file cannot be written.
    """
    check_images(data)
    pipeline, labels = Pipeline(augment, len(data.classes)), labels_of(data.train)
    firsts = [(labels == label).nonzero().flatten()[:1] for label in range(len(data.classes))]
    rows = torch.cat(firsts)[:MOST_CLASSES].tolist()
    xb, yb = torch.stack([data.train[row][0] for row in rows]), labels[rows]
    sheets = [(xb, yb)]
    sheets += [pipeline(xb, yb, stream(seed, "augment", 0, step)) for step in range(AUGMENTED)]
    images = [shown(x) for xb, _ in sheets for x in xb]
    names = [label_text(y, data.classes) for _, yb in sheets for y in yb]
    save(sample_sheet(images, names, columns=len(rows)), path)


def shown(x: torch.Tensor) -> Any:
    """Return an image as it is drawn: in colours, or the first channel in gray."""
    x = x.clamp(0, 1) if x.shape[0] == 3 else x[0].clamp(0, 1)
    return (x.permute(1, 2, 0) if x.dim() == 3 else x).numpy()


def label_text(y: torch.Tensor, classes: Sequence[str]) -> str:
    """Return the name of a label, or the likeliest two of mixed ones with their shares."""
    if y.dim() == 0:
        return classes[int(y)]
    top = y.topk(min(2, len(y)))
    pairs = zip(top.values.tolist(), top.indices.tolist(), strict=True)
    return ", ".join(f"{classes[label]} {share:.0%}" for share, label in pairs if share > 0.005)


def save(figure: Picture, path: Path) -> None:
    """Write a picture.

    Raises:
        DataError: if the file cannot be written.
    """
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:  # ValueError: a suffix that is no picture format
        raise DataError(
            f"the picture {path} must be writable as PNG, PDF or SVG ({error})"
        ) from error
