"""The machine: its name, and how fast it moves and multiplies numbers."""

import os
import platform
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

REPEATS = 9
COPIED = 64 * 2**20  # float32 numbers: 256 MiB, far more than the caches hold
SIDE = 2048  # of the matrices


def describe() -> dict[str, object]:
    """Return what a table of times has to say about where they are from."""
    name = processor()
    if torch.accelerator.is_available():
        name = torch.cuda.get_device_name() if torch.cuda.is_available() else str(device())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "name": f"{name}, {cores} cores",
        "device": device().type,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def slug(machine: dict[str, object]) -> str:
    """Return the machine's name as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", str(machine["name"]).lower()).strip("-")


def device() -> torch.device:
    """Return the accelerator, or else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def processor() -> str:
    """Return the CPU's name."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.is_file() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def limits() -> dict[str, float]:
    """Measure bytes/s of a copy (read and written both count) and float32 flop/s of a product."""
    where = device()
    a, b = torch.ones(COPIED, device=where), torch.empty(COPIED, device=where)
    m = torch.rand(SIDE, SIDE, device=where)
    return {
        "bytes_per_second": 2 * 4 * COPIED / median_seconds(lambda: b.copy_(a)),
        "flops_per_second": 2 * SIDE**3 / median_seconds(lambda: m @ m),
    }


def median_seconds(work: Callable[[], object]) -> float:
    """Return how long it takes, after two calls to warm up."""
    times = []
    for _ in range(2 + REPEATS):
        start = time.perf_counter()
        work()
        if device().type != "cpu":
            torch.accelerator.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


# The work of one training sample, counted from the layers. A multiplication and an addition are
# two flops; the backward pass does the forward's work once for the weights, and once more for the
# inputs of every layer but the first.
LAYERS = {  # (flops of the forward pass, outputs) of each layer
    "logistic": [(2 * 784 * 10, 10)],
    "cnn": [
        (2 * 9 * 1 * 16 * 14 * 14, 16 * 14 * 14),
        (2 * 9 * 16 * 16 * 7 * 7, 16 * 7 * 7),
        (2 * 9 * 16 * 10 * 4 * 4, 10 * 4 * 4),
    ],
}


def work_of(model: str) -> dict[str, float]:
    """Return flops and bytes of training on one sample, at the least.

    Bytes: the float32 input is read once; each layer's output is written, read by the next layer
    and read again in the backward pass, where its gradient is written and read. Weights stay in
    the cache.
    """
    flops = [flops for flops, _ in LAYERS[model]]
    outputs = sum(outputs for _, outputs in LAYERS[model])
    return {"flops": 2 * sum(flops) + sum(flops[1:]), "bytes": 4 * (784 + 5 * outputs)}
