"""Initial values, as torch.nn.init draws them."""

import math

import torch


@torch.no_grad()
def zeros_(tensor):
    """Fill with 0."""
    return tensor.zero_()


@torch.no_grad()
def ones_(tensor):
    """Fill with 1."""
    return tensor.fill_(1.0)


@torch.no_grad()
def constant_(tensor, val):
    """Fill with a value."""
    return tensor.fill_(val)


@torch.no_grad()
def normal_(tensor, mean=0.0, std=1.0):
    """Draw from a normal distribution."""
    return tensor.normal_(mean, std)


@torch.no_grad()
def uniform_(tensor, a=0.0, b=1.0):
    """Draw evenly between a and b."""
    return tensor.uniform_(a, b)


def fans(tensor):
    """Return how many inputs an output has, and how many outputs an input."""
    field = math.prod(tensor.shape[2:])  # 1 for a matrix, the pixels of a window for a convolution
    return tensor.shape[1] * field, tensor.shape[0] * field


def gain_of(nonlinearity, a):
    """Return what an activation makes of a standard deviation of 1, inverted."""
    if nonlinearity == "relu":
        return math.sqrt(2.0)
    if nonlinearity == "leaky_relu":
        return math.sqrt(2.0 / (1 + a**2))
    return {"tanh": 5.0 / 3, "selu": 0.75}.get(nonlinearity, 1.0)


def kaiming_std(tensor, a, mode, nonlinearity):
    """Return the standard deviation that keeps the size of activations (arXiv:1502.01852)."""
    fan_in, fan_out = fans(tensor)
    return gain_of(nonlinearity, a) / math.sqrt(fan_out if mode == "fan_out" else fan_in)


@torch.no_grad()
def kaiming_normal_(tensor, a=0, mode="fan_in", nonlinearity="leaky_relu"):
    """Draw normally, so that activations keep their size (He et al. 2015, arXiv:1502.01852)."""
    return tensor.normal_(0, kaiming_std(tensor, a, mode, nonlinearity))


@torch.no_grad()
def kaiming_uniform_(tensor, a=0, mode="fan_in", nonlinearity="leaky_relu"):
    """Draw evenly, so that activations keep their size (He et al. 2015, arXiv:1502.01852)."""
    bound = math.sqrt(3.0) * kaiming_std(tensor, a, mode, nonlinearity)
    return tensor.uniform_(-bound, bound)


@torch.no_grad()
def xavier_normal_(tensor, gain=1.0):
    """Draw normally, so that both directions keep their size (Glorot and Bengio 2010)."""
    return tensor.normal_(0.0, gain * math.sqrt(2.0 / float(sum(fans(tensor)))))


@torch.no_grad()
def xavier_uniform_(tensor, gain=1.0):
    """Draw evenly, so that both directions keep their size (Glorot and Bengio 2010)."""
    bound = math.sqrt(3.0) * gain * math.sqrt(2.0 / float(sum(fans(tensor))))
    return tensor.uniform_(-bound, bound)
