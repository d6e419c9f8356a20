"""Runs at the levels below `data`: the bits of the run, or what the level promises instead."""

import pytest
from test_runs import RUNS, run

from ejecting import code_lines, differing, names_in, run_here
from plainfit.common.errors import EjectError
from plainfit.eject import LEVELS, eject_run, verified
from plainfit.eject.verify import outcome_of
from plainfit.runs.folder import read_record

# F.interpolate and F.grid_sample have no other name; our own cross-entropy takes labels only.
AT_LAYERS = {"augmented", "augmented with all", "mixed", "two groups"}
SOME = ["accumulation with all", "adamw, cosine, batch norm", "two groups"]
IN_FLOAT64 = ["accumulation with all", "one-cycle, clipping", "adamw, cosine, batch norm"]
NOT_BELOW = {
    "optim": {"optim", "DataLoader", "plainfit"},
    "layers": {"optim", "DataLoader", "plainfit"},
    "tensors": {"optim", "nn", "F", "functional", "DataLoader", "plainfit"},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the folder of a run with some settings, which is trained once."""
    folders = tmp_path_factory.mktemp("runs")

    def folder_of(name):
        folder = folders / str([*RUNS].index(name))
        if not folder.exists():
            run(folder, **RUNS[name])
        return folder

    return folder_of


@pytest.mark.parametrize("name", SOME)
def test_some_settings_at_every_level(name, trained, tmp_path):
    check_levels(name, trained(name), tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("name", [name for name in RUNS if name not in SOME])
def test_the_other_settings_at_every_level(name, trained, tmp_path):
    check_levels(name, trained(name), tmp_path)


def check_levels(name, folder, tmp_path):
    script = tmp_path / "train.py"
    outcome = outcome_of(folder, read_record(folder))
    for level, names in NOT_BELOW.items():
        if level == "tensors" and name in AT_LAYERS:
            with pytest.raises(EjectError, match=r"the lowest level that works.* is '?layers"):
                eject_run(folder, script, level=level, force=True)
            continue
        eject_run(folder, script, level=level, force=True)
        losses, weights = run_here(script)
        assert losses == outcome.losses
        assert differing(weights, outcome.weights) == []
        assert not names_in(script) & names


def test_level_math_agrees_in_float64(trained, tmp_path):
    check_math(trained("sgd"), tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("name", IN_FLOAT64)
def test_level_math_of_other_settings_agrees_in_float64(name, trained, tmp_path):
    check_math(trained(name), tmp_path)


def check_math(folder, tmp_path):
    verdict = verified(eject_run(folder, tmp_path / "at_math.py", level="math"))
    assert verdict.holds, verdict.text


def test_the_tutorials_cnn_is_short(tmp_path):
    run(tmp_path / "run", model="cnn", epochs=1)
    eject_run(tmp_path / "run", tmp_path / "train.py", level="tensors")
    assert code_lines(tmp_path / "train.py") <= 250


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
def test_runs_on_mnist_hold_at_every_level(name, tmp_path, mnist_folder):
    settings = {"data": "mnist", "data_dir": mnist_folder, "epochs": 1, "batch_size": 64}
    run(tmp_path / "run", **settings, **PAIRS[name])
    for level in LEVELS:
        verdict = verified(eject_run(tmp_path / "run", tmp_path / f"at_{level}.py", level=level))
        print(f"{name} on MNIST, level {level}: {verdict.text}")
        assert verdict.holds
