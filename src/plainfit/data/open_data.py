"""`open_data`: from a name or a path to datasets."""

import inspect
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from plainfit.common.errors import ConfigError, DataError, unknown_name
from plainfit.data.parts import SHARE, USUAL, Split
from plainfit.data.splits import DataSplits, make_splits
from plainfit.data.targets import TASKS, Target

IMAGES, NPY = "a folder of images", "a folder of .npy files"
MASKED = "a folder of images and masks"
NPZ, TABLE, PICKLE = "an .npz file", "a table", "a pickle"
TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".jsonl", ".parquet", ".arrow", ".feather")
KINDS = {NPZ: (".npz",), TABLE: TABLES, PICKLE: (".pkl", ".pkl.gz")}  # by the end of a name
REMEDIES = {
    ".xlsx": "; save the sheet as .csv",
    ".xls": "; save the sheet as .csv",
    ".json": "; write an object for each row, a row to a line, as .jsonl",
    ".ndjson": "; call it .jsonl",
    ".txt": "; call a table .csv",
    **dict.fromkeys((".zip", ".gz", ".xz", ".bz2", ".zst"), "; unpack it"),
    **dict.fromkeys((".db", ".sqlite", ".ods", ".dta", ".sav"), "; save the table as .csv"),
}
NAMES = ("digits", "mnist", "fashion-mnist")
# The settings that only some data has.
OWN: dict[str, tuple[str, ...]] = {
    "data_dir": NAMES[1:],
    "task": (TABLE, IMAGES, NPZ, NPY),
    "group_by": (TABLE, IMAGES, MASKED),
    **dict.fromkeys(("image_size", "skip_bad", "image_mode", "resize"), (IMAGES, MASKED)),
    **dict.fromkeys(("target", "delimiter", "encoding", "decimal"), (TABLE, IMAGES)),
    **dict.fromkeys(("order_by", "na", "text", "tokenizer", "drop", "categorical"), (TABLE,)),
    **dict.fromkeys(("numeric", "missing", "embed_above"), (TABLE,)),
}


def open_data(
    source: str | Path,
    *,
    data_dir: Path | None = None,
    target: str | None = None,
    task: str | None = None,
    split_seed: int = 0,
    valid_share: float = SHARE,
    test_share: float = SHARE,
    stratify: bool = True,
    group_by: str | None = None,
    order_by: str | None = None,
    image_size: int | None = None,
    skip_bad: bool = False,
    memory_budget: int = 2048,
    image_mode: str | None = None,
    resize: str | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    decimal: str | None = None,
    na: str | None = None,
    text: str | None = None,
    tokenizer: str | None = None,
    drop: str | None = None,
    categorical: str | None = None,
    numeric: str | None = None,
    missing: str = "median",
    embed_above: int | None = None,
) -> DataSplits:
    """Read a dataset and return its training, validation and test parts.

    Args:
        source: `digits`, `mnist`, `fashion-mnist`, or a path: a folder of images, of images and
            masks, or of `.npy` files, a `.npz` file, a table (`.csv`, `.tsv`, `.csv.gz`,
            `.parquet`, `.arrow`, `.feather`, `.jsonl`), or the tutorial's `mnist.pkl.gz`. A `Path`
            is always a path; a str that is a name is that name, so write `./digits` for a folder
            called so.
        data_dir: the folder of the files of `mnist` or `fashion-mnist`.
        target: the column to predict in a table, or several, such as `rain,wind`; or that of the
            labels in the `labels.csv` of a folder, likewise.
        task: `classification`, `regression` (numbers with decimals) or `multi-label` (`rain|wind`
            in a text, or columns of 0 and 1); by default what the target looks like.
        split_seed: seed of the split, for data without one, like the next five.
        valid_share: the share of the samples for validation, above 0.
        test_share: the share of the test set; 0 for none.
        stratify: draw the parts with the same shares of each class; else, of all samples alike.
        group_by: columns of a table, such as `patient`: rows with the same values stay in one part;
            of a folder, a text such as `_`: so do images of the same name up to the last one.
        order_by: columns of numbers or dates: the last rows by them are the test set, and those
            before them are for validation.
        image_size: pixels per side to fit the images of a folder to.
        skip_bad: leave out images of a folder that cannot be read.
        memory_budget: MiB that a folder or an Arrow table may take in memory; larger data is read
            from disk as it is used, and then only the kernel's page cache grows.
        image_mode: `gray` or `rgb` for the images of a folder; by default gray if all are.
        resize: what becomes of images of another shape: `crop` to the centre (the default), `pad`
            with black, or `squash`.
        delimiter: comma, semicolon, tab, pipe or a character; by default guessed, as the next two.
        encoding: of a text file, such as `utf-8` or `cp1252`.
        decimal: what numbers in a text file have before their decimals, `.` or `,`.
        na: texts that mean a gap besides the usual ones, such as `unknown,-999`.
        text: a column of a table whose words are the input, as numbers; no other column is one.
        tokenizer: the content of a `tokenizer.json`, whose tokens take the place of words.
        drop: columns of a table to leave out, such as `id,name`.
        categorical: columns whose values are categories, even numbers, and more than 50.
        numeric: columns that must be numbers.
        missing: what to do about gaps among numbers: fill them with the `median` or the `mean` of
            the training rows, `drop` the rows, or `error`.
        embed_above: a column with more categories than this becomes one input, for a model that
            embeds it: the number of the category from 1, and 0 for one that no training row has.

    Raises:
        ConfigError: if a setting is for other data than this.
        DataError: if there is no such data, or it cannot be trained on.

    >>> open_data("digits").counts()
    {'train': 1259, 'valid': 269, 'test': 269}
    """
    given = {name: value for name, value in locals().items() if name in OWN}
    from plainfit.data import arrays, mnist

    path = Path(source)
    try:
        kind = kind_of(source)
        check_options(source, kind, given)
        if task is not None and task not in TASKS:
            raise ConfigError(unknown_name("task", task, TASKS))
        split = Split(split_seed, valid_share, test_share, stratify)
        if kind == "digits":
            return read_digits(split)
        if kind in NAMES:
            return mnist.read_idx_set(kind, data_dir, split)
        if kind == NPY:
            return arrays.read_npy_folder(path, split, memory_budget, task)
        if kind == NPZ:
            return arrays.read_npz(path, split, task)
        if kind == PICKLE:
            return mnist.read_mnist_pickle(path, split)
        if kind == TABLE:
            from plainfit.data.tables.reading import TableOptions
            from plainfit.data.tables.table import read_table

            own = {item.name: given[item.name] for item in fields(TableOptions)}
            return read_table(path, TableOptions(**own), target, split, memory_budget, task)
        from plainfit.data.folder import read_folder
        from plainfit.data.segmentation import read_segmentation

        own = {name: value for name, value in given.items() if kind in OWN[name]}
        if kind == MASKED:
            return read_segmentation(path, split, memory_budget, **own)
        return read_folder(path, split, memory_budget, **own)
    except OSError as error:
        raise DataError(f"{path}: the data cannot be read ({error.strerror or error})") from error


def kind_of(source: str | Path) -> str:
    from plainfit.data.arrays import USUAL_FILES

    if isinstance(source, str) and source in NAMES:
        return source
    path = Path(source)
    if not path.exists():
        if isinstance(source, str) and not path.suffix and len(path.parts) < 2:
            raise DataError(unknown_name("data", source, [*NAMES, "a path"]))
        name = f"; for the data of that name pass the str {str(path)!r}" * (str(path) in NAMES)
        raise DataError(f"the data must exist, and there is no file or folder {path}{name}")
    if path.is_dir():
        if any((path / file).is_file() for file in USUAL_FILES):
            return NPY
        from plainfit.data.segmentation import mask_folders

        return MASKED if mask_folders(path) else IMAGES
    for kind, endings in KINDS.items():
        if path.name.lower().endswith(endings):
            return kind
    known = ", ".join(ending for endings in KINDS.values() for ending in endings)
    remedy = REMEDIES.get(path.suffix.lower(), "")
    raise DataError(f"{path} must be a folder or one of {known}{remedy}")


def check_options(source: str | Path, kind: str, given: Mapping[str, Any]) -> None:
    defaults = inspect.signature(open_data).parameters
    for name in without(kind):
        if given[name] != defaults[name].default:
            what = kind if kind in NAMES else f"{source}, {kind}"
            raise ConfigError(
                f"is for {' or '.join(OWN[name])}, and cannot be {given[name]} for {what}; leave "
                "it out",
                field=name,
            )


def without(kind: str) -> list[str]:
    return [name for name, kinds in OWN.items() if kind not in kinds]


def read_digits(split: Split = USUAL) -> DataSplits:
    """Return the UCI handwritten digits that come with scikit-learn: 1,797 images of 8x8 pixels.

    Gray values 0 to 16 are scaled to bytes, 0 to 255.
    Source: https://archive.ics.uci.edu/dataset/80 (the test part), CC BY 4.0.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    parts = {"train": (images, digits.target)}
    return make_splits("digits", parts, split=split, target=Target(tuple("0123456789")))
