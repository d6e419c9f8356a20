"""TrivialAugment: one of fourteen operations per image, of any strength."""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from plainfit.data.augment.images import (
    blended,
    each,
    gray,
    like,
    mean_gray,
    resample,
    to_floats,
)

WHITE = 255 / 256  # the brightest byte as a float
LEVELS = 30


def trivial_augment(xb: Tensor, generator: Generator, strength: float = 1.0) -> Tensor:
    """Apply one of 14 operations to each image, at one of 31 levels (Müller & Hutter 2021, "wide").

    The operations: none; shear or translate (up to 32 pixels) along x or y; rotate; brightness,
    colour, contrast, sharpness; posterize; solarize; stretch or equalize the histogram of each
    channel. The values are those of Pillow's operations; resampling is bilinear.

    Args:
        xb: shape (batch, channels, height, width).
        generator: on the CPU.
        strength: multiplies the levels; 0.3 gives about the narrower ranges of the paper.
    """
    n = len(xb)
    kind = torch.randint(14, (n,), generator=generator)
    level = torch.randint(LEVELS + 1, (n,), generator=generator) * (strength / LEVELS)
    signed = level * (2 * torch.randint(2, (n,), generator=generator) - 1)
    x = to_floats(xb)
    rows = (kind < 5).nonzero().flatten()
    out = x.index_copy(0, rows.to(x.device), shifted(x, kind, signed, rows))
    for number, values in enumerate((signed, signed, signed, signed, level, level, level, level)):
        rows = (kind == 5 + number).nonzero().flatten()
        if len(rows):
            at = rows.to(x.device)
            part = x.index_select(0, at)
            out[at] = VALUES[number](part, each(values[rows], part))
    return like(out, xb)


def shifted(x: Tensor, kind: Tensor, signed: Tensor, rows: Tensor) -> Tensor:
    """Shear, translate or rotate these images: kinds 0 to 4."""
    height, width = x.shape[2:]
    lean_x, lean_y, right, down, turn = (
        torch.where(kind[rows] == number, signed[rows] * most, 0.0)
        for number, most in enumerate((0.99, 0.99, 64 / width, 64 / height, math.radians(135)))
    )
    across = [turn.cos(), (lean_x - turn.sin()) * (height / width), right]
    along = [(lean_y + turn.sin()) * (width / height), turn.cos(), down]
    theta = torch.stack([torch.stack(across, 1), torch.stack(along, 1)], 1)
    return resample(x.index_select(0, rows.to(x.device)), theta)


def brighter(x: Tensor, signed: Tensor) -> Tensor:
    return x * (1 + 0.99 * signed)


def more_colour(x: Tensor, signed: Tensor) -> Tensor:
    return blended(gray(x), x, 1 + 0.99 * signed)


def more_contrast(x: Tensor, signed: Tensor) -> Tensor:
    return blended(mean_gray(x), x, 1 + 0.99 * signed)


def sharper(x: Tensor, signed: Tensor) -> Tensor:
    kernel = torch.ones(3, 3).index_put((torch.tensor(1), torch.tensor(1)), torch.tensor(5.0)) / 13
    channels = x.shape[1]
    smooth = x.clone()
    weight = kernel.to(x).expand(channels, 1, 3, 3)
    smooth[:, :, 1:-1, 1:-1] = F.conv2d(x, weight, groups=channels)
    return blended(smooth, x, 1 + 0.99 * signed)


def posterized(x: Tensor, level: Tensor) -> Tensor:
    """Keep the 8 to 2 highest bits of each value."""
    steps = 2 ** (8 - (6 * level).round())
    return (x * steps).floor() / steps


def solarized(x: Tensor, level: Tensor) -> Tensor:
    return torch.where(x >= WHITE * (1 - level), WHITE - x, x)


def stretched(x: Tensor, level: Tensor) -> Tensor:
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return torch.where(high > low, (x - low) / (high - low) * WHITE, x)


def equalized(x: Tensor, level: Tensor) -> Tensor:
    """Equalize the histogram of each channel, as Pillow does."""
    values = (x * 256).round().clamp(0, 255).long().flatten(2)
    counts = torch.zeros(*values.shape[:2], 256, dtype=torch.int64, device=x.device)
    counts.scatter_add_(2, values, torch.ones_like(values))
    brightest = counts.gather(2, values.amax(2, keepdim=True))
    step = (values.shape[2] - brightest) // 255
    before = counts.cumsum(2) - counts
    table = ((before + step // 2) // step.clamp(1)).clamp(max=255) / 256
    return torch.where(step.unsqueeze(3) > 0, table.gather(2, values).view(x.shape).to(x), x)


VALUES = (
    brighter, more_colour, more_contrast, sharper, posterized, solarized, stretched, equalized,
)  # fmt: skip
