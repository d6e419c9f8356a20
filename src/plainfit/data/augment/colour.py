"""Augmentation of the values of pixels: brightness, contrast, saturation, noise."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from plainfit.data.augment.pixels import blended, each, like, to_floats, uniform

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601, which Pillow uses


def brightness(xb: Tensor, generator: Generator, fraction: float = 0.2) -> Tensor:
    """Multiply each image by 1 - fraction to 1 + fraction. Floats are not clipped."""
    x = to_floats(xb)
    return like(x * around_one(x, generator, fraction), xb)


def contrast(xb: Tensor, generator: Generator, fraction: float = 0.2) -> Tensor:
    """Multiply the distance to the image's mean gray by 1 - fraction to 1 + fraction."""
    x = to_floats(xb)
    return like(blended(mean_gray(x), x, around_one(x, generator, fraction)), xb)


def saturation(xb: Tensor, generator: Generator, fraction: float = 0.2) -> Tensor:
    """Multiply each pixel's distance to its gray by 1 - fraction to 1 + fraction.

    An image of one channel is gray, and stays as it is.
    """
    x = to_floats(xb)
    return like(blended(gray(x), x, around_one(x, generator, fraction)), xb)


def noise(xb: Tensor, generator: Generator, fraction: float = 0.1) -> Tensor:
    """Add normal numbers with a standard deviation of 0 to `fraction` of white to each image."""
    x = to_floats(xb)
    deviation = each(uniform(len(x), 0, fraction, generator), x)
    return like(x + deviation * torch.empty(x.shape).normal_(generator=generator).to(x), xb)


def normalise(xb: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return floats less the mean of each channel, over its standard deviation.

    It draws nothing, and belongs before validation as well: into the model, or into both loaders.

    Args:
        xb: shape (batch, channels, height, width); bytes become floats over 256 first.
        mean: of each channel, or one number for all.
        std: likewise.
    """
    x = to_floats(xb)
    centre, spread = (torch.tensor(values).view(-1, 1, 1).to(x) for values in (mean, std))
    return (x - centre) / spread


def around_one(x: Tensor, generator: Generator, fraction: float) -> Tensor:
    """Return a factor for each image, from 1 - fraction to 1 + fraction."""
    return each(uniform(len(x), 1 - fraction, 1 + fraction, generator), x)


def gray(x: Tensor) -> Tensor:
    """Return the gray of each pixel, shape (batch, 1, height, width): the mean, or luma for RGB."""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    red, green, blue = x.split(1, 1)
    luma: Tensor = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    return luma


def mean_gray(x: Tensor) -> Tensor:
    """Return the mean gray of each image, shape (batch, 1, 1, 1)."""
    return gray(x.mean((2, 3), keepdim=True))
