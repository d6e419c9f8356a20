"""Runs at the levels below `data`: the bits of the run, or what the level promises instead."""

from pathlib import Path

import pytest
from test_runs import RUNS, run

from ejecting import differing, names_in, run_here
from plainfit.common.errors import EjectError
from plainfit.eject import LEVELS, eject_run, verified
from plainfit.eject.outcome import outcome_of
from plainfit.runs.folder import read_record

MNIST = Path(__file__).parents[3] / "shared/data/mnist"
# F.interpolate and F.grid_sample have no other name; our own cross-entropy takes labels only.
AT_LAYERS = {"augmented", "augmented with all", "mixed", "two groups"}
IN_FLOAT64 = ["sgd", "one-cycle, clipping", "adamw, cosine, batch norm", "accumulation with all"]


@pytest.mark.parametrize("name", RUNS)
def test_every_setting_at_every_rung(name, tmp_path):
    folder, script = tmp_path / "run", tmp_path / "train.py"
    run(folder, **RUNS[name])
    outcome = outcome_of(folder, read_record(folder))
    for level in ("optim", "layers"):
        eject_run(folder, script, level=level, force=True)
        losses, weights = run_here(script)
        assert losses == outcome.losses
        assert differing(weights, outcome.weights) == []
        assert not names_in(script) & {"optim", "DataLoader", "plainfit"}
    if name in AT_LAYERS:
        with pytest.raises(EjectError, match=r"the lowest level that works.* is '?layers"):
            eject_run(folder, script, level="tensors", force=True)
        return
    eject_run(folder, script, level="tensors", force=True)
    losses, weights = run_here(script)
    assert losses == outcome.losses
    assert differing(weights, outcome.weights) == []
    assert not names_in(script) & {"optim", "nn", "F", "functional", "plainfit"}


@pytest.mark.parametrize("name", IN_FLOAT64)
def test_level_math_agrees_in_float64(name, tmp_path):
    run(tmp_path / "run", **RUNS[name])
    verdict = verified(eject_run(tmp_path / "run", tmp_path / "math.txt.py", level="math"))
    assert verdict.holds, verdict.text


PAIRS = {
    "logistic": {"model": "logistic", "accumulate": 3},
    "mlp": {
        "model": "mlp", "model_args": "dropout=0.2", "schedule": "one-cycle", "clip": 1.0,
    },
    "cnn": {"model": "cnn", "average": 0.99},
    "resnet": {"model": "resnet", "optimizer": "adamw", "schedule": "cosine"},
}  # fmt: skip


@pytest.mark.soak
@pytest.mark.parametrize("name", PAIRS)
def test_runs_on_mnist_hold_at_every_rung(name, tmp_path):
    if not MNIST.is_dir():
        pytest.skip("real MNIST is not in ../shared/data/mnist")
    run(tmp_path / "run", data="mnist", data_dir=MNIST, epochs=1, **PAIRS[name])
    for level in LEVELS:
        verdict = verified(eject_run(tmp_path / "run", tmp_path / f"at_{level}.py", level=level))
        print(f"{name} on MNIST, level {level}: {verdict.text}")
        assert verdict.holds
