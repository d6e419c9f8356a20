"""A folder of images: `train/CLASS/*`, `valid/CLASS/*`, `test/CLASS/*`, or just `CLASS/*`."""

import hashlib
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from plainfit.common.errors import ConfigError, DataError, shortened, unknown_name
from plainfit.data import decoding
from plainfit.data.layout import LabelOptions, find_images
from plainfit.data.ondisk import ImageFiles
from plainfit.data.parts import Split, group_numbers
from plainfit.data.splits import MOST_NAMED, DataSplits, make_splits
from plainfit.data.tables.reading import TableOptions
from plainfit.data.targets import CLASSIFICATION, Target, encode

DEFAULT_SIZE = 64  # pixels per side, where images differ in size or are large, and none was given
BLANK = "are white all over (drawn in white on transparency? save them on another colour)"
LARGE = 512 * 512  # pixels: beyond it, a batch of 64 takes over 4 GiB for each layer of 64 channels


class Wanted(NamedTuple):
    """What the settings say of how images are stored."""

    size: int | None
    channels: int | None
    resize: str | None
    budget: int  # bytes
    extra: int  # bytes that a pixel takes besides its channels


class Storage(NamedTuple):
    """How all images are stored: the pixels in memory, or their SHA-256 if they do not fit."""

    shape: tuple[int, int, int]  # channels, height, width
    fits: bool
    default: str  # why the size is the default one, else empty
    resize: str | None


def read_folder(
    root: Path,
    split: Split,
    memory_budget: int,
    image_size: int | None = None,
    skip_bad: bool = False,
    image_mode: str | None = None,
    resize: str | None = None,
    target: str | None = None,
    group_by: str | None = None,
    task: str | None = None,
    **written: Any,
) -> DataSplits:
    """Read the images of a folder; see `open_data`. Hidden files are ignored, and counted.

    Images are fitted to `image_size`; by default to their own size if they share one of at most
    512x512 pixels, else to 64x64.
    """
    wanted = wanted_of(image_size, image_mode, resize, memory_budget)
    files, notes, targets = find_images(root, LabelOptions(target, task, TableOptions(**written)))
    own = {"target": target, "task": task if task != CLASSIFICATION else None, **written}
    for name, value in own.items():
        if value is not None and not targets:
            raise ConfigError(
                f"is for a table or labels.csv, and {root} has none: leave it out, got {value}",
                field=name,
            )
    paths = [path for *_, path in files]
    storage, loaded, bad, changes = load(paths, wanted)
    left_out = without_bad(root, [(path,) for path in paths], bad, skip_bad)
    notes += changes
    if storage.default:
        fitted = f"{DEFAULT_SIZE}x{DEFAULT_SIZE}"
        notes.append(f"{storage.default}: fitted to {fitted} (set image_size to change it)")
    notes += left_out
    if not storage.fits:
        notes.append(f"images larger than {memory_budget} MiB: read from disk as they are used")
    sources = {
        part: [path for of, _, path in files if of == part and path in loaded]
        for part in sorted({part for part, *_ in files})
    }
    label_of = {path: label for _, label, path in files}
    labels = {part: [label_of[path] for path in paths] for part, paths in sources.items()}
    if targets:
        what, encoded, found = encode(str(root), labels, task, targets)
        notes += found
    else:
        what = Target(tuple(sorted({label for _, label, _ in files})))
        encoded = {part: what.encoded(str(root), of_part) for part, of_part in labels.items()}
    hashes = {part: [hash(loaded[path]) for path in paths] for part, paths in sources.items()}
    if group_by is not None:
        split = replace(split, groups=groups_of(sources["train"], group_by))
    parts = {part: (pack(sources[part], y, storage, loaded), y) for part, y in encoded.items()}
    return make_splits(
        str(root), parts, split=split, target=what, notes=notes, hashes=hashes, sources=sources
    )


def wanted_of(
    size: int | None, image_mode: str | None, resize: str | None, memory_budget: int, extra: int = 0
) -> Wanted:
    if image_mode is not None and image_mode not in decoding.CHANNELS:
        raise ConfigError(unknown_name("image mode", image_mode, decoding.CHANNELS))
    if resize is not None and resize not in decoding.RESIZE:
        raise ConfigError(unknown_name("image resize", resize, decoding.RESIZE))
    channels = decoding.CHANNELS.get(image_mode or "")
    return Wanted(size, channels, resize, memory_budget * 2**20, extra)


def groups_of(paths: Sequence[str], mark: str) -> Tensor:
    """Number the groups of files whose names are the same up to the last mark."""
    names = [Path(path).stem for path in paths]
    if names and not (mark and any(mark in name for name in names)):
        raise ConfigError(
            f"must be in the names of files, such as {names[0]!r}, and {mark!r} is in none of "
            f"{len(names)}",
            field="group_by",
        )
    return group_numbers(np.array([name.rpartition(mark)[0] or name for name in names]))


def without_bad(
    root: Path, samples: Sequence[tuple[str, ...]], bad: Mapping[str, str], skip_bad: bool
) -> list[str]:
    """Refuse files that cannot be used, or note how many samples are left out with them."""
    left = sum(not bad.keys().isdisjoint(paths) for paths in samples)
    if bad and not (skip_bad and left < len(samples)):
        files: dict[str, list[str]] = {}
        for path, why in sorted(bad.items()):
            files.setdefault(why, []).append(os.path.relpath(path, root))
        named = [f"{shortened(paths, MOST_NAMED)} ({why})" for why, paths in files.items()]
        both = " and its mask" if len(samples[0]) > 1 else ""
        raise DataError(
            f"{root}: every image{both} must be readable, and {left} of {len(samples)} are not: "
            f"{', '.join(named)}; repair or remove them, or set skip_bad"
        )
    return [f"{left} of {len(samples)} images could not be read and are left out"] if bad else []


def load(
    paths: Sequence[str], wanted: Wanted
) -> tuple[Storage, dict[str, bytes], dict[str, str], list[str]]:
    """Return the storage, what it keeps of each image, why others are bad, and notes on changes.

    The storage depends on all headers. As long as they are like the first, each file is decoded
    when its header is read; the rest is read a second time.
    """
    firsts, _ = decoding.read_all(paths[:1], decoding.read_header)
    guess = choose_storage(list(firsts.values()), len(paths), wanted)
    are_alike = True

    def look(path: str) -> tuple[decoding.Header, bytes | None]:
        nonlocal are_alike
        with decoding.open_image(path) as image:
            header = decoding.header_of(image)
            are_alike &= choose_storage([header], len(paths), wanted) == guess
            try:
                return header, content_of(image, guess) if are_alike else None
            except decoding.BadImageError:  # raised again by the second reading
                return header, None

    def read(path: str) -> bytes:
        with decoding.open_image(path) as image:
            return content_of(image, storage)

    looked, bad = decoding.read_all(paths, look)
    headers = [header for header, _ in looked.values()]
    storage = choose_storage(headers, len(looked), wanted)
    loaded = {path: kept for path, (_, kept) in looked.items() if kept and storage == guess}
    rest, undecodable = decoding.read_all([path for path in looked if path not in loaded], read)
    loaded |= rest
    changes = Counter(change for header in headers for change in header.changes)
    white = stored(b"\xff" * math.prod(storage.shape), storage)
    changes[BLANK] = sum(content == white for content in loaded.values())
    notes = [f"{n} of {len(paths)} images {done}" for done, n in sorted((+changes).items())]
    return storage, loaded, bad | undecodable, notes


def choose_storage(headers: Sequence[decoding.Header], count: int, wanted: Wanted) -> Storage:
    size = wanted.size
    sizes = {header.size for header in headers} if size is None else {(size, size)}
    default = "" if len(sizes) == 1 else "images differ in size"
    width, height = max(sizes, default=(0, 0))
    if size is None and not default and width * height > LARGE:
        default = f"images of {width}x{height} pixels are larger than 512x512"
    if default:
        width = height = DEFAULT_SIZE
    channels = 1 if headers and all(header.gray for header in headers) else 3
    channels = wanted.channels or channels
    fits = count * (channels + wanted.extra) * height * width <= wanted.budget
    return Storage((channels, height, width), fits, default, wanted.resize)


def pack(
    paths: Sequence[str], labels: Tensor, storage: Storage, loaded: dict[str, bytes]
) -> Tensor | ImageFiles:
    if not storage.fits:
        hashed = hashlib.sha256(b"".join(loaded[path] for path in paths)).hexdigest()
        return ImageFiles(paths, labels, storage.shape, hashed, storage.resize)
    images = torch.empty((len(paths), *storage.shape), dtype=torch.uint8)
    for pixels, path in zip(images.flatten(1).numpy(), paths, strict=True):
        pixels[:] = np.frombuffer(loaded.pop(path), np.uint8)  # freed at once: never held twice
    return images


def content_of(image: Image.Image, storage: Storage) -> bytes:
    return stored(decoding.pixels_of(image, storage.shape, storage.resize), storage)


def stored(pixels: bytes, storage: Storage) -> bytes:
    return pixels if storage.fits else hashlib.sha256(pixels).digest()
