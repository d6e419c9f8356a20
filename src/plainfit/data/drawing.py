"""A drawing, or a photo of one, becomes an image as of the digits, MNIST or Fashion-MNIST."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from plainfit.data.decoding import BadImageError, open_image, pixels_of

Gray = NDArray[np.uint8]

LARGEST = 512  # pixels per side that are looked at
FAINT = 64  # of 255: what is fainter is no ink when its edges are looked for
BITMAP, WIDE, TALL = 32, 20, 32  # pixels of the bitmaps that the digits were made from
INKED = 312  # of its 1,024 pixels: the digits of scikit-learn have 0.305, whoever wrote them
NARROW = 0.35  # of the height: such digits, 1 above all, are not made wider
SOURCES = ("digits", "mnist", "fashion-mnist")


def prepare_drawing(content: bytes, source: str) -> Gray:
    """Return light ink on a dark ground, shape (1, height, width), as images of a source are.

    Dark ink on a light ground is inverted. What is no image raises a BadImageError.
    """
    ink = cropped(ink_in(content))
    if not ink.size:
        side = 8 if source == "digits" else 28
        return np.zeros((1, side, side), np.uint8)
    if source == "digits":
        return as_digit(ink)[None]
    return placed(ink, 20, by_mass=True)[None] if source == "mnist" else placed(ink, 28)[None]


def is_of_size(content: bytes, shape: tuple[int, int, int]) -> bool:
    """Return whether an image has the size of the training's: it is prepared already then."""
    with open_image(content) as image:
        return image.size == (shape[2], shape[1])


def ink_in(content: bytes) -> Gray:
    """Return how much ink is where, 0 to 255; the ground is what most of the border has."""
    with open_image(content) as image:
        try:
            image.thumbnail((LARGEST, LARGEST))
        except Exception as error:  # decoders fail in many ways on damaged files
            raise BadImageError("damaged or cut short") from error
        width, height = image.size
        gray = np.frombuffer(pixels_of(image, (1, height, width)), np.uint8)
    gray = gray.reshape(height, width).astype(np.float32)
    ground = float(np.median(np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]])))
    ink = (ground - gray if ground > 127 else gray - ground).clip(0)
    return np.asarray((ink * (255 / max(float(ink.max()), FAINT))).astype(np.uint8))


def cropped(ink: Gray) -> Gray:
    rows, columns = (np.flatnonzero(ink.max(axis, initial=0) > FAINT) for axis in (1, 0))
    if not len(rows):
        return ink[:0]
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def resized(ink: Gray, width: int, height: int) -> Gray:
    size = (max(1, width), max(1, height))
    return np.asarray(Image.fromarray(ink).resize(size, Image.Resampling.BILINEAR))


def placed(ink: Gray, longest: int, by_mass: bool = False) -> Gray:
    """Scale ink to so many pixels and put it in the middle of 28x28, or its centre of mass there.

    As in https://yann.lecun.org/exdb/mnist (where the middle is pixel 14 from 0, as measured) and
    in section 2 of the paper on Fashion-MNIST (arXiv:1708.07747), without its sharpening.
    """
    scale = longest / max(ink.shape)
    ink = resized(ink, round(ink.shape[1] * scale), round(ink.shape[0] * scale))
    field = np.zeros((28, 28), np.uint8)
    at: Any = [(28 - side) / 2 for side in ink.shape]
    if by_mass:
        mass = max(1.0, float(ink.sum()))
        at = [14 - (ink.sum(1 - axis) @ np.arange(n)) / mass for axis, n in enumerate(ink.shape)]
    top, left = (int(np.clip(round(a), 0, 28 - n)) for a, n in zip(at, ink.shape, strict=True))
    field[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return field


def as_digit(ink: Gray) -> Gray:
    """Return 8x8 pixels as of the UCI digits, which NIST's programs prepared.

    A digit was sheared until its left edge stands upright, scaled to 20x32 in a bitmap of 32x32,
    and its strokes made thinner or thicker until the bitmap had a given share of ink (Garris et al.
    1994, NISTIR 5469); ink is counted in blocks of 4x4 pixels, 0 to 16.
    """
    ink = upright(ink)
    height, width = ink.shape
    wide = WIDE if width > NARROW * height else max(TALL // 8, round(TALL * width / height))
    bitmap = np.zeros((BITMAP, BITMAP), np.uint8)
    left = (BITMAP - wide) // 2
    bitmap[:, left : left + wide] = resized(ink, wide, TALL)
    soft = np.asarray(Image.fromarray(bitmap).filter(ImageFilter.GaussianBlur(1))).ravel()
    darkest = soft.argsort(kind="stable")[-INKED:]
    is_ink = np.zeros(BITMAP * BITMAP, bool)
    is_ink[darkest[soft[darkest] > 0]] = True
    counts = is_ink.reshape(8, 4, 8, 4).sum((1, 3))
    return np.asarray(np.rint(counts * (255 / 16)).astype(np.uint8))


def upright(ink: Gray) -> Gray:
    """Shear ink until the left edges of its upper and of its lower end are above each other."""
    height, width = ink.shape
    end = max(1, height // 25)
    ends = [np.flatnonzero(part.max(axis=0) > FAINT) for part in (ink[:end], ink[-end:])]
    if height < 2 or not all(map(len, ends)):
        return ink
    slope = (int(ends[0][0]) - int(ends[1][0])) / (1 - height)
    wide = Image.new("L", (width + 2 * height, height))
    wide.paste(Image.fromarray(ink), (height, 0))
    shear = (1, slope, -slope * height / 2, 0, 1, 0)
    return cropped(np.asarray(
        wide.transform(wide.size, Image.Transform.AFFINE, shear, Image.Resampling.BILINEAR)
    ))  # fmt: skip
