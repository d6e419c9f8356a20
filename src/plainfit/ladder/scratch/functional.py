"""`F` for the ladder's programs: `functions`, then `sums` where both have a function.

`functions` also has a shorter `cross_entropy`, which `plainfit eject` writes into scripts.
"""
# ruff: noqa: F403, F405

import torch

from plainfit.ladder.scratch import functions
from plainfit.ladder.scratch.functions import *
from plainfit.ladder.scratch.sums import *

linear = functions.linear  # with torch's bits, which that of `sums` has not


def cross_entropy(
    input, target, weight=None, *, ignore_index=-100, reduction="mean", label_smoothing=0.0
):
    """Return -log softmax(input) at the target: (batch, classes), (batch) -> () or (batch).

    A class counts by its weight. Label smoothing spreads a part of the target's probability over
    all classes (Szegedy et al. 2015, arXiv:1512.00567, section 7).
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    logs = input.log_softmax(1)
    weight = input.new_ones(input.shape[1]) if weight is None else weight
    ignored = target == ignore_index
    target = target.masked_fill(ignored, 0)
    counts = weight[target].masked_fill(ignored, 0)
    losses = -(logs[torch.arange(len(target)), target] * counts)

    def reduced(losses, total):
        if reduction == "none":
            return losses
        return total(losses) / total(counts) if reduction == "mean" else total(losses)

    loss = reduced(losses, sum_like_torch)
    if label_smoothing:
        smoothed = -(logs * weight).sum(1).masked_fill(ignored, 0)
        smoothed = label_smoothing / input.shape[1] * reduced(smoothed, torch.sum)
        loss = (1 - label_smoothing) * loss + smoothed
    return loss
