"""Mean losses, as scripts call them; `cross_entropy` with most of its options is in `weighted`."""

import torch


def sum_like_torch(losses):
    """Return the sum, added in torch's order: by 16, the sums by 16 again, the first one last."""
    # `losses.sum()` has another order, so that the last bits of a loss could differ.
    total, rest = 0, losses[1:]
    while len(rest):
        group = torch.arange(len(rest), device=rest.device) // 16
        sums = rest.new_zeros(len(rest) // 16 + 1).index_add(0, group, rest)
        total, rest = total + sums[-1], sums[:-1]  # the last group has less than 16
    return total + losses[:1].sum()


def cross_entropy(input, target, *, label_smoothing=0.0):
    """Return the mean of -log softmax(input) at the target: (batch, classes), (batch) -> ()."""
    logs = input.log_softmax(1)
    loss = -sum_like_torch(logs[torch.arange(len(target)), target]) / len(target)
    if label_smoothing:  # a part of the target's probability, spread over all classes
        spread = -logs.sum(1).mean()
        loss = (1 - label_smoothing) * loss + label_smoothing / logs.shape[1] * spread
    return loss


def nll_loss(input, target):
    """Return the mean of -input at the target: (batch, classes), (batch) -> ()."""
    return -sum_like_torch(input[torch.arange(len(target)), target]) / len(target)


def mse_loss(input, target):
    """Return the mean of the squared differences."""
    return (input - target).square().mean()


def l1_loss(input, target):
    """Return the mean of the absolute differences."""
    return (input - target).abs().mean()
