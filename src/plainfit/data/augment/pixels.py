"""What the functions of this package share: pixels as floats, and one number an image."""

import torch
from torch import Generator, Tensor


def to_floats(xb: Tensor) -> Tensor:
    """Return images in a dtype to calculate in: bytes over 256, float32 for half precision.

    Raises:
        ValueError: if they are neither bytes nor floats.
    """
    if xb.dtype != torch.uint8 and not xb.is_floating_point():
        raise ValueError(f"images must be uint8 or floats, got {xb.dtype}; convert them first")
    if xb.dtype == torch.uint8:
        return xb.float().div_(256)
    return xb.float() if xb.element_size() < 4 else xb


def like(x: Tensor, xb: Tensor) -> Tensor:
    """Return what `to_floats` gave in the dtype of `xb`; bytes are rounded and held in 0 to 255."""
    if xb.dtype == torch.uint8:
        # By way of int32, as torch takes three times as long from floats to bytes directly.
        return (x * 256).round_().clamp_(0, 255).int().to(torch.uint8)
    return x.to(xb.dtype)


def each(values: Tensor, x: Tensor) -> Tensor:
    """Return one number an image in the shape (batch, 1, 1, 1), where `x` is and of its dtype."""
    return values.view(-1, 1, 1, 1).to(x.device, x.dtype)


def uniform(n: int, low: float, high: float, generator: Generator) -> Tensor:
    """Return n numbers between two."""
    return torch.empty(n).uniform_(low, high, generator=generator)


def chosen(xb: Tensor, p: float, generator: Generator) -> Tensor:
    """Return which images are chosen, each with probability p, shape (batch)."""
    return (uniform(len(xb), 0, 1, generator) < p).to(xb.device)


def blended(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """Return `start` and `end` mixed by the share of `end`; faster than `torch.lerp`."""
    return (end * share).add_(start * (1 - share))
