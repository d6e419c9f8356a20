"""Functions that have PyTorch's bits, made of operations on tensors.

The last two only call PyTorch's own kernel: `sums` has them written out, which rounds differently.
"""

import torch


def linear(input, weight, bias=None):
    """Return the weighted sums: (..., in_features) -> (..., out_features)."""
    if bias is None:
        return input.matmul(weight.t())
    rows = input.reshape(-1, input.shape[-1])  # addmm adds the bias within the product
    return torch.addmm(bias, rows, weight.t()).reshape(*input.shape[:-1], -1)


def relu(input, inplace=False):
    """Return max(input, 0), with gradient 0 at 0; NaN stays NaN."""
    return input.masked_fill_(input <= 0, 0) if inplace else input.masked_fill(input <= 0, 0)


def leaky_relu(input, negative_slope=0.01):
    """Return the input where it is positive, and a small part of it elsewhere."""
    return torch.where(input > 0, input, input * negative_slope)


def tanh(input):
    return input.tanh()


def sigmoid(input):
    return input.sigmoid()


def softmax(input, dim):
    """Return positive numbers that sum to 1."""
    return input.softmax(dim)


def log_softmax(input, dim):
    return input.log_softmax(dim)


def embedding(input, weight):
    """Return the rows of the weight that the input names."""
    return weight[input]


def dropout(input, p=0.5, training=True):
    """Return zeros with probability p, and the rest divided by 1 - p, in training."""
    if not training or p == 0:
        return input
    if p == 1:
        return input * 0
    return input * torch.empty_like(input).bernoulli_(1 - p).div_(1 - p)


def pair(size):
    return size if isinstance(size, tuple) else (size, size)


def pad(input, padding, value=0):
    """Add a value, zero by default, above and below, left and right."""
    rows, columns = pair(padding)
    return torch.constant_pad_nd(input, (columns, columns, rows, rows), value)


def avg_pool2d(input, kernel_size, stride=None, padding=0):
    """Return the mean of every window; it moves by `stride`, or else by its own size."""
    (high, wide), (down, right) = pair(kernel_size), pair(stride or kernel_size)
    if any(2 * edge > size for edge, size in zip(pair(padding), (high, wide), strict=True)):
        raise ValueError(f"padding must be at most half of {kernel_size}, got {padding}")
    image = pad(input, padding)
    rows, columns = image.shape[-2] - high + 1, image.shape[-1] - wide + 1
    corners = [(i, j) for i in range(high) for j in range(wide)]
    copies = [image[..., i : i + rows : down, j : j + columns : right] for i, j in corners]
    return sum(copies) / (high * wide)  # the sum of shifted images: all windows' sums


def mean_pool2d(input, output_size):
    """Return the mean of each image, as an image of one pixel."""
    return input.mean((-2, -1), keepdim=True)


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
        smoothed = -logs.sum(1).mean()
        loss = (1 - label_smoothing) * loss + label_smoothing / logs.shape[1] * smoothed
    return loss


def nll_loss(input, target):
    """Return the mean of -input at the target: (batch, classes), (batch) -> ()."""
    return -sum_like_torch(input[torch.arange(len(target)), target]) / len(target)


def mse_loss(input, target):
    return (input - target).square().mean()


def l1_loss(input, target):
    return (input - target).abs().mean()


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
