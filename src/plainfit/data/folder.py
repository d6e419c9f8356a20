"""A folder of images: `train/CLASS/*`, `valid/CLASS/*`, `test/CLASS/*`, or just `CLASS/*`."""

import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from io import BytesIO, FileIO
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from plainfit.common.errors import DataError
from plainfit.common.progress import with_bar
from plainfit.data.cores import on_all_cores
from plainfit.data.layout import find_images
from plainfit.data.lazy import LazyImages
from plainfit.data.loaders import bytes_to_floats
from plainfit.data.splits import DataSplits, Labels, Samples, assemble

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")  # Pillow's names; no other decoder is let near a file
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
MOST_PIXELS = 25_000_000  # 25 Mpx: more than a photo camera's, less than a bomb's
SMALL = 2**16  # bytes; such a file is decoded from memory, which takes a tenth less time
DEFAULT_SIZE = 64  # pixels a side, where the images differ in size and none was asked for
P = TypeVar("P", str, Path)
T = TypeVar("T")


class ImageFiles(LazyImages):
    """Images read from disk one by one: floats in [0, 1), shape (channels, height, width)."""

    def __init__(
        self, paths: Sequence[str], labels: Tensor, shape: tuple[int, int, int], content_hash: str
    ) -> None:
        self.paths = paths
        self.labels = labels
        self.shape = shape
        self.content_hash = content_hash

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, rows: list[int]) -> list[tuple[Tensor, Tensor]]:
        """Return these samples, turned to floats all at once."""
        pixels = np.stack([read_image(self.paths[row], self.shape) for row in rows])
        xb = bytes_to_floats(torch.from_numpy(pixels))
        return list(zip(xb, self.labels[rows], strict=True))

    def rows(self, rows: Tensor) -> "ImageFiles":
        """Return the same with these rows only."""
        paths = [self.paths[row] for row in rows.tolist()]
        return ImageFiles(paths, self.labels[rows], self.shape, self.content_hash)


class Header(NamedTuple):
    """What the first bytes of an image file say."""

    size: tuple[int, int]
    """Width and height in pixels, turned upright."""
    gray: bool


class Plan(NamedTuple):
    """What is kept of every image."""

    shape: tuple[int, int, int]
    """Channels, height, width."""
    fits: bool
    """Whether the pixels are, since all fit in memory; else their SHA-256."""


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
    paths = [path for *_, path in files]
    plan, loaded, bad, notes = load(paths, image_size, memory_budget * 2**20)
    if bad and not skip_bad:
        named = "; ".join(
            f"{os.path.relpath(path, root)} ({why})" for path, why in sorted(bad.items())
        )
        raise DataError(
            f"{root}: every image must be readable, and {len(bad)} of {len(files)} are not: "
            f"{named}; mend or remove them, or pass --skip-bad"
        )
    if bad:
        notes.append(f"{len(bad)} of {len(files)} images could not be read and are left out")
    if not plan.fits:
        notes.append(f"more than {memory_budget} MiB of images: read from disk as they are used")
    number = {label: i for i, label in enumerate(sorted({label for _, label, _ in files}))}
    parts: dict[str, tuple[Samples, Labels]] = {}
    for part in sorted({part for part, *_ in files}):
        kept = [(path, number[label]) for of, label, path in files if of == part and path in loaded]
        labels = torch.tensor([label for _, label in kept], dtype=torch.int64)
        parts[part] = (pack([path for path, _ in kept], labels, plan, loaded), labels)
    return assemble(
        str(root), parts, input_shape=plan.shape, split_seed=split_seed, classes=list(number),
        notes=notes,
    )  # fmt: skip


def load(
    paths: Sequence[str], asked: int | None, budget: int
) -> tuple[Plan, dict[str, bytes], dict[str, str], list[str]]:
    """Return the plan, what it keeps of each image, why others are bad, and notes.

    The plan follows from all headers. As long as they are like the first one, each file is decoded
    when its header is read; what the plan then still lacks takes a second reading.
    """
    first = next(iter(read_all(paths[:1], read_header)[0].values()), None)
    guess, _ = choose_plan([first] if first else [], len(paths), asked, budget)

    def kind(header: Header | None) -> object:
        return header.gray if header and asked else header

    kinds = {kind(first)}

    def look(path: str) -> tuple[Header, bytes | None]:
        with open_image(path) as image:
            header = header_of(image)
            kinds.add(kind(header))
            try:
                return header, content_of(image, guess) if len(kinds) == 1 else None
            except BadImageError:  # which the second reading says
                return header, None

    def read(path: str) -> bytes:
        with open_image(path) as image:
            return content_of(image, plan)

    looked, bad = read_all(paths, look)
    plan, notes = choose_plan([header for header, _ in looked.values()], len(looked), asked, budget)
    loaded = {path: kept for path, (_, kept) in looked.items() if kept and plan == guess}
    rest, undecodable = read_all([path for path in looked if path not in loaded], read)
    return plan, loaded | rest, bad | undecodable, notes


def pack(
    paths: Sequence[str], labels: Tensor, plan: Plan, loaded: dict[str, bytes]
) -> Tensor | ImageFiles:
    """Return the images as one tensor if their pixels were kept, else as files to read."""
    if not plan.fits:
        hashed = hashlib.sha256(b"".join(loaded[path] for path in paths)).hexdigest()
        return ImageFiles(paths, labels, plan.shape, hashed)
    images = torch.empty((len(paths), *plan.shape), dtype=torch.uint8)
    for pixels, path in zip(images.flatten(1).numpy(), paths, strict=True):
        pixels[:] = np.frombuffer(loaded.pop(path), np.uint8)  # freed as we go: never held twice
    return images


def choose_plan(
    headers: Sequence[Header], count: int, asked: int | None, budget: int
) -> tuple[Plan, list[str]]:
    """Return what to keep of so many images, and a note if their size was our choice.

    Args:
        headers: of all images, or of one that stands for them.
        count: the number of images.
        asked: pixels a side, if the user said.
        budget: bytes.
    """
    sizes, notes = {header.size for header in headers}, []
    if asked is not None:
        sizes = {(asked, asked)}
    elif len(sizes) != 1:
        sizes = {(DEFAULT_SIZE, DEFAULT_SIZE)}
        fitted = f"{DEFAULT_SIZE}x{DEFAULT_SIZE}"
        notes = [f"images differ in size: fitted to {fitted} (--image-size changes it)"]
    width, height = sizes.pop()
    channels = 1 if headers and all(header.gray for header in headers) else 3
    fits = count * channels * height * width <= budget
    return Plan((channels, height, width), fits), notes


def read_all(paths: Sequence[P], read: Callable[[P], T]) -> tuple[dict[P, T], dict[P, str]]:
    """Call `read` on every path, on all cores; return what it gave, and why it failed, by path."""

    def attempt(path: P) -> T | BadImageError:
        try:
            return read(path)
        except BadImageError as error:
            return error

    # Filters of warnings belong to the whole process; those that are forked inherit them.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of damage that it reads past
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with on_all_cores(attempt, paths) as got:
            results = dict(zip(paths, with_bar(got, "reading images", len(paths)), strict=True))
    good = {path: got for path, got in results.items() if not isinstance(got, BadImageError)}
    return good, {path: str(got) for path, got in results.items() if isinstance(got, BadImageError)}


def open_image(path: str | Path) -> Image.Image:
    """Open an image file without decoding it yet.

    Raises:
        BadImageError: if it is in no format that we read, or too large.
    """
    if not str(path).lower().endswith(SUFFIXES):
        raise BadImageError("not a .png, .jpg, .webp or .bmp file")
    try:
        with FileIO(path) as file:
            content = file.read(SMALL + 1)
        image = Image.open(path if len(content) > SMALL else BytesIO(content), formats=FORMATS)
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


def read_header(path: str) -> Header:
    """Return the size of an image and whether it is gray, from its first bytes."""
    with open_image(path) as image:
        return header_of(image)


def header_of(image: Image.Image) -> Header:
    """Return the size of an open image and whether it is gray."""
    try:
        turned = image.getexif().get(0x0112, 1) >= 5  # orientations 5 to 8 lie on their side
    except Exception as error:
        raise BadImageError("damaged") from error
    width, height = image.size
    size = (height, width) if turned else (width, height)
    return Header(size, image.mode in ("L", "1", "LA"))


def read_image(path: str | Path, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return an image as bytes of shape (channels, height, width), turned upright.

    An image of another size is scaled (bilinear, antialiased) until it covers that one, and
    cropped to its middle.
    """
    with open_image(path) as image:
        return np.frombuffer(bytearray(pixels_of(image, shape)), np.uint8).reshape(shape)


def content_of(image: Image.Image, plan: Plan) -> bytes:
    """Return what the plan keeps of an open image: its pixels or their SHA-256."""
    pixels = pixels_of(image, plan.shape)
    return pixels if plan.fits else hashlib.sha256(pixels).digest()


def pixels_of(image: Image.Image, shape: tuple[int, int, int]) -> bytes:
    """Return the pixels of an open image: see `read_image`."""
    channels, height, width = shape
    mode = "L" if channels == 1 else "RGB"
    try:
        if image.getexif().get(0x0112, 1) != 1:  # else the image is upright
            image = ImageOps.exif_transpose(image) or image
        image.load()
        if image.mode != mode:
            image = image.convert(mode)
    except Exception as error:  # decoders fail in many ways on damaged files
        raise BadImageError("damaged or cut short") from error
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    if channels == 1:
        return image.tobytes()
    return np.asarray(image).transpose(2, 0, 1).tobytes()
