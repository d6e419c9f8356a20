"""Image files become bytes of shape (channels, height, width), on all cores."""

import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib import import_module
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from plainfit.common.progress import with_bar
from plainfit.data.loaders import end_with_parent, signals_blocked

# Pillow's names; no other decoder gets to see a file.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
HEIC = (b"ftypheic", b"ftypheix", b"ftypmif1")  # how a photo of an iPhone begins, after 4 bytes
SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic", ".heif",
)  # fmt: skip
CHANNELS = {"gray": 1, "rgb": 3}
RESIZE: dict[str, Callable[..., Image.Image]] = {
    "crop": ImageOps.fit,
    "pad": ImageOps.pad,  # with black
    "squash": Image.Image.resize,
}
MOST_PIXELS = 25_000_000  # 25 Mpx: more than a photo camera's, less than a bomb's
SMALL = 2**16  # bytes; decoding a smaller file from memory takes a tenth less time
FEW = 32  # images for which a worker process is not worth starting
CHUNK = 128  # images at most that a worker process decodes before it sends the results
P = TypeVar("P", str, Path)
T = TypeVar("T")
R = TypeVar("R")


class Header(NamedTuple):
    size: tuple[int, int]  # width and height in pixels, turned upright
    gray: bool
    changes: tuple[str, ...]  # what is done to it, beyond turning, scaling and cropping


class BadImageError(Exception):
    """An image that cannot be used; the message says why in a few words."""


def open_image(source: str | Path | bytes) -> Image.Image:
    is_file = not isinstance(source, bytes)
    if is_file and not str(source).lower().endswith(SUFFIXES):
        raise BadImageError("not a .png, .jpg, .webp, .bmp, .gif, .tiff or .heic file")
    try:
        if isinstance(source, bytes):
            content = source
        else:
            with FileIO(source) as file:
                content = file.read(SMALL + 1)
        formats = FORMATS if content[4:12] not in HEIC else heic_formats()
        is_whole = not is_file or len(content) <= SMALL
        image = Image.open(BytesIO(content) if is_whole else source, formats=formats)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise BadImageError("larger than 25 megapixels") from error
    except BadImageError:
        raise
    except FileNotFoundError as error:
        raise BadImageError("no such file") from error
    except Exception as error:  # decoders fail in many ways on damaged files
        raise BadImageError("not a readable image of its kind") from error
    if image.width * image.height > MOST_PIXELS:
        image.close()
        raise BadImageError("larger than 25 megapixels")
    if image.mode in ("I", "F"):
        image.close()
        raise BadImageError("32 bits per pixel; save it with 8 or 16")
    return image


def heic_formats() -> tuple[str, ...]:
    """Let Pillow read HEIC, for which it needs another package."""
    try:
        import_module("pillow_heif").register_heif_opener()
    except ImportError as error:
        raise BadImageError("HEIC, which needs a package: pip install pillow-heif") from error
    return ("HEIF",)


def read_header(path: str) -> Header:
    with open_image(path) as image:
        return header_of(image)


def header_of(image: Image.Image) -> Header:
    changes = tuple(changes_of(image))  # before `getexif`, which may decode
    try:
        turned = image.getexif().get(0x0112, 1) >= 5  # orientations 5 to 8 are on their side
    except Exception as error:
        raise BadImageError("damaged") from error
    width, height = image.size
    size = (height, width) if turned else (width, height)
    is_deep = image.mode.startswith("I;16")
    return Header(size, is_deep or image.mode in ("L", "1", "LA"), changes)


def changes_of(image: Image.Image) -> Iterator[str]:
    is_deep = image.mode.startswith("I;16")
    if is_deep:
        yield "have 16 bits a pixel: scaled to 8, with 65535 as 255"
    elif image.has_transparency_data:
        yield "have transparency: drawn on white"
    elif image.mode not in ("1", "L", "P", "RGB"):
        yield f"are {image.mode}: converted"
    if not is_deep and any(";16" in str(tile.args) for tile in getattr(image, "tile", ())):
        yield "have 16 bits a colour: the higher 8 are kept"  # by Pillow
    if getattr(image, "is_animated", False):
        yield "have several frames: the first is used"


def read_image(
    source: str | Path | bytes, shape: tuple[int, int, int], resize: str | None = None
) -> NDArray[np.uint8]:
    """Return an image as bytes of shape (channels, height, width), turned upright.

    An image of another size is scaled (bilinear, antialiased): until it covers that size, and then
    cropped to its centre, unless `resize` is `pad` or `squash`.
    """
    with open_image(source) as image:
        pixels = pixels_of(image, shape, resize)
    return np.frombuffer(bytearray(pixels), np.uint8).reshape(shape)


def pixels_of(image: Image.Image, shape: tuple[int, int, int], resize: str | None = None) -> bytes:
    channels, height, width = shape
    mode = "L" if channels == 1 else "RGB"
    try:
        if image.getexif().get(0x0112, 1) != 1:  # else the image is upright
            image = ImageOps.exif_transpose(image) or image
        image.load()
        if image.mode != mode or "transparency" in image.info:
            image = converted(image, mode)
    except Exception as error:  # decoders fail in many ways on damaged files
        raise BadImageError("damaged or cut short") from error
    if image.size != (width, height):
        image = RESIZE[resize or "crop"](image, (width, height), Image.Resampling.BILINEAR)
    if channels == 1:
        return image.tobytes()
    return np.asarray(image).transpose(2, 0, 1).tobytes()


def converted(image: Image.Image, mode: str) -> Image.Image:
    """Return an image in gray or RGB of 8 bits, with white where it is transparent."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        image = white
    return image.convert(mode)


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
