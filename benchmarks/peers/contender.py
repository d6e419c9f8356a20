"""What every contender shares: its arguments, the data on disk, and the line of JSON at the end."""

import argparse
import json
import os
import resource
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

RATES = {"logistic": (0.5, 0.0), "cnn": (0.1, 0.9)}  # learning rate and momentum of SGD
STARTED = float(os.environ.get("BENCHMARK_STARTED", time.time()))  # of this process, by the runner


def arguments(*flags: str, **choices: tuple[str, ...]) -> argparse.Namespace:
    """Read the command line: what all take, `flags` that are on or off, and `choices`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True, type=Path, help="x_train.npy, y_train.npy, ...")
    parser.add_argument("--model", required=True, choices=RATES)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    for flag in flags:
        parser.add_argument(flag, action="store_true")
    for name, values in choices.items():  # the first one is the default
        parser.add_argument(
            f"--{name.replace('_', '-')}", choices=values or None, default=(*values, None)[0]
        )
    args = parser.parse_args()
    args.lr, args.momentum = RATES[args.model]
    return args


def read(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images, uint8 (samples, 28, 28), and labels, int64 (samples,)."""
    return np.load(folder / f"x_{part}.npy"), np.load(folder / f"y_{part}.npy")


def read_all(folder: str, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the test set, or as `train` all 60,000 samples that are not in it."""
    pairs = [
        read(Path(folder), name) for name in (["test"] if part == "test" else ["train", "valid"])
    ]
    images, labels = zip(*pairs, strict=True)
    return np.concatenate(images), np.concatenate(labels)


class Watch:
    """Notes the times; the end of one epoch is the beginning of the next, so nothing is left out.

    Args:
        wait: called before each reading of the clock; waits for a device that works on its own.
    """

    def __init__(self, wait: Callable[[], None] = lambda: None) -> None:
        self.wait = wait
        self.first_step: float | None = None
        self.epochs: list[dict[str, float]] = []
        self.trained_at = self.at = 0.0

    def begin(self) -> None:
        """Begin the first epoch."""
        self.at = time.time()

    def stepped(self) -> None:
        """Note the end of a training step, if it is the first."""
        if self.first_step is None:
            self.wait()
            self.first_step = time.time() - STARTED

    def watch(self, opt: object) -> None:
        """Note the end of the first `opt.step()`; the later ones are not touched."""
        step = opt.step

        def first(*args: object, **options: object) -> object:
            del opt.step
            result = step(*args, **options)
            self.stepped()
            return result

        opt.step = first

    def trained(self) -> None:
        """Note the end of an epoch's training, before its validation."""
        self.wait()
        self.trained_at = time.time()

    def validated(self, loss: float, accuracy: float) -> None:
        """Note the end of an epoch, and its figures on the validation set."""
        now = time.time()
        self.epochs.append(
            {
                "seconds": now - self.at,
                "train_seconds": self.trained_at - self.at,
                "valid_loss": float(loss),
                "accuracy": float(accuracy),
            }
        )
        self.at = now

    def report(self, steps: int, *packages: str, **more: object) -> None:
        """Print the one line: what was noted, steps an epoch, peak memory, versions."""
        later = [epoch["seconds"] for epoch in self.epochs[1:]] or [self.epochs[0]["seconds"]]
        line = {
            "first_step_seconds": self.first_step,
            "epochs": self.epochs,
            "warm_up_seconds": self.epochs[0]["seconds"] - statistics.median(later),
            "steps": steps,
            "valid_loss": self.epochs[-1]["valid_loss"],
            "accuracy": self.epochs[-1]["accuracy"],
            "peak_rss_mib": peak_rss(),
            "versions": {name: version(name) for name in packages},
        }
        print(json.dumps(line | more))


def peak_rss() -> float:
    """Return the most memory that this process has had, in MiB.

    On Linux `ru_maxrss` is no use: a process inherits it from the one that started it.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(li for li in status.read_text().splitlines() if li.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS
