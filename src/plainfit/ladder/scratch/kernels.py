"""Functions of torch.nn.functional that are a call of the same kernel under another name."""

import torch


def relu(input, inplace=False):
    """Return max(input, 0)."""
    return torch.relu_(input) if inplace else torch.relu(input)


def batch_norm(
    input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
):
    """Return each channel with mean 0 and variance 1; move the running ones in training."""
    return torch.batch_norm(
        input, weight, bias, running_mean, running_var, training, momentum, eps, cudnn_enabled=True
    )


def binary_cross_entropy_with_logits(input, target):
    """Return the mean of -log sigmoid(input) where the target is 1, of -log(1 - it) where 0."""
    return torch.binary_cross_entropy_with_logits(input, target, reduction=1)  # 1: the mean
