"""Losses in which each sample counts by its weight."""

import copy
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from plainfit.common.errors import ConfigError


class WeightedLoss:
    """The weighted mean of a batch's losses, `(losses * weights).sum() / weights.sum()`.

    It takes a pair for a target: the loss's own and the weights, of shape (batch,). Without
    gradients the weights have the mean 1 over the whole set, so that its batches average exactly.
    """

    def __init__(self, loss: Any) -> None:
        self.of_each = of_each(loss)

    def __call__(self, out: Tensor, target: tuple[Tensor, Tensor]) -> Tensor:
        yb, weights = target
        losses = self.of_each(out, yb)
        losses = losses.reshape(len(losses), -1).mean(1)  # of several targets
        total = weights.sum() if torch.is_grad_enabled() else len(weights)
        return (losses * weights).sum() / total


def of_each(loss: Any) -> Callable[[Tensor, Any], Tensor]:
    """Return the loss that gives one value for each sample, in place of their mean."""
    if isinstance(loss, nn.Module) and hasattr(loss, "reduction"):
        each: Any = copy.copy(loss)
        each.reduction = "none"
        return each  # type: ignore[no-any-return]
    if "reduction" in inspect.signature(loss).parameters:
        return partial(loss, reduction="none")
    raise ConfigError(
        "must have a parameter `reduction`, as those of torch, where samples have weights, got "
        f"{loss!r}",
        field="loss",
    )


def with_weights(xb: Any, yb: Any, weights: Tensor) -> tuple[Any, tuple[Any, Tensor]]:
    return xb, (yb, weights)
