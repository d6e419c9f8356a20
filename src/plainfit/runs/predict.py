"""Class probabilities of new images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plainfit.common.errors import ConfigError, DataError, RunError, raised_as
from plainfit.common.seeding import stream
from plainfit.data.augment import Pipeline
from plainfit.data.folder import read_all, read_image
from plainfit.data.loaders import bytes_to_floats
from plainfit.runs.folder import Run


@raised_as(RunError, "the run's model must take the images")
def predict_images(
    run: Run, paths: Sequence[Path], *, views: int = 0, augment: str | None = None
) -> list[dict[str, Any]]:
    """Return each image's path, likeliest class and probability of every class.

    An image is read as the training images were: resized, and in gray if they were gray. With
    `views`, its probabilities are the mean over the image itself and N augmented views of it, which
    do not depend on the other images. They are augmented as in the training by default, without
    what mixes labels.
    """
    shape, classes = run.record["data"]["input_shape"], run.record["data"]["classes"]
    if len(shape) != 3:
        raise RunError(
            f"predict takes images, and {run.folder} was trained on samples of shape {tuple(shape)}"
        )
    pixels, bad = read_all(paths, lambda path: read_image(path, tuple(shape)))
    if bad:
        named = "; ".join(f"{path} ({why})" for path, why in bad.items())
        raise DataError(f"every image must be readable, and {len(bad)} are not: {named}")
    xb = bytes_to_floats(torch.stack([torch.from_numpy(pixels[path]) for path in paths]))
    seed = run.config.seed
    pipeline = Pipeline(augment or run.config.augment).without_mixing()
    if views and not pipeline.steps:
        raise ConfigError(
            "must name an augmentation that changes single images, such as light, for the views, "
            f"got {augment or run.config.augment!r}",
            field="augment",
        )
    with torch.no_grad():
        if views:
            each = [run.model(views_of(x, views, pipeline, seed)).softmax(1).mean(0) for x in xb]
            probabilities = torch.stack(each)
        else:
            probabilities = run.model(xb).softmax(dim=1)
    return [
        {
            "image": str(path),
            "class": classes[int(row.argmax())],
            "probabilities": dict(zip(classes, row.tolist(), strict=True)),
        }
        for path, row in zip(paths, probabilities, strict=True)
    ]


def views_of(x: Tensor, views: int, pipeline: Pipeline, seed: int) -> Tensor:
    varied, _ = pipeline(x.repeat(views, 1, 1, 1), None, stream(seed, "views"))
    return torch.cat([x.unsqueeze(0), varied])
