"""What a run says of new images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from plainfit.data.folder import read_all, read_image
from plainfit.data.loaders import bytes_to_floats
from plainfit.errors import DataError, RunError
from plainfit.runs import Run


def predict_images(run: Run, paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Return, for each image, its path, the likeliest class, and each class's probability.

    An image is read as the training images were: to their size, gray if they were gray.

    Raises:
        RunError: if the run was not trained on images.
        DataError: if an image cannot be read; all such are named.
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
    xb = torch.stack([torch.from_numpy(pixels[path]) for path in paths])
    with torch.no_grad():
        probabilities = run.model(bytes_to_floats(xb)).softmax(dim=1)
    return [
        {
            "image": str(path),
            "class": classes[int(row.argmax())],
            "probabilities": dict(zip(classes, row.tolist(), strict=True)),
        }
        for path, row in zip(paths, probabilities, strict=True)
    ]
