"""Repeating the ladder over seeds: our spread beside the figures that the tutorial prints."""

import re
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import torch

from plainfit.common.errors import PlainfitError
from plainfit.ladder.catalog import RUNGS, Rung
from plainfit.ladder.climb import TUTORIAL_EPOCHS
from plainfit.ladder.runner import Setting, Trace, run_rung

# What the tutorial printed, by rung: `PyTorch: what is torch.nn really?`,
# https://pytorch.org/tutorials/beginner/nn_tutorial.html, one run of each.
TUTORIAL: dict[str, dict[str, float]] = {
    "01": {
        "before loss": 2.2979,
        "before accuracy": 0.1094,
        "after loss": 0.0803,
        "after accuracy": 1.0,
    },
    "02": {"after loss": 0.0803, "after accuracy": 1.0},
    "03": {"before loss": 2.2899, "after loss": 0.0835},
    "04": {"before loss": 2.3694, "after loss": 0.0820},
    "05": {"before loss": 2.3185, "after loss": 0.0827},
    "06": {"after loss": 0.0812},
    "07": {"after loss": 0.0824},
    "08": {"epoch 0 valid_loss": 0.3260, "epoch 1 valid_loss": 0.2793},
    "09": {"epoch 0 valid_loss": 0.37931, "epoch 1 valid_loss": 0.28746},
    "10": {"epoch 0 valid_loss": 0.36561, "epoch 1 valid_loss": 0.22790},
    "11": {"epoch 0 valid_loss": 0.32668, "epoch 1 valid_loss": 0.24144},
    "12": {"epoch 0 valid_loss": 0.36534, "epoch 1 valid_loss": 0.31836},
    "13": {"epoch 0 valid_loss": 0.22936, "epoch 1 valid_loss": 0.21557},
}
AS_LISTED = {
    # The listing calls conv2 twice and conv3 never.
    "10": ("self.conv3(xb)", "self.conv2(xb)"),
    # The listing builds no new model: it goes on with the one that rung 12 has trained.
    "13": (
        "fit(args.epochs, ",
        "fit(args.epochs, model, loss_func, opt, train_dl, valid_dl)\n"
        "opt = optim.SGD(model.parameters(), lr=lr, momentum=0.9)\n"
        "fit(args.epochs, ",
    ),
}
"""By rung: what to replace to get the tutorial's listing, where it is not what a reader expects."""
UNWEIGHTED = "unweighted less weighted"
"""Rung 08's mean of batch means, as in the listing, less the mean of the samples."""


@dataclass(frozen=True)
class Spread:
    """One figure over the seeds."""

    rung: str
    figure: str
    values: tuple[float, ...]
    """In the order of the seeds."""
    tutorial: float | None = None
    elsewhere: str = ""
    """The other form of the rung, where the tutorial's figure is inside that one's spread."""

    @property
    def least(self) -> float:
        """The smallest."""
        return min(self.values)

    @property
    def middle(self) -> float:
        """The median."""
        return median(self.values)

    @property
    def most(self) -> float:
        """The largest."""
        return max(self.values)

    @property
    def inside(self) -> bool | None:
        """Whether the tutorial's figure is one that we get; None where it prints none."""
        return None if self.tutorial is None else self.least <= self.tutorial <= self.most

    @property
    def verdict(self) -> str:
        """Where the tutorial's figure lies and, if it is not inside, why.

        A new run falls outside the range of n others, by the definition of ranks, in 2 of n + 1.
        """
        if self.tutorial is None or self.inside:
            return "inside" if self.inside else ""
        side, rest = ("below", self.least) if self.tutorial < self.least else ("above", self.most)
        why = f"2 of {len(self.values) + 1} new runs are outside"
        if self.elsewhere:
            why = f"inside for {self.elsewhere}"
        return f"{side} by {abs(self.tutorial - rest):.4f}; {why}"

    def to_dict(self) -> dict[str, Any]:
        """Return the record for `--json`."""
        return {
            "rung": self.rung,
            "figure": self.figure,
            "tutorial": self.tutorial,
            "min": self.least,
            "median": self.middle,
            "max": self.most,
            "verdict": self.verdict,
            "values": list(self.values),
        }


def programs() -> Iterator[tuple[str, Rung, str | None]]:
    """Yield what is repeated: a label, a rung, and a text in place of its own."""
    for rung in RUNGS[:-1]:  # the last is ours, not the tutorial's
        yield rung.label, rung, None
        if rung.label in AS_LISTED:
            yield f"{rung.label} as listed", rung, rung.source.replace(*AS_LISTED[rung.label])


def begin_worker() -> None:
    """Set up a process that runs rungs: one thread, and Ctrl-C ends it without a word."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def one_run(label: str, rung: Rung, source: str | None, data: Path, seed: int) -> dict[str, float]:
    """Run a rung as it is written and return the figures it prints, by name."""
    setting = Setting(data, TUTORIAL_EPOCHS, seed, as_written=True)
    trace = run_rung(rung, setting, source=source)
    if trace.error:
        raise PlainfitError(f"rung {label} failed with seed {seed}: {trace.error}")
    return figures(trace)


def figures(trace: Trace) -> dict[str, float]:
    """Read what a rung printed: `after: loss 0.08, accuracy 1.0` is two figures.

    >>> figures(Trace(RUNGS[0], printed="after: loss 0.0803, accuracy 1.0000"))
    {'after loss': 0.0803, 'after accuracy': 1.0}
    """
    found = {}
    for line in trace.printed.splitlines():
        when, _, rest = line.partition(": ")
        for name, number in re.findall(r"(\w+) ([-+.\w]+)", rest):
            found[f"{when} {name}"] = float(number)
    if trace.rung.name == "validation":
        last = list(found)[-1]
        found[UNWEIGHTED] = found[last] - trace.loss
    return found


def repeat(
    data: Path, seeds: int, workers: int, done: Callable[[], None], compare: bool
) -> list[Spread]:
    """Run rungs 01 to 13 as they are written with seeds 0, 1, ... and return each figure's spread.

    Args:
        data: the .npz file.
        seeds: how many.
        workers: processes, of one thread each.
        done: called after each run.
        compare: whether the tutorial's figures are of the same data.

    Raises:
        PlainfitError: if a rung fails.
    """
    values: dict[tuple[str, int], Mapping[str, float]] = {}
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=begin_worker) as pool:
        tasks = {
            pool.submit(one_run, label, rung, source, data, seed): (label, seed)
            for seed in range(seeds)
            for label, rung, source in programs()
        }
        try:
            for task in as_completed(tasks):
                values[tasks[task]] = task.result()
                done()
        except BaseException:  # Ctrl-C too: what waits in the queue is not begun
            pool.shutdown(cancel_futures=True)
            raise
    spreads = [
        Spread(
            label,
            figure,
            tuple(values[label, seed][figure] for seed in range(seeds)),
            TUTORIAL.get(rung.label, {}).get(figure) if compare else None,
        )
        for label, rung, _ in programs()
        for figure in values[label, 0]
    ]
    inside = {(spread.rung[:2], spread.figure): spread.rung for spread in spreads if spread.inside}
    return [
        replace(spread, elsewhere=inside.get((spread.rung[:2], spread.figure), ""))
        for spread in spreads
    ]
