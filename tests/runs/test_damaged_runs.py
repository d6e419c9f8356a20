"""Run folders whose files hold wrong values, and trainings whose model or data fail."""

import copy
import json
import math
import os
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from plainfit.cli import main
from plainfit.common.errors import ConfigError, PlainfitError, RunError, TrainingError
from plainfit.common.schema import hints_of
from plainfit.report.comparison import Comparison
from plainfit.report.page import write_report
from plainfit.runs.export import export_run
from plainfit.runs.folder import list_runs, open_run
from plainfit.runs.settings import RunConfig, names_of
from plainfit.runs.train import resume, train

WRONG = [None, True, -1, math.nan, "x", [[]], {"x": {}}]
ROW = {"epoch": 0, "train_loss": 1, "valid_loss": 0.5, "seconds": 1, "samples_per_second": 1}


@pytest.fixture
def copied(trained_run, tmp_path):
    return shutil.copytree(trained_run, tmp_path / "run")


def places(value, at=()):
    """Return the path of every field of a record."""
    inner = value.items() if isinstance(value, dict) else ()
    inner = enumerate(value) if isinstance(value, list) else inner
    return [at, *(path for key, part in inner for path in places(part, (*at, key)))]


def changed(record, place, value):
    record = copy.deepcopy(record)
    inner = record
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return record


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.soak)])
def test_every_field_of_a_record_with_wrong_types(copied, every):
    record = json.loads((copied / "run.json").read_text())
    refused = {}
    fields = [at for at in places(record)[1:] if at[-1] not in range(1, 99)]
    for number, place in enumerate(fields):
        for value in WRONG[number % every :: every]:
            (copied / "run.json").write_text(json.dumps(changed(record, place, value)))
            try:
                run = open_run(copied)
                _ = run.config, run.settings, run.epochs, run.parameters, list_runs(copied.parent)
            except PlainfitError as error:
                refused[place] = str(error)
    fields = {("config", name) for name in names_of(RunConfig)} | {("state",), ("test", "loss")}
    fields |= {("data", "input_shape", 0), ("model", "arguments"), ("fingerprint", "threads")}
    assert fields <= refused.keys()
    assert not [text for text in refused.values() if "run.json" not in text or "\n" in text]
    assert max(map(len, refused.values())) < 400


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (
            ("config", "epochs"),
            "2",
            r"run.json is damaged: config.epochs must be a whole number, g",
        ),
        (("config", "threads"), 10**12, "config.threads must be at least 1 and at most 1,024, got"),
        (("data", "counts"), {"a": "b"}, "data.counts.a must be a whole number, got 'b'"),
        (("data", "input_shape"), "abc", "data.input_shape must be a list, got 'abc'"),
        (("code",), {"sha256": 5}, "code must have 'files', and lacks it"),
        (("data", "preprocessing"), "x", "data.preprocessing must be names with values, got 'x'"),
        (("model", "x"), 1, "run.json is damaged: model must have no 'x'"),
        (("lengths",), [{"from_step": 3}], r"lengths\[0\] must have 'epochs', and lacks it"),
        (("test",), [1], "test must be names with values or null"),
        (("state",), "done", "state must be one of started, finished, interrupted, pruned"),
    ],
)
def test_each_command_says_in_one_line_what_is_wrong(copied, tmp_path, place, value, message):
    record = json.loads((copied / "run.json").read_text())
    (copied / "run.json").write_text(json.dumps(changed(record, place, value)))
    commands = [
        lambda: export_run(open_run(copied), "safetensors", tmp_path / "w.safetensors"),
        lambda: resume(copied, epochs=3, echo=None),
    ]
    for command in commands:
        with pytest.raises(RunError, match=message):
            command()


@pytest.mark.parametrize("how", [os.mkfifo, lambda path: path.symlink_to("nowhere"), Path.mkdir])
def test_what_is_no_file_is_none(copied, how):
    """A pipe that nobody writes to, a link to nowhere, a folder."""
    checkpoint = copied / "checkpoints" / f"{'9' * 12}-{'a' * 64}.safetensors"
    how(checkpoint)
    for name in ("metrics.jsonl", "steps.csv", "model.safetensors"):
        (copied / name).unlink()
        how(copied / name)
    assert open_run(copied).epochs == open_run(copied).steps == []
    with pytest.raises(RunError, match="which is written when the run fin"):
        open_run(copied).model  # noqa: B018
    with suppress(TrainingError):  # a folder stays one
        resume(copied, epochs=3, echo=None)
    (copied / "run.json").unlink()
    how(copied / "run.json")
    with pytest.raises(RunError, match="must be a run folder with"):
        open_run(copied)


def test_a_broken_run_does_not_hide_the_others(copied, tmp_path):
    (shutil.copytree(copied, tmp_path / "deep") / "run.json").write_text("[" * 100_000)
    (shutil.copytree(copied, tmp_path / "text") / "run.json").write_text('{"config": "x"}')
    states = {line.name: line.state for line in list_runs(tmp_path)}
    assert states == {"deep": "damaged", "run": "finished", "text": "damaged"}
    with pytest.warns(RuntimeWarning, match="left out: .*(deep|text)"):
        both = Comparison([tmp_path / "deep", copied, tmp_path / "text"])
    assert [row["run"] for row in both.rows] == ["run"]
    with pytest.raises(RunError, match="deep must be a run folder"):
        Comparison([tmp_path / "deep", tmp_path / "text"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"samples_per_second": -1}, {"epoch": math.inf}, {"epoch": 10**400}, {"seconds": None},
        {"valid_loss": []}, {"more": 1},
    ],
)  # fmt: skip
def test_rows_with_wrong_cells_are_left_out(copied, wrong):
    lines = [ROW | {"epoch": 0}, ROW | {"epoch": 1} | wrong, ROW | {"epoch": 2}]
    (copied / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    run = open_run(copied)
    assert [row["epoch"] for row in run.epochs] == [0, 2]
    assert len(run.notes) == 1
    assert list_runs(copied.parent)[0].epochs == 2


def test_values_too_large_to_draw(copied):
    rows = [ROW | {"valid_loss": 1e308}, ROW | {"epoch": 1, "valid_loss": -1e308}]
    (copied / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (copied / "steps.csv").write_text("step,epoch,loss,lr\n0,0,1e308,1\n1,0,-1e308,1\n2,0,0.5,1\n")
    assert write_report(copied).exists()


def test_every_number_among_the_settings_has_limits():
    for name, hint in hints_of(RunConfig).items():
        is_number = hint.__origin__ not in (bool, bool | None) and name != "lr"
        for value in (math.nan, math.inf, -math.inf, -1, 2**80, "1" if name != "model" else 1):
            if is_number and isinstance(RunConfig.__dataclass_fields__[name].default, int | float):
                with pytest.raises(ConfigError) as caught:
                    RunConfig(**{name: value})
                assert str(caught.value).startswith(f"{name} must be ")


class Fails(nn.Module):
    """Fails in a given call, counted over the whole training."""

    at = 0

    def __init__(self, in_features: int, classes: int, mode: str, at: int) -> None:
        super().__init__()
        self.head = nn.Linear(in_features, classes)
        self.mode, self.at, self.calls = mode, at, 0

    def forward(self, xb):
        if self.training == (self.mode == "train"):
            self.calls += 1
            if self.calls == self.at:
                raise LookupError("a line\nand another")
        return self.head(xb.flatten(1))


@pytest.mark.parametrize(
    ("mode", "at", "place"),
    [
        ("train", 3, "in epoch 0, after 2 of 20 steps"),
        ("eval", 5, "in epoch 0, after 20 of 20 steps"),
        ("eval", 7, "the test set must be scored"),
    ],
)
def test_a_model_that_fails_is_one_line_and_a_state(tmp_path, mode, at, place):
    args = f"mode={mode!r}, at={at}"
    config = RunConfig(model=f"{__name__}:Fails", model_args=args, epochs=1, out=tmp_path / "run")
    with pytest.raises(TrainingError, match=f"{place}.*; what was saved is in") as caught:
        train(config, echo=None)
    assert "LookupError: a line and another" in str(caught.value)
    record = open_run(tmp_path / "run").record
    assert record["state"] == "failed"
    assert place in record["stopped"]


def test_batch_norm_on_a_last_batch_of_one_sample(tmp_path):
    arrays = {"x": np.zeros((65, 3), np.float32), "y": np.arange(65) % 2}
    np.savez(tmp_path / "d.npz", x_train=arrays["x"], y_train=arrays["y"],
             x_valid=arrays["x"][:9], y_valid=arrays["y"][:9])  # fmt: skip
    config = RunConfig(
        data=str(tmp_path / "d.npz"), model=f"{__name__}:normed", epochs=1, out=tmp_path / "run"
    )
    with pytest.raises(ConfigError, match=r"got 65 = 1 \* 64 \+ 1 samples; set drop_last, or"):
        train(config, echo=None)
    assert not config.out.exists()
    assert len(train(replace(config, drop_last=True), echo=None).history.step_losses) == 1


def normed(in_features: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(in_features), nn.Linear(in_features, classes))


@pytest.mark.parametrize("how", ["no such file", "another file"])
def test_an_image_that_changes_while_training(tmp_path, how):
    for place in range(60):
        path = tmp_path / "data" / "ab"[place % 2] / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), place).save(path)

    from plainfit.training.hooks import Callback

    class Change(Callback):
        observer = True

        def on_epoch_end(self, context):
            for path in (tmp_path / "data").rglob("*.png"):
                path.unlink()
                if how == "another file":
                    Image.new("L", (4, 4), 9).save(path)

    config = RunConfig(data=str(tmp_path / "data"), memory_budget=0, model="logistic", epochs=2,
                       out=tmp_path / "run")  # fmt: skip
    with pytest.raises(TrainingError, match=rf"png must not .* is {how} now, in epoch 1, after 0"):
        train(config, echo=None, callbacks=[Change()])


def test_what_nobody_expected_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr("plainfit.runs.folder.list_runs", lambda folder: torch.zeros(2).item())
    monkeypatch.setattr("sys.argv", ["plainfit", "runs"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: RuntimeError: a Tensor with 2 elements cannot be converted")
    assert error.endswith("(--debug shows where)\n")
    assert error.count("\n") == 1
