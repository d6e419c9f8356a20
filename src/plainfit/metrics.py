"""Metrics: plain functions `(out, yb) -> tensor`, the mean over the batch."""

from torch import Tensor


def accuracy(out: Tensor, yb: Tensor) -> Tensor:
    """Return the share of samples whose largest output is at the index of their label.

    Args:
        out: scores or log-probabilities, shape (batch, classes).
        yb: labels, integers of shape (batch,).

    Returns:
        A float32 tensor without dimensions, between 0 and 1.

    >>> import torch
    >>> accuracy(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    tensor(0.5000)
    """
    return (out.argmax(dim=1) == yb).float().mean()
