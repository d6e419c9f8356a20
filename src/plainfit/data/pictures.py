"""Pictures of a dataset: a sheet of samples, histograms of columns, or a folder of files."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image

from plainfit.common.errors import DataError, unknown_name
from plainfit.common.files import writing
from plainfit.common.plots import histograms, sample_sheet, write_picture
from plainfit.common.progress import with_bar
from plainfit.common.seeding import stream
from plainfit.data.augment import Pipeline, masked_steps
from plainfit.data.segmentation import overlaid
from plainfit.data.splits import OF_IMAGE_FILES, DataSplits, check_images, labels_of
from plainfit.data.targets import CLASSIFICATION, SEGMENTATION, Target

MOST_CLASSES, SAMPLES_PER_CLASS, MOST_COLUMNS = 10, 4, 12  # what fits on one screen
VARIANTS = 5  # augmented versions of each sample


def draw_samples(data: DataSplits, path: Path) -> None:
    """Draw the first training samples of each class, one column per class, into a picture file."""
    train, labels = data.train, labels_of(data.train)
    if data.preprocessing in OF_IMAGE_FILES and data.task != CLASSIFICATION:
        pairs = [train[row] for row in range(min(MOST_CLASSES * SAMPLES_PER_CLASS, len(labels)))]
        names = [data.target.text(y) for _, y in pairs]
        figure = sample_sheet([drawn(*pair) for pair in pairs], names, columns=MOST_CLASSES)
    elif data.preprocessing in OF_IMAGE_FILES:
        shown = range(min(MOST_CLASSES, len(data.classes)))
        rows = [
            (labels == label).nonzero().flatten()[:SAMPLES_PER_CLASS].tolist() for label in shown
        ]
        picks = [
            (row, data.classes[label])
            for line in zip_longest(*rows)
            for label, row in zip(shown, line, strict=True)
            if row is not None
        ]
        images = [as_drawn(train[row][0]) for row, _ in picks]
        figure = sample_sheet(images, [name for _, name in picks], columns=len(shown))
    else:
        xb = torch.stack([train[row][0].flatten() for row in range(min(1000, len(labels)))])
        columns = data.features or [f"feature {i}" for i in range(xb.shape[1])]
        if data.vocabulary is not None:
            xb, columns = (xb > 0).sum(dim=1, keepdim=True), ["words in a row"]
        figure = histograms(dict(zip(columns[:MOST_COLUMNS], xb.t().tolist(), strict=False)))
    write_picture(figure, path)


def draw_augmented(data: DataSplits, augment: str, seed: int, path: Path) -> None:
    """Draw a training sample of each class, and below it augmented versions of it."""
    check_images(data)
    labels = labels_of(data.train)
    steps = masked_steps(augment) if data.task == SEGMENTATION else augment
    pipeline = Pipeline(steps, data.mixed_classes)
    firsts = [torch.arange(len(labels))]
    if data.task == CLASSIFICATION:
        firsts = [(labels == label).nonzero()[:1, 0] for label in range(len(data.classes))]
    rows = torch.cat(firsts)[:MOST_CLASSES].tolist()
    xb, yb = map(torch.stack, zip(*(data.train[row] for row in rows), strict=True))
    sheets = [(xb, yb)]
    sheets += [pipeline(xb, yb, stream(seed, "augment", 0, step)) for step in range(VARIANTS)]
    images = [drawn(x, y) for xb, yb in sheets for x, y in zip(xb, yb, strict=True)]
    names = [label_text(y, data.target) for _, yb in sheets for y in yb]
    write_picture(sample_sheet(images, names, columns=len(rows)), path)


def drawn(x: torch.Tensor, y: torch.Tensor) -> Any:
    return as_drawn(overlaid(x, y) if y.dim() == 2 else x)


def as_drawn(x: torch.Tensor) -> Any:
    # In colour, or the first channel in gray.
    x = x.clamp(0, 1)
    return (x.permute(1, 2, 0) if x.shape[0] == 3 else x[0]).numpy()


def label_text(y: torch.Tensor, target: Target) -> str:
    """Return a label in words, or the two likeliest of mixed labels with their shares."""
    if y.dim() == 0 or target.task != CLASSIFICATION:
        return target.text(y)
    top = y.topk(min(2, len(y)))
    pairs = zip(top.values.tolist(), top.indices.tolist(), strict=True)
    return ", ".join(
        f"{target.names[label]} {share:.0%}" for share, label in pairs if share > 0.005
    )


def write_folder(data: DataSplits, folder: Path, only: Sequence[str] = ()) -> None:
    """Write images as `PART/CLASS/ROW.png` into a new folder, completely or not at all.

    Only these classes, or all. `open_data` reads the folder.
    """
    if data.preprocessing not in OF_IMAGE_FILES:
        raise DataError(
            "only images of bytes in gray or in colour can be written, and the samples of "
            f"{data.name} are numbers of shape {tuple(data.input_shape)}"
        )
    if data.task != CLASSIFICATION:
        raise DataError(f"images are written by class, and the task of {data.name} is {data.task}")
    for name in only or data.classes:
        if name not in data.classes:
            raise DataError(unknown_name("class", name, data.classes))
        if not name or name[0] in "._" or any(mark in name for mark in "/\\"):
            raise DataError(
                f"a class must have a name that a folder can have, got {name!r}; choose the other "
                "classes with only"
            )
    with new_folder(folder) as new:
        for part, samples in data.parts().items():
            labels = [data.classes[label] for label in labels_of(samples).tolist()]
            rows = [row for row, label in enumerate(labels) if label in (only or data.classes)]
            for row in with_bar(rows, f"writing {part}", len(rows)):
                path = new / part / labels[row] / f"{row:06}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = (samples[row][0] * 256).byte().permute(1, 2, 0).squeeze(-1)
                Image.fromarray(pixels.numpy()).save(path)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder that becomes this one at the end of the block."""
    check_free(folder)
    with writing(folder, DataError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent, prefix=".plainfit-") as temporary:
            new = Path(temporary, folder.name)
            new.mkdir()
            yield new
            new.rename(folder)


def check_free(path: Path) -> None:
    if os.path.lexists(path):
        raise DataError(f"new data must have a new name, and {path} exists; choose another")
