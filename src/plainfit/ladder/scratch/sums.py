"""PyTorch's kernels as sums, products and indexing: the same mathematics, rounded differently."""

import torch

from plainfit.ladder.scratch.functions import pad, pair


def windows_of(image, size, stride=1, dilation=1):
    """Return all windows of an image: (..., rows, columns, height, width)."""
    (high, wide), (down, right), (below, beside) = size, pair(stride), pair(dilation)
    reach = (high - 1) * below + 1, (wide - 1) * beside + 1
    return image.unfold(2, reach[0], down).unfold(3, reach[1], right)[..., ::below, ::beside]


def linear(input, weight, bias=None):
    """Return the weighted sums: (..., in_features) -> (..., out_features)."""
    output = input @ weight.t()
    return output if bias is None else output + bias


def conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """Return the weighted sums of every window: one matrix product, as in a linear layer."""
    windows = windows_of(pad(input, padding), weight.shape[2:], stride=stride, dilation=dilation)
    batch, _, rows, columns, _, _ = windows.shape  # the last two: height, width
    filters = weight.reshape(groups, len(weight) // groups, -1)
    windows = windows.movedim((4, 5), (2, 3))
    windows = windows.reshape(batch, groups, filters.shape[2], rows * columns)
    output = filters.matmul(windows).reshape(batch, -1, rows, columns)
    return output if bias is None else output + bias[:, None, None]


def conv1d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """Return the weighted sums of every window of a sequence: an image of one row."""
    options = (1, stride), (0, padding), (1, dilation), groups
    return conv2d(input.unsqueeze(2), weight.unsqueeze(2), bias, *options).squeeze(2)


def batch_norm(
    input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
):
    """Return each channel with mean 0 and variance 1; move the running ones in training."""
    dims = [dim for dim in range(input.dim()) if dim != 1]
    shape = (-1,) + (1,) * (input.dim() - 2)  # channels, which broadcast over what follows
    mean, var = running_mean, running_var
    if training:
        mean, var = input.mean(dims), input.var(dims, correction=0)
        running_mean.lerp_(mean.detach(), momentum)
        running_var.lerp_(input.detach().var(dims), momentum)
    output = (input - mean.view(shape)) * (var + eps).rsqrt().view(shape)
    if weight is None:
        return output
    return output * weight.view(shape) + bias.view(shape)


def layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5):
    """Return each sample with mean 0 and variance 1 over its last dimensions."""
    dims = [-1 - dim for dim in range(len(normalized_shape))]
    mean, var = input.mean(dims, keepdim=True), input.var(dims, correction=0, keepdim=True)
    output = (input - mean) * (var + eps).rsqrt()
    if weight is not None:
        output = output * weight
    return output if bias is None else output + bias


def max_pool2d(input, kernel_size, stride=None, padding=0):
    """Return the largest value of every window; of equal ones the first gets the gradient."""
    image = pad(input, padding, value=-torch.inf)
    windows = windows_of(image, pair(kernel_size), stride=stride or kernel_size)
    return windows.flatten(-2).max(-1).values


def adaptive_avg_pool2d(input, output_size):
    """Return the means of cells that cover the image, which may overlap by a pixel."""
    sizes = input.shape[-2:]
    counts = [n or size for n, size in zip(pair(output_size), sizes, strict=True)]
    rows, columns = (
        [slice(i * size // n, -(-(i + 1) * size // n)) for i in range(n)]
        for n, size in zip(counts, sizes, strict=True)
    )
    cells = [input[..., row, column].mean((-2, -1)) for row in rows for column in columns]
    return torch.stack(cells, -1).reshape(*input.shape[:-2], *counts)


def binary_cross_entropy_with_logits(input, target):
    """Return the mean of -log sigmoid(input) where the target is 1, of -log(1 - it) where 0."""
    losses = input.clamp(min=0) - input * target + (-input.abs()).exp().log1p()
    return losses.mean()
