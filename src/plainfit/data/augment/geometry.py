"""Augmentation by moving pixels: flips, crops, and everything that one resampling can do."""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from plainfit.data.augment.pixels import chosen, like, to_floats


def horizontal_flip(xb: Tensor, generator: Generator, p: float = 0.5) -> Tensor:
    """Mirror each image left to right with probability p."""
    rows = chosen(xb, p, generator).nonzero().flatten()
    return xb.index_copy(0, rows, xb.index_select(0, rows).flip(3))


def vertical_flip(xb: Tensor, generator: Generator, p: float = 0.5) -> Tensor:
    """Mirror each image top to bottom with probability p."""
    rows = chosen(xb, p, generator).nonzero().flatten()
    return xb.index_copy(0, rows, xb.index_select(0, rows).flip(2))


def pad_and_crop(xb: Tensor, generator: Generator, pixels: int = 4) -> Tensor:
    """Move each image by up to so many whole pixels in each direction; 0 comes in from outside."""
    n, channels, height, width = xb.shape
    down, right = torch.randint(2 * pixels + 1, (2, n), generator=generator)
    high, wide = height + 2 * pixels, width + 2 * pixels
    # What lies in memory from the first pixel of a window to its last is copied as one run.
    start = torch.arange(n) * (channels * high * wide) + down * wide + right
    run = ((channels - 1) * high + height - 1) * wide + width
    runs = F.pad(xb, [pixels] * 4).flatten().unfold(0, run, 1).index_select(0, start.to(xb.device))
    return runs.as_strided(xb.shape, (run, high * wide, wide, 1)).contiguous()


def affine(
    xb: Tensor,
    generator: Generator,
    *,
    degrees: float = 0.0,
    scale: float = 0.0,
    shear: float = 0.0,
    translate: float = 0.0,
) -> Tensor:
    """Rotate, scale, shear and move each image about its middle, in one resampling.

    Args:
        xb: shape (batch, channels, height, width).
        generator: on the CPU.
        degrees: rotate by -degrees to degrees.
        scale: make it up to this fraction larger, or smaller by the same factor.
        shear: lean columns by -shear to shear degrees.
        translate: by up to this fraction of each side.
    """
    turn, size, lean, right, down = torch.empty(5, len(xb)).uniform_(-1, 1, generator=generator)
    factor = (1 + scale) ** size
    lean = (lean * math.radians(shear)).tan()
    turn, right, down = turn * math.radians(degrees), 2 * translate * right, 2 * translate * down
    return resample(xb, matrices(xb, turn, factor, factor, lean, right, down))


def perspective(xb: Tensor, generator: Generator, fraction: float = 0.2) -> Tensor:
    """Look at each image from another side: each corner moves by up to this fraction of a side."""
    n = len(xb)
    corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])
    ends = corners + torch.empty(n, 4, 2).uniform_(-2 * fraction, 2 * fraction, generator=generator)
    # Eight equations for the eight numbers that take each corner (x, y) to its end (u, v):
    # u = (a x + b y + c) / (g x + h y + 1), v = (d x + e y + f) / (g x + h y + 1).
    plain = torch.cat([corners, torch.ones(4, 1)], 1).expand(n, 4, 3)
    zeros = torch.zeros(n, 4, 3)
    u, v = ends.split(1, 2)
    left = torch.cat(
        [torch.cat([plain, zeros, -u * corners], 2), torch.cat([zeros, plain, -v * corners], 2)], 1
    )
    numbers = torch.linalg.solve(left, torch.cat([u, v], 1)).squeeze(2)
    return resample(xb, torch.cat([numbers, torch.ones(n, 1)], 1).view(n, 3, 3))


def elastic(xb: Tensor, generator: Generator, fraction: float = 0.025) -> Tensor:
    """Bend each image: move every point smoothly, by this fraction of a side or so.

    Args:
        xb: shape (batch, channels, height, width).
        generator: on the CPU.
        fraction: standard deviation of the displacement; see `warp`.
    """
    theta = torch.eye(2, 3).expand(len(xb), 2, 3)
    return resample(xb, theta, bends(xb, 2 * fraction, generator))


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

    The ranges suit handwriting and were chosen on MNIST's validation samples (docs/log.md,
    2026-11-24).

    Args:
        xb: shape (batch, channels, height, width).
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
    turn, wide, high, lean, right, down = torch.empty(6, len(xb)).uniform_(
        -strength, strength, generator=generator
    )
    turn, wide, high = turn * math.radians(degrees), 2 ** (wide * scale), 2 ** (high * scale)
    theta = matrices(xb, turn, wide, high, lean * shear, 2 * shift * right, 2 * shift * down)
    return resample(xb, theta, bends(xb, 2 * bend * strength, generator))


def matrices(
    xb: Tensor, turn: Tensor, wide: Tensor, high: Tensor, lean: Tensor, right: Tensor, down: Tensor
) -> Tensor:
    """Return what takes a point of the new image to that of the old one, shape (batch, 2, 3).

    Points and shifts are in [-1, 1] by [-1, 1]; turns (radians) and leans are those of pixels.
    """
    cos, sin, aspect = turn.cos(), turn.sin(), xb.shape[2] / xb.shape[3]
    across = [cos * wide, (lean * cos - sin) * high * aspect, right]
    along = [sin * wide / aspect, (lean * sin + cos) * high, down]
    return torch.stack([torch.stack(across, 1), torch.stack(along, 1)], 1)


def bends(xb: Tensor, deviation: float, generator: Generator) -> Tensor:
    """Return a smooth displacement of every point, shape (batch, 2, height, width)."""
    n, _, height, width = xb.shape
    coarse = torch.empty(n, 2, 4, 4).normal_(0, deviation, generator=generator)
    return cubic(height).t() @ coarse @ cubic(width)


def cubic(size: int) -> Tensor:
    """Return the weights, shape (4, size), that interpolate 4 numbers to `size` of them."""
    return F.interpolate(torch.eye(4).unsqueeze(1)[None], (1, size), mode="bicubic")[0, :, 0]


def resample(xb: Tensor, theta: Tensor, displacement: Tensor | None = None) -> Tensor:
    """Read each pixel of the new images at the point of the old ones that its matrix says.

    Bilinear, as `torch.nn.functional.grid_sample` does it; what comes from outside is 0.

    Args:
        xb: shape (batch, channels, height, width).
        theta: shape (batch, 2, 3), or (batch, 3, 3) for a projection: from points (x, y, 1) in
            [-1, 1] by [-1, 1], the corners of the image.
        displacement: added to the points, shape (batch, 2, height, width).
    """
    height, width = xb.shape[2:]
    x, y = ((2 * torch.arange(size) + 1) / size - 1 for size in (width, height))
    by_x, by_y, shift = theta.to(xb.device).unsqueeze(3).split(1, 2)
    grid = by_x * x.to(xb.device) + (by_y * y.view(-1, 1).to(xb.device) + shift)
    if theta.shape[1] == 3:
        grid = grid[:, :2] / grid[:, 2:]
    if displacement is not None:
        grid += displacement.to(xb.device)
    pixels = to_floats(xb)
    grid = grid.permute(0, 2, 3, 1).to(pixels.dtype)
    return like(F.grid_sample(pixels, grid, align_corners=False), xb)
