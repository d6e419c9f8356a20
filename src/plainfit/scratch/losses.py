"""Mean losses, as scripts call them; `cross_entropy` with most of its options is in `weighted`."""

import torch


def cross_entropy(input, target, *, label_smoothing=0.0):
    """Return the mean of -log softmax(input) at the target: (batch, classes), (batch) -> ()."""
    logs = input.log_softmax(1)
    loss = -logs[torch.arange(len(target)), target].mean()
    if label_smoothing:  # a part of the target's probability, spread over all classes
        spread = -logs.sum(1).mean()
        loss = (1 - label_smoothing) * loss + label_smoothing / logs.shape[1] * spread
    return loss


def nll_loss(input, target):
    """Return the mean of -input at the target: (batch, classes), (batch) -> ()."""
    return -input[torch.arange(len(target)), target].mean()


def mse_loss(input, target):
    """Return the mean of the squared differences."""
    return (input - target).square().mean()


def l1_loss(input, target):
    """Return the mean of the absolute differences."""
    return (input - target).abs().mean()
