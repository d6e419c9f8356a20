"""`open_data`: from a name or a path to datasets."""

from pathlib import Path

import numpy as np
import torch

from plainfit.common.errors import DataError, unknown_name
from plainfit.data.splits import DataSplits, make_splits

NAMES = ("digits", "mnist", "fashion-mnist")
TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".jsonl", ".parquet", ".arrow", ".feather")
FILES = (".npz", *TABLES, ".pkl", ".pkl.gz")


def open_data(
    source: str | Path,
    *,
    data_dir: Path | None = None,
    target: str | None = None,
    split_seed: int = 0,
    image_size: int | None = None,
    skip_bad: bool = False,
    memory_budget: int = 2048,
    delimiter: str | None = None,
    encoding: str | None = None,
    decimal: str | None = None,
    na: str | None = None,
    drop: str | None = None,
    categorical: str | None = None,
    numeric: str | None = None,
    missing: str = "median",
) -> DataSplits:
    """Read a dataset and return its training, validation and test parts.

    Args:
        source: `digits`, `mnist`, `fashion-mnist`, or a path: a folder of images or of `.npy`
            files, a `.npz` file, a table (`.csv`, `.tsv`, `.csv.gz`, `.parquet`, `.arrow`,
            `.feather`, `.jsonl`), or the tutorial's `mnist.pkl.gz`. A `Path` is always a path; a
            str that is a name is that name, so write `./digits` for a folder called so.
        data_dir: the folder of the files of `mnist` or `fashion-mnist`.
        target: the column to predict in a table.
        split_seed: seed of the split, for data without one.
        image_size: pixels per side to fit the images of a folder to.
        skip_bad: leave out images of a folder that cannot be read.
        memory_budget: MiB that a folder or an Arrow table may take in memory; larger data is read
            from disk as it is used, and then only the kernel's page cache grows.
        delimiter: comma, semicolon, tab, pipe or a character, in a text file; guessed by default,
            like the next two.
        encoding: of a text file, such as `utf-8` or `cp1252`.
        decimal: what numbers in a text file have before their decimals, `.` or `,`.
        na: texts that mean a gap besides the usual ones, such as `unknown,-999`.
        drop: columns of a table to leave out, such as `id,name`.
        categorical: columns whose values are categories, even numbers, and more than 50.
        numeric: columns that must be numbers.
        missing: what to do about gaps among numbers: fill them with the `median` or the `mean` of
            the training rows, `drop` the rows, or `error`.

    Raises:
        DataError: if there is no such data, or it cannot be trained on.

    >>> open_data("digits").counts()
    {'train': 1259, 'valid': 269, 'test': 269}
    """
    from plainfit.data import arrays, mnist

    if source == "digits":
        return read_digits(split_seed)
    if isinstance(source, str) and source in NAMES:
        return mnist.read_idx_set(source, data_dir)
    path = Path(source)
    if not path.exists():
        if isinstance(source, str) and not path.suffix and len(path.parts) < 2:
            raise DataError(unknown_name("data", source, [*NAMES, "a path"]))
        name = f"; for the data of that name pass the str {str(path)!r}" * (str(path) in NAMES)
        raise DataError(f"the data must exist, and there is no file or folder {path}{name}")
    name = path.name.lower()
    try:
        if path.is_dir() and any((path / file).is_file() for file in arrays.USUAL_FILES):
            return arrays.read_npy_folder(path, split_seed, memory_budget)
        if path.is_dir():
            from plainfit.data.folder import read_folder

            return read_folder(path, split_seed, image_size, skip_bad, memory_budget)
        if name.endswith(".npz"):
            return arrays.read_npz(path, split_seed)
        if name.endswith((".pkl", ".pkl.gz")):
            return mnist.read_mnist_pickle(path)
        if name.endswith(TABLES):
            from plainfit.data.tables.reading import TableOptions
            from plainfit.data.tables.table import read_table

            options = TableOptions(
                delimiter, encoding, decimal, na, drop, categorical, numeric, missing
            )
            return read_table(path, options, target, split_seed, memory_budget)
    except OSError as error:
        raise DataError(f"{path}: the data cannot be read ({error.strerror or error})") from error
    raise DataError(f"{path} must be a folder or one of {', '.join(FILES)}")


def read_digits(split_seed: int = 0) -> DataSplits:
    """Return the UCI handwritten digits that come with scikit-learn: 1,797 images of 8x8 pixels.

    Gray values 0 to 16 are scaled to bytes, 0 to 255.
    Source: https://archive.ics.uci.edu/dataset/80 (the test part), CC BY 4.0.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    parts = {"train": (images, digits.target)}
    return make_splits("digits", parts, split_seed=split_seed, classes="0123456789")
