"""New data for a run's model, made as the data of its training was."""

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset

from plainfit.common.errors import DataError, RunError, shortened
from plainfit.data.datasets import as_tensor, bytes_to_floats, is_table
from plainfit.data.decoding import read_all, read_image
from plainfit.data.layout import LabelOptions, find_images, images_under
from plainfit.data.loaders import make_loader
from plainfit.data.open_data import TABLES
from plainfit.data.splits import OF_IMAGE_FILES, values_text
from plainfit.data.tables.preparing import kind_of, prepared
from plainfit.data.tables.reading import Table, TableOptions, frame_columns, names_in, read_columns
from plainfit.data.tables.table import USUAL_TARGETS, find_targets, labelled_rows, target_values
from plainfit.data.targets import REGRESSION, SEGMENTATION
from plainfit.runs.folder import Run
from plainfit.training.hooks import warn

MOST_PIXELS = 2**20  # in a batch of images: its activations take a few hundred MiB


def as_trained(run: Run, data: Any, bs: int, labelled: bool) -> Any:
    """Return inputs of the run's model, with targets as numbers if they are given or `labelled`.

    Files and data frames are preprocessed as in the training, arrays and tensors checked.
    """
    x, y = data if isinstance(data, tuple) and len(data) == 2 else (data, None)
    are_files = isinstance(x, list) and bool(x) and all(isinstance(p, str | Path) for p in x)
    if labelled and y is None and (are_files or isinstance(x, np.ndarray | Tensor)):
        raise DataError(
            f"data to evaluate must have targets, got a {type(x).__name__} of inputs; pass (X, y), "
            "a table with its target, or a folder with a folder of images for each class"
        )
    if are_files and run.vocabulary is not None:  # texts
        (name,) = run.preprocessing["columns"]
        x, y = of_table(run, frame_columns({name: x}), y, labelled=False)
    elif are_files:
        return image_batches(run, [Path(file) for file in x], bs)
    elif isinstance(x, str | Path):
        path = Path(x)
        if not path.exists():
            raise DataError(f"the data must exist, and there is no file or folder {path}")
        if not path.name.lower().endswith(TABLES):
            return of_images(run, path, bs, labelled)
        x, y = of_table(run, read_as_trained(run, path), y, labelled)
    elif is_table(x):
        x, y = of_table(run, frame_columns(x), y, labelled)
    elif isinstance(x, np.ndarray | Tensor):
        x = checked(run, x)
    else:
        return data
    return x if y is None else (x, encoded(run, y))


def read_as_trained(run: Run, path: Path, **written: str | None) -> Table:
    columns = columns_of(run, path)
    texts = [name for name, made in columns.items() if kind_of(made) == "text"]
    decimals = [made["decimal"] for made in columns.values() if "decimal" in made]
    return read_columns(path, options_of(run, **written), texts, *decimals[:1])


def options_of(run: Run, **written: str | None) -> TableOptions:
    names = [item.name for item in fields(TableOptions)]
    given: dict[str, Any] = {n: written.get(n) or getattr(run.config, n, None) for n in names}
    if run.config.na and written.get("na"):
        given["na"] = f"{run.config.na},{written['na']}"
    return TableOptions(**given)


def columns_of(run: Run, path: Path) -> dict[str, Any]:
    made = run.preprocessing.get("columns")
    if made is None:
        raise RunError(
            f"{path} is a table, and {run.folder} was trained on values "
            f"{values_text(run.preprocessing)}; pass such values"
        )
    return dict(made)


def of_table(run: Run, table: Table, y: Any, labelled: bool) -> tuple[Tensor, Any]:
    made = columns_of(run, table.path)
    if labelled and y is None:
        names = find_targets(table.path, list(table.columns), run.config.target)
        written = labelled_rows(table, table.texts(names), run.target.task)
        y = target_values(table, written, run.target.task)
    features, notes = prepared(table, made)
    known = [*made, *targets(run, table), *dropped(run, table)]
    if extra := [name for name in table.columns if name not in known]:
        notes.append(
            f"columns that the training did not use are ignored: {shortened([*map(repr, extra)])}"
        )
    for note in [*table.notes, *notes]:
        warn(note)
    return torch.from_numpy(features), y


def targets(run: Run, table: Table) -> list[str]:
    if run.config.target is None:
        return [name for name in table.columns if name.lower() in USUAL_TARGETS]
    return [name for name in names_in(run.config.target, table.columns) if name in table.columns]


def dropped(run: Run, table: Table) -> list[str]:
    """Return the columns of a table that the training left out by name."""
    given = (run.config.drop, run.config.group_by)
    named = {name for text in given for name in names_in(text, table.columns)}
    return [name for name in table.columns if name in named]


def checked(run: Run, x: Any) -> Tensor:
    """Return an array as what the run's model takes; refuse what its training did not see."""
    made, own = run.preprocessing, tuple(run.record["data"]["input_shape"])
    if "columns" in made and not isinstance(x, Tensor):
        raise RunError(
            f"an array has no columns, and {run.folder} needs its own; pass a data frame"
        )
    if (1, *x.shape[1:]) == own:  # of gray images
        x = x[:, None]
    if (shape := tuple(x.shape[1:])) != own:
        raise RunError(f"samples must have the shape {own} of the training's, got {shape}")
    inputs = as_tensor(x, "data", is_input=True)
    is_divided = made["values"] == "bytes / 256"
    if is_divided and inputs.dtype == torch.uint8:
        return inputs  # which are divided as they are read
    if is_divided and len(inputs) and inputs.max() > 1:
        raise RunError(
            f"images must be bytes, or {made['values']} as in the training of {run.folder}, got "
            f"{inputs.dtype} up to {inputs.max():g}; pass them as uint8"
        )
    return inputs if run.vocabulary is not None else inputs.float()


def encoded(run: Run, labels: Any) -> Tensor:
    if isinstance(labels, Tensor) and run.target.task != REGRESSION:
        return labels
    return run.target.encoded("the data", labels)


def of_images(run: Run, path: Path, bs: int, labelled: bool) -> Iterator[Any]:
    if not labelled:
        return image_batches(run, images_in(path), bs)
    if run.target.task == SEGMENTATION:
        data, shape = replace(run.config, data=str(path)).open_data(), image_shape(run)
        if (data.target, data.input_shape) != (run.target, shape):
            raise DataError(
                f"{path} must have the classes {shortened(run.classes)} and images of {shape} as "
                f"in the training, got {shortened(data.classes)} and {data.input_shape}; name the "
                "classes in classes.txt, in both"
            )
        return iter(make_loader(ConcatDataset([*data.parts().values()]), bs, False))
    options = LabelOptions(run.config.target, run.target.task, options_of(run))
    files, *_ = find_images(path, options)
    if len(folders := sorted({part for part, *_ in files})) > 1:
        raise DataError(f"{path} has the parts {', '.join(folders)}; name the folder of one")
    labels = encoded(run, [label for _, label, _ in files])
    return image_batches(run, [Path(file) for *_, file in files], bs, labels)


def images_in(path: Path) -> list[Path]:
    return [Path(file) for file in images_under(path)] if path.is_dir() else [path]


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
        pixels, unreadable = read_all(
            batch, lambda path: read_image(path, shape, run.config.resize)
        )
        bad |= unreadable
        if bad:
            continue
        xb = bytes_to_floats(torch.stack([torch.from_numpy(pixels[path]) for path in batch]))
        yield xb if labels is None else (xb, labels[first : first + size])
    if bad:
        named = "; ".join(f"{path} ({why})" for path, why in bad.items())
        raise DataError(f"every image must be readable, and {len(bad)} are not: {named}")
