"""How long imports take, each in a fresh process, in turn."""

import statistics
import subprocess
import sys
from pathlib import Path

from results import save_section

ROUNDS = 9
BASE = "import torch"
CASES = [
    BASE,
    "import plainfit",
    "import torch, plainfit",
    "import torch, plainfit; plainfit.fit",
    "import torch, plainfit; plainfit.fit, plainfit.get_data, plainfit.get_model",
    "import torch; from torch import nn, optim; from torch.utils.data import DataLoader",
]
PROGRAM = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"
TEXT = """\
Each line in a fresh process, in turn, {rounds} times; without the start of Python itself. The ratio
is the median of those within a round. `import plainfit` alone loads nothing; its functions load on
first use, `plainfit.fit` with all that `fit` needs. The goal for that is 1.05 times
`import torch`."""


def measure(data: Path, quick: bool, folder: Path) -> Path:
    """Measure, and write the section."""
    rounds = 3 if quick else ROUNDS
    times: dict[str, list[float]] = {case: [] for case in CASES}
    for case in CASES:
        seconds(case)  # reads the files into the system's cache
    for number in range(rounds):
        for case in CASES[number % len(CASES) :] + CASES[: number % len(CASES)]:
            times[case].append(seconds(case))
    rows = []
    for case, found in times.items():
        ratio = statistics.median(a / b for a, b in zip(found, times[BASE], strict=True))
        rows.append([f"`{case}`", f"{statistics.median(found):.3f}", f"{ratio:.3f}"])
    return save_section(
        "import_time",
        "Import time",
        TEXT.format(rounds=rounds),
        ["", "s", f"`{BASE}` = 1"],
        rows,
        raw=times,
        folder=folder,
    )


def seconds(case: str) -> float:
    """Return how long a fresh process takes for a line."""
    command = [sys.executable, "-c", PROGRAM.format(case)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)
