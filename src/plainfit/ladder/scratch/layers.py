"""Layers and losses: modules that hold weights or options and call a function of `F`."""

import math

import torch

from plainfit.ladder.scratch import functional as F
from plainfit.ladder.scratch import modules as nn
from plainfit.ladder.scratch.functions import pair


def uniform(*shape, fan_in):
    """Draw initial values between -1 / sqrt(fan_in) and 1 / sqrt(fan_in)."""
    return nn.Parameter(torch.empty(shape).uniform_(-(fan_in**-0.5), fan_in**-0.5))


class Linear(nn.Module):
    """Every output a weighted sum of all inputs: (..., in_features) -> (..., out_features)."""

    def __init__(self, in_features, out_features, bias=True):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = uniform(out_features, in_features, fan_in=in_features)
        self.bias = uniform(out_features, fan_in=in_features) if bias else None

    def forward(self, input):
        return F.linear(input, self.weight, self.bias)


class Conv1d(nn.Module):
    """Weighted sums of every window of a sequence: (batch, channels, length)."""

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        stride=1,
        padding=0,
        dilation=1,
        groups=1,
        bias=True,
    ):
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = kernel_size
        self.stride, self.padding = stride, padding
        self.dilation, self.groups = dilation, groups
        window = (in_channels // groups, kernel_size)
        self.weight = uniform(out_channels, *window, fan_in=math.prod(window))
        self.bias = uniform(out_channels, fan_in=math.prod(window)) if bias else None

    def forward(self, input):
        options = self.stride, self.padding, self.dilation, self.groups
        return F.conv1d(input, self.weight, self.bias, *options)


class Conv2d(nn.Module):
    """The same weighted sums in every window of the image: a linear layer on windows.

    A window's pixels are `dilation` apart, it moves by `stride`, and `groups` of channels do not
    see each other (Dumoulin and Visin 2016, arXiv:1603.07285, has pictures of all of them).
    """

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        stride=1,
        padding=0,
        dilation=1,
        groups=1,
        bias=True,
    ):
        super().__init__()
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"groups must divide the channels, got {groups} of {in_channels} and {out_channels}"
            )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = pair(kernel_size)
        self.stride, self.padding = stride, padding
        self.dilation, self.groups = dilation, groups
        window = (in_channels // groups, *pair(kernel_size))
        self.weight = uniform(out_channels, *window, fan_in=math.prod(window))
        self.bias = uniform(out_channels, fan_in=math.prod(window)) if bias else None

    def forward(self, input):
        options = self.stride, self.padding, self.dilation, self.groups
        return F.conv2d(input, self.weight, self.bias, *options)


class Embedding(nn.Module):
    """A vector for each number: (...) -> (..., embedding_dim)."""

    def __init__(self, num_embeddings, embedding_dim):
        super().__init__()
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.weight = nn.Parameter(torch.empty(num_embeddings, embedding_dim).normal_())

    def forward(self, input):
        return F.embedding(input, self.weight)


class BatchNorm1d(nn.Module):
    """Each channel with mean 0 and variance 1, then a weight and a bias (arXiv:1502.03167).

    Training uses the batch's mean and variance and moves the running ones, which `eval()` uses,
    towards them by `momentum`; with None they are plain averages of all batches.
    """

    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True):
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if affine else None
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, input):
        if self.training:
            self.num_batches_tracked += 1
        momentum = self.momentum
        if momentum is None:
            momentum = 1 / max(1, int(self.num_batches_tracked))
        state = self.running_mean, self.running_var, self.weight, self.bias
        return F.batch_norm(input, *state, self.training, momentum, self.eps)


class BatchNorm2d(BatchNorm1d):
    """Batch normalization of images, over all their pixels."""


class LayerNorm(nn.Module):
    """Each sample with mean 0 and variance 1, then weights and biases (arXiv:1607.06450)."""

    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True):
        super().__init__()
        shape = [normalized_shape] if isinstance(normalized_shape, int) else normalized_shape
        self.normalized_shape = tuple(shape)
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(shape)) if elementwise_affine else None
        self.bias = nn.Parameter(torch.zeros(shape)) if elementwise_affine and bias else None

    def forward(self, input):
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, eps=self.eps)


class Dropout(nn.Module):
    """In training, zeros with probability p, and the rest divided by 1 - p: the mean stays.

    Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html
    """

    def __init__(self, p=0.5):
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"a dropout probability must be between 0 and 1, got {p}")
        self.p = p

    def forward(self, input):
        return F.dropout(input, self.p, self.training)


class MaxPool2d(nn.Module):
    """The largest value of every window."""

    def __init__(self, kernel_size, stride=None, padding=0):
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding

    def forward(self, input):
        return F.max_pool2d(input, self.kernel_size, self.stride, self.padding)


class AvgPool2d(nn.Module):
    """The mean of every window."""

    def __init__(self, kernel_size, stride=None, padding=0):
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding

    def forward(self, input):
        return F.avg_pool2d(input, self.kernel_size, self.stride, self.padding)


class AdaptiveAvgPool2d(nn.Module):
    """The means of a grid of cells that covers the image, such as one for the whole of it."""

    def __init__(self, output_size):
        super().__init__()
        self.output_size = output_size

    def forward(self, input):
        return F.adaptive_avg_pool2d(input, self.output_size)


class Flatten(nn.Module):
    """Several dimensions as one: (batch, ...) -> (batch, features)."""

    def __init__(self, start_dim=1, end_dim=-1):
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, input):
        return input.flatten(self.start_dim, self.end_dim)


class Identity(nn.Module):
    def forward(self, input):
        return input


class ReLU(nn.Module):
    """max(input, 0)."""

    def __init__(self, inplace=False):
        super().__init__()
        self.inplace = inplace

    def forward(self, input):
        return F.relu(input, inplace=self.inplace)


class LeakyReLU(nn.Module):
    """The input where it is positive, and a small part of it elsewhere."""

    def __init__(self, negative_slope=0.01):
        super().__init__()
        self.negative_slope = negative_slope

    def forward(self, input):
        return F.leaky_relu(input, self.negative_slope)


class Tanh(nn.Module):
    def forward(self, input):
        return F.tanh(input)


class Sigmoid(nn.Module):
    def forward(self, input):
        return F.sigmoid(input)


class GELU(nn.Module):
    """The input times the chance that a normal number is below it (arXiv:1606.08415)."""

    def __init__(self, approximate="none"):
        super().__init__()
        self.approximate = approximate

    def forward(self, input):
        return F.gelu(input, approximate=self.approximate)


class SiLU(nn.Module):
    def forward(self, input):
        return F.silu(input)


class Softmax(nn.Module):
    """Positive numbers that sum to 1."""

    def __init__(self, dim=None):
        super().__init__()
        self.dim = dim

    def forward(self, input):
        return F.softmax(input, dim=self.dim)


class LogSoftmax(nn.Module):
    """The logarithms of positive numbers that sum to 1."""

    def __init__(self, dim=None):
        super().__init__()
        self.dim = dim

    def forward(self, input):
        return F.log_softmax(input, dim=self.dim)


class CrossEntropyLoss(nn.Module):
    """The mean of -log softmax(input) at the target."""

    def __init__(self, *, label_smoothing=0.0):
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, input, target):
        return F.cross_entropy(input, target, label_smoothing=self.label_smoothing)


class NLLLoss(nn.Module):
    """The mean of -input at the target."""

    def forward(self, input, target):
        return F.nll_loss(input, target)


class MSELoss(nn.Module):
    def forward(self, input, target):
        return F.mse_loss(input, target)


class L1Loss(nn.Module):
    def forward(self, input, target):
        return F.l1_loss(input, target)


class BCEWithLogitsLoss(nn.Module):
    """The mean of -log sigmoid(input) where the target is 1, of -log(1 - sigmoid) where it is 0."""

    def forward(self, input, target):
        return F.binary_cross_entropy_with_logits(input, target)
