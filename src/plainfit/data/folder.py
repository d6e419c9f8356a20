"""A folder of images: `train/CLASS/*`, `valid/CLASS/*`, `test/CLASS/*`, or just `CLASS/*`."""

import hashlib
import json
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from plainfit.common.errors import DataError
from plainfit.common.files import RECORD
from plainfit.common.locks import LOCK
from plainfit.common.progress import with_bar
from plainfit.data.loaders import bytes_to_floats, end_with_parent, signals_blocked
from plainfit.data.ondisk import LazyImages
from plainfit.data.splits import DataSplits, Labels, Samples, make_splits

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")  # Pillow's names; no other decoder gets to see a file
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
MOST_PIXELS = 25_000_000  # 25 Mpx: more than a photo camera's, less than a bomb's
SMALL = 2**16  # bytes; decoding a smaller file from memory takes a tenth less time
DEFAULT_SIZE = 64  # pixels per side, where images differ in size and none was given
PARTS = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}
IGNORED = {"thumbs.db", "desktop.ini"}
FEW = 32  # images for which a worker process is not worth starting
CHUNK = 128  # images at most that a worker process decodes before it sends the results
P = TypeVar("P", str, Path)
T = TypeVar("T")
R = TypeVar("R")


@dataclass(eq=False, repr=False)
class ImageFiles(LazyImages):
    """Images read from disk one by one: floats in [0, 1), shape (channels, height, width)."""

    paths: Sequence[str]
    labels: Tensor
    shape: tuple[int, int, int]
    content_hash: str

    def __len__(self) -> int:
        return len(self.paths)

    def __getitems__(self, rows: list[int]) -> list[tuple[Tensor, Tensor]]:
        pixels = np.stack([read_image(self.paths[row], self.shape) for row in rows])
        xb = bytes_to_floats(torch.from_numpy(pixels))
        return list(zip(xb, self.labels[rows], strict=True))

    def rows(self, rows: Tensor) -> "ImageFiles":
        paths = [self.paths[row] for row in rows.tolist()]
        return ImageFiles(paths, self.labels[rows], self.shape, self.content_hash)

    def contents(self) -> Iterator[bytes]:
        yield self.content_hash.encode()


class Header(NamedTuple):
    size: tuple[int, int]  # width and height in pixels, turned upright
    gray: bool


class Storage(NamedTuple):
    """How all images are stored: the pixels in memory, or their SHA-256 if they do not fit."""

    shape: tuple[int, int, int]  # channels, height, width
    fits: bool
    is_default: bool  # the size


class BadImageError(Exception):
    """An image that cannot be used; the message says why in a few words."""


def read_folder(
    root: Path,
    split_seed: int = 0,
    image_size: int | None = None,
    skip_bad: bool = False,
    memory_budget: int = 2048,
) -> DataSplits:
    """Read the images of a folder; see `open_data`. Hidden files are ignored.

    Images are fitted (scaled, then cropped to the centre) to `image_size`; by default to their own
    size if they share one, else to 64x64.
    """
    files, runs = find_images(root)
    paths = [path for *_, path in files]
    storage, loaded, bad = load(paths, image_size, memory_budget * 2**20)
    notes = [f"{len(runs)} run folders within the data are left out"] if runs else []
    if bad and not skip_bad:
        named = "; ".join(
            f"{os.path.relpath(path, root)} ({why})" for path, why in sorted(bad.items())
        )
        raise DataError(
            f"{root}: every image must be readable, and {len(bad)} of {len(files)} are not: "
            f"{named}; repair or remove them, or set skip_bad"
        )
    if storage.is_default:
        fitted = f"{DEFAULT_SIZE}x{DEFAULT_SIZE}"
        notes.append(f"images differ in size: fitted to {fitted} (set image_size to change it)")
    if bad:
        notes.append(f"{len(bad)} of {len(files)} images could not be read and are left out")
    if not storage.fits:
        notes.append(f"images larger than {memory_budget} MiB: read from disk as they are used")
    number = {label: i for i, label in enumerate(sorted({label for _, label, _ in files}))}
    parts: dict[str, tuple[Samples, Labels]] = {}
    for part in sorted({part for part, *_ in files}):
        kept = [(path, number[label]) for of, label, path in files if of == part and path in loaded]
        labels = torch.tensor([label for _, label in kept], dtype=torch.int64)
        parts[part] = (pack([path for path, _ in kept], labels, storage, loaded), labels)
    return make_splits(str(root), parts, split_seed=split_seed, classes=list(number), notes=notes)


def find_images(root: Path) -> tuple[list[tuple[str, str, str]], list[str]]:
    """Return (part, class, path) of every file in the class folders, sorted by name; and the runs.

    A folder of runs and no image is no class.
    """
    folders = subfolders(root)
    parts = [(PARTS.get(folder.name.lower(), ""), folder) for folder in folders]
    if any(part == "train" for part, _ in parts):
        classes = [(part, label) for part, folder in parts if part for label in subfolders(folder)]
    else:
        classes = [("train", label) for label in folders]
    if not classes:
        remedy = "lay it out as CLASS/*.png or train/CLASS/*.png"
        if any(path.name.startswith("train-images-idx3") for path in root.iterdir()):
            remedy = "it holds IDX files: open mnist with data_dir set to this folder"
        raise DataError(
            f"{root} must have a folder of images for each class, and it has no folders; {remedy}"
        )
    found: list[tuple[str, str, str]] = []
    runs: list[str] = []
    for part, folder in classes:
        before = len(runs)
        files = list(files_under(folder, runs))
        if len(runs) > before and not any(path.lower().endswith(SUFFIXES) for path in files):
            continue
        if not files:
            raise DataError(f"{folder} must hold images of class {folder.name!r}, and it is empty")
        found += [(part, folder.name, path) for path in files]
    if not found:
        raise DataError(f"{root} must have a folder of images for each class, and has only runs")
    return found, runs


def subfolders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] not in "._")


def files_under(folder: Path | str, runs: list[str]) -> Iterator[str]:
    # Run folders go to `runs`, and their files are no data.
    with os.scandir(folder) as entries:
        in_order = sorted(entries, key=lambda entry: entry.name)
    if is_run(folder, {entry.name for entry in in_order}):
        runs.append(str(folder))
        return
    for entry in in_order:
        if entry.is_dir(follow_symlinks=False):
            yield from files_under(entry.path, runs)
        elif entry.is_file() and entry.name[0] != "." and entry.name.lower() not in IGNORED:
            yield entry.path


def is_run(folder: Path | str, names: Collection[str]) -> bool:
    if RECORD not in names:
        return LOCK in names  # of a run that begins
    try:
        record = json.loads(Path(folder, RECORD).read_bytes())
        return bool({"state", "config", "model"} <= record.keys())
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def load(
    paths: Sequence[str], size: int | None, budget: int
) -> tuple[Storage, dict[str, bytes], dict[str, str]]:
    """Return the storage, what it keeps of each image, and why others are bad.

    The storage depends on all headers. As long as they are like the first, each file is decoded
    when its header is read; the rest is read a second time.
    """
    firsts, _ = read_all(paths[:1], read_header)
    guess = choose_storage(list(firsts.values()), len(paths), size, budget)
    are_alike = True

    def look(path: str) -> tuple[Header, bytes | None]:
        nonlocal are_alike
        with open_image(path) as image:
            header = header_of(image)
            are_alike &= choose_storage([header], len(paths), size, budget) == guess
            try:
                return header, content_of(image, guess) if are_alike else None
            except BadImageError:  # raised again by the second reading
                return header, None

    def read(path: str) -> bytes:
        with open_image(path) as image:
            return content_of(image, storage)

    looked, bad = read_all(paths, look)
    headers = [header for header, _ in looked.values()]
    storage = choose_storage(headers, len(looked), size, budget)
    loaded = {path: kept for path, (_, kept) in looked.items() if kept and storage == guess}
    rest, undecodable = read_all([path for path in looked if path not in loaded], read)
    return storage, loaded | rest, bad | undecodable


def choose_storage(headers: Sequence[Header], count: int, size: int | None, budget: int) -> Storage:
    sizes = {header.size for header in headers} if size is None else {(size, size)}
    is_default = len(sizes) != 1
    width, height = (DEFAULT_SIZE, DEFAULT_SIZE) if is_default else sizes.pop()
    channels = 1 if headers and all(header.gray for header in headers) else 3
    fits = count * channels * height * width <= budget
    return Storage((channels, height, width), fits, is_default)


def pack(
    paths: Sequence[str], labels: Tensor, storage: Storage, loaded: dict[str, bytes]
) -> Tensor | ImageFiles:
    if not storage.fits:
        hashed = hashlib.sha256(b"".join(loaded[path] for path in paths)).hexdigest()
        return ImageFiles(paths, labels, storage.shape, hashed)
    images = torch.empty((len(paths), *storage.shape), dtype=torch.uint8)
    for pixels, path in zip(images.flatten(1).numpy(), paths, strict=True):
        pixels[:] = np.frombuffer(loaded.pop(path), np.uint8)  # freed at once: never held twice
    return images


def read_all(paths: Sequence[P], read: Callable[[P], T]) -> tuple[dict[P, T], dict[P, str]]:
    """Call `read` on every path, on all cores; return the results, and why others failed."""

    def attempt(path: P) -> T | BadImageError:
        try:
            return read(path)
        except BadImageError as error:
            return error

    # Warning filters belong to the whole process; forked processes inherit them.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about damage that it can skip
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with on_all_cores(attempt, paths) as got:
            results = dict(zip(paths, with_bar(got, "reading images", len(paths)), strict=True))
    good = {path: got for path, got in results.items() if not isinstance(got, BadImageError)}
    return good, {path: str(got) for path, got in results.items() if isinstance(got, BadImageError)}


@contextmanager
def on_all_cores(call: Callable[[T], R], items: Sequence[T]) -> Iterator[Iterator[R]]:
    """Give an iterator over `call(item)` for each item, in order.

    Pillow runs much Python code, so threads would wait for each other. On Linux processes are
    forked, so that `call` may be a closure; they end with the block, and with this process. Forking
    is not safe on other systems, which use threads. A few items are handled in this process.
    """
    count = min(cores(), len(items) // FEW)
    if count < 2 or multiprocessing.current_process().daemon:  # which may not start processes
        yield map(call, items)
        return
    if sys.platform != "linux":
        with ThreadPoolExecutor(count) as threads:
            yield threads.map(call, items)
        return
    context = multiprocessing.get_context("fork")
    stop = context.RawValue("b", 0)
    pool = ProcessPoolExecutor(count, context, start_worker, (call, stop))
    try:
        with signals_blocked():
            chunk = min(CHUNK, max(1, len(items) // (4 * count)))
            results = pool.map(call_in_worker, items, chunksize=chunk)
        yield results
    except BrokenProcessPool as error:
        raise ChildProcessError("a worker process was killed; is memory short?") from error
    finally:
        # Killing workers would not do: the executor would wait for the rest of a half-sent result.
        stop.value = 1
        pool.shutdown(cancel_futures=True)


def cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def start_worker(call: Callable[[Any], Any], stop: Any) -> None:
    global worker_call, worker_stop
    worker_call, worker_stop = call, stop  # inherited: a closure cannot be pickled
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all processes
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the executor ends workers by it
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    end_with_parent()


def call_in_worker(item: Any) -> Any:
    return None if worker_stop.value else worker_call(item)


worker_call: Callable[[Any], Any]
worker_stop: Any


def open_image(path: str | Path) -> Image.Image:
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
        raise BadImageError("16 bits or more per pixel; save it with 8")
    return image


def read_header(path: str) -> Header:
    with open_image(path) as image:
        return header_of(image)


def header_of(image: Image.Image) -> Header:
    try:
        turned = image.getexif().get(0x0112, 1) >= 5  # orientations 5 to 8 are on their side
    except Exception as error:
        raise BadImageError("damaged") from error
    width, height = image.size
    size = (height, width) if turned else (width, height)
    return Header(size, image.mode in ("L", "1", "LA"))


def read_image(path: str | Path, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return an image as bytes of shape (channels, height, width), turned upright.

    An image of another size is scaled (bilinear, antialiased) until it covers that size, and
    cropped to its centre.
    """
    with open_image(path) as image:
        return np.frombuffer(bytearray(pixels_of(image, shape)), np.uint8).reshape(shape)


def content_of(image: Image.Image, storage: Storage) -> bytes:
    pixels = pixels_of(image, storage.shape)
    return pixels if storage.fits else hashlib.sha256(pixels).digest()


def pixels_of(image: Image.Image, shape: tuple[int, int, int]) -> bytes:
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
