"""A folder of images: `train/CLASS/*`, `valid/CLASS/*`, `test/CLASS/*`, or just `CLASS/*`."""

import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from plainfit.data.loaders import bytes_to_floats
from plainfit.data.splits import DataSplits, Labels, LazyImages, Samples, assemble
from plainfit.errors import DataError
from plainfit.progress import with_bar

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")  # Pillow's names; no other decoder is let near a file
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
MOST_PIXELS = 25_000_000  # 25 Mpx: more than a photo camera's, less than a bomb's
DEFAULT_SIZE = 64  # pixels a side, where the images differ in size and none was asked for
IGNORED = {"thumbs.db", "desktop.ini"}
T = TypeVar("T")
PARTS = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}


class ImageFiles(LazyImages):
    """Images read from disk one by one: floats in [0, 1), shape (channels, height, width)."""

    def __init__(
        self, paths: Sequence[Path], labels: Tensor, shape: tuple[int, int, int], content_hash: str
    ) -> None:
        self.paths = paths
        self.labels = labels
        self.shape = shape
        self.content_hash = content_hash

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        pixels = torch.from_numpy(read_image(self.paths[index], self.shape))
        return bytes_to_floats(pixels), self.labels[index]

    def rows(self, rows: Tensor) -> "ImageFiles":
        """Return the same with these rows only."""
        paths = [self.paths[row] for row in rows.tolist()]
        return ImageFiles(paths, self.labels[rows], self.shape, self.content_hash)


@dataclass(frozen=True)
class Header:
    """What the first bytes of an image file say."""

    size: tuple[int, int]
    """Width and height in pixels, turned upright."""
    gray: bool


class BadImageError(Exception):
    """An image that cannot be used, and why in a few words."""


def read_folder(
    root: Path,
    *,
    split_seed: int = 0,
    image_size: int | None = None,
    skip_bad: bool = False,
    memory_budget: int = 2048,
) -> DataSplits:
    """Return the images of a folder.

    Args:
        root: the folder; hidden files are ignored.
        split_seed: seed of the stratified split, where there are no `valid` and `test` folders.
        image_size: pixels a side to fit every image to (scaled, then cropped to the middle); by
            default their own size, if they share one, else 64.
        skip_bad: leave out images that cannot be read, and count them.
        memory_budget: MiB; images that take more are read from disk as they are used.

    Raises:
        DataError: if there are no classes, or images that cannot be read: all are named.
    """
    files = find_images(root)
    classes = sorted({label for _, label, _ in files})
    headers, bad = read_all([path for *_, path in files], read_header)
    size, notes = choose_size(list(headers.values()), image_size)
    channels = 1 if headers and all(header.gray for header in headers.values()) else 3
    shape = (channels, *size)
    fits = len(headers) * channels * size[0] * size[1] <= memory_budget * 2**20

    def load(path: Path) -> NDArray[np.uint8] | bytes:
        pixels = read_image(path, shape)
        return pixels if fits else hashlib.sha256(pixels.data).digest()

    loaded, undecodable = read_all(list(headers), load)
    bad |= undecodable
    if bad and not skip_bad:
        named = "; ".join(f"{path.relative_to(root)} ({why})" for path, why in sorted(bad.items()))
        raise DataError(
            f"{root}: every image must be readable, and {len(bad)} of {len(files)} are not: "
            f"{named}; mend or remove them, or pass --skip-bad"
        )
    if bad:
        notes.append(f"{len(bad)} of {len(files)} images could not be read and are left out")
    if not fits:
        notes.append(f"more than {memory_budget} MiB of images: read from disk as they are used")
    parts: dict[str, tuple[Samples, Labels]] = {}
    for part in sorted({part for part, *_ in files}):
        kept = [(path, label) for of, label, path in files if of == part and path in loaded]
        labels = torch.tensor([classes.index(label) for _, label in kept], dtype=torch.int64)
        paths = [path for path, _ in kept]
        parts[part] = (pack(paths, labels, shape, loaded), labels)
    return assemble(
        str(root), parts, input_shape=shape, split_seed=split_seed, classes=classes, notes=notes
    )


def pack(
    paths: Sequence[Path],
    labels: Tensor,
    shape: tuple[int, int, int],
    loaded: dict[Path, NDArray[np.uint8] | bytes],
) -> Tensor | ImageFiles:
    """Return the images as one tensor if their pixels were kept, else as files to read."""
    contents = [loaded[path] for path in paths]
    if contents and isinstance(contents[0], bytes):
        hashed = hashlib.sha256(b"".join(bytes(content) for content in contents)).hexdigest()
        return ImageFiles(paths, labels, shape, hashed)
    images = torch.empty((len(paths), *shape), dtype=torch.uint8)
    for row, path in enumerate(paths):
        images[row] = torch.from_numpy(loaded.pop(path))  # freed as we go: never held twice
    return images


def find_images(root: Path) -> list[tuple[str, str, Path]]:
    """Return (part, class, path) of every file in the class folders, sorted by name."""
    folders = subfolders(root)
    if any(PARTS.get(folder.name.lower()) == "train" for folder in folders):
        classes = [
            (PARTS[folder.name.lower()], label)
            for folder in folders
            if folder.name.lower() in PARTS
            for label in subfolders(folder)
        ]
    else:
        classes = [("train", label) for label in folders]
    if not classes:
        idx = any(path.name.startswith("train-images-idx3") for path in root.iterdir())
        raise DataError(
            f"{root} must have a folder of images for each class, and it has none; "
            + ("it holds IDX files: pass --data mnist --data-dir with this folder" if idx else
               "lay it out as CLASS/*.png or train/CLASS/*.png")
        )  # fmt: skip
    found = []
    for part, folder in classes:
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and wanted(path)]
        if not files:
            raise DataError(f"{folder} must hold images of the class {folder.name!r}, it is empty")
        found += [(part, folder.name, path) for path in files]
    return found


def subfolders(root: Path) -> list[Path]:
    """Return the folders in a folder that are not hidden, sorted by name."""
    return sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] not in "._")


def wanted(path: Path) -> bool:
    """Tell files that someone put there from those that a system leaves."""
    return not path.name.startswith(".") and path.name.lower() not in IGNORED


def choose_size(headers: Sequence[Header], asked: int | None) -> tuple[tuple[int, int], list[str]]:
    """Return (height, width) for all images, and a note if that was our choice."""
    sizes = {header.size for header in headers}
    if asked is not None:
        return (asked, asked), []
    if len(sizes) == 1:
        width, height = next(iter(sizes))
        return (height, width), []
    note = (
        f"images differ in size: fitted to {DEFAULT_SIZE}x{DEFAULT_SIZE} (--image-size changes it)"
    )
    return (DEFAULT_SIZE, DEFAULT_SIZE), [note]


def read_all(
    paths: Sequence[Path], read: Callable[[Path], T]
) -> tuple[dict[Path, T], dict[Path, str]]:
    """Call `read` on every path, in threads; return what it gave, and why it failed, by path."""

    def attempt(path: Path) -> T | BadImageError:
        try:
            return read(path)
        except BadImageError as error:
            return error

    # Filters of warnings belong to the whole process, so they are set here and not in a thread.
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")  # Pillow's, of damage that it reads past
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        read_paths = with_bar(pool.map(attempt, paths), "reading images", len(paths))
        results = dict(zip(paths, read_paths, strict=True))
    good = {path: got for path, got in results.items() if not isinstance(got, BadImageError)}
    return good, {path: str(got) for path, got in results.items() if isinstance(got, BadImageError)}


def open_image(path: Path) -> Image.Image:
    """Open an image file without decoding it yet.

    Raises:
        BadImageError: if it is in no format that we read, or too large.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise BadImageError("not a .png, .jpg, .webp or .bmp file")
    try:
        image = Image.open(path, formats=FORMATS)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise BadImageError("larger than 25 megapixels") from error
    except FileNotFoundError as error:
        raise BadImageError("no such file") from error
    except Exception as error:  # decoders fail in many ways on damaged files
        raise BadImageError("not a readable PNG, JPEG, WebP or BMP image") from error
    if image.width * image.height > MOST_PIXELS:
        image.close()
        raise BadImageError("larger than 25 megapixels")
    if image.mode.startswith(("I", "F")):
        image.close()
        raise BadImageError("16 bits or more a pixel; save it with 8")
    return image


def read_header(path: Path) -> Header:
    """Return the size of an image and whether it is gray, from its first bytes."""
    with open_image(path) as image:
        try:
            turned = image.getexif().get(0x0112, 1) >= 5  # orientations 5 to 8 lie on their side
        except Exception as error:
            raise BadImageError("damaged") from error
        width, height = image.size
        return Header(
            (height, width) if turned else (width, height), image.mode in ("L", "1", "LA")
        )


def read_image(path: Path, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return an image as bytes of shape (channels, height, width), turned upright.

    An image of another size is scaled (bilinear, antialiased) until it covers that one, and
    cropped to its middle.
    """
    channels, height, width = shape
    with open_image(path) as opened:
        try:
            upright = ImageOps.exif_transpose(opened) or opened
            image = upright.convert("L" if channels == 1 else "RGB")
        except Exception as error:  # decoders fail in many ways on damaged files
            raise BadImageError("damaged or cut short") from error
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    pixels = np.array(image, dtype=np.uint8)
    return np.ascontiguousarray(pixels.reshape(height, width, channels).transpose(2, 0, 1))
