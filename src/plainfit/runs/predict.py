"""Class probabilities of new images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plainfit.common.errors import ConfigError, RunError, raised_as
from plainfit.common.seeding import stream
from plainfit.data.augment import Pipeline
from plainfit.runs.folder import Run
from plainfit.runs.inference import predict
from plainfit.runs.inputs import batch_of, image_batches, image_shape

MOST_IMAGES = 256  # in a batch


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
    size = batch_of(image_shape(run), MOST_IMAGES)
    pipeline = Pipeline(augment or run.config.augment).without_mixing()
    if views and not pipeline.steps:
        raise ConfigError(
            "must name an augmentation that changes single images, such as light, for the views, "
            f"got {augment or run.config.augment!r}",
            field="augment",
        )
    batches = image_batches(run, paths, size)
    if views:
        with torch.no_grad():
            rows = [mean_of_views(run, x, views, pipeline, size) for xb in batches for x in xb]
    else:
        rows = predict(run, batches, output="probabilities")
    return [
        {
            "image": str(path),
            "class": run.classes[int(row.argmax())],
            "probabilities": dict(zip(run.classes, row.tolist(), strict=True)),
        }
        for path, row in zip(paths, rows, strict=True)
    ]


def mean_of_views(run: Run, x: Tensor, views: int, pipeline: Pipeline, size: int) -> Tensor:
    """Return the mean probabilities over an image and augmented views of it, `size` at a time."""
    generator = stream(run.config.seed, "views")
    total = torch.zeros(len(run.classes))
    for first in range(0, views, size):
        xb, _ = pipeline(x.repeat(min(size, views - first), 1, 1, 1), None, generator)
        xb = xb if first else torch.cat([x.unsqueeze(0), xb])
        total += run.model(xb).softmax(dim=1).sum(dim=0)
    return total / (views + 1)
