"""Augmentation of each image by itself: its colours, where its pixels are, or one of both."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601, which Pillow uses
WHITE = 255 / 256  # the brightest byte as a float
LEVELS = 30  # of `trivial_augment`, besides 0


def brightness(xb: Tensor, generator: Generator, fraction: float = 0.2) -> Tensor:
    """Multiply each image by 1 - fraction to 1 + fraction. Floats are not clipped."""
    x = to_floats(xb)
    return like(x * around_one(x, generator, fraction), xb)


def contrast(xb: Tensor, generator: Generator, fraction: float = 0.2) -> Tensor:
    """Multiply the distance to the image's mean gray by 1 - fraction to 1 + fraction."""
    x = to_floats(xb)
    mean = gray(x.mean((2, 3), keepdim=True))
    return like(blended(mean, x, around_one(x, generator, fraction)), xb)


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
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    red, green, blue = x.split(1, 1)
    luma: Tensor = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    return luma


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
    """Return matrices (batch, 2, 3) from points of the new image to points of the old one."""
    # Points and shifts are in [-1, 1] by [-1, 1]; turns (radians) and leans are in pixel space.
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

    Bilinear, by `torch.nn.functional.grid_sample`; of int16, a mask, the nearest pixel. Points
    outside the image are 0. `theta` has shape (batch, 2, 3), or (batch, 3, 3) for a projection, and
    is applied to points (x, y, 1) in [-1, 1] by [-1, 1], the corners of the image. `displacement`,
    shape (batch, 2, height, width), is added to the points.
    """
    height, width = xb.shape[2:]
    x, y = ((2 * torch.arange(size) + 1) / size - 1 for size in (width, height))
    by_x, by_y, shift = theta.to(xb.device).unsqueeze(3).split(1, 2)
    grid = by_x * x.to(xb.device) + (by_y * y.view(-1, 1).to(xb.device) + shift)
    if theta.shape[1] == 3:
        grid = grid[:, :2] / grid[:, 2:]
    if displacement is not None:
        grid += displacement.to(xb.device)
    is_mask = xb.dtype == torch.int16
    pixels = xb.float() if is_mask else to_floats(xb)
    grid = grid.permute(0, 2, 3, 1).to(pixels.dtype)
    mode = "nearest" if is_mask else "bilinear"
    return like(F.grid_sample(pixels, grid, mode=mode, align_corners=False), xb)


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
    for number, operation in enumerate(OPERATIONS, 5):
        rows = (kind == number).nonzero().flatten()
        if len(rows):
            at = rows.to(x.device)
            part = x.index_select(0, at)
            factor = 1 + 0.99 * each(signed[rows], part)
            out[at] = operation(part, factor, each(level[rows], part))
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


def smooth(x: Tensor) -> Tensor:
    kernel = torch.tensor([[1.0, 1.0, 1.0], [1.0, 5.0, 1.0], [1.0, 1.0, 1.0]]) / 13
    weight, smoothed = kernel.to(x).expand(x.shape[1], 1, 3, 3), x.clone()
    smoothed[:, :, 1:-1, 1:-1] = F.conv2d(x, weight, groups=x.shape[1])
    return smoothed


def posterized(x: Tensor, level: Tensor) -> Tensor:
    steps = 2 ** (8 - (6 * level).round())  # keeps the 8 to 2 highest bits of each value
    return (x * steps).floor() / steps


def stretched(x: Tensor) -> Tensor:
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return torch.where(high > low, (x - low) / (high - low) * WHITE, x)


def equalized(x: Tensor) -> Tensor:
    values = (x * 256).round().clamp(0, 255).long().flatten(2)
    counts = torch.zeros(*values.shape[:2], 256, dtype=torch.int64, device=x.device)
    counts.scatter_add_(2, values, torch.ones_like(values))
    brightest = counts.gather(2, values.amax(2, keepdim=True))
    step = (values.shape[2] - brightest) // 255
    before = counts.cumsum(2) - counts
    table = ((before + step // 2) // step.clamp(1)).clamp(max=255) / 256
    return torch.where(step.unsqueeze(3) > 0, table.gather(2, values).view(x.shape).to(x), x)


OPERATIONS: tuple[Callable[[Tensor, Tensor, Tensor], Tensor], ...] = (
    lambda x, factor, level: x * factor,  # brightness
    lambda x, factor, level: blended(gray(x), x, factor),  # colour
    lambda x, factor, level: blended(gray(x.mean((2, 3), keepdim=True)), x, factor),  # contrast
    lambda x, factor, level: blended(smooth(x), x, factor),  # sharpness
    lambda x, factor, level: posterized(x, level),
    lambda x, factor, level: torch.where(x >= WHITE * (1 - level), WHITE - x, x),  # solarize
    lambda x, factor, level: stretched(x),
    lambda x, factor, level: equalized(x),
)


def to_floats(xb: Tensor) -> Tensor:
    """Return images as floats to compute with: bytes over 256, half precision as float32."""
    if xb.dtype != torch.uint8 and not xb.is_floating_point():
        raise ValueError(f"images must be uint8 or floats, got {xb.dtype}; convert them first")
    if xb.dtype == torch.uint8:
        return xb.float().div_(256)
    return xb.float() if xb.element_size() < 4 else xb


def like(x: Tensor, xb: Tensor) -> Tensor:
    """Undo `to_floats`; bytes are rounded and clipped."""
    if xb.dtype == torch.uint8:
        # Through int32: torch takes three times as long to convert floats to bytes directly.
        return (x * 256).round_().clamp_(0, 255).int().to(torch.uint8)
    return x.to(xb.dtype)


def each(values: Tensor, x: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1).to(x.device, x.dtype)


def uniform(n: int, low: float, high: float, generator: Generator) -> Tensor:
    return torch.empty(n).uniform_(low, high, generator=generator)


def chosen(xb: Tensor, p: float, generator: Generator) -> Tensor:
    return (uniform(len(xb), 0, 1, generator) < p).to(xb.device)


def blended(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    return (end * share).add_(start * (1 - share))  # faster than `torch.lerp`
