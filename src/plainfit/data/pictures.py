"""A picture of a data set: some samples of each class, or the spread of a table's columns."""

from pathlib import Path

import torch

from plainfit.data.lazy import LazyImages
from plainfit.data.loaders import ImageDataset
from plainfit.data.splits import DataSplits, labels_of
from plainfit.errors import DataError
from plainfit.plots import histograms, sample_sheet

MOST_CLASSES, EACH, MOST_COLUMNS = 10, 4, 12  # what fits on one screen


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
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:  # ValueError: a suffix that is no picture format
        raise DataError(
            f"the picture {path} must be writable as PNG, PDF or SVG ({error})"
        ) from error
