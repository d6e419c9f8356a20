"""One training with everything that a resume must restore, in variants; and its comparison."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.utils.data import DataLoader, Dataset, TensorDataset

import plainfit as pf
from plainfit.training.callbacks import (
    Averaging,
    Checkpointing,
    GradientAccumulation,
    GradientClipping,
)
from plainfit.training.hooks import Callback, Context

EPOCHS, BS, CLASSES, SAMPLES = 3, 16, 5, 70


class Noisy(Dataset):
    """Images that get noise each time they are read, from the global generators."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index] + 0.1 * torch.randn(self.x[index].shape), self.y[index]


class Net(nn.Module):
    """Batch norm, dropout, a tied pair, a parameter that is not contiguous, a hidden buffer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.25)
        self.up = nn.Linear(256, 8)
        self.square = nn.Linear(8, 8)
        self.again = nn.Linear(8, 8)
        self.again.weight = self.square.weight  # tied
        self.out = nn.Linear(8, CLASSES)
        self.out.weight = nn.Parameter(self.out.weight.detach().t().contiguous().t())
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, xb):
        self.calls += 1
        xb = self.drop(F.relu(self.bn(self.conv(xb)))).flatten(1)
        xb = F.relu(self.up(xb))
        return self.out(self.again(F.relu(self.square(xb))))


def noise(xb, yb):
    """What a user does to a batch, drawing from the global generator."""
    return xb + 0.01 * torch.randn(xb.shape), yb


def images():
    g = torch.Generator().manual_seed(0)
    return [
        (torch.rand(n, 1, 8, 8, generator=g), torch.randint(CLASSES, (n,), generator=g))
        for n in (SAMPLES, 41)
    ]


OPTIMIZERS = {
    "momentum": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adamw": lambda p: optim.AdamW(p, lr=1e-2, weight_decay=0.1),
}
LOADERS = (
    *("memory", "samples", "workers", "one worker", "wrapped"),
    *("stock", "stock generator", "stock wrapped twice"),
)


def loaders(kind):
    sets = [TensorDataset(x, y) for x, y in images()]
    noisy = [Noisy(x, y) for x, y in images()]
    if kind == "memory":
        return pf.get_data(*sets, BS, seed=5)
    if kind in ("samples", "one worker", "workers"):
        workers = ("samples", "one worker", "workers").index(kind)
        return pf.get_data(*noisy, BS, seed=5, num_workers=workers)
    if kind == "wrapped":
        train_dl, valid_dl = pf.get_data(*sets, BS, seed=5)
        return pf.WrappedDataLoader(train_dl, noise), valid_dl
    generator = None if kind == "stock" else torch.Generator().manual_seed(3)
    train_dl = DataLoader(noisy[0], batch_size=BS, shuffle=True, generator=generator)
    valid_dl = DataLoader(noisy[1], batch_size=2 * BS)
    if kind == "stock wrapped twice":
        return pf.WrappedDataLoader(pf.WrappedDataLoader(train_dl, noise), noise), valid_dl
    return train_dl, valid_dl


class StopAt(Callback):
    """Ask to stop after so many steps of the whole training, as a signal would."""

    observer = True

    def __init__(self, step):
        self.step = step

    def on_step_end(self, context: Context):
        if context.global_step == self.step:
            context.stop = "the test"


def train(folder, optimizer="momentum", loader="memory", extras=True, callbacks=(), **options):
    """Train, or go on; return everything that must be equal in the end."""
    torch.manual_seed(1)
    model = Net()
    opt = OPTIMIZERS[optimizer](model.parameters())
    train_dl, valid_dl = loaders(loader)
    around = [GradientAccumulation(2), GradientClipping(0.5), Averaging(0.9)] if extras else []
    checkpoint = options.pop("checkpoint", None) or (
        None if folder is None else Checkpointing(Path(folder))
    )
    history = pf.fit(
        EPOCHS, model, F.cross_entropy, opt, train_dl, valid_dl, metrics=[pf.accuracy],
        callbacks=[*around, *callbacks], schedule="one-cycle", checkpoint=checkpoint, echo=None,
        **options,
    )  # fmt: skip
    return outcome(model, opt, history, around)


def outcome(model, opt, history, callbacks=()):
    """Return weights, buffers, optimizer, averages, generators and figures, without the times."""
    untimed = [
        {k: v for k, v in row.items() if k not in ("seconds", "samples_per_second")}
        for row in history.epochs
    ]
    return {
        "model": {**dict(model.named_buffers()), **model.state_dict()},
        "strides": [p.stride() for p in model.parameters()],
        "optimizer": opt.state_dict(),
        "callbacks": [callback.state_dict() for callback in callbacks],
        "losses": history.step_losses,
        "epochs": untimed,
        "random": torch.get_rng_state(),
        "tied": model.again.weight is model.square.weight,
    }


def differences(a, b, path=""):
    """Return the paths at which two nested values differ, in type, dtype, stride or any bit."""
    if type(a) is not type(b):
        return [f"{path}: {type(a).__name__} and {type(b).__name__}"]
    if isinstance(a, torch.Tensor):
        same = (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride())
        bits = [t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b)]
        return [] if same and torch.equal(*bits) else [path]
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return [f"{path}: {a.keys() ^ b.keys()}"]
        return [found for key in a for found in differences(a[key], b[key], f"{path}/{key}")]
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return [f"{path}: {len(a)} and {len(b)} items"]
        pairs = enumerate(zip(a, b, strict=True))
        return [found for i, (x, y) in pairs for found in differences(x, y, f"{path}/{i}")]
    return [] if a == b else [path]
