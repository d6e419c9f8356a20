"""The long measurements: `make soak`."""

import statistics
import subprocess
import sys

import pytest

from plainfit.runs.settings import RunConfig
from plainfit.runs.train import train


@pytest.mark.soak
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


@pytest.mark.soak
def test_the_ladder_holds_on_mnist(mnist_folder):
    done = subprocess.run(
        [sys.executable, "-m", "plainfit", "ladder", "--data", "mnist", "--data-dir", mnist_folder],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    print(f"\n{done.stdout}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "15 of 15 relations hold" in done.stdout
