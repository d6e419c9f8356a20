"""What `fit` adds to the bare loop over the same loader: one process, one thread, in turn."""

import statistics
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from results import save_section
from torch.utils.data import TensorDataset
from turns import percent, ratio, take_turns

import plainfit as pf

TURNS = 41
BATCH_SIZE = 64
TEXT = """\
One epoch of the logistic regression on {n:,} samples, without validation, over plainfit's own
loader, in one process with one thread, in turn, {turns} times each; the median of the ratios within
a turn, and their quartiles. The bare loop is `loss = F.cross_entropy(model(xb), yb)`,
`loss.backward()`, `opt.step()`, `opt.zero_grad()` and nothing else. Its second turn shows what is
noise. The goal is 2 %."""


def measure(data: Path, quick: bool, folder: Path) -> Path:
    """Measure, and write the section."""
    turns, threads = (5 if quick else TURNS), torch.get_num_threads()
    dataset = read_train(data)
    ways = {
        "bare loop": bare(dataset),
        "bare loop again": bare(dataset),
        "fit": fitted(dataset),
        "fit, `check_finite=False`": fitted(dataset, check_finite=False),
    }
    torch.set_num_threads(1)
    try:
        times = take_turns(ways, turns)
    finally:
        torch.set_num_threads(threads)
    steps = -(-len(dataset) // BATCH_SIZE)
    rows = []
    for name, seconds in times.items():
        middle, low, high = ratio(seconds, times["bare loop"])
        step = statistics.median(seconds) / steps * 1e6
        rows.append([name, percent(middle), f"{percent(low)} to {percent(high)}", f"{step:.1f}"])
    return save_section(
        "overhead",
        "What `fit` adds to the bare loop",
        TEXT.format(n=len(dataset), turns=turns),
        ["", "over the bare loop", "quartiles", "µs/step"],
        rows,
        raw=times,
        folder=folder,
    )


def read_train(data: Path) -> TensorDataset:
    """Return the training samples as flat floats."""
    import numpy as np

    x, y = (torch.from_numpy(np.load(data / f"{name}_train.npy")) for name in "xy")
    return TensorDataset(x.flatten(1).float().div_(256), y)


def parts(dataset: TensorDataset) -> tuple[torch.nn.Module, torch.optim.Optimizer, pf.TensorLoader]:
    """Return a model, its optimizer and a loader, new for each way."""
    model, opt = pf.get_model("logistic", lr=0.5, momentum=0.0, device="cpu")
    return model, opt, pf.TensorLoader(dataset, BATCH_SIZE, shuffle=True)


def bare(dataset: TensorDataset) -> Callable[[], None]:
    """Return the loop written by hand."""
    model, opt, loader = parts(dataset)

    def epoch() -> None:
        model.train()
        for xb, yb in loader:
            loss = F.cross_entropy(model(xb), yb)
            loss.backward()
            opt.step()
            opt.zero_grad()

    return epoch


def fitted(dataset: TensorDataset, **options: bool) -> Callable[[], None]:
    """Return the same by `fit`."""
    model, opt, loader = parts(dataset)

    def epoch() -> None:
        pf.fit(1, model, F.cross_entropy, opt, loader, None, echo=None, **options)

    return epoch
