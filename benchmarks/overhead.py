"""What `fit` adds to the bare loop over the same loader: one process, one thread, in turn."""

import statistics
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from results import save_section
from torch.utils.data import TensorDataset
from turns import STEPS, Share, percent, ratio, take_turns

import plainfit as pf
from plainfit.common.devices import cpu_threads

TIMES, EPOCHS = 10, 11  # of which the first warms up
BATCH_SIZE = 64
TEXT = """\
Epochs of the logistic regression on {n:,} samples, without validation, over plainfit's own loader,
in one process with one thread of torch. Each way takes {steps} steps and waits for the others; the
order is another one in each round. Of {epochs} epochs of {times} trainings, the median of the
ratios, and their quartiles. The bare loop is `loss = F.cross_entropy(model(xb), yb)`,
`loss.backward()`, `opt.step()`, `opt.zero_grad()` and nothing else. Its second line shows what is
noise."""


def measure(data: Path, quick: bool, folder: Path) -> Path:
    """Measure, and write the section."""
    times, epochs = (1, 4) if quick else (TIMES, EPOCHS)
    dataset = read_train(data)
    ways = {
        "bare loop": bare(epochs),
        "bare loop again": bare(epochs),
        "fit": fitted(epochs),
        "fit, `check_finite=False`": fitted(epochs, check_finite=False),
    }
    with cpu_threads(1):
        seconds = take_turns(ways, lambda: shuffled(dataset), times)
    steps = -(-len(dataset) // BATCH_SIZE)
    rows = []
    for name, mine in seconds.items():
        middle, low, high = ratio(mine, seconds["bare loop"])
        step = statistics.median(mine) / steps * 1e6
        rows.append([name, percent(middle), f"{percent(low)} to {percent(high)}", f"{step:.1f}"])
    return save_section(
        "overhead",
        "What `fit` adds to the bare loop",
        TEXT.format(n=len(dataset), steps=STEPS, times=times, epochs=times * (epochs - 1)),
        ["", "over the bare loop", "quartiles", "µs/step"],
        rows,
        raw=seconds,
        folder=folder,
    )


def read_train(data: Path) -> TensorDataset:
    """Return the training samples as flat floats."""
    import numpy as np

    x, y = (torch.from_numpy(np.load(data / f"{name}_train.npy")) for name in "xy")
    return TensorDataset(x.flatten(1).float().div_(256), y)


def shuffled(dataset: TensorDataset) -> pf.TensorLoader:
    """Return a loader of the samples in a random order."""
    return pf.TensorLoader(dataset, BATCH_SIZE, shuffle=True)


def new_model() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """Return a model and its optimizer."""
    return pf.get_model("logistic", lr=0.5, momentum=0.0, device="cpu")


def bare(epochs: int) -> Callable[[Share], None]:
    """Return the loop written by hand."""

    def train(loader: Share) -> None:
        model, opt = new_model()
        for _ in range(epochs):
            model.train()
            for xb, yb in loader:
                loss = F.cross_entropy(model(xb), yb)
                loss.backward()
                opt.step()
                opt.zero_grad()

    return train


def fitted(epochs: int, **options: bool) -> Callable[[Share], None]:
    """Return the same by `fit`."""

    def train(loader: Share) -> None:
        model, opt = new_model()
        pf.fit(epochs, model, F.cross_entropy, opt, loader, None, echo=None, **options)

    return train
