"""An image file becomes bytes of shape (channels, height, width)."""

from io import BytesIO, FileIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")  # Pillow's names; no other decoder gets to see a file
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
MOST_PIXELS = 25_000_000  # 25 Mpx: more than a photo camera's, less than a bomb's
SMALL = 2**16  # bytes; decoding a smaller file from memory takes a tenth less time


class Header(NamedTuple):
    size: tuple[int, int]  # width and height in pixels, turned upright
    gray: bool


class BadImageError(Exception):
    """An image that cannot be used; the message says why in a few words."""


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
