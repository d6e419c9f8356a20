"""Time to accuracy on MNIST: plainfit's presets, and the example recipes of PyTorch and Keras."""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from environments import python_of
from results import save_section

from data import find_mnist

SEEDS = 5
PRESETS = {"fastest": (0.990, 2), "fast": (0.995, 15), "accurate": (0.997, 150)}  # accuracy, s
RECIPES = {
    "PyTorch's example `mnist`": ("recipe_torch.py", "here", 14),
    "Keras's example `mnist_convnet`, on JAX": ("recipe_keras.py", "jax", 15),
}
TEXT = """\
`plainfit train --data mnist --preset NAME` on the 50,000 training samples, {seeds} seeds each: the
presets were chosen on the validation samples, and the test set is read once, at the end of each
training. *Time* is that of all epochs with their validation, and without the start of the program.
The two examples train on all 60,000 with their own settings, one seed each; their time is that of
the training alone, and their test accuracy is looked at after every epoch: the time to an accuracy
is to the first epoch that has it."""
COLUMNS = ["", "epochs", "time, s", "test accuracy", "range", "s to 99.0 %", "99.5 %", "99.7 %"]


def measure(data: Path, quick: bool, folder: Path) -> Path:
    """Measure, and write the section."""
    seeds = range(1 if quick else SEEDS)
    mnist = find_mnist(None)
    rows, raw = [], []
    if mnist is not None:
        ours = {name: [train(mnist, name, seed) for seed in seeds] for name in PRESETS}
        rows += [preset_row(name, runs) for name, runs in ours.items()]
        theirs = {title: follow(title, data, 1 if quick else None) for title in RECIPES}
        rows += [recipe_row(title, epochs) for title, epochs in theirs.items()]
        raw = [{"name": name, "runs": runs} for name, runs in (ours | theirs).items()]
    return save_section(
        "accuracy",
        "Time to accuracy on MNIST",
        TEXT.format(seeds=len(seeds)) if mnist else "Not measured: it needs MNIST's files.",
        COLUMNS,
        rows,
        raw=raw,
        folder=folder,
    )


def train(mnist: Path, preset: str, seed: int) -> dict[str, Any]:
    """Train by a preset; return its epochs, seconds and accuracy on the test set."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [
            sys.executable, "-m", "plainfit", "train", "--data", "mnist", "--data-dir", str(mnist),
            "--preset", preset, "--seed", str(seed), "--out", f"{scratch}/run", "--json",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    record = {
        "epochs": len(result["epochs"]),
        "seconds": sum(row["seconds"] for row in result["epochs"]),
        "valid_accuracy": result["epochs"][-1]["accuracy"],
        "accuracy": result["test"]["accuracy"],
    }
    print(f"  {preset}, seed {seed}: {record}", flush=True)
    return record


def follow(title: str, data: Path, epochs: int | None) -> list[dict[str, float]]:
    """Follow a recipe; return the seconds so far and the accuracy after each epoch."""
    script, environment, usual = RECIPES[title]
    folder = Path(__file__).resolve().parent / "peers"
    command = [python_of(environment), script, str(data), str(epochs or usual)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    print(f"  {title}: {rows[-1]}", flush=True)
    return rows


def preset_row(name: str, runs: list[dict[str, Any]]) -> list[str]:
    """Return a preset's cells: the time counts for the accuracies that its mean reaches."""
    seconds = statistics.mean(run["seconds"] for run in runs)
    found = [run["accuracy"] for run in runs]
    mean = statistics.mean(found)
    return [
        f"`--preset {name}`",
        str(runs[0]["epochs"]),
        f"{seconds:.1f}",
        f"{mean:.4f}",
        f"{min(found):.4f} to {max(found):.4f}",
        *(f"{seconds:.1f}" if mean >= wanted else "" for wanted, _ in PRESETS.values()),
    ]


def recipe_row(title: str, epochs: list[dict[str, float]]) -> list[str]:
    """Return a recipe's cells."""
    firsts = [
        next((row["seconds"] for row in epochs if row["accuracy"] >= wanted), None)
        for wanted, _ in PRESETS.values()
    ]
    return [
        title,
        str(len(epochs)),
        f"{epochs[-1]['seconds']:.1f}",
        f"{epochs[-1]['accuracy']:.4f}",
        "",
        *("" if first is None else f"{first:.1f}" for first in firsts),
    ]
