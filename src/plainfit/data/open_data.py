"""`open_data`: from a name or a path to data sets."""

from pathlib import Path

from plainfit.common.errors import DataError, unknown_name
from plainfit.data.splits import DataSplits

NAMES = ("digits", "mnist", "fashion-mnist")
TABLES = (".csv", ".parquet", ".arrow", ".feather")
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
) -> DataSplits:
    """Read a data set and return its training, validation and test parts.

    Args:
        source: `digits`, `mnist`, `fashion-mnist`, or a path: a folder of images or of
            `.npy` files, a `.npz`, `.csv`, `.parquet`, `.arrow` or `.feather` file, or the
            tutorial's `mnist.pkl.gz`.
        data_dir: where the files of `mnist` or `fashion-mnist` are or go.
        target: the column to predict in a table.
        split_seed: seed of the split of data that comes without one.
        image_size: pixels a side to fit the images of a folder to.
        skip_bad: leave out images of a folder that cannot be read.
        memory_budget: MiB of a folder or of an Arrow table to hold in memory; more is read from
            disk as it is used.

    Raises:
        DataError: if there is no such data, or it cannot be trained on.

    >>> open_data("digits").counts()
    {'train': 1259, 'valid': 269, 'test': 269}
    """
    from plainfit.data import arrays, mnist
    from plainfit.data.npy import is_npy_folder, read_npy_folder

    if source == "digits":
        return arrays.read_digits(split_seed)
    if source in NAMES:
        return mnist.read_idx_set(str(source), data_dir)
    path = Path(source)
    if not path.exists():
        if path.suffix or len(path.parts) > 1:
            raise DataError(f"the data must be there, and there is no file or folder {path}")
        raise DataError(unknown_name("data", str(source), [*NAMES, "a path"]))
    name = path.name.lower()
    try:
        if path.is_dir() and is_npy_folder(path):
            return read_npy_folder(path, split_seed, memory_budget)
        if path.is_dir():
            from plainfit.data.folder import read_folder

            return read_folder(
                path,
                split_seed=split_seed,
                image_size=image_size,
                skip_bad=skip_bad,
                memory_budget=memory_budget,
            )
        if name.endswith(".npz"):
            return arrays.read_npz(path, split_seed)
        if name.endswith((".pkl", ".pkl.gz")):
            return mnist.read_mnist_pickle(path)
        if name.endswith(TABLES):
            from plainfit.data.table import read_table

            return read_table(path, target, split_seed, memory_budget)
    except OSError as error:
        raise DataError(f"{path}: the data cannot be read ({error.strerror or error})") from error
    raise DataError(f"{path} must be a folder or one of {', '.join(FILES)}")
