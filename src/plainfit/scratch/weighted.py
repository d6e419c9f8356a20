"""Cross-entropy with its options, as the ladder's programs may use them."""

import torch


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
    if label_smoothing:
        spread = -(logs * weight).mean(1).masked_fill(ignored, 0)
        losses = losses.lerp(spread, label_smoothing)
    if reduction == "none":
        return losses
    return losses.sum() / counts.sum() if reduction == "mean" else losses.sum()
