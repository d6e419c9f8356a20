"""A body trained on digits 0 to 4, fine-tuned on a few of 5 to 9, against one from scratch.

    python benchmarks/transfer.py [--seeds 5]

Both have the same model (`compact`), optimizer, batch size, epochs and one-cycle, each with its own
best highest rate of three, the one with the best accuracy on 500 validation images for a seed that
is not reported. The figures are accuracies on MNIST's 4,861 test images of 5 to 9.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import save_section

from data import find_mnist
from plainfit.data.open_data import open_data
from plainfit.runs.settings import RunConfig
from plainfit.runs.train import train

SIZES, RATES, EPOCHS, TUNING_SEED = (10, 20, 50), (0.03, 0.1, 0.3), 20, 99
WAYS = {"fine-tuned": {"freeze_epochs": 4}, "from scratch": {"schedule": "one-cycle"}}
COLUMNS = ["images a class", "fine-tuned", "range", "from scratch", "range", "ahead by, points"]
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "transfer.png"


def write(folder: Path, classes: range, count: int | None, seed: int = 0) -> Path:
    """Write some classes of MNIST as .npz: so many images a class to train on, or all."""
    splits, parts = open_data("mnist", data_dir=find_mnist(None)), {}
    for name in ("train", "valid", "test"):
        x, y = (np.asarray(part) for part in getattr(splits, name).tensors)
        rows = np.flatnonzero((y >= classes.start) & (y < classes.stop))
        if name == "train" and count is not None:
            order = np.random.default_rng(seed).permutation(rows)
            rows = np.concatenate([order[y[order] == label][:count] for label in classes])
        if name == "valid":
            rows = rows[:500]
        parts |= {f"x_{name}": x[rows], f"y_{name}": y[rows] - classes.start}
    path = folder / f"digits-{classes.start}-{count}-{seed}.npz"
    np.savez(path, **parts)
    return path


def accuracies(
    data: Path, out: Path, way: str, source: Path, lr: float, seed: int
) -> tuple[float, float]:
    """Train one way, and return the accuracies on the validation and the test images."""
    config = RunConfig(
        data=str(data), model="compact", epochs=EPOCHS, batch_size=16, lr=lr, seed=seed, out=out,
        source=str(source) if way == "fine-tuned" else None, **WAYS[way],
    )  # fmt: skip
    result = train(config, echo=None)
    assert result.test is not None
    return result.history[-1]["accuracy"], result.test["accuracy"]


def measure(seeds: int, folder: Path) -> list[dict[str, Any]]:
    """Return the accuracies of both ways for each number of images."""
    source = folder / "source"
    low = write(folder, range(5), None)
    train(RunConfig(data=str(low), model="compact", epochs=2, schedule="one-cycle", out=source))
    rows, number = [], 0
    for count in SIZES:
        row: dict[str, Any] = {"images": count}
        for way in WAYS:
            made: dict[tuple[float, int], tuple[float, float]] = {}
            for lr, seed in [(lr, TUNING_SEED) for lr in RATES] + [(0.0, s) for s in range(seeds)]:
                best = lr or max(RATES, key=lambda rate: made[rate, TUNING_SEED][0])
                data, number = write(folder, range(5, 10), count, seed), number + 1
                out = folder / f"run-{number}"
                made[best, seed] = accuracies(data, out, way, source, best, seed)
            tests = [test for (_, s), (_, test) in made.items() if s != TUNING_SEED]
            row[way] = {"lr": best, "accuracies": tests}
        print(row, flush=True)
        rows.append(row)
    return rows


def draw(rows: list[dict[str, Any]]) -> None:
    """Draw the mean accuracy by the number of images, with the range over the seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    sizes = [row["images"] for row in rows]
    for way, colour in zip(WAYS, ("#c2410c", "#6b7280"), strict=True):
        by_size = [row[way]["accuracies"] for row in rows]
        axes.plot(sizes, [100 * statistics.mean(v) for v in by_size], "o-", color=colour, label=way)
        ends = [[100 * end(v) for v in by_size] for end in (min, max)]
        axes.fill_between(sizes, *ends, color=colour, alpha=0.2, linewidth=0)
    axes.set(xlabel="training images a class", ylabel="test accuracy, %", xticks=sizes)
    axes.legend(frameon=False)
    figure.savefig(PICTURE, dpi=120)


def cells(values: list[float]) -> list[str]:
    """Return mean and range."""
    return [f"{statistics.mean(values):.2%}", f"{min(values):.2%} to {max(values):.2%}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(seeds, Path(folder))
    draw(rows)
    table = []
    for row in rows:
        ours, theirs = (row[way]["accuracies"] for way in WAYS)
        ahead = 100 * (statistics.mean(ours) - statistics.mean(theirs))
        table.append([str(row["images"]), *cells(ours), *cells(theirs), f"{ahead:.2f}"])
        print(" | ".join(table[-1]))
    text = " ".join(__doc__.split("\n\n")[-1].split())
    save_section("transfer", "Fine-tuning on few images", text, COLUMNS, table, raw=rows)


if __name__ == "__main__":
    main()
