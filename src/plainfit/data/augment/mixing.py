"""Augmentation that erases part of an image, or mixes samples and their labels."""

import torch
from torch import Generator, Tensor

from plainfit.common.errors import ConfigError
from plainfit.data.augment.images import blended, chosen, like, to_floats, uniform


def random_erasing(
    xb: Tensor, generator: Generator, fraction: float = 0.33, *, p: float = 0.5
) -> Tensor:
    """Set a rectangle of each image to 0 with probability p (Zhong 2020, "Random erasing").

    Its area is 2 % to `fraction` of the image, its height 0.3 to 3.3 times its width (at most the
    image's), and its position is uniform.
    """
    n, _, height, width = xb.shape
    is_chosen = chosen(xb, p, generator)
    area = uniform(n, min(0.02, fraction), fraction, generator) * height * width
    shape = uniform(n, -1, 1, generator).mul(1.2).exp()  # exp(1.2) is 3.3
    high = (area * shape).sqrt().round().clamp(1, height)
    wide = (area / shape).sqrt().round().clamp(1, width)
    top = ((height - high + 1) * uniform(n, 0, 1, generator)).floor()
    left = ((width - wide + 1) * uniform(n, 0, 1, generator)).floor()
    bottom = top + high * is_chosen.cpu()  # no rows where it is not chosen
    kept = 1 - rectangles(xb, top, bottom, left, left + wide)
    return xb * kept.to(xb.dtype)  # faster than masked_fill


def mixup(
    xb: Tensor, yb: Tensor, generator: Generator, alpha: float = 0.2, classes: int | None = None
) -> tuple[Tensor, Tensor]:
    """Mix each sample with another one of the batch, pixels and labels (Zhang 2018, "mixup").

    Args:
        xb: shape (batch, ...).
        yb: labels, which become probabilities of shape (batch, classes), as
            `torch.nn.functional.cross_entropy` takes them; or floats, which are mixed directly.
        generator: on the CPU.
        alpha: the share of each sample is drawn from Beta(alpha, alpha).
        classes: the number of classes, required if `yb` are labels.
    """
    share, other = beta(len(xb), alpha, generator), torch.randperm(len(xb), generator=generator)
    yb = probabilities(yb, classes)
    x = to_floats(xb)
    return like(mixed(x, other, share), xb), mixed(yb, other, share)


def cutmix(
    xb: Tensor, yb: Tensor, generator: Generator, alpha: float = 1.0, classes: int | None = None
) -> tuple[Tensor, Tensor]:
    """Paste a rectangle of another image of the batch into each image (Yun 2019, "CutMix").

    Labels are mixed in proportion to the areas. The rectangle has the proportions of the image, its
    centre is uniform, and it is clipped to the image.

    Args:
        xb: shape (batch, channels, height, width).
        yb: as for `mixup`.
        generator: on the CPU.
        alpha: the share of the area kept is drawn from Beta(alpha, alpha).
        classes: as for `mixup`.
    """
    n, _, height, width = xb.shape
    share, other = beta(n, alpha, generator), torch.randperm(n, generator=generator)
    half = (1 - share).sqrt() / 2
    y, x = torch.rand(2, n, generator=generator)
    bounds = [(y - half) * height, (y + half) * height, (x - half) * width, (x + half) * width]
    inside = rectangles(xb, *(bound.round() for bound in bounds))
    share = 1 - inside.mean((1, 2, 3))
    yb = probabilities(yb, classes)
    pasted = torch.where(inside.bool(), xb.index_select(0, other.to(xb.device)), xb)
    return pasted, mixed(yb, other, share)


def beta(n: int, alpha: float, generator: Generator) -> Tensor:
    """Draw n numbers from Beta(alpha, alpha).

    Uses Student's t with 2 alpha degrees of freedom, in polar form (Bailey 1994, "Polar generation
    of random variates with the t-distribution"): t / sqrt(2 alpha + t**2) is 2 beta - 1.
    """
    u, v = torch.rand(2, n, generator=generator, dtype=torch.float64)
    t = (u.pow(-1 / alpha) - 1).sqrt() * (2 * torch.pi * v).cos()
    shares: Tensor = t.atan().sin() / 2 + 0.5
    return shares.float()


def probabilities(yb: Tensor, classes: int | None) -> Tensor:
    if yb.is_floating_point():
        return yb
    if classes is None:
        raise ConfigError(
            "mixing labels requires the number of classes: pass partial(mixup, classes=10), or "
            "AugmentedLoader(..., classes=10)"
        )
    return torch.eye(classes, device=yb.device)[yb]


def mixed(values: Tensor, other: Tensor, share: Tensor) -> Tensor:
    weight = share.view(-1, *[1] * (values.dim() - 1)).to(values.device, values.dtype)
    return blended(values.index_select(0, other.to(values.device)), values, weight)


def rectangles(xb: Tensor, top: Tensor, bottom: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Return floats, 1 inside and 0 outside, shape (batch, 1, height, width); ends are outside.

    The product of floats is faster than that of bools.
    """
    height, width = xb.shape[2:]
    y = torch.arange(height).view(1, 1, -1, 1)
    x = torch.arange(width).view(1, 1, 1, -1)
    top, bottom, left, right = (bound.view(-1, 1, 1, 1) for bound in (top, bottom, left, right))
    rows, columns = (y >= top) & (y < bottom), (x >= left) & (x < right)
    return rows.float().to(xb.device) * columns.float().to(xb.device)
