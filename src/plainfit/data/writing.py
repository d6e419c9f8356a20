"""Images written as files: `train/CLASS/*.png`, `valid/CLASS/*.png`, `test/CLASS/*.png`."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from plainfit.common.errors import DataError, unknown_name
from plainfit.common.progress import with_bar
from plainfit.data.lazy import LazyImages
from plainfit.data.loaders import ImageDataset
from plainfit.data.splits import DataSplits, labels_of


def write_folder(data: DataSplits, folder: Path, only: Sequence[str] = ()) -> None:
    """Write images into a new folder, which is there whole or not at all.

    Args:
        data: images of bytes, in gray or in colours; a file's name is its row in its part.
        folder: of that layout, for `open_data`.
        only: names of classes; all of them by default.

    Raises:
        DataError: if the samples are no such images, a class is unknown or cannot name a folder,
            or the folder is there already or cannot be written.
    """
    if not isinstance(data.train, ImageDataset | LazyImages) or data.input_shape[0] not in (1, 3):
        raise DataError(
            f"--write takes images of bytes in gray or in colours, and the samples of {data.name} "
            f"are numbers of shape {tuple(data.input_shape)}; leave it out"
        )
    for name in only or data.classes:
        if name not in data.classes:
            raise DataError(unknown_name("class", name, data.classes))
        if not name or name[0] in "._" or any(mark in name for mark in "/\\"):
            raise DataError(
                f"a class must have a name that a folder can have, got {name!r}; leave it out "
                "with --only"
            )
    if os.path.lexists(folder):
        raise DataError(f"--write must name a new folder, and {folder} is there; remove it")
    scratch = folder.with_name(f".{folder.name}-{os.getpid()}.tmp")
    try:
        write_files(data, scratch, set(only or data.classes))
        scratch.rename(folder)
    except OSError as error:
        raise DataError(f"{folder} must be writable ({error.strerror or error})") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_files(data: DataSplits, root: Path, classes: set[str]) -> None:
    """Write the images of these classes."""
    for part, samples in data.parts().items():
        labels = labels_of(samples).tolist()
        rows = [row for row, label in enumerate(labels) if data.classes[label] in classes]
        for row in with_bar(rows, f"writing {part}", len(rows)):
            path = root / part / data.classes[labels[row]] / f"{row:06}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = (samples[row][0] * 256).byte().permute(1, 2, 0).squeeze(-1)
            Image.fromarray(pixels.numpy()).save(path)
