"""What a run predicts for new images and for the rows of a table."""

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plainfit.common.errors import ConfigError, DataError, RunError, raised_as
from plainfit.common.seeding import stream
from plainfit.data.augment import Pipeline
from plainfit.data.decoding import read_header
from plainfit.data.segmentation import mask_picture
from plainfit.data.targets import MULTI_LABEL, REGRESSION, SEVERAL, Target
from plainfit.runs import folder as runs
from plainfit.runs import inputs
from plainfit.runs.folder import Run
from plainfit.runs.inference import outputs_of, predict
from plainfit.training.hooks import warn

MOST_IMAGES = 256  # in a batch
OUTPUTS = (".csv", ".parquet", ".jsonl")


@raised_as(RunError, "the run's model must take the images")
def predict_images(
    run: Run, paths: Sequence[Path], *, views: int = 0, augment: str | None = None
) -> list[dict[str, Any]]:
    """Return each image's path, and what is predicted of it; see `readable`.

    An image is read as the training images were: resized, and in gray if they were gray; a run on
    other values than the bytes of images is refused. Memory does not grow with the images. With
    `views`, its probabilities are the mean over the image itself and N augmented views of it, which
    do not depend on the other images. They are augmented as in the training by default, without
    what mixes labels.
    """
    size = inputs.batch_of(inputs.image_shape(run), MOST_IMAGES)
    pipeline = Pipeline(augment or run.config.augment).without_mixing()
    if views and not pipeline.steps:
        raise ConfigError(
            "must name an augmentation that changes single images, such as light, for the views, "
            f"got {augment or run.config.augment!r}",
            field="augment",
        )
    batches = inputs.image_batches(run, paths, size)
    if views:
        with torch.no_grad():
            rows = [mean_of_views(run, x, views, pipeline, size) for xb in batches for x in xb]
        found = torch.stack(rows)
    else:
        found = predict(run, batches, output=best_output(run))
    results = readable(run.target, found)
    return [{"image": str(path)} | result for path, result in zip(paths, results, strict=True)]


def best_output(run: Run) -> str:
    return "raw" if run.target.task == REGRESSION else "probabilities"


def readable(target: Target, rows: Tensor) -> list[dict[str, Any]]:
    """Return numbers by name, or the likeliest class or labels, and all probabilities."""
    named = [dict(zip(target.names, row, strict=True)) for row in rows.tolist()]
    if target.task == REGRESSION:
        return [{name: float(f"{value:.7g}") for name, value in row.items()} for row in named]
    if target.task == MULTI_LABEL:
        chosen = [
            {"labels": SEVERAL[0].join(n for n, p in row.items() if p > 0.5)} for row in named
        ]
    else:
        chosen = [{"class": target.names[at]} for at in rows.argmax(dim=1).tolist()]
    return [one | {"probabilities": row} for one, row in zip(chosen, named, strict=True)]


@raised_as(RunError, "the run's model must take the images")
def write_masks(run: Run, paths: Sequence[Path], folder: Path) -> list[Path]:
    """Write the classes of the pixels of images, read as in the training, into a new folder.

    Each is a PNG of the image's name and size, whose values are the numbers of the classes, or 255
    where the image was cropped.
    """
    names = [path.with_suffix(".png").name for path in paths]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ConfigError(f"images must have different names, and several would be {twice[0]}")
    if folder.exists():
        raise ConfigError(f"must be a new folder for the masks, and {folder} exists", field="out")
    _, height, width = shape = inputs.image_shape(run)
    batches = inputs.image_batches(run, paths, inputs.batch_of(shape, MOST_IMAGES))
    masks = (mask for xb in batches for mask in predict(run, xb, output="classes"))
    scaled = 0
    for path, name, mask in zip(paths, names, masks, strict=True):
        size, content = read_header(str(path)).size, io.BytesIO()
        scaled += size != (width, height)
        mask_picture(mask, size, run.config.resize).save(content, format="PNG")
        folder.mkdir(parents=True, exist_ok=True)
        runs.write_output(folder / name, content.getvalue())
    if scaled:
        cropped = "" if run.config.resize in ("pad", "squash") else "; 255 is what was cropped away"
        warn(
            f"{scaled} of {len(names)} masks are scaled from {width}x{height}, the training's size,"
            f" to that of their images, by the nearest pixel{cropped}"
        )
    return [folder / name for name in names]


def mean_of_views(run: Run, x: Tensor, views: int, pipeline: Pipeline, size: int) -> Tensor:
    generator = stream(run.config.seed, "views")
    total, finish = torch.zeros(len(run.target.names)), outputs_of(run)[best_output(run)]
    for first in range(0, views, size):
        xb, _ = pipeline(x.repeat(min(size, views - first), 1, 1, 1), None, generator)
        xb = xb if first else torch.cat([x.unsqueeze(0), xb])
        total += finish(run.model(xb)).sum(dim=0)
    return total / (views + 1)


@raised_as(RunError, "the run's model must take the rows")
def predict_rows(run: Run, path: Path, **written: str | None) -> list[dict[str, Any]]:
    """Return what is predicted of each row; see `readable`.

    Before them come the columns that `drop` or `group_by` left out, such as an id, as they are
    written. `-` is the standard input, which has a JSON object in each line. `written` may hold the
    `delimiter`, `encoding` and `decimal` of a text file, where they are not those of the training,
    and by `na` more texts that mean a gap.
    """
    table = inputs.read_as_trained(run, path, **written)
    rows, _ = inputs.of_table(run, table, None, labelled=False)
    for name in inputs.targets(run, table):
        warn(f"the target {name!r} is not used; plainfit.evaluate(run, {str(path)!r}) scores it")
    results = readable(run.target, predict(run, rows, output=best_output(run)))
    dropped = inputs.dropped(run, table)
    if taken := {*results[0]} & {*dropped}:
        raise DataError(
            f"{path}: a column that the training left out is written beside the results, and "
            f"{min(taken)!r} is the name of one; rename it"
        )
    kept = {name: column.to_pylist() for name, column in table.texts(dropped).items()}
    return [
        {name: values[at] for name, values in kept.items()} | result
        for at, result in enumerate(results)
    ]


def check_out(path: Path, sources: Sequence[Path]) -> None:
    if path.suffix not in OUTPUTS:
        raise ConfigError(f"must end with {', '.join(OUTPUTS)}, got {path}", field="out")
    if any(path.exists() and source.exists() and path.samefile(source) for source in sources):
        raise ConfigError(f"must be another file than the data, got {path}", field="out")
    runs.check_new_file(path, force=True)


def to_bytes(results: Sequence[Mapping[str, Any]], suffix: str) -> bytes:
    """Return predictions as the content of a file: a row each, `p(NAME)` for a class's chance."""
    rows = [
        {name: value for name, value in result.items() if name != "probabilities"}
        | {f"p({name})": value for name, value in result.get("probabilities", {}).items()}
        for result in results
    ]
    if suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        content = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), content)
        return content.getvalue()
    if suffix == ".jsonl":
        return "".join(f"{json.dumps(row, default=str)}\n" for row in rows).encode()
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
