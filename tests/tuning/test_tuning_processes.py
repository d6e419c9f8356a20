"""`plainfit tune --processes N`: the trials of one process, whatever happens to others."""

import time

import pytest

pytest.importorskip("optuna", reason="Optuna is not installed")

from optuna.trial import TrialState

import plainfit as pf
from launching import Launched, write_model
from plainfit.common.errors import ConfigError
from plainfit.tuning.storage import open_storage

# A learning rate of 1e38 diverges.
TUNE = (
    "tune", "--model", "mine:Net", "--batch-size", 256, "--epochs", 3, "--out", "study",
    "--search", "lr=0.1,0.01,1e38", "--pruner", "none",
)  # fmt: skip
TWO = (*TUNE, "--processes", 2)


@pytest.fixture
def launch(tmp_path):
    """Run a command in forks, in a folder with a model to which something happens."""

    def launched(*arguments, action="pass"):
        if not (tmp_path / "mine.py").exists():
            write_model(tmp_path, repr([("1", 16, action)]))
        return Launched(tmp_path, *arguments).end()

    return launched


def outcomes(folder):
    """Return each trial as the journal has it, and its weights."""
    storage = open_storage(folder / "study", None)
    trials = storage.get_all_trials(storage.get_study_id_from_name("study"))
    weights = [folder / "study" / f"{trial.number:04d}" / "model.safetensors" for trial in trials]
    return [
        (trial.state, trial.params, trial.values, trial.intermediate_values,
         path.exists() and path.read_bytes())
        for trial, path in zip(trials, weights, strict=True)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The trials of a study on one process; one has diverged."""
    folder = tmp_path_factory.mktemp("alone")
    write_model(folder)
    code, _, err, _ = Launched(folder, *TUNE, "--shards", 8, "--trials", 4).end()
    assert (code, err) == (0, "")
    found = outcomes(folder)
    assert {state for state, *_ in found} == {TrialState.COMPLETE, TrialState.PRUNED}
    return found


ACTIONS = {  # what happens to the second process, with the exit code and the error of the command
    "pass": (0, ""),
    "os.kill(os.getpid(), signal.SIGKILL)": (137, "error: process 1 was ended by SIGKILL\n"),
    "os.kill(os.getppid(), signal.SIGINT)": (130, "\nstopped\n"),
}


@pytest.mark.parametrize("action", ACTIONS, ids=["whole", "killed", "stopped"])
def test_the_trials_of_one_process(alone, launch, tmp_path, action):
    code, _, err, left = launch(*TWO, "--trials", 3, action=action)
    assert (code, err, left) == (*ACTIONS[action], [])
    if code:
        code, _, err, left = launch(*TWO, "--trials", 3)
        assert (code, err, left) == (0, "", [])
    code, _, err, _ = launch("tune", "--out", "study", "--trials", 4)
    assert (code, err) == (0, "")  # the pieces are those of the study
    assert outcomes(tmp_path) == alone


def test_an_error_of_one_process_ends_all_and_the_study_goes_on(launch, tmp_path):
    code, _, err, left = launch(*TWO, "--trials", 2, action="raise RuntimeError('mine')")
    assert (code, err.count("\n"), left) == (1, 1, [])
    assert err.startswith("error: in process 1: RuntimeError: mine, in epoch 0, after 3 of 5 steps")
    assert launch(*TWO, "--trials", 2)[0] == 0
    assert TrialState.COMPLETE in [state for state, *_ in outcomes(tmp_path)]


def test_processes_of_torchrun_are_refused(plainfit, monkeypatch, tmp_path):
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setattr(time, "sleep", lambda seconds: None)  # in which torchrun would end it
        code, out, err = plainfit("tune", "--search", "lr=0.1,0.2", "--out", tmp_path / "study")
        where = " in process 1" * int(rank)
        assert (code, out) == (2, "")
        assert err == (
            f"error{where}: a study must be searched by processes that are started one by one, got "
            "2 of a launcher; leave out torchrun (plainfit tune --processes N has N for each "
            "trial)\n"
        )
    with pytest.raises(ConfigError, match="got 2 of a launcher"):
        pf.tune({"lr": "0.1,0.2"}, lambda lr: lr, folder=tmp_path / "study")
    assert not [*tmp_path.iterdir()]
