"""Augmentation by taking parts away or from another image; labels are mixed as the images are."""

import torch
from torch import Generator, Tensor

from plainfit.common.errors import ConfigError
from plainfit.data.augment.pixels import blended, chosen, like, to_floats, uniform


def random_erasing(
    xb: Tensor, generator: Generator, fraction: float = 0.33, *, p: float = 0.5
) -> Tensor:
    """Make a rectangle of an image 0, with probability p (Zhong 2020, "Random erasing").

    Its area is 2 % to `fraction` of the image, its height 0.3 to 3.3 times its width (or as far as
    the image goes), its place anywhere within.
    """
    n, _, height, width = xb.shape
    is_chosen = chosen(xb, p, generator)
    area = uniform(n, min(0.02, fraction), fraction, generator) * height * width
    shape = uniform(n, -1, 1, generator).mul(1.2).exp()  # exp(1.2) is 3.3
    high = (area * shape).sqrt().round().clamp(1, height)
    wide = (area / shape).sqrt().round().clamp(1, width)
    top = ((height - high + 1) * uniform(n, 0, 1, generator)).floor()
    left = ((width - wide + 1) * uniform(n, 0, 1, generator)).floor()
    bottom = top + high * is_chosen.cpu()  # no rows where it is not
    kept = 1 - rectangles(xb, top, bottom, left, left + wide)
    return xb * kept.to(xb.dtype)  # faster than masked_fill


def mixup(
    xb: Tensor, yb: Tensor, generator: Generator, alpha: float = 0.2, classes: int | None = None
) -> tuple[Tensor, Tensor]:
    """Mix each sample with another of the batch, pixels and labels (Zhang 2018, "mixup").

    Args:
        xb: shape (batch, ...).
        yb: labels, which become probabilities, shape (batch, classes), as
            `torch.nn.functional.cross_entropy` takes them; or floats, which are mixed as they are.
        generator: on the CPU.
        alpha: the share of a sample is drawn from Beta(alpha, alpha).
        classes: their number, needed where `yb` are labels.
    """
    share, other = beta(len(xb), alpha, generator), torch.randperm(len(xb), generator=generator)
    yb = probabilities(yb, classes)
    x = to_floats(xb)
    return like(mixed(x, other, share), xb), mixed(yb, other, share)


def cutmix(
    xb: Tensor, yb: Tensor, generator: Generator, alpha: float = 1.0, classes: int | None = None
) -> tuple[Tensor, Tensor]:
    """Put a rectangle of another image of the batch into each one (Yun 2019, "CutMix").

    Labels are mixed by the area that is left of each. The rectangle has the proportions of the
    image, its middle is anywhere, and what is outside of the image is cut off.

    Args:
        xb: shape (batch, channels, height, width).
        yb: as for `mixup`.
        generator: on the CPU.
        alpha: the area that is left is drawn from Beta(alpha, alpha).
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
    return torch.where(inside.bool(), xb.index_select(0, other.to(xb.device)), xb), mixed(
        yb, other, share
    )


def beta(n: int, alpha: float, generator: Generator) -> Tensor:
    """Return n numbers from Beta(alpha, alpha).

    By Student's t with 2 alpha degrees of freedom, polar (Bailey 1994, "Polar generation of random
    variates with the t-distribution"): t / sqrt(2 alpha + t**2) is twice such a number, less 1.
    """
    u, v = torch.rand(2, n, generator=generator, dtype=torch.float64)
    t = (u.pow(-1 / alpha) - 1).sqrt() * (2 * torch.pi * v).cos()
    shares: Tensor = t.atan().sin() / 2 + 0.5
    return shares.float()


def probabilities(yb: Tensor, classes: int | None) -> Tensor:
    """Return labels as probabilities, shape (batch, classes); floats stay as they are.

    Raises:
        ConfigError: if the number of classes is needed and not known.
    """
    if yb.is_floating_point():
        return yb
    if classes is None:
        raise ConfigError(
            "mixing labels needs the number of classes: partial(mixup, classes=10), or "
            "AugmentedLoader(..., classes=10)"
        )
    return torch.eye(classes, device=yb.device)[yb]


def mixed(values: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """Return each row with its share, and with the rest of another row."""
    weight = share.view(-1, *[1] * (values.dim() - 1)).to(values.device, values.dtype)
    return blended(values.index_select(0, other.to(values.device)), values, weight)


def rectangles(xb: Tensor, top: Tensor, bottom: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Return 1 for pixels inside, else 0, shape (batch, 1, height, width); ends are outside.

    Floats, as their product is faster than that of truth values.
    """
    height, width = xb.shape[2:]
    y = torch.arange(height).view(1, 1, -1, 1)
    x = torch.arange(width).view(1, 1, 1, -1)
    top, bottom, left, right = (bound.view(-1, 1, 1, 1) for bound in (top, bottom, left, right))
    rows, columns = (y >= top) & (y < bottom), (x >= left) & (x < right)
    return rows.float().to(xb.device) * columns.float().to(xb.device)
