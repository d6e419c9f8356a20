"""The ladder's rungs over many seeds, beside the numbers that the tutorial prints for MNIST.

    python benchmarks/ladder_repeat.py [--seeds 20] [--data-dir FOLDER] [--workers 2]

Each rung runs as it is written, with seeds 0, 1, ...; what it prints is read. The table is the one
in docs/ladder.md, which explains the numbers outside the range of ours.
"""

import argparse
import contextlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F

from plainfit.data.open_data import open_data
from plainfit.ladder.catalog import RUNGS
from plainfit.ladder.climb import TUTORIAL_EPOCHS, write_data
from plainfit.ladder.lessons import figures

# What the tutorial prints, by rung: `PyTorch: what is torch.nn really?`,
# https://pytorch.org/tutorials/beginner/nn_tutorial.html, one run of each.
TUTORIAL: dict[str, dict[str, float]] = {}
for figure in figures():
    TUTORIAL.setdefault(figure.rung[:2], {})[figure.name] = figure.tutorial
# By rung: what to replace to get the tutorial's listing, where it is not what a reader expects.
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
UNWEIGHTED = "unweighted less weighted"
"""Rung 08's mean of batch means, as in the listing, less the mean of the samples."""


def programs() -> Iterator[tuple[str, str]]:
    """Yield labels and sources: the tutorial's rungs, and its listings where they differ."""
    for rung in RUNGS[1:14]:  # rung 00 trains nothing, and the last ones are not the tutorial's
        yield rung.label, rung.source
        if rung.label in AS_LISTED:
            yield f"{rung.label} as listed", rung.source.replace(*AS_LISTED[rung.label])


def run(program: tuple[str, str], data: Path, epochs: int, seed: int) -> dict[str, float]:
    """Run a program and return the numbers that it prints, by name."""
    label, source = program
    sys.argv = [label, f"--data={data}", f"--epochs={epochs}", f"--seed={seed}"]
    names: dict[str, object] = {"__name__": "__main__", "__doc__": label}
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(source, f"rung {label}", "exec"), names)
    values = read(out.getvalue())
    if label == "08":
        with torch.no_grad():
            loss = F.cross_entropy(names["model"](names["x_valid"]), names["y_valid"])
        values[UNWEIGHTED] = names["valid_loss"].item() - loss.item()
    return values


def read(printed: str) -> dict[str, float]:
    """Read a program's lines: `after: loss 0.08, accuracy 1.0` has two numbers.

    >>> read("after: loss 0.0803, accuracy 1.0000")
    {'after loss': 0.0803, 'after accuracy': 1.0}
    """
    return {
        f"{when} {name}": float(number)
        for when, _, rest in (line.partition(": ") for line in printed.splitlines())
        for name, number in re.findall(r"(\w+) ([-+.\w]+)", rest)
    }


def verdict(value: float, ours: list[float], inside_elsewhere: str = "") -> str:
    """Say where the tutorial's number lies in the range of ours.

    A new run falls outside the range of n others, by the definition of ranks, in 2 of n + 1.
    """
    if min(ours) <= value <= max(ours):
        return "inside"
    side, end = ("below", min(ours)) if value < min(ours) else ("above", max(ours))
    reason = f"2 of {len(ours) + 1} new runs are outside"
    if inside_elsewhere:
        reason = f"inside for {inside_elsewhere}"
    return f"{side} by {abs(value - end):.4f}; {reason}"


def table(runs: dict[str, list[dict[str, float]]], compare: bool) -> Iterator[str]:
    """Yield the lines of a Markdown table, with the tutorial's numbers if the data are MNIST.

    Args:
        runs: by label, the numbers of each seed.
        compare: whether to compare with the tutorial's.
    """
    yield "| rung | value | tutorial | min | median | max | |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    ours = {
        (label, name): [values[name] for values in of_seeds]
        for label, of_seeds in runs.items()
        for name in of_seeds[0]
    }
    known = {(label, name): value for label, of in TUTORIAL.items() for name, value in of.items()}
    for (label, name), values in ours.items():
        number = f"{min(values):.4f} | {median(values):.4f} | {max(values):.4f}"
        value = known.get((label[:2], name)) if compare else None
        if value is None:
            yield f"| {label} | {name} | | {number} | |"
            continue
        others = (
            other
            for other, its_name in ours
            if other[:2] == label[:2] and its_name == name and other != label
        )
        elsewhere = (o for o in others if min(ours[o, name]) <= value <= max(ours[o, name]))
        said = verdict(value, values, next(elsewhere, ""))
        yield f"| {label} | {name} | {value:.4f} | {number} | {said} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--data-dir", type=Path, help="folder with MNIST's files")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="of one thread each")
    args = parser.parse_args()
    seeds, listed = range(args.seeds), list(programs())
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(
            args.workers, get_context("spawn"), torch.set_num_threads, (1,)
        ) as pool,
    ):
        data = Path(folder) / "data.npz"
        write_data(open_data(args.data, data_dir=args.data_dir), data)
        runs = {
            program[0]: pool.map(partial(run, program, data, TUTORIAL_EPOCHS), seeds)
            for program in listed
        }
        lines = table({label: list(each) for label, each in runs.items()}, args.data == "mnist")
        print("\n".join(lines))


if __name__ == "__main__":
    main()
