"""Train MnistCNN on mnist.

The run runs/cnn (`plainfit train --data mnist --data-dir mnist --model cnn
--epochs 2`) in plain PyTorch, at level optim of `plainfit eject`. On torch 2.13.0+cpu (cpu, AVX2,
1 thread) it gives the same losses and weights, bit for bit; the SHA-256 of model.safetensors is
a83084a5535a886566390225c398da8c47924f4aa22d162c71459e29c7ada601.
"""

import gzip
import hashlib
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_model
from torch import Tensor, nn

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


class MnistCNN(nn.Module):
    """The tutorial's three stride-2 convolutions, for images of any size."""

    def __init__(self, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.channels = channels
        self.conv1 = nn.Conv2d(channels, 16, kernel_size=3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(16, 16, kernel_size=3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(16, classes, kernel_size=3, stride=2, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, xb: Tensor) -> Tensor:
        xb = F.relu(self.conv1(xb))
        xb = F.relu(self.conv2(xb))
        xb = F.relu(self.conv3(xb))
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


def validate(model: nn.Module) -> tuple[float, float]:
    """Return the mean loss and the metrics over the validation samples."""
    outputs, targets = [], []
    losses, sizes = [], []
    model.eval()
    with torch.no_grad():
        for rows in torch.arange(len(y_valid)).split(2 * BATCH_SIZE):
            xb, yb = x_valid[rows], y_valid[rows]
            out = model(xb)
            losses.append(F.cross_entropy(out, yb).item())
            sizes.append(len(yb))
            outputs.append(out)
            targets.append(yb)
    return weighted_mean(losses, sizes), float(accuracy(torch.cat(outputs), torch.cat(targets)))


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
        loss = F.cross_entropy(model(xb), yb)
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
