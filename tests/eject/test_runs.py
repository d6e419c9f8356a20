"""Runs of the command line's settings become scripts that give their bits."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ejecting import differing, names_in, run_here
from plainfit.common.errors import ConfigError, EjectError, RunError
from plainfit.eject import LEVELS, eject_all, eject_run, verified
from plainfit.eject.verify import outcome_of
from plainfit.runs.folder import list_runs, read_record
from plainfit.runs.settings import RunConfig, preset
from plainfit.runs.train import PRUNED, resume, train
from plainfit.training.callbacks import GradientClipping
from plainfit.training.hooks import Callback
from trainings import StopAt

RESNET = {"model": "resnet", "model_args": "blocks=(1,), width=4"}
RUNS = {
    "sgd": {"model": "logistic"},
    "one-cycle, clipping": {"model": "mlp", "schedule": "one-cycle", "clip": 1.0, "lr": 0.05},
    "adamw, cosine, batch norm": {**RESNET, "optimizer": "adamw", "schedule": "cosine"},
    "average": {**RESNET, "average": 0.9},
    "accumulation with all": {
        "model": "mlp", "accumulate": 3, "clip": 0.5, "average": 0.99, "schedule": "warmup-cosine",
    },
    "rmsprop": {"model": "logistic", "optimizer": "rmsprop", "momentum": 0.5},
    "adam moves its beta": {"model": "cnn", "optimizer": "adam", "schedule": "one-cycle"},
    "plain sgd stays plain": {"model": "cnn", "momentum": 0.0, "schedule": "one-cycle"},
    "linear, other shares": {
        "model": "mlp", "schedule": "linear", "valid_share": 0.3, "test_share": 0.0,
        "stratify": False,
    },
    "polynomial": {"model": "mlp", "schedule": "polynomial"},
    "augmented": {"model": "cnn", "augment": "strong"},
    "mixed": {"model": "cnn", "augment": "mixup=0.4"},
    "augmented with all": {
        "model": "mlp", "seed": 5, "augment": "light,horizontal-flip,pad-and-crop=2,perspective,"
        "elastic,noise,saturation,trivial-augment,cutmix,mixup",
    },
    "two groups": {
        "model": "compact", "model_args": "width=4, blocks=1", "weight_decay": 5e-4,
        "nesterov": True, "label_smoothing": 0.1, "augment": "warp=0.5", "schedule": "one-cycle",
    },
    "constant": {"model": "mlp", "schedule": "constant"},
    "balanced": {"model": "mlp", "sampler": "balanced", "drop_last": True, "augment": "noise"},
    "weights": {"model": "mlp", "class_weights": "balanced", "label_smoothing": 0.1},
    "one batch": {"model": "cnn", "overfit_one_batch": True},
    "ragged": {"model": "mlp", "batch_size": 1000},
    "found rate": {"model": "mlp", "lr": "auto"},
    "early": {"model": "mlp", "patience": 1, "epochs": 40, "lr": 0.5, "schedule": "one-cycle"},
}  # fmt: skip
ONLY_LOOP = {
    "bf16": {"model": "cnn", "precision": "bf16"},
    "fp16": {"model": "cnn", "precision": "fp16", "clip": 1.0},
    "preset": {**preset("fastest"), "epochs": 2, "batch_size": 256},
    "channels last": {**RESNET, "channels_last": True},
}


# F.interpolate and F.grid_sample have no other name; our own cross-entropy takes labels only.
AT_LAYERS = {"augmented", "augmented with all", "mixed", "two groups", "weights"}
AT_DATA = ["sgd", "augmented with all", "two groups", "one batch", "ragged", "early", "balanced"]
SOME = ["accumulation with all", "adamw, cosine, batch norm", "two groups"]
IN_FLOAT64 = ["accumulation with all", "one-cycle, clipping", "adamw, cosine, batch norm"]
NOT_BELOW = {
    "optim": {"optim", "DataLoader", "plainfit"},
    "layers": {"optim", "DataLoader", "plainfit"},
    "tensors": {"optim", "nn", "F", "functional", "DataLoader", "plainfit"},
}


def run(folder, **settings):
    """Train for two epochs of five steps, where the settings do not say otherwise."""
    config = RunConfig(**{"epochs": 2, "batch_size": 256, "seed": 3, "out": folder, **settings})
    return train(config, echo=None)


def assert_same(folder, script):
    """A script gives every loss, and every tensor, of a run."""
    outcome = outcome_of(folder, read_record(folder))
    losses, weights = run_here(script)
    assert len(losses) > 1
    assert losses == outcome.losses
    assert differing(weights, outcome.weights) == []


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the folder of a run with some settings, which is trained once."""
    folders = tmp_path_factory.mktemp("runs")

    def folder_of(name):
        settings = RUNS | ONLY_LOOP
        folder = folders / str([*settings].index(name))
        if not folder.exists():
            run(folder, **settings[name])
        return folder

    return folder_of


@pytest.mark.parametrize("name", [*RUNS, *ONLY_LOOP])
def test_every_setting(name, trained, tmp_path):
    folder, script = trained(name), tmp_path / "train.py"
    eject_run(folder, script)
    assert_same(folder, script)
    if name in ONLY_LOOP:
        with pytest.raises(EjectError, match="the lowest level that works is loop"):
            eject_run(folder, script, level="data", force=True)


@pytest.mark.parametrize(
    "name",
    [*AT_DATA, *(pytest.param(n, marks=pytest.mark.soak) for n in RUNS if n not in AT_DATA)],
)
def test_at_level_data(name, trained, tmp_path):
    folder, script = trained(name), tmp_path / "train.py"
    eject_run(folder, script, level="data")
    assert_same(folder, script)
    assert not names_in(script) & {"DataLoader", "TensorDataset", "plainfit"}


@pytest.mark.parametrize(
    ("optimizer", "arguments"),
    [
        ("RAdam", "betas=(0.8, 0.9), decoupled_weight_decay=True"),
        ("nadam", None),
        ("adagrad", "lr_decay=0.01"),
        ("adafactor", "eps=(None, 1e-2)"),
    ],
)
def test_any_optimizer_of_torch(optimizer, arguments, tmp_path):
    folder, script = tmp_path / "run", tmp_path / "train.py"
    run(folder, model="mlp", optimizer=optimizer, optimizer_args=arguments, weight_decay=0.1)
    for level in ("loop", "data"):
        eject_run(folder, script, level=level, force=True)
        assert_same(folder, script)
    with pytest.raises(EjectError, match="level that works for this script is 'data'"):
        eject_run(folder, script, level="optim", force=True)


def test_the_script_prints_the_table_of_the_run(tmp_path, capsys):
    lines = []
    config = RunConfig(epochs=2, model="mlp", out=tmp_path / "run")
    train(config, echo=lines.append)
    eject_run(tmp_path / "run", tmp_path / "train.py")
    run_here(tmp_path / "train.py")
    printed = capsys.readouterr().out.splitlines()
    table = "\n".join(lines).splitlines()
    table = table[next(i for i, line in enumerate(table) if "train_loss" in line) :][:3]
    assert printed[0] == table[0]
    columns = 11 * 4 + 3  # those without times
    assert [line[:columns] for line in printed] == [line[:columns] for line in table]
    assert [len(line) for line in printed] == [len(line) for line in table]


def test_stopped_within_an_epoch(tmp_path):
    folder = tmp_path / "run"
    settings = {"epochs": 200, "batch_size": 256, "schedule": "one-cycle", "time_limit": 3600.0}
    stop = StopAt(7)  # a time limit would stop at some step or other
    config = RunConfig(**RESNET, **settings, seed=3, out=folder)
    result = train(config, echo=None, callbacks=[stop])
    assert result.history.unfinished
    for level in ("loop", "data"):
        eject_run(folder, tmp_path / "train.py", level=level, force=True)
        assert_same(folder, tmp_path / "train.py")


@pytest.mark.parametrize("schedule", [None, "one-cycle", "warmup-cosine"])
def test_resumed_with_more_epochs_once_and_again(tmp_path, schedule):
    folder = tmp_path / "run"
    run(folder, model="mlp", schedule=schedule, average=0.9)
    for epochs in (3, 5):
        resume(folder, epochs=epochs, echo=None)
    eject_run(folder, tmp_path / "train.py")
    assert_same(folder, tmp_path / "train.py")


@pytest.mark.parametrize("at", [7, 10])
def test_extended_within_an_epoch_and_stopped_again(tmp_path, at):
    folder, script = tmp_path / "run", tmp_path / "train.py"
    config = RunConfig(model="mlp", batch_size=256, epochs=4, schedule="one-cycle", out=folder)
    train(config, echo=None, callbacks=[StopAt(at)])
    begun = -(-at // 5)
    with pytest.raises(ConfigError, match=rf"epochs must be at least {begun}, .*got {begun - 1}"):
        resume(folder, epochs=begun - 1, echo=None)
    assert resume(folder, epochs=6, echo=None, callbacks=[StopAt(18)]).history.unfinished
    record = read_record(folder)
    assert (record["state"], record["config"]["epochs"]) == ("interrupted", 6)
    assert record["lengths"] == [{"from_step": at, "epochs": 6}]
    assert len(resume(folder, echo=None).history) == 6  # as planned
    eject_run(folder, script)
    assert_same(folder, script)


def test_a_pruned_run_is_resumed_to_its_epochs(tmp_path):
    class Prune(Callback):
        observer = True

        def on_epoch_end(self, context):
            context.stop = PRUNED

    folder = tmp_path / "run"
    train(RunConfig(model="mlp", epochs=3, out=folder), echo=None, callbacks=[Prune()])
    assert [(line.state, line.epochs, line.of) for line in list_runs(tmp_path)] == [
        ("pruned", 1, 3)
    ]
    assert len(resume(folder, echo=None).history) == 3
    assert read_record(folder)["state"] == "finished"


@pytest.mark.soak  # the next tests stop and resume runs in this process
@pytest.mark.parametrize("average", [[], ["--average", "0.9", "--schedule", "one-cycle"]])
def test_killed_and_resumed(tmp_path, average):
    folder, script = tmp_path / "run", tmp_path / "train.py"
    settings = ["--model", "mlp", "--epochs", "20", "--checkpoint-every", "7", *average]
    command = [sys.executable, "-m", "plainfit", "train", *settings, "--out", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    figures = folder / "metrics.jsonl"
    while not figures.exists() or figures.stat().st_size < 1000:
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    eject_run(folder, script)
    assert_same(folder, script)
    resume(folder, echo=None)
    eject_run(folder, script, force=True)
    assert len(outcome_of(folder, read_record(folder)).losses) == 20 * 20
    assert_same(folder, script)


def test_a_run_that_never_trained_is_refused(tmp_path):
    folder = tmp_path / "run"
    run(folder, model="logistic", epochs=1)
    for path in (folder / "checkpoints").iterdir():
        path.unlink()
    (folder / "model.safetensors").unlink()
    with pytest.raises(RunError, match="has neither weights nor a checkpoint"):
        eject_run(folder, tmp_path / "train.py")
    assert not (tmp_path / "train.py").exists()


def test_all_levels_and_their_diffs(trained, tmp_path):
    folder = trained("sgd")
    done, _ = eject_all(folder, tmp_path / "all")
    assert [item.level for item in done][:2] == ["loop", "data"]
    with pytest.raises(ConfigError, match=r"overwrite .*1_loop\.py, which exists"):
        eject_all(folder, tmp_path / "all")
    (tmp_path / "some").mkdir()
    own = tmp_path / "some" / "layers_to_tensors.diff"
    own.write_text("of the user's")
    with pytest.raises(ConfigError, match=r"overwrite .*layers_to_tensors\.diff, which exists"):
        eject_all(folder, tmp_path / "some")
    assert [*own.parent.iterdir()] == [own]
    diff = (tmp_path / "all" / "loop_to_data.diff").read_text()
    assert "-    for xb, yb in train_dl:" in diff
    assert "+    for rows in order.split(BATCH_SIZE):" in diff


def test_all_levels_again_leave_none_of_the_run_before(trained, tmp_path):
    for name, names in (
        ("sgd", {"1_loop.py", "2_data.py", "loop_to_data.diff"}),
        ("bf16", {"1_loop.py"}),
    ):
        eject_all(trained(name), tmp_path, force=True, look=False)
        found = {path.name for path in tmp_path.iterdir()} - {"data.safetensors"}
        assert found >= names
    assert found == names


class Halve(Callback):
    """Halves the gradients, which no run folder records."""

    def on_backward_end(self, context):
        for parameter in context.model.parameters():
            parameter.grad.mul_(0.5)


@pytest.mark.parametrize("callback", [Halve(), GradientClipping(1.0)])
def test_a_callback_that_the_folder_does_not_record_is_refused(callback, tmp_path):
    folder = tmp_path / "run"
    config = RunConfig(model="logistic", epochs=1, batch_size=256, out=folder)
    message = f"if {type(callback).__name__} does not, say so by `observer = True` in its class"
    with pytest.raises(ConfigError, match=message):
        train(config, echo=None, callbacks=[callback])
    assert not folder.exists()
    train(config, echo=None, callbacks=[StopAt(2)])
    with pytest.raises(ConfigError, match=message):
        resume(folder, echo=None, callbacks=[callback])
    assert read_record(folder)["state"] == "interrupted"


@pytest.mark.parametrize("name", ["math.py", "torch.py", "json.txt"])
def test_a_script_that_would_hide_a_module_is_refused(name, tmp_path):
    with pytest.raises(ConfigError, match=f"{name} hides {name.split('.')[0]}; choose another"):
        eject_run(tmp_path / "run", tmp_path / name)


PARTS = """width = 12  # wide enough


def layers(inputs, classes):
    return [nn.Flatten(), nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, classes)]


from torch import nn
"""
NETS = """import parts
from torch import nn


class Small(nn.Module):
    # why it is small
    def __init__(self, in_features, classes=10):
        super().__init__()
        self.net = nn.Sequential(*parts.layers(in_features, classes))  # all of it

    def forward(self, x):
        return self.net(x)
"""


def test_a_model_in_a_file_of_the_users_and_one_beside_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("parts.py").write_text(PARTS)
    Path("own_nets.py").write_text(NETS)
    run(tmp_path / "run", model="own_nets:Small")
    script = eject_run(tmp_path / "run", tmp_path / "train.py", level="data").path
    text = script.read_text()
    assert "    # why it is small\n" in text
    assert "*layers(in_features, classes))  # all of it\n" in text
    assert "width = 12  # wide enough\n" in text
    assert "parts" not in names_in(script)
    assert_same(tmp_path / "run", script)
    monkeypatch.setattr("parts.width", 13)
    with pytest.raises(EjectError, match="own_nets:Small must build the model that was trained"):
        eject_run(tmp_path / "run", tmp_path / "other.py")


@pytest.mark.parametrize("level", ["loop", "data"])
def test_the_script_reads_mnist_by_itself(mnist_folder, tmp_path, level):
    folder = tmp_path / "run"
    settings = {"data": "mnist", "data_dir": mnist_folder, "model": "logistic"}
    config = RunConfig(**settings, batch_size=256, epochs=1, out=folder)
    train(config, echo=None, callbacks=[StopAt(3)])
    assert_same(folder, eject_run(folder, tmp_path / "train.py", level=level).path)
    assert not Path(tmp_path / "train-data.safetensors").exists()


def test_a_path_and_a_name_are_data_in_a_script(tmp_path):
    """The run's folder is in the docstring, and ends it in no way; the script's is a literal."""
    into = tmp_path / '"""\\ it\'s "so"'
    into.mkdir()
    run(into / "run", model="logistic", epochs=1)
    assert_same(into / "run", eject_run(into / "run", into / "tr'a\"in.py").path)


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


@pytest.mark.soak  # tests/eject/test_levels.py has a small form
@pytest.mark.parametrize("name", ["sgd", *IN_FLOAT64])
def test_level_math_agrees_in_float64(name, trained, tmp_path):
    verdict = verified(eject_run(trained(name), tmp_path / "at_math.py", level="math"))
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
def test_runs_on_mnist_hold_at_every_level(name, tmp_path, mnist_folder):
    settings = {"data": "mnist", "data_dir": mnist_folder, "epochs": 1, "batch_size": 64}
    run(tmp_path / "run", **settings, **PAIRS[name])
    for level in LEVELS:
        verdict = verified(eject_run(tmp_path / "run", tmp_path / f"at_{level}.py", level=level))
        print(f"{name} on MNIST, level {level}: {verdict.text}")
        assert verdict.holds
