"""Layers without weights, and losses as layers: each calls one function of `F`."""

from plainfit.ladder.scratch import functional as F
from plainfit.ladder.scratch import modules as nn


class Identity(nn.Module):
    """A layer that changes nothing."""

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
    """The hyperbolic tangent."""

    def forward(self, input):
        return F.tanh(input)


class Sigmoid(nn.Module):
    """1 / (1 + exp(-input))."""

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
    """The input times its sigmoid."""

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
    """The mean of the squared differences."""

    def forward(self, input, target):
        return F.mse_loss(input, target)


class L1Loss(nn.Module):
    """The mean of the absolute differences."""

    def forward(self, input, target):
        return F.l1_loss(input, target)


class BCEWithLogitsLoss(nn.Module):
    """The mean of -log sigmoid(input) where the target is 1, of -log(1 - sigmoid) where it is 0."""

    def forward(self, input, target):
        return F.binary_cross_entropy_with_logits(input, target)
