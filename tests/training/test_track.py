"""Trackers are given what the history has, and change nothing."""

import importlib.util
import sys

import pytest
import torch

from plainfit.common.errors import ConfigError
from plainfit.training.callbacks import Tracking
from plainfit.training.callbacks.tracking import Tracker, make_tracker
from trainings import StopAt, differences, train


class Remembers(Tracker):
    """A tracker of a user's own."""

    def __init__(self, fails_at=None):
        self.steps, self.calls, self.fails_at = [], [], fails_at

    def start(self, settings, run_id, step):
        self.calls.append(("start", run_id, step))
        return "mine"

    def log(self, figures, step):
        torch.rand(1)  # a tracker that draws numbers
        if step == self.fails_at:
            raise OSError("the server has gone")
        self.steps.append((step, figures))

    def close(self):
        self.calls.append("close")


def test_every_step_and_epoch_is_logged_once():
    tracker = Remembers()
    outcome = train(None, callbacks=[Tracking(tracker)])
    steps = [(step, row["step_loss"]) for step, row in tracker.steps if "step_loss" in row]
    assert steps == list(enumerate(outcome["losses"]))
    rows = [(step, row["valid_loss"]) for step, row in tracker.steps if "valid_loss" in row]
    assert rows == [(5 * i + 4, row["valid_loss"]) for i, row in enumerate(outcome["epochs"])]
    assert tracker.calls == [("start", None, 0), "close"]


def test_a_tracker_that_draws_numbers_changes_nothing():
    options = {"loader": "wrapped"}  # whose batches draw from the global generator
    tracked = train(None, callbacks=[Tracking(Remembers())], **options)
    assert differences(train(None, **options), tracked) == []


def test_a_tracker_that_fails_is_a_warning():
    tracker = Remembers(fails_at=7)
    with pytest.warns(RuntimeWarning, match="tracking failed .OSError: the server has gone.; trai"):
        outcome = train(None, callbacks=[Tracking(tracker)])
    assert differences(train(None), outcome) == []
    assert tracker.steps[-1][0] == 6


def test_a_resumed_training_goes_on_in_the_same_tracked_run(tmp_path):
    first, second = Remembers(), Remembers()
    train(tmp_path, callbacks=[StopAt(8), Tracking(first)])
    train(tmp_path, callbacks=[Tracking(second)], resume=True)
    assert second.calls[0] == ("start", "mine", 5)
    steps = [step for step, row in first.steps + second.steps if "step_loss" in row]
    assert steps == list(range(15))


@pytest.mark.parametrize("stop", [[], [StopAt(8)]])
def test_tensorboard_reads_back_what_the_history_has(tmp_path, stop):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def tracking():
        return Tracking("tensorboard", tmp_path / "events")

    outcome = train(tmp_path / "checkpoints", callbacks=[*stop, tracking()])
    if stop:
        outcome = train(tmp_path / "checkpoints", callbacks=[tracking()], resume=True)
    events = EventAccumulator(str(tmp_path / "events"), size_guidance={"scalars": 0}).Reload()
    losses = [(event.step, event.value) for event in events.Scalars("step_loss")]
    assert losses == list(enumerate(outcome["losses"]))  # float32 on both sides
    accuracies = [event.value for event in events.Scalars("accuracy")]
    rows = [row["accuracy"] for row in outcome["epochs"]]
    assert accuracies == torch.tensor(rows).tolist()


@pytest.mark.parametrize("name", ["mlflow", "wandb", "trackio"])
@pytest.mark.enable_socket  # wandb and trackio talk to processes of their own on this machine
@pytest.mark.filterwarnings("default")
def test_the_others_offline(tmp_path, monkeypatch, name):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    outcome = train(tmp_path / "c", callbacks=[StopAt(8), Tracking(name, tmp_path / name)])
    outcome = train(tmp_path / "c", callbacks=[Tracking(name, tmp_path / name)], resume=True)
    assert differences(train(None), outcome) == []
    if name == "mlflow":
        import mlflow

        client = mlflow.MlflowClient(f"sqlite:///{tmp_path / name / 'mlflow.db'}")
        (run,) = client.search_runs(["0"])
        losses = client.get_metric_history(run.info.run_id, "step_loss")
        assert [point.value for point in losses] == outcome["losses"]
    else:
        folder = tmp_path / name
        assert any(path.is_file() for path in folder.parent.rglob("*") if name in str(path))


@pytest.mark.parametrize(
    ("name", "package"),
    [("mlflow", "mlflow"), ("wandb", "wandb"), ("tensorboard", "torch.utils.tensorboard")],
)
def test_a_missing_package_is_one_line(tmp_path, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"pip install 'plainfit\[{name}\]'"):
        make_tracker(name, tmp_path)


def test_an_unknown_name_is_named_with_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown tracker 'wnb': .* did you mean 'wandb'"):
        make_tracker("wnb", tmp_path)
