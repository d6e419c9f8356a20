"""Presets, and the settings they are made of."""

import json

import pytest
import torch
from test_cli import plainfit
from torch import nn, optim

import plainfit as pf
from plainfit.common.errors import ConfigError
from plainfit.runs.presets import PRESETS, settings_of
from plainfit.runs.settings import RunConfig
from small import same


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_trains_the_digits_and_what_is_given_wins(name, tmp_path):
    done = plainfit("train", "--preset", name, "--epochs", 6, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run/run.json").read_text())
    wanted = settings_of(name) | {"epochs": 6}
    assert {key: record["config"][key] for key in wanted} == wanted
    assert record["model"]["arguments"]["width"] in (16, 32)
    assert record["last"]["accuracy"] > 0.8


def test_presets_are_settings_that_there_are():
    for name in PRESETS:
        RunConfig(**settings_of(name))
    with pytest.raises(ConfigError, match="unknown preset 'fats': choose from fastest, fast, acc"):
        settings_of("fats")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preset", "fats"], "unknown preset 'fats': choose from fastest, fast, accurate; did"),
        (
            ["--model-args", "widht=3"],
            "unknown argument of ResNet 'widht': choose from channels, classes,",
        ),
        (["--model-args", "3"], "--model-args must be names with values, as in a call, such as"),
        (["--model-args", "width=open('x')"], "--model-args must be names with values"),
        (["--augment", "warpp"], "unknown augmentation 'warpp': choose from none, light, stand"),
        (["--augment", "warp=x"], "the range of warp is a strength, above 0, got 'x'"),
        (["--label-smoothing", "1"], "--label-smoothing must be at least 0 and below 1, got 1.0"),
        (["--weight-decay", "-1"], "--weight-decay must be at least 0, got -1.0"),
        (["--optimizer", "adam", "--nesterov"], "nesterov applies to sgd with momentum only, got"),
        (["--momentum", "0", "--nesterov"], "nesterov applies to sgd with momentum only, got it"),
    ],
)
def test_bad_settings_are_one_line_and_nothing_is_written(options, message, tmp_path):
    done = plainfit("train", *options, "--out", tmp_path / "run")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_tables_cannot_be_augmented(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("a,b,label\n" + "".join(f"{i},{i * i % 7},{i % 2}\n" for i in range(40)))
    done = plainfit(
        "train", "--data", table, "--target", "label", "--model", "mlp", "--augment", "warp",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    assert "augment requires images, and the samples of " in done.stderr


def test_weight_decay_leaves_biases_and_norms():
    model, opt = pf.get_model("compact", weight_decay=0.1, nesterov=True, lr=0.1, device="cpu")
    other, _ = pf.get_model("compact", device="cpu")
    groups = [
        {"params": [p for p in other.parameters() if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in other.parameters() if p.dim() <= 1]},
    ]
    theirs = optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    for net, by in ((model, opt), (other, theirs)):
        for _ in range(3):
            net(torch.ones(4, 1, 28, 28)).square().mean().backward()
            by.step()
            by.zero_grad()
    assert same(model, other)
    assert [group["weight_decay"] for group in opt.param_groups] == [0.1, 0.0]


def test_without_it_the_optimizer_keeps_its_own_decay():
    assert [
        pf.get_model("mlp", optimizer=name, device="cpu")[1].param_groups[0]["weight_decay"]
        for name in ("sgd", "adamw")
    ] == [0, 0.01]


def test_arguments_reach_the_model():
    model, _ = pf.get_model("resnet", arguments={"width": 8, "blocks": (1, 2)}, device="cpu")
    assert model.plainfit_factory.arguments["width"] == 8
    assert model.conv1.out_channels == 8
    assert len(model.layer2) == 2

    def anything(**options):
        return nn.Linear(options["inputs"], 2)

    assert pf.get_model(anything, arguments={"inputs": 3}, device="cpu")[0].in_features == 3


@pytest.mark.parametrize("side", [4, 5, 8, 19, 20, 21, 28, 32])
def test_the_compact_model_takes_small_and_odd_images(side):
    model, _ = pf.get_model("compact", input_shape=(3, side, side + 1), device="cpu")
    assert model(torch.zeros(2, 3, side, side + 1)).shape == (2, 10)
