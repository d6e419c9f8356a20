"""Class probabilities of new images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plainfit.common.errors import ConfigError, DataError, RunError, raised_as
from plainfit.common.seeding import stream
from plainfit.data.augment import Pipeline
from plainfit.data.datasets import bytes_to_floats
from plainfit.data.folder import read_all, read_image
from plainfit.data.splits import OF_IMAGE_FILES
from plainfit.runs.folder import Run, values_text

MOST_IMAGES, MOST_PIXELS = 256, 2**20  # in a batch: its activations take a few hundred MiB


@raised_as(RunError, "the run's model must take the images")
def predict_images(
    run: Run, paths: Sequence[Path], *, views: int = 0, augment: str | None = None
) -> list[dict[str, Any]]:
    """Return each image's path, likeliest class and probability of every class.

    An image is read as the training images were: resized, and in gray if they were gray; a run on
    other values than the bytes of images is refused. Memory does not grow with the images. With
    `views`, its probabilities are the mean over the image itself and N augmented views of it, which
    do not depend on the other images. They are augmented as in the training by default, without
    what mixes labels.
    """
    shape, classes = tuple(run.record["data"]["input_shape"]), run.record["data"]["classes"]
    if len(shape) != 3:
        raise RunError(f"predict takes images, and {run.folder} was trained on samples of {shape}")
    run.check_values(
        list(map(values_text, OF_IMAGE_FILES)),
        "predict gives a model the bytes of gray or RGB images divided by 256",
        "plainfit export writes the model as a file that takes such values",
    )
    pipeline = Pipeline(augment or run.config.augment).without_mixing()
    if views and not pipeline.steps:
        raise ConfigError(
            "must name an augmentation that changes single images, such as light, for the views, "
            f"got {augment or run.config.augment!r}",
            field="augment",
        )
    size = max(1, min(MOST_IMAGES, MOST_PIXELS // (shape[1] * shape[2])))
    rows: list[Tensor] = []
    bad: dict[Path, str] = {}
    for batch in (paths[first : first + size] for first in range(0, len(paths), size)):
        pixels, unreadable = read_all(batch, lambda path: read_image(path, shape))
        bad |= unreadable
        if bad:  # the others are still read, to name all that are
            continue
        xb = bytes_to_floats(torch.stack([torch.from_numpy(pixels[path]) for path in batch]))
        with torch.no_grad():
            if views:
                rows += [mean_of_views(run, x, views, pipeline, size) for x in xb]
            else:
                rows += run.model(xb).softmax(dim=1)
    if bad:
        named = "; ".join(f"{path} ({why})" for path, why in bad.items())
        raise DataError(f"every image must be readable, and {len(bad)} are not: {named}")
    return [
        {
            "image": str(path),
            "class": classes[int(row.argmax())],
            "probabilities": dict(zip(classes, row.tolist(), strict=True)),
        }
        for path, row in zip(paths, rows, strict=True)
    ]


def mean_of_views(run: Run, x: Tensor, views: int, pipeline: Pipeline, size: int) -> Tensor:
    """Return the mean probabilities over an image and augmented views of it, `size` at a time."""
    generator = stream(run.config.seed, "views")
    total = torch.zeros(len(run.record["data"]["classes"]))
    for first in range(0, views, size):
        xb, _ = pipeline(x.repeat(min(size, views - first), 1, 1, 1), None, generator)
        xb = xb if first else torch.cat([x.unsqueeze(0), xb])
        total += run.model(xb).softmax(dim=1).sum(dim=0)
    return total / (views + 1)
