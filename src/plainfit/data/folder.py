"""A folder of images: `train/CLASS/*`, `valid/CLASS/*`, `test/CLASS/*`, or just `CLASS/*`."""

import hashlib
import json
import multiprocessing
import os
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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
from plainfit.data.datasets import bytes_to_floats
from plainfit.data.loaders import end_with_parent, signals_blocked
from plainfit.data.ondisk import LazyImages
from plainfit.data.splits import PARTS, DataSplits, Labels, Samples, make_splits, shortened

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")  # Pillow's names; no other decoder gets to see a file
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
MOST_PIXELS = 25_000_000  # 25 Mpx: more than a photo camera's, less than a bomb's
SMALL = 2**16  # bytes; decoding a smaller file from memory takes a tenth less time
DEFAULT_SIZE = 64  # pixels per side, where images differ in size or are large, and none was given
LARGE = 512 * 512  # pixels: beyond it, a batch of 64 takes over 4 GiB for each layer of 64 channels
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

    def __post_init__(self) -> None:
        self.stamps = torch.tensor([stamp(path) for path in self.paths], dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitems__(self, rows: list[int]) -> list[tuple[Tensor, Tensor]]:
        pixels = np.stack([self.read(row) for row in rows])
        xb = bytes_to_floats(torch.from_numpy(pixels))
        return list(zip(xb, self.labels[rows], strict=True))

    def read(self, row: int) -> NDArray[np.uint8]:
        path = self.paths[row]
        try:
            if (now := stamp(path)) and now != self.stamps[row]:
                raise BadImageError("another file")
            return read_image(path, self.shape)
        except BadImageError as error:
            raise DataError(
                f"{path} must not change while it is in use, and it is {error} now"
            ) from error

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
    default: str  # why the size is the default one, else empty


class BadImageError(Exception):
    """An image that cannot be used; the message says why in a few words."""


def read_folder(
    root: Path,
    split_seed: int = 0,
    image_size: int | None = None,
    skip_bad: bool = False,
    memory_budget: int = 2048,
) -> DataSplits:
    """Read the images of a folder; see `open_data`. Hidden files are ignored, and counted.

    The folders in it are either parts (train, valid, test), which hold a folder for each class, or
    classes; a mixture is refused. Images in folders within that of a class belong to it.

    Images are fitted (scaled, then cropped to the centre) to `image_size`; by default to their own
    size if they share one of at most 512x512 pixels, else to 64x64.
    """
    files, runs = find_images(root)
    paths = [path for *_, path in files]
    storage, loaded, bad = load(paths, image_size, memory_budget * 2**20)
    notes = notes_on(root, files, runs)
    if bad and not skip_bad:
        named = "; ".join(
            f"{os.path.relpath(path, root)} ({why})" for path, why in sorted(bad.items())
        )
        raise DataError(
            f"{root}: every image must be readable, and {len(bad)} of {len(files)} are not: "
            f"{named}; repair or remove them, or set skip_bad"
        )
    if storage.default:
        fitted = f"{DEFAULT_SIZE}x{DEFAULT_SIZE}"
        notes.append(f"{storage.default}: fitted to {fitted} (set image_size to change it)")
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
    parts = find_parts(root, folders)
    classes = [(part, label) for part, folder in parts.items() for label in subfolders(folder)]
    classes = classes or [("train", label) for label in folders]
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


def find_parts(root: Path, folders: Sequence[Path]) -> dict[str, Path]:
    """Return the folder of each part; none if the folders are classes.

    A single folder among classes that has the name of a part, and no folders, is a class.
    """
    named = [folder for folder in folders if folder.name.lower() in PARTS]
    held = {tuple(path.name for path in subfolders(folder)) for folder in folders}
    if len(held) == 1 < len(folders) and len(inner := held.pop()) > 1 and not named:
        raise DataError(
            f"{root}: parts cannot be told from classes, as all its folders hold the same ones, "
            f"{shortened(inner)}; call the parts train, valid and test, or move the images up"
        )
    if not named or (len(named) == 1 < len(folders) and not subfolders(named[0])):
        return {}
    parts = {PARTS[folder.name.lower()]: folder for folder in named if subfolders(folder)}
    flat = [folder for folder in folders if folder not in parts.values() and has_images(folder)]
    if flat or "train" not in parts:
        names = shortened([folder.name for folder in flat or folders])
        raise DataError(
            f"{root}: its folders must be either parts (one called train, perhaps valid and test, "
            f"each with a folder for each class) or classes, and {names} would be neither or a "
            "part twice; rename or move them"
        )
    return parts


def has_images(folder: Path) -> bool:
    return any(path.lower().endswith(SUFFIXES) for path in files_under(folder, []))


def notes_on(root: Path, files: Sequence[tuple[str, str, str]], runs: Sequence[str]) -> list[str]:
    """Say what the layout left open: images that are left out, and what belongs to a class."""
    inner = {os.path.normpath(run) for run in runs}
    used, homes = {path for *_, path in files}, set[Path]()
    nested, missed = Counter[str](), Counter[str]()
    for _, label, path in files:
        home = Path(path).parent
        homes |= {home, home.parent}
        if home.name != label:
            nested[str(home.relative_to(root))] += 1
    for place, folders, names in os.walk(root):
        home = Path(place)
        if os.path.normpath(place) in inner:
            folders.clear()  # and so not walked
            continue
        linked = [name for name in folders if (home / name).is_symlink()]
        images = [name for name in names if name.lower().endswith(SUFFIXES)]
        missed[str(home.relative_to(root))] += sum(home / name not in homes for name in linked)
        missed[str(home.relative_to(root))] += sum(str(home / name) not in used for name in images)
    notes = [f"{len(runs)} run folders within the data are left out"] if runs else []
    if nested:
        notes.append(f"images in folders within a class belong to it: {counted(nested)}")
    if +missed:
        notes.append(
            "images and linked folders are left out (hidden, not in the folder of a class, or in "
            f"one that begins with _ or .): {counted(+missed)}"
        )
    classes = {label for _, label, _ in files}
    if names := [label for label in sorted(classes) if label.lower() in PARTS]:
        notes.append(f"read as a class, since it has no folders: {shortened(names)}")
    return notes


def counted(counts: Mapping[str, int]) -> str:
    return shortened([f"{count} in {place}" for place, count in sorted(counts.items())])


def subfolders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] not in "._")


def files_under(folder: Path | str, runs: list[str]) -> Iterator[str]:
    # Run folders go to `runs`, and their files are no data.
    with os.scandir(folder) as entries:
        in_order = sorted(entries, key=lambda entry: entry.name)
    if holds_run(folder, {entry.name for entry in in_order}):
        runs.append(str(folder))
        return
    for entry in in_order:
        if entry.is_dir(follow_symlinks=False):
            yield from files_under(entry.path, runs)
        elif entry.is_file() and entry.name[0] != "." and entry.name.lower() not in IGNORED:
            yield entry.path


def holds_run(folder: Path | str, names: Collection[str]) -> bool:
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
    default = "" if len(sizes) == 1 else "images differ in size"
    width, height = max(sizes, default=(0, 0))
    if size is None and not default and width * height > LARGE:
        default = f"images of {width}x{height} pixels are larger than 512x512"
    if default:
        width = height = DEFAULT_SIZE
    channels = 1 if headers and all(header.gray for header in headers) else 3
    fits = count * channels * height * width <= budget
    return Storage((channels, height, width), fits, default)


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


def stamp(path: str) -> int:
    """Return a number that changes when a file is written or replaced; 0 for one that is gone."""
    try:
        status = os.stat(path)  # noqa: PTH116  # before each image: no Path is made
    except OSError:
        return 0
    return hash((status.st_size, status.st_mtime_ns, status.st_ino))


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
