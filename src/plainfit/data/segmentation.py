"""A folder of images and of masks: pictures of the same size, with a class for each pixel."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from plainfit.common.errors import ConfigError, DataError, plural, raised_as, shortened
from plainfit.data.decoding import RESIZE, BadImageError, header_of, open_image
from plainfit.data.folder import Wanted, check_settings, group_numbers, hashed, load, pack
from plainfit.data.layout import images_under, subfolders
from plainfit.data.parts import Split
from plainfit.data.processes import read_all
from plainfit.data.splits import MOST_NAMED, PARTS, DataSplits, Samples, make_splits
from plainfit.data.targets import SEGMENTATION, Target

HOMES = ({"images", "image", "imgs", "img"}, {"masks", "mask", "labels", "label"})
ENDING = re.compile(r"[-_ ](mask|masks|label|labels|seg)$", re.IGNORECASE)  # of a mask's name
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
    """Return the part, image and mask of each pair, and notes.

    Both files have the same name, but the mask's may end with `_mask`.
    """
    pairs, alone = list[tuple[str, str, str]](), list[str]()
    for part, (images, masks) in mask_folders(root).items():
        named = {stem(path, masks): path for path in images_under(masks)}
        mask_of = {ENDING.sub("", name): path for name, path in named.items()} | named
        for path in images_under(images):
            if mask := mask_of.get(stem(path, images)):
                pairs.append((part, path, mask))
            else:
                alone.append(str(Path(path).relative_to(root)))
    if alone:
        raise DataError(
            f"{root}: every image must have a mask of the same name, and {len(alone)} of "
            f"{len(alone) + len(pairs)} have none: {shortened(alone, MOST_NAMED)}; add the masks, "
            "or move these images away"
        )
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
    wanted = Wanted(image_size, check_settings(image_mode, resize), resize, memory_budget * 2**20)
    storage, loaded, bad, changes = load([image for _, image, _ in pairs], wanted)
    if storage.default:
        raise ConfigError(f"must be set, as {storage.default}", field="image_size")
    _, height, width = storage.shape
    if len(pairs) * height * width * 8 > wanted.budget or not storage.fits:
        raise DataError(
            f"{root}: images and masks must fit into {memory_budget} MiB, with 8 bytes for the "
            "class of a pixel; raise memory_budget, or set a smaller image_size"
        )
    image_of = {mask: image for _, image, mask in pairs}
    masks, bad_masks = read_all(
        [*image_of], lambda path: read_mask(path, image_of[path], (width, height), resize)
    )
    bad |= bad_masks
    kept = [pair for pair in pairs if pair[1] in loaded and pair[2] in masks]
    if bad and not (skip_bad and kept):
        named = [f"{Path(path).relative_to(root)} ({why})" for path, why in sorted(bad.items())]
        raise DataError(
            f"{root}: every image and mask must be readable, and both of one size, and {len(bad)} "
            f"are not: {shortened(named, MOST_NAMED)}; repair or remove them, or set skip_bad"
        )
    notes += [f"{count} of {len(pairs)} images {done}" for done, count in sorted(changes.items())]
    if bad:
        notes.append(f"{len(pairs) - len(kept)} of {len(pairs)} images are left out as unreadable")
    values = np.unique(np.concatenate([masks[mask][0] for *_, mask in kept]))
    classes, values, said = classes_of(root, values)
    numbers, hashes = hashed(loaded), dict[str, list[int]]()
    parts = dict[str, tuple[Samples, Tensor]]()
    for part in sorted({part for part, *_ in kept}):
        paths = [image for of, image, _ in kept if of == part]
        hashes[part] = [numbers[path] for path in paths]
        if part == "train" and group_by is not None:
            split = replace(split, groups=group_numbers(paths, group_by))
        images = pack(paths, torch.empty(0), storage, loaded)
        pixels = [masks[mask][1] for of, _, mask in kept if of == part]
        parts[part] = (images, torch.stack([numbered(each, values) for each in pixels]))
    target = Target(tuple(classes), SEGMENTATION)
    notes += said
    return make_splits(str(root), parts, split=split, target=target, notes=notes, hashes=hashes)


def read_mask(
    path: str, image: str, size: tuple[int, int], resize: str | None
) -> tuple[Numbers, Numbers]:
    """Return the values of a mask, numbers or colours as 0xRRGGBB, and those of its pixels.

    It is fitted as its image is; pixels outside of the mask are -1.
    """
    with open_image(image) as opened:
        whole = header_of(opened).size
    with open_image(path) as mask:
        try:
            mask = ImageOps.exif_transpose(mask)
            if mask.mode in ("P", "1", "L", "LA", "I;16"):  # whatever the colours of a palette are
                values = np.asarray(mask.convert("L") if mask.mode in ("1", "LA") else mask)
            else:
                values = np.asarray(mask.convert("RGB")) @ np.array([2**16, 2**8, 1])
        except Exception as error:  # decoders fail in many ways on damaged files
            raise BadImageError("damaged or cut short") from error
    if mask.size != whole:
        sides = [f"{wide}x{high}" for wide, high in (mask.size, whole)]
        raise BadImageError(f"{sides[0]}, and its image is {sides[1]}")
    values = values.astype(np.int32)
    fitted = Image.fromarray(values + 1)  # and 0 where it is padded
    if fitted.size != size:
        fitted = RESIZE[resize or "crop"](fitted, size, Image.Resampling.NEAREST)
    return np.unique(values), np.asarray(fitted) - 1


def classes_of(root: Path, values: Numbers) -> tuple[list[str], Numbers, list[str]]:
    """Return the names of the classes, their values in masks, and notes."""
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


def mask_picture(classes: Tensor) -> Image.Image:
    """Return the classes of pixels, shape (height, width), as an image with a palette."""
    height, width = classes.shape
    picture = Image.frombytes("P", (width, height), classes.to(torch.uint8).numpy().tobytes())
    picture.putpalette(COLOURS.flatten().tolist())
    return picture


def overlaid(x: Tensor, classes: Tensor) -> Tensor:
    """Return an image of floats in RGB, half of it the colours of its pixels' classes."""
    colours = torch.from_numpy(COLOURS)[classes.where(classes >= 0, UNKNOWN)]
    return (x + colours.permute(2, 0, 1) / 256) / 2
