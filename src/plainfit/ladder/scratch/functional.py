"""`F` for the ladder's programs: the functions of `functions` and `sums`, and one more.

`functions` also has a `cross_entropy`, which is shorter: `plainfit eject` writes it into scripts.
"""

import torch

from plainfit.ladder.scratch.functions import (
    avg_pool2d,
    dropout,
    embedding,
    l1_loss,
    leaky_relu,
    linear,
    log_softmax,
    mse_loss,
    nll_loss,
    relu,
    sigmoid,
    softmax,
    sum_like_torch,
    tanh,
)
from plainfit.ladder.scratch.sums import (
    adaptive_avg_pool2d,
    batch_norm,
    binary_cross_entropy_with_logits,
    conv1d,
    conv2d,
    layer_norm,
    max_pool2d,
)

__all__ = [
    "adaptive_avg_pool2d",
    "avg_pool2d",
    "batch_norm",
    "binary_cross_entropy_with_logits",
    "conv1d",
    "conv2d",
    "cross_entropy",
    "dropout",
    "embedding",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log_softmax",
    "max_pool2d",
    "mse_loss",
    "nll_loss",
    "relu",
    "sigmoid",
    "softmax",
    "tanh",
]


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
        spread = -(logs * weight).sum(1).masked_fill(ignored, 0)
        spread = label_smoothing / input.shape[1] * reduced(spread, torch.sum)
        loss = (1 - label_smoothing) * loss + spread
    return loss
