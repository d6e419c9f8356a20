"""The settings of a run: what they accept, their names, presets, and the command they give."""

import pickle
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from plainfit.cli import app
from plainfit.common.errors import ConfigError
from plainfit.runs.settings import PRESETS, RunConfig, names_of, preset


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1 and at most 1,000,000,000, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1 and at most 1,000,000,000, got 0"),
        ({"patience": 0}, "patience must be at least 1 and at most 1,000,000,000, got 0"),
        (
            {"memory_budget": -1},
            "memory_budget must be at least 0 and at most 1,000,000,000, got -1",
        ),
        ({"image_size": 5001}, "image_size must be at least 1 and at most 5,000, got 5001"),
        ({"seed": 2**63}, f"seed must be below 2**63, got {2**63}"),
        ({"lr": "fast"}, "lr must be at least 1e-38 and at most 1e+38, or auto, got fast"),
        ({"lr": float("nan")}, "lr must be at least 1e-38 and at most 1e+38, or auto, got nan"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0 and at most 1e+38, got -1.0"),
        (
            {"label_smoothing": 1.0},
            "label_smoothing must be at least 0 and at most 0.999999, got 1.0",
        ),
        ({"momentum": 1}, "momentum must be at least 0 and at most 0.999999, got 1"),
        ({"average": -0.1}, "average must be at least 0 and at most 0.999999, got -0.1"),
        ({"clip": float("inf")}, "clip must be at least 1e-38 and at most 1e+38, got inf"),
        ({"time_limit": 0}, "time_limit must be at least 1e-09 and at most 1e+09, got 0"),
        ({"model_args": "3"}, "model_args must be names with values, as in a call, such as"),
        ({"model_args": "width=open('x')"}, "model_args must be names with values"),
        ({"model_args": "width={1, 2}"}, "model_args must be names with values"),
        ({"model_args": f"width={'-' * 9000}1"}, "model_args must be names with values"),
        ({"epochs": "3"}, "epochs must be a whole number, got '3'"),
        ({"keep_memory": 1}, "keep_memory must be true or false, got 1"),
        ({"out": Path("a\0b")}, "out must be without NUL characters"),
        ({"source": "run", "lr": "auto"}, "lr must be a number, since a fine-tuning has a rate"),
        ({"source": "run", "freeze_epochs": 11}, "freeze_epochs must be at most the number of"),
        ({"lr_ratio": float("inf")}, "lr_ratio must be at least 1 and at most 1e+09, got inf"),
    ],
)
def test_an_error_names_the_field(settings, message):
    with pytest.raises(ConfigError) as caught:
        RunConfig(**settings)
    assert str(caught.value).startswith(message)
    assert caught.value.field == list(settings)[-1]
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (str(copied), copied.field) == (str(caught.value), caught.value.field)


def test_the_largest_numbers():
    assert RunConfig(seed=2**63 - 1, split_seed=2**63 - 1).seed == 2**63 - 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "onecycle"}, "unknown schedule 'onecycle'.*did you mean 'one-cycle'"),
        ({"track": "tensorbord"}, "unknown tracker 'tensorbord'.*did you mean 'tensorboard'"),
        ({"compile": "epochs"}, "unknown form 'epochs'.*did you mean 'epoch'"),
        ({"precision": "fp23"}, "unknown precision 'fp23'.*did you mean 'fp32'"),
    ],
)
def test_unknown_names(settings, message):
    with pytest.raises(ConfigError, match=message):
        RunConfig(**settings)


def test_every_field_belongs_to_one_group():
    groups = RunConfig.__mro__[1:-1]
    assert sorted(names_of(*groups)) == sorted(item.name for item in fields(RunConfig))


def test_the_settings_are_plain_json_and_read_back():
    config = RunConfig(data_dir=Path("here"), lr="0.5", out=Path("run"))
    assert config.to_dict()["data_dir"] == "here"
    assert config.lr == config.rate == 0.5
    assert RunConfig.from_dict(config.to_dict()) == config
    assert RunConfig.from_dict({"epochs": 3}, seed=1) == RunConfig(epochs=3, seed=1)
    with pytest.raises(ConfigError, match="does not know depth, width; use the version in run"):
        RunConfig.from_dict({"width": 1, "depth": 2})


@pytest.mark.parametrize(
    "config",
    [
        RunConfig(),
        RunConfig(data="my data/it's", data_dir=Path("a b"), target="a b", skip_bad=True, lr=1e-05),
        RunConfig(lr="auto", detect_anomaly=True, keep_memory=False, model_args="width=8"),
        RunConfig(data="-x", target="--epochs", model_args="width=-1"),
        RunConfig(source="resnet18", model="resnet18", gradual=True),
        RunConfig(source="net.pt", model="resnet18", freeze_epochs=0),
    ],
)
def test_the_command_gives_the_same_settings(config, monkeypatch):
    seen = []
    monkeypatch.setattr("plainfit.runs.train.train", lambda c, **_: seen.append(c) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        app(shlex.split(config.command())[1:], standalone_mode=False)
    assert seen == [config]


def test_presets_are_valid_settings():
    for name in PRESETS:
        RunConfig(**preset(name))
    with pytest.raises(ConfigError, match="unknown preset 'fats': choose from fastest, fast, acc"):
        preset("fats")


def test_the_help_has_every_setting(plainfit):
    code, text, _ = plainfit("train", "--help")
    options = set(re.findall(r"--([a-z][a-z-]+)", text))
    assert code == 0
    assert {name.replace("_", "-") for name in names_of(*RunConfig.__mro__[2:-1])} <= options
