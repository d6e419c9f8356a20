"""Augmentation of each image by itself: its colours, and where its pixels are."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

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

    Images of one channel are gray and do not change.
    """
    x = to_floats(xb)
    return like(blended(gray(x), x, around_one(x, generator, fraction)), xb)


def noise(xb: Tensor, generator: Generator, fraction: float = 0.1) -> Tensor:
    """Add normal numbers with a standard deviation of 0 to `fraction` of white to each image."""
    x = to_floats(xb)
    deviation = each(uniform(len(x), 0, fraction, generator), x)
    return like(x + deviation * torch.empty(x.shape).normal_(generator=generator).to(x), xb)


def normalise(xb: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Subtract the mean of each channel and divide by its standard deviation.

    It draws no random numbers. Apply it to validation too: in the model, or in both loaders.

    Args:
        xb: shape (batch, channels, height, width); bytes are divided by 256 first.
        mean: one number per channel, or one for all.
        std: one number per channel, or one for all.
    """
    x = to_floats(xb)
    centre, scale = (torch.tensor(values).view(-1, 1, 1).to(x) for values in (mean, std))
    return (x - centre) / scale


def around_one(x: Tensor, generator: Generator, fraction: float) -> Tensor:
    return each(uniform(len(x), 1 - fraction, 1 + fraction, generator), x)


def gray(x: Tensor) -> Tensor:
    """Return gray images, shape (batch, 1, height, width): luma of RGB, else the mean."""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    red, green, blue = x.split(1, 1)
    luma: Tensor = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    return luma


def mean_gray(x: Tensor) -> Tensor:
    return gray(x.mean((2, 3), keepdim=True))


def horizontal_flip(xb: Tensor, generator: Generator, p: float = 0.5) -> Tensor:
    """Mirror each image left to right with probability p."""
    rows = chosen(xb, p, generator).nonzero().flatten()
    return xb.index_copy(0, rows, xb.index_select(0, rows).flip(3))


def vertical_flip(xb: Tensor, generator: Generator, p: float = 0.5) -> Tensor:
    """Mirror each image top to bottom with probability p."""
    rows = chosen(xb, p, generator).nonzero().flatten()
    return xb.index_copy(0, rows, xb.index_select(0, rows).flip(2))


def pad_and_crop(xb: Tensor, generator: Generator, pixels: int = 4) -> Tensor:
    """Shift each image by up to `pixels` whole pixels in each direction, filling with 0."""
    n, channels, height, width = xb.shape
    down, right = torch.randint(2 * pixels + 1, (2, n), generator=generator)
    high, wide = height + 2 * pixels, width + 2 * pixels
    # Copy everything in memory from the first pixel of a window to its last, as one run.
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
    """Rotate, scale, shear and translate each image about its centre, in one resampling.

    Args:
        xb: shape (batch, channels, height, width).
        generator: on the CPU.
        degrees: rotate by -degrees to degrees.
        scale: enlarge by up to this fraction, or shrink by the same factor.
        shear: shear columns by -shear to shear degrees.
        translate: shift by up to this fraction of each side.
    """
    turn, size, lean, right, down = torch.empty(5, len(xb)).uniform_(-1, 1, generator=generator)
    factor = (1 + scale) ** size
    lean = (lean * math.radians(shear)).tan()
    turn, right, down = turn * math.radians(degrees), 2 * translate * right, 2 * translate * down
    return resample(xb, matrices(xb, turn, factor, factor, lean, right, down))


def perspective(xb: Tensor, generator: Generator, fraction: float = 0.2) -> Tensor:
    """Change the perspective: move each corner by up to `fraction` of a side."""
    n = len(xb)
    corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])
    ends = corners + torch.empty(n, 4, 2).uniform_(-2 * fraction, 2 * fraction, generator=generator)
    # Solve eight equations for the eight numbers that map each corner (x, y) to its end (u, v):
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
    """Bend each image by a smooth random displacement of every point.

    Args:
        xb: shape (batch, channels, height, width).
        generator: on the CPU.
        fraction: standard deviation of the displacement, as a fraction of the side; see `warp`.
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
    """Rotate, scale, shear, shift and bend each image in one resampling.

    The default ranges suit handwriting. They were chosen on MNIST's validation samples
    (docs/log.md, 2026-11-24).

    Args:
        xb: shape (batch, channels, height, width).
        generator: on the CPU.
        strength: multiplies every range.
        degrees: rotate by -degrees to degrees.
        scale: each side by 2**-scale to 2**scale.
        shear: move each column by -shear to shear times its distance from the centre.
        shift: by -shift to shift of each side.
        bend: standard deviation of a smooth displacement of every point, as a fraction of the side:
            normal numbers on a 4x4 grid, interpolated (after Simard 2003, "Best practices for
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
    """Return matrices from points of the new image to points of the old one, shape (batch, 2, 3).

    Points and shifts are in [-1, 1] by [-1, 1]; turns (radians) and leans are in pixel space.
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
    """Return the weights, shape (4, size), that interpolate 4 numbers to `size` numbers."""
    return F.interpolate(torch.eye(4).unsqueeze(1)[None], (1, size), mode="bicubic")[0, :, 0]


def resample(xb: Tensor, theta: Tensor, displacement: Tensor | None = None) -> Tensor:
    """Read each pixel of the new images from the point of the old ones given by `theta`.

    Bilinear, by `torch.nn.functional.grid_sample`; points outside the image are 0.

    Args:
        xb: shape (batch, channels, height, width).
        theta: shape (batch, 2, 3), or (batch, 3, 3) for a projection, applied to points (x, y, 1)
            in [-1, 1] by [-1, 1], the corners of the image.
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


def to_floats(xb: Tensor) -> Tensor:
    """Return images as floats to compute with: bytes over 256, half precision as float32.

    Raises:
        ValueError: if they are neither bytes nor floats.
    """
    if xb.dtype != torch.uint8 and not xb.is_floating_point():
        raise ValueError(f"images must be uint8 or floats, got {xb.dtype}; convert them first")
    if xb.dtype == torch.uint8:
        return xb.float().div_(256)
    return xb.float() if xb.element_size() < 4 else xb


def like(x: Tensor, xb: Tensor) -> Tensor:
    """Undo `to_floats`: return `x` in the dtype of `xb`; bytes are rounded and clipped."""
    if xb.dtype == torch.uint8:
        # Through int32: torch takes three times as long to convert floats to bytes directly.
        return (x * 256).round_().clamp_(0, 255).int().to(torch.uint8)
    return x.to(xb.dtype)


def each(values: Tensor, x: Tensor) -> Tensor:
    """Return one number per image with shape (batch, 1, 1, 1), and the device and dtype of `x`."""
    return values.view(-1, 1, 1, 1).to(x.device, x.dtype)


def uniform(n: int, low: float, high: float, generator: Generator) -> Tensor:
    return torch.empty(n).uniform_(low, high, generator=generator)


def chosen(xb: Tensor, p: float, generator: Generator) -> Tensor:
    """Choose each image with probability p; return bools, shape (batch)."""
    return (uniform(len(xb), 0, 1, generator) < p).to(xb.device)


def blended(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """Return `start` and `end` mixed by the share of `end`; faster than `torch.lerp`."""
    return (end * share).add_(start * (1 - share))
