"""How long imports take, each in a fresh process, in turn."""

import statistics
import subprocess
import sys
from pathlib import Path

from results import save_section
from rounds import turned

ROUNDS = 9
FIT = "import plainfit; plainfit.fit"
AFTER_TORCH = [
    "import plainfit",
    FIT,
    "import plainfit; plainfit.fit, plainfit.get_data, plainfit.get_model",
    "from torch import nn, optim; from torch.utils.data import DataLoader",
]
PROGRAM = """\
import time
start = time.perf_counter()
import torch
between = time.perf_counter()
{}
print(between - start, time.perf_counter() - between)"""
TEXT = """\
Each line in a fresh process after `import torch`, in turn, {rounds} times; without the start of
Python itself. The ratio is the median of those within a process, of both imports to that of torch.
`import plainfit` loads nothing; its functions load on first use, `plainfit.fit` with all that `fit`
needs."""


def measure(data: Path, quick: bool, folder: Path) -> Path:
    """Measure, and write the section."""
    rounds = 3 if quick else ROUNDS
    times: dict[str, list[tuple[float, float]]] = {line: [] for line in AFTER_TORCH}
    for line in AFTER_TORCH:
        seconds(line)  # reads the files into the system's cache
    for number in range(rounds):
        for line in turned(AFTER_TORCH, number):
            times[line].append(seconds(line))
    torch = statistics.median(first for found in times.values() for first, _ in found)
    rows = [["`import torch`", f"{torch * 1e3:.1f}", f"{1:.3f}"]]
    for line, found in times.items():
        more = statistics.median(second for _, second in found)
        ratio = statistics.median((first + second) / first for first, second in found)
        rows.append([f"then `{line}`", f"{more * 1e3:.1f}", f"{ratio:.3f}"])
    return save_section(
        "import_time",
        "Import time",
        TEXT.format(rounds=rounds),
        ["", "ms", "both, `import torch` = 1"],
        rows,
        raw=times,
        folder=folder,
    )


def seconds(line: str) -> tuple[float, float]:
    """Return how long a fresh process takes to import torch, and then for a line."""
    command = [sys.executable, "-c", PROGRAM.format(line)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    first, second = map(float, done.stdout.split())
    return first, second
