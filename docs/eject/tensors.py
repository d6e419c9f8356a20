"""Train MnistCNN on mnist.

The run runs/cnn (`plainfit train --data mnist --data-dir mnist --model cnn
--epochs 2`) in plain PyTorch, at level tensors of `plainfit eject`. On torch 2.13.0+cpu (cpu,
AVX2, 1 thread) it gives the same weights, bit for bit, and losses within 2 units in the last
place; the SHA-256 of model.safetensors is
a83084a5535a886566390225c398da8c47924f4aa22d162c71459e29c7ada601.
"""

import gzip
import hashlib
import math
import time
from pathlib import Path

import torch
from safetensors.torch import save_model
from torch import Tensor

SEED = 0
EPOCHS = 2
BATCH_SIZE = 64
LR = 0.1
MOMENTUM = 0.9
DATA = Path("mnist")

torch.set_num_threads(1)  # the bits depend on it


def read_idx(name: str, header: int) -> Tensor:
    """Return the bytes of a file after its header."""
    content = gzip.decompress((DATA / f"{name}.gz").read_bytes())
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=header)


images = read_idx("train-images-idx3-ubyte", 16).view(-1, 1, 28, 28).float().div_(256)
labels = read_idx("train-labels-idx1-ubyte", 8).long()
x_train, x_valid = images.split([50_000, 10_000])
y_train, y_valid = labels.split([50_000, 10_000])


class Optimizer:
    """Parameters in groups that share options, and a state for each parameter."""

    def __init__(self, params, **options):
        groups = list(params)
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        self.param_groups = [{**options, **group, "params": [*group["params"]]} for group in groups]
        self.state = {}

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.update(p, p.grad, self.state.setdefault(p, {}), group)

    def zero_grad(self, set_to_none=True):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None if set_to_none or p.grad is None else torch.zeros_like(p.grad)


class SGD(Optimizer):
    """Stochastic gradient descent: p -= lr * g, or lr * v with v = momentum * v + g."""

    def __init__(self, params, lr=1e-3, momentum=0, dampening=0, weight_decay=0, nesterov=False):
        options = {"momentum": momentum, "dampening": dampening, "nesterov": nesterov}
        super().__init__(params, lr=lr, weight_decay=weight_decay, **options)

    def update(self, p, g, state, group):
        if group["weight_decay"]:
            g = g.add(p, alpha=group["weight_decay"])
        if group["momentum"]:
            if "v" in state:
                state["v"].mul_(group["momentum"]).add_(g, alpha=1 - group["dampening"])
            else:
                state["v"] = g.clone()
            g = g.add(state["v"], alpha=group["momentum"]) if group["nesterov"] else state["v"]
        p.sub_(g, alpha=group["lr"])


class Parameter(Tensor):
    """A tensor that a module trains; operations on it give ordinary tensors."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __new__(cls, data=None, requires_grad=True):
        return cls._make_subclass(cls, torch.empty(0) if data is None else data, requires_grad)

    def __deepcopy__(self, memo):
        return Parameter(self.detach().clone(), self.requires_grad)


class Module:
    """A callable with state: its attributes that are parameters, modules or buffers."""

    def __init__(self):
        self.training = True
        self.buffer_names = []

    def __call__(self, *args, **kwargs):
        return self.forward(*args, **kwargs)

    def forward(self, *args):
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def own(self, kind):
        return [(name, value) for name, value in vars(self).items() if isinstance(value, kind)]

    def named_tensors(self, prefix=""):
        """Yield the dotted names and values of all parameters and buffers."""
        for name, parameter in self.own(Parameter):
            yield prefix + name, parameter
        for name in self.buffer_names:
            if vars(self).get(name) is not None:
                yield prefix + name, vars(self)[name]
        for name, module in self.own(Module):
            yield from module.named_tensors(f"{prefix}{name}.")

    def parameters(self):
        tensors = dict.fromkeys(tensor for _, tensor in self.named_tensors())  # each once
        return (tensor for tensor in tensors if isinstance(tensor, Parameter))

    def state_dict(self):
        return {name: tensor.detach() for name, tensor in self.named_tensors()}

    def train(self, mode=True):
        self.training = mode
        for _, module in self.own(Module):
            module.train(mode)
        return self

    def eval(self):
        return self.train(False)

    def zero_grad(self, set_to_none=True):
        for p in self.parameters():
            p.grad = None if set_to_none or p.grad is None else torch.zeros_like(p.grad)


def pair(size):
    return size if isinstance(size, tuple) else (size, size)


def uniform(*shape, fan_in):
    """Draw initial values between -1 / sqrt(fan_in) and 1 / sqrt(fan_in)."""
    return Parameter(torch.empty(shape).uniform_(-(fan_in**-0.5), fan_in**-0.5))


class Conv2d(Module):
    """The same weighted sums in every window of the image: a linear layer on windows."""

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
        self.kernel_size = pair(kernel_size)
        self.stride, self.padding = stride, padding
        self.dilation, self.groups = dilation, groups
        window = (in_channels // groups, *pair(kernel_size))
        self.weight = uniform(out_channels, *window, fan_in=math.prod(window))
        self.bias = uniform(out_channels, fan_in=math.prod(window)) if bias else None

    def forward(self, input):
        options = self.stride, self.padding, self.dilation, self.groups
        return torch.conv2d(input, self.weight, self.bias, *options)


def adaptive_avg_pool2d(input, output_size):
    """Return the mean of each image, as an image of one pixel."""
    return input.mean((-2, -1), keepdim=True)


class AdaptiveAvgPool2d(Module):
    """The means of a grid of cells that covers the image, such as one for the whole of it."""

    def __init__(self, output_size):
        super().__init__()
        self.output_size = output_size

    def forward(self, input):
        return adaptive_avg_pool2d(input, self.output_size)


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


class MnistCNN(Module):
    """The tutorial's three stride-2 convolutions, for images of any size."""

    def __init__(self, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.channels = channels
        self.conv1 = Conv2d(channels, 16, kernel_size=3, stride=2, padding=1)
        self.conv2 = Conv2d(16, 16, kernel_size=3, stride=2, padding=1)
        self.conv3 = Conv2d(16, classes, kernel_size=3, stride=2, padding=1)
        self.pool = AdaptiveAvgPool2d(1)

    def forward(self, xb: Tensor) -> Tensor:
        xb = torch.relu(self.conv1(xb))
        xb = torch.relu(self.conv2(xb))
        xb = torch.relu(self.conv3(xb))
        return self.pool(xb).flatten(1)


def correct(out: Tensor, yb: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many labels have the largest score at their index, and how many count."""
    hits = out.argmax(dim=1 if out.shape[2:] == yb.shape[1:] else -1) == yb
    return hits.sum(), (yb != -100).sum()  # no index is -100, so such a label is no hit


def accuracy(out: Tensor, yb: Tensor) -> Tensor:
    """Return the share of labels at whose index the scores are largest; -100 does not count."""
    hits, count = correct(out, yb)
    return hits / count


def seed_at(seed: int, *address: str | int) -> int:
    """Return a seed of 64 bits that is a function of a seed and an address."""
    digest = hashlib.sha256(repr((int(seed), *address)).encode()).digest()
    return int.from_bytes(digest[:8], "little")


def stream(seed: int, *address: str | int) -> torch.Generator:
    """Return a CPU generator that is a function of the seed and an address, and of nothing else."""
    return torch.Generator().manual_seed(seed_at(seed, *address))


def weighted_mean(values: list[float], weights: list[int]) -> float:
    """Return the mean of the values, each counting by its weight, in float64."""
    return sum(value * n for value, n in zip(values, weights, strict=True)) / sum(weights)


def validate(model: Module) -> tuple[float, float]:
    """Return the mean loss and the metrics over the validation samples."""
    outputs, targets = [], []
    losses, sizes = [], []
    model.eval()
    with torch.no_grad():
        for rows in torch.arange(len(y_valid)).split(2 * BATCH_SIZE):
            xb, yb = x_valid[rows], y_valid[rows]
            out = model(xb)
            losses.append(cross_entropy(out, yb).item())
            sizes.append(len(yb))
            outputs.append(out)
            targets.append(yb)
    return weighted_mean(losses, sizes), float(accuracy(torch.cat(outputs), torch.cat(targets)))


torch.manual_seed(SEED)
model = MnistCNN(channels=1, classes=10)
opt = SGD(model.parameters(), lr=LR, momentum=MOMENTUM)

losses = []  # of every step
print("      epoch  train_loss  valid_loss    accuracy     seconds   samples/s")
for epoch in range(EPOCHS):
    started = time.perf_counter()
    model.train()
    sizes = []
    order = torch.randperm(len(y_train), generator=stream(SEED, "order", epoch))
    for rows in order.split(BATCH_SIZE):
        xb, yb = x_train[rows], y_train[rows]
        loss = cross_entropy(model(xb), yb)
        losses.append(loss.item())
        loss.backward()
        opt.step()
        opt.zero_grad()
        sizes.append(len(yb))
    trained = time.perf_counter() - started
    valid_loss, valid_accuracy = validate(model)
    train_loss = weighted_mean(losses[-len(sizes) :], sizes)
    print(
        f"{epoch:11d} {train_loss:11.4f} {valid_loss:11.4f} {valid_accuracy:11.4f} "
        f"{time.perf_counter() - started:11.2f} {sum(sizes) / trained:11,.0f}"
    )

save_model(model, "model.safetensors")
