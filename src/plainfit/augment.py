"""Augmentation of whole batches: `(xb, generator) -> xb`, each sample with its own numbers."""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from plainfit.errors import ConfigError, unknown_name

Augment = Callable[[Tensor, Generator], Tensor]


def warp(
    xb: Tensor,
    generator: Generator,
    strength: float = 1.0,
    *,
    degrees: float = 15.0,
    scale: float = 0.2,
    shear: float = 0.2,
    shift: float = 0.07,
    bend: float = 0.025,
) -> Tensor:
    """Rotate, scale, shear, shift and bend each image, by amounts of its own, in one resampling.

    Bilinear, as `torch.nn.functional.grid_sample` does it; what comes from outside is 0. The ranges
    suit handwriting and were chosen on MNIST's validation samples (docs/log.md, 2026-11-24).

    Args:
        xb: floats, shape (batch, channels, height, width).
        generator: on the CPU, for the numbers.
        strength: multiplies every range.
        degrees: rotate by -degrees to degrees.
        scale: each side by 2**-scale to 2**scale.
        shear: move each column by -shear to shear of its distance from the middle.
        shift: by -shift to shift of each side.
        bend: standard deviation of a smooth displacement of every point, a part of the side: normal
            numbers on a grid of 4x4, interpolated (after Simard 2003, "Best practices for
            convolutional neural networks", section 2).
    """
    n, _, height, width = xb.shape
    turn, wide, high, lean, right, down = torch.empty(6, n).uniform_(
        -strength, strength, generator=generator
    )
    cos, sin = (turn * math.radians(degrees)).cos(), (turn * math.radians(degrees)).sin()
    wide, high, lean = 2 ** (wide * scale), 2 ** (high * scale), lean * shear
    # From a point of the new image, in [-1, 1] by [-1, 1], to the point that it is read from.
    rows = [
        [cos * wide, (lean * cos - sin) * high, 2 * shift * right],
        [sin * wide, (lean * sin + cos) * high, 2 * shift * down],
    ]
    theta = torch.stack([torch.stack(row, 1) for row in rows], 1)
    x, y = ((2 * torch.arange(size) + 1) / size - 1 for size in (width, height))
    points = torch.stack([x.repeat(height), y.repeat_interleave(width), torch.ones(height * width)])
    coarse = torch.empty(n, 2, 4, 4).normal_(0, 2 * bend * strength, generator=generator)
    grid = (theta @ points).view(n, 2, height, width)
    grid += cubic(height).t() @ coarse @ cubic(width)
    return F.grid_sample(xb, grid.permute(0, 2, 3, 1).to(xb.device), align_corners=False)


def cubic(size: int) -> Tensor:
    """Return the weights, shape (4, size), that interpolate 4 numbers to `size` of them."""
    return F.interpolate(torch.eye(4).unsqueeze(1)[None], (1, size), mode="bicubic")[0, :, 0]


AUGMENTATIONS = {"warp": warp}


def named_augmentation(text: str) -> Augment:
    """Return the function for `warp`, or for `warp=0.5`: half as strong.

    >>> xb = torch.rand(2, 1, 8, 8)
    >>> named_augmentation("warp=0.5")(xb, Generator().manual_seed(0)).shape
    torch.Size([2, 1, 8, 8])

    Raises:
        ConfigError: if there is no such augmentation, or the strength is no positive number.
    """
    name, equals, given = text.partition("=")
    if name not in AUGMENTATIONS:
        raise ConfigError(unknown_name("augmentation", name, [*AUGMENTATIONS, "none"]))
    if not equals:
        return AUGMENTATIONS[name]
    try:
        strength = float(given)
    except ValueError:
        strength = math.nan
    if not 0 < strength < math.inf:
        raise ConfigError(f"the strength of {name} must be a positive number, got {given!r}")
    return partial(AUGMENTATIONS[name], strength=strength)
