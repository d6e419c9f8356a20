"""Time and memory by the number of rows and of steps: `benchmarks/growth.py`, on fewer rows."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PROGRAM = Path(__file__).parents[1] / "benchmarks" / "growth.py"
pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is in /proc"),
]


def growth(*arguments):
    done = subprocess.run(
        [sys.executable, PROGRAM, *map(str, arguments)], stdout=subprocess.PIPE, check=True
    )
    print(f"\n{done.stdout.decode()}")
    return json.loads(done.stdout)


def test_the_last_of_100_000_steps_take_as_long_as_the_first():
    flat = growth("--flat")
    assert flat["steps"] == 100_000
    assert flat["last_tenth_microseconds"] < 1.05 * flat["first_tenth_microseconds"]
    assert flat["rss_growth_mib"] < 20


def test_a_row_on_disk_costs_the_same_among_ten_times_as_many_and_memory_stays(tmp_path):
    found = []
    for count in (200_000, 2_000_000):
        x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (count, 64))
        for first in range(0, count, 100_000):
            x[first : first + 100_000] = np.random.default_rng(first).normal(size=(100_000, 64))
        np.save(tmp_path / "y.npy", np.arange(count) % 10)
        found.append(growth("--measure", tmp_path, "npy"))
    small, large = found
    # Measured: up to 1.21; of 50 MB more is in the processor's caches than of 500 MB.
    assert large["nanoseconds_per_row"] < 1.3 * small["nanoseconds_per_row"]
    # 440 MiB more of values, and 14 MiB more for each of: the order, the rows, the labels.
    assert large["training_rss_mib"] - small["training_rss_mib"] < 150
