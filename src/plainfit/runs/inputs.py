"""New data for a run's model, made as the data of its training was."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import TensorDataset

from plainfit.common.errors import DataError, RunError, near_miss
from plainfit.data.arrays import as_samples
from plainfit.data.folder import SUFFIXES, files_under, find_images, read_all, read_image
from plainfit.data.loaders import ImageDataset, bytes_to_floats
from plainfit.data.open_data import TABLES
from plainfit.data.splits import (
    OF_IMAGE_FILES,
    image_preprocessing,
    is_bytes,
    label_array,
    shortened,
)
from plainfit.data.table import (
    USUAL_TARGETS,
    features_like,
    find_target,
    frame_columns,
    is_frame,
    label_texts,
    read_columns,
)
from plainfit.runs.folder import Run, values_text
from plainfit.training.hooks import warn

MOST_PIXELS = 2**20  # in a batch of images: its activations take a few hundred MiB


def as_trained(run: Run, data: Any, bs: int, labelled: bool) -> Any:
    """Return data that is not yet preprocessed as a dataset or batches; other data as it is."""
    if isinstance(data, str | Path):
        path = Path(data)
        if not path.exists():
            raise DataError(f"the data must exist, and there is no file or folder {path}")
        if path.name.lower().endswith(TABLES):
            return of_table(run, path, read_columns(path), labelled)
        return of_images(run, path, bs, labelled)
    x, y = data if isinstance(data, tuple) and len(data) == 2 else (data, None)
    if is_frame(x):
        return of_table(run, Path(type(x).__name__), frame_columns(x), labelled, y)
    are_paths = isinstance(x, list) and bool(x) and all(isinstance(p, str | Path) for p in x)
    if labelled and y is None and (are_paths or isinstance(x, np.ndarray | Tensor)):
        raise DataError(
            f"data to evaluate must have targets, got a {type(x).__name__} of inputs; pass (X, y), "
            "a table with its target, or a folder with a folder of images for each class"
        )
    if are_paths:
        return image_batches(run, [Path(path) for path in x], bs)
    if isinstance(x, np.ndarray) or (isinstance(x, Tensor) and x.dtype == torch.uint8):
        return of_arrays(run, np.asarray(x), y)
    if isinstance(x, Tensor):
        check_inputs(run, x)
    return data


def of_table(
    run: Run, path: Path, columns: Mapping[str, Any], labelled: bool, y: Any = None
) -> TensorDataset:
    """Return the rows of a table, with the columns of the run's own; `path` is for messages."""
    made = run.preprocessing.get("columns")
    if made is None:
        raise RunError(
            f"{path} is a table, and {run.folder} was trained on values "
            f"{values_text(run.preprocessing)}; pass such values"
        )
    target = run.config.target
    if labelled and y is None:
        target = find_target(path, list(columns), target)
        y = label_texts(path, target, columns[target])
    values, notes = features_like(path, columns, made)
    others = [name for name in columns if name not in made and name != target]
    if extra := [n for n in others if target or n.lower() not in USUAL_TARGETS]:
        raise DataError(
            f"{path}: columns must be those of the training, and {shortened(extra)} was none; "
            "remove what it was trained without"
        )
    for note in notes:
        warn(note)
    return TensorDataset(torch.from_numpy(values), numbers_of(run, y, len(values)))


def of_arrays(run: Run, array: NDArray[Any], y: Any) -> TensorDataset:
    x = as_samples("the data", "X", array)
    made = image_preprocessing(x.shape[1]) if is_bytes(x) else {"values": "as in the data"}
    run.check_values(
        [values_text(made)],
        f"X is read as values {values_text(made)}",
        "pass data as it was before the training read it, or a tensor of what the model takes",
    )
    check_inputs(run, x)
    return (ImageDataset if is_bytes(x) else TensorDataset)(x, numbers_of(run, y, len(x)))


def check_inputs(run: Run, x: Tensor) -> None:
    """Refuse samples of another shape than the training's, and images that were not divided."""
    shape, own = tuple(x.shape[1:]), tuple(run.record["data"]["input_shape"])
    if shape != own:
        raise RunError(f"samples must have the shape {own} of those in the training, got {shape}")
    made = run.preprocessing["values"]
    if made == "bytes / 256" and x.is_floating_point() and x.max() > 1:
        raise RunError(
            f"images as floats must be {made}, as in the training of {run.folder}, got values up "
            f"to {x.max():g}; pass them as uint8"
        )


def of_images(run: Run, path: Path, bs: int, labelled: bool) -> Iterator[Any]:
    """Return the batches of an image, or of a folder's, in the order of their paths."""
    if not labelled:
        files = [path] if path.is_file() else map(Path, files_under(path, []))
        paths = [file for file in files if path.is_file() or file.suffix.lower() in SUFFIXES]
        return image_batches(run, paths, bs)
    found, _ = find_images(path)
    if len(folders := sorted({part for part, *_ in found})) > 1:
        raise DataError(f"{path} has the parts {', '.join(folders)}; name the folder of one")
    labels = numbers_of(run, [label for _, label, _ in found], len(found))
    return image_batches(run, [Path(file) for *_, file in found], bs, labels)


def numbers_of(run: Run, labels: Any, count: int) -> Tensor:
    """Return the number of each label among the run's classes; zeros if there are no labels."""
    if labels is None:
        return torch.zeros(count, dtype=torch.int64)
    if len(labels) != count:
        raise DataError(
            f"every sample must have one label, got {count} samples and {len(labels)} labels"
        )
    if isinstance(labels, Tensor):
        return labels
    numbers = {name: number for number, name in enumerate(run.classes)}
    names = [str(value) for value in label_array("the data", "y", labels).tolist()]
    if unknown := sorted(set(names) - numbers.keys()):
        raise DataError(
            f"labels must be classes of {run.folder} ({shortened(run.classes)}), got "
            f"{shortened(unknown)}{near_miss(unknown[0], numbers)}"
        )
    return torch.tensor([numbers[name] for name in names])


def image_shape(run: Run) -> tuple[int, int, int]:
    """Return (channels, height, width) of a run's images; refuse one on other values."""
    shape = tuple(run.record["data"]["input_shape"])
    if len(shape) != 3:
        raise RunError(f"predict takes images, and {run.folder} was trained on samples of {shape}")
    run.check_values(
        list(map(values_text, OF_IMAGE_FILES)),
        "predict gives a model the bytes of gray or RGB images divided by 256",
        "plainfit export writes the model as a file that takes such values",
    )
    return shape


def batch_of(shape: Sequence[int], most: int) -> int:
    """Return how many images of this shape are a batch."""
    return max(1, min(most, MOST_PIXELS // (shape[1] * shape[2])))


def image_batches(
    run: Run, paths: Sequence[Path], bs: int, labels: Tensor | None = None
) -> Iterator[Any]:
    """Yield batches of image files, read as the training images were, with their labels.

    If some cannot be read, all others are still read, to name every one of them.
    """
    shape, bad = image_shape(run), dict[Path, str]()
    size = batch_of(shape, bs)
    for first in range(0, len(paths), size):
        batch = paths[first : first + size]
        pixels, unreadable = read_all(batch, lambda path: read_image(path, shape))
        bad |= unreadable
        if bad:
            continue
        xb = bytes_to_floats(torch.stack([torch.from_numpy(pixels[path]) for path in batch]))
        yield xb if labels is None else (xb, labels[first : first + size])
    if bad:
        named = "; ".join(f"{path} ({why})" for path, why in bad.items())
        raise DataError(f"every image must be readable, and {len(bad)} are not: {named}")
