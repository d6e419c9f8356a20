"""The long measurements of whole commands: `make soak`."""

import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from plainfit.runs.settings import RunConfig
from plainfit.runs.train import train

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.soak
needs_proc = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="memory is measured through /proc"
)


@pytest.mark.parametrize(
    ("model", "lr", "momentum", "low", "high"),
    # A plain loop over the same data gave medians of 0.249 and 0.295 over five and six seeds.
    [("cnn", 0.1, 0.9, 0.20, 0.29), ("logistic", 0.5, 0.0, 0.26, 0.33)],
)
def test_validation_loss_on_mnist(tmp_path, mnist_folder, model, lr, momentum, low, high):
    losses = []
    for seed in range(5):
        config = RunConfig(
            data="mnist", data_dir=mnist_folder, model=model, lr=lr, momentum=momentum, epochs=2,
            seed=seed, out=tmp_path / str(seed),
        )  # fmt: skip
        losses.append(train(config, echo=None).history[-1]["valid_loss"])
    print(f"\n{model}: validation loss by seed", [round(loss, 4) for loss in losses])
    assert low < statistics.median(losses) < high


def test_the_ladder_holds_on_mnist(mnist_folder):
    done = subprocess.run(
        [sys.executable, "-m", "plainfit", "ladder", "--data", "mnist", "--data-dir", mnist_folder],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    print(f"\n{done.stdout}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "16 of 16 relations hold" in done.stdout


def test_the_commands_of_the_example_run_in_order(tmp_path, mnist_folder):
    pytest.importorskip("optuna", reason="Optuna is not installed")
    page = ROOT / "docs" / "example.md"
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "mnist").symlink_to(mnist_folder)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = os.environ | {"PLAINFIT_DATA": str(tmp_path / "cache"), "PATH": path}
    blocks = re.findall(r"^```sh\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) == 6
    for block in blocks:
        started = time.perf_counter()
        done = subprocess.run(
            ["sh", "-e", "-c", block], cwd=tmp_path, env=env, text=True, capture_output=True
        )
        print(f"\n{block}{done.stdout}{time.perf_counter() - started:.0f} s")
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "light" / "report.html").exists()
    assert "plainfit" not in re.findall(
        r"^(?:import|from) (\w+)", (tmp_path / "train.py").read_text(), re.M
    )


def growth(*arguments):
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "growth.py", *map(str, arguments)],
        stdout=subprocess.PIPE,
        check=True,
    )
    print(f"\n{done.stdout.decode()}")
    return json.loads(done.stdout)


@needs_proc
def test_the_last_of_100_000_steps_take_as_long_as_the_first():
    flat = growth("--flat")
    assert flat["steps"] == 100_000
    assert flat["last_tenth_microseconds"] < 1.05 * flat["first_tenth_microseconds"]
    assert flat["rss_growth_mib"] < 20


@needs_proc
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
