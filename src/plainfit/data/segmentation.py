"""A folder of images and of masks: pictures of the same size, with a class for each pixel."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from plainfit.common.errors import ConfigError, DataError, plural, raised_as, shortened
from plainfit.data import folder
from plainfit.data.decoding import RESIZE, BadImageError, open_image, read_all, read_header
from plainfit.data.layout import ENDING, HOMES, images_under, subfolders
from plainfit.data.ondisk import ImageFiles, stamps, unchanged
from plainfit.data.parts import Split
from plainfit.data.splits import MOST_NAMED, PARTS, DataSplits, Samples, make_splits
from plainfit.data.targets import SEGMENTATION, Target

MOST = 64  # values in masks without names of classes; more come from smoothing or JPEG
UNKNOWN, IGNORED = 255, -100  # in a file, and for `torch.nn.functional.cross_entropy`
GRAY = 0x010101  # times a number is the colour 0xRRGGBB that looks the same
# The colours of PASCAL VOC's masks, by class: each bit of a number goes to another channel.
BITS = np.arange(256)[:, None] >> np.arange(24) & 1  # (class, 3 * bit + channel)
COLOURS = (BITS.reshape(256, 8, 3) << np.arange(7, -1, -1)[:, None]).sum(1).astype(np.uint8)

Numbers = NDArray[np.int32]


def mask_folders(root: Path) -> dict[str, tuple[Path, Path]]:
    """Return the folders of images and of masks by part; none if this is no such data."""
    if homes := both(root):
        images, masks = map(parts_in, homes)
        inner = {part: (home, masks[part]) for part, home in images.items() if part in masks}
        return inner if "train" in inner else {"train": homes}
    found = {part: homes for part, home in parts_in(root).items() if (homes := both(home))}
    return found if "train" in found else {}


def parts_in(root: Path) -> dict[str, Path]:
    names = {path.name.lower(): path for path in subfolders(root)}
    return {PARTS[name]: path for name, path in names.items() if name in PARTS}


def both(root: Path) -> tuple[Path, Path] | None:
    found = [[f for f in subfolders(root) if f.name.lower() in names] for names in HOMES]
    if any(len(homes) != 1 or not any(images_under(homes[0])) for homes in found):
        return None
    return found[0][0], found[1][0]


def find_pairs(root: Path) -> tuple[list[tuple[str, str, str]], list[str]]:
    """Return the part, image and mask of each pair, and notes; no mask is an empty text.

    Both files have the same name, but the mask's may end with `_mask`.
    """
    pairs = list[tuple[str, str, str]]()
    for part, (images, masks) in mask_folders(root).items():
        named = {stem(path, masks): path for path in images_under(masks)}
        mask_of = {ENDING.sub("", name): path for name, path in named.items()} | named
        for path in images_under(images):
            pairs.append((part, path, mask_of.get(stem(path, images), "")))
    left = len({*images_under(root)} - {path for pair in pairs for path in pair[1:]})
    return pairs, [f"left out: {plural(left, 'image')} in no pair with a mask"] * bool(left)


def stem(path: str, home: Path) -> str:
    return Path(path).relative_to(home).with_suffix("").as_posix()


def read_segmentation(
    root: Path,
    split: Split,
    memory_budget: int,
    image_size: int | None = None,
    skip_bad: bool = False,
    image_mode: str | None = None,
    resize: str | None = None,
    group_by: str | None = None,
) -> DataSplits:
    """Read images and masks; see `open_data`. The targets are int64, (samples, height, width)."""
    pairs, notes = find_pairs(root)
    wanted = folder.wanted_of(image_size, image_mode, resize, memory_budget, extra=8)
    storage, loaded, bad, changes = folder.load([image for _, image, _ in pairs], wanted)
    if storage.default:
        raise ConfigError(f"must be set, as {storage.default}", field="image_size")
    image_of = {mask: image for _, image, mask in pairs if mask}
    bad |= {image: "no mask of the same name" for _, image, mask in pairs if not mask}

    def look(path: str) -> tuple[Numbers, Any]:
        whole, image = read_mask(path), image_of[path]
        size = whole.shape[::-1] if image in bad else read_header(image).size
        if whole.shape[::-1] != size:
            sides = [f"{wide}x{high}" for wide, high in (whole.shape[::-1], size)]
            raise BadImageError(f"{sides[0]}, and its image is {sides[1]}")
        pixels = fitted(whole, storage.shape, resize)
        if storage.fits:
            return np.unique(whole), pixels
        digest = hashlib.sha256(pixels.tobytes()).digest()
        return np.unique(whole), (*np.unique(pixels, return_counts=True), digest)

    masks, bad_masks = read_all([*image_of], look)
    bad |= bad_masks
    left_out = folder.without_bad(root, [pair[1:] for pair in pairs], bad, skip_bad)
    kept = [pair for pair in pairs if bad.keys().isdisjoint(pair[1:])]
    notes += changes + left_out
    values = np.unique(np.concatenate([masks[mask][0] for *_, mask in kept]))
    classes, values, said = classes_of(root, values)
    hashes = dict[str, list[int]]()
    parts = dict[str, tuple[Samples, Tensor]]()
    for part in sorted({part for part, *_ in kept}):
        of_part = [pair[1:] for pair in kept if pair[0] == part]
        paths, mask_paths = map(list, zip(*of_part, strict=True))
        seen = [masks[mask][1] for mask in mask_paths]
        hashes[part] = [hash(loaded[path]) for path in paths]
        if part == "train" and group_by is not None:
            split = replace(split, groups=folder.groups_of(paths, group_by))
        if storage.fits:
            labels = torch.stack([numbered(pixels, values) for pixels in seen])
            images: Samples = folder.pack(paths, labels, storage, loaded)
        else:
            labels = torch.stack([counted(found, counts, values) for found, counts, _ in seen])
            contents = [*map(loaded.__getitem__, paths), *(digest for *_, digest in seen)]
            digest = hashlib.sha256(b"".join(contents)).hexdigest()
            images = MaskedFiles(
                paths, labels, storage.shape, digest, resize, masks=mask_paths, values=values
            )
        parts[part] = (images, labels)
    if not storage.fits:
        larger = f"images and masks larger than {memory_budget} MiB"
        notes.append(f"{larger}: read from disk as they are used")
    target, notes = Target(tuple(classes), SEGMENTATION), notes + said
    return make_splits(str(root), parts, split=split, target=target, notes=notes, hashes=hashes)


@dataclass(eq=False, repr=False, kw_only=True)
class MaskedFiles(ImageFiles):
    """Images and masks read from disk one by one; `labels` has the number of pixels by class."""

    masks: Sequence[str]
    values: Numbers

    def __post_init__(self) -> None:
        super().__post_init__()
        self.mask_stamps = stamps(self.masks)

    def __getitems__(self, rows: list[int]) -> list[tuple[Tensor, Tensor]]:
        pairs = zip(super().__getitems__(rows), rows, strict=True)
        return [(x, self.read_classes(row)) for (x, _), row in pairs]

    def read_classes(self, row: int) -> Tensor:
        path = self.masks[row]
        with unchanged(path, self.mask_stamps[row]):
            return numbered(fitted(read_mask(path), self.shape, self.resize), self.values)

    def rows(self, rows: Tensor) -> "MaskedFiles":
        masks = [self.masks[row] for row in rows.tolist()]
        paths = [self.paths[row] for row in rows.tolist()]
        return replace(self, paths=paths, labels=self.labels[rows], masks=masks)


def read_mask(path: str) -> Numbers:
    with open_image(path) as mask:
        if mask.format == "JPEG":
            raise BadImageError("JPEG, which changes values; make masks as PNG")
        try:
            mask = ImageOps.exif_transpose(mask)
            if mask.mode in ("P", "1", "L", "LA", "I;16"):  # whatever the colours of a palette are
                values = np.asarray(mask.convert("L") if mask.mode in ("1", "LA") else mask)
            else:
                values = np.asarray(mask.convert("RGB")) @ np.array([2**16, 2**8, 1])
        except Exception as error:  # decoders fail in many ways on damaged files
            raise BadImageError("damaged or cut short") from error
    return values.astype(np.int32)


def fitted(whole: Numbers, shape: tuple[int, int, int], resize: str | None) -> Numbers:
    """Return the values of a mask, fitted as its image is; pixels outside of the mask are -1."""
    mask, (_, height, width) = Image.fromarray(whole + 1), shape  # and 0 where it is padded
    if mask.size != (width, height):
        mask = RESIZE[resize or "crop"](mask, (width, height), Image.Resampling.NEAREST)
    return np.asarray(mask) - 1


def classes_of(root: Path, values: Numbers) -> tuple[list[str], Numbers, list[str]]:
    scale = 1 if (values % GRAY).any() else GRAY  # of numbers that were saved as RGB
    is_black_and_white = values.tolist() == [0, UNKNOWN * scale]
    are_colours = values[-1] > UNKNOWN * scale
    if not is_black_and_white and not are_colours:
        values = values[values != UNKNOWN * scale]
    names = given_names(root)
    if names and not are_colours and len(values) and values[-1] < len(names) * scale:
        values = np.arange(len(names), dtype=np.int32) * scale
    if not 2 <= len(values) <= (len(names) or MOST) or len(names) not in (0, len(values)):
        raise DataError(
            f"{root}: masks must have 2 to {MOST} values, or one for each name in classes.txt, got "
            f"{len(values)} values and {len(names)} names; save masks as PNG, without smoothing"
        )
    own = [f"#{v:06x}" if are_colours else str(v // scale) for v in values.tolist()]
    said = []
    if is_black_and_white:
        said = ["masks are black and white, 0 and 255: two classes, and no pixel is ignored"]
    elif are_colours or values[-1] >= len(values) * scale:
        said = [f"the values of masks are classes in sorted order: {shortened(own, MOST_NAMED)}"]
    return names or own, values, said


def given_names(root: Path) -> list[str]:
    path = root / "classes.txt"
    with raised_as(DataError, f"{path} must have a name in each line"):
        text = path.read_text(encoding="utf-8-sig") if path.is_file() else ""
    return text.strip().splitlines()


def numbered(pixels: Numbers, values: Numbers) -> Tensor:
    """Return the class of each pixel, int64; IGNORED where it has none."""
    places = np.searchsorted(values, pixels).clip(max=len(values) - 1)
    return torch.from_numpy(np.where(values[places] == pixels, places, IGNORED))


def counted(found: Numbers, counts: NDArray[np.int64], values: Numbers) -> Tensor:
    places, pixels = numbered(found, values), torch.zeros(len(values), dtype=torch.int64)
    pixels[places[places >= 0]] = torch.from_numpy(counts)[places >= 0]
    return pixels


def mask_picture(classes: Tensor, size: tuple[int, int], resize: str | None) -> Image.Image:
    """Return the classes of pixels, shape (height, width), as an image with a palette.

    It has the size of the image that was fitted; pixels that were cropped away are UNKNOWN.
    """
    height, width = classes.shape
    pixels = classes.to(torch.uint8).numpy().tobytes()
    picture = Image.frombytes("L", (width, height), pixels)
    if size != picture.size and resize in ("pad", "squash"):
        seen = RESIZE[resize](Image.new("L", size, 1), picture.size).getbbox()
        picture = picture.resize(size, Image.Resampling.NEAREST, seen)
    elif size != picture.size:
        picture = ImageOps.pad(picture, size, Image.Resampling.NEAREST, color=UNKNOWN)
    picture.putpalette(COLOURS.flatten().tolist())
    return picture


def overlaid(x: Tensor, classes: Tensor) -> Tensor:
    colours = torch.from_numpy(COLOURS)[classes.where(classes >= 0, UNKNOWN)]
    return (x + colours.permute(2, 0, 1) / 256) / 2
