"""What `F` is for the ladder: the kernels as sums, PyTorch's bits where a function has them."""

from plainfit.ladder.scratch.functions import (
    avg_pool2d,
    dropout,
    embedding,
    leaky_relu,
    linear,
    log_softmax,
    relu,
    sigmoid,
    softmax,
    tanh,
)
from plainfit.ladder.scratch.losses import l1_loss, mse_loss, nll_loss
from plainfit.ladder.scratch.sums import (
    adaptive_avg_pool2d,
    batch_norm,
    binary_cross_entropy_with_logits,
    conv1d,
    conv2d,
    layer_norm,
    max_pool2d,
)
from plainfit.ladder.scratch.weighted import cross_entropy

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
