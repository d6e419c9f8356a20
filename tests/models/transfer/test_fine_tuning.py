"""Fine-tuning: what is frozen stays, each group has its rate, a run goes on and is ejected."""

import json
import random
import shutil
import signal
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

import plainfit as pf
from ejecting import differing, run_here
from killing import WHEN, die_at, ended, forked
from pages import Page
from plainfit.common.errors import ConfigError, EjectError, ModelError
from plainfit.eject.run import eject_run
from plainfit.models.layers import find_head, layer_groups, layer_rates
from plainfit.models.networks import resnet18, resnet50
from plainfit.models.weights import load_body, read_weights
from plainfit.report.page import write_report
from plainfit.runs.fine_tuning import fine_tune, model_name, new_head, new_model
from plainfit.runs.settings import RunConfig
from plainfit.runs.train import resume, train
from plainfit.training.hooks import Callback


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "run"
    train(RunConfig(model="compact", epochs=1, out=folder, device="cpu"), echo=None)
    return folder


class Watch(Callback):
    """Keeps the state and the rates after each epoch, and stops as if killed after a step."""

    observer = True

    def __init__(self, stop_at=None):
        self.states, self.rates, self.stop_at = [], [], stop_at

    def on_batch_start(self, context):
        if context.step == 1:
            groups = context.opt.param_groups
            self.rates.append([group["lr"] for group in groups])

    def on_step_end(self, context):
        if context.global_step == self.stop_at:
            context.stop = "enough"

    def on_epoch_end(self, context):
        self.states.append({k: v.clone() for k, v in context.model.state_dict().items()})


def test_what_is_frozen_keeps_its_bits_and_groups_thaw_one_by_one(source, tmp_path):
    watch, out = Watch(), tmp_path / "run"
    config = RunConfig(source=str(source), epochs=6, freeze_epochs=2, gradual=True, out=out)
    train(config, echo=None, callbacks=[watch])
    states = [load_file(out / "first.safetensors"), *watch.states]
    moved = [{name.split(".")[0] for name in differing(a, b)} for a, b in pairwise(states)]
    layers = [["fc"], ["conv3", "bn3"], ["blocks"], ["conv2", "bn2"], ["conv1", "bn1"]]
    expected = [[n for names in layers[: max(1, epoch)] for n in names] for epoch in range(6)]
    assert [sorted(names) for names in moved] == [sorted(names) for names in expected]
    body = load_file(source / "model.safetensors")
    assert {n.split(".")[0] for n in differing(body, states[0])} == {"fc"}


def test_rates_are_spaced_evenly_by_their_logarithms(source, tmp_path):
    watch, out = Watch(), tmp_path / "run"
    config = RunConfig(source=str(source), epochs=2, lr=0.4, lr_ratio=16, schedule="constant",
                       out=out)  # fmt: skip
    train(config, echo=None, callbacks=[watch])
    assert watch.rates[1] == pytest.approx([0.025, 0.05, 0.1, 0.2, 0.4], rel=1e-12)
    layers = json.loads((out / "run.json").read_text())["layers"]
    assert [row["lr"] for row in layers] == watch.rates[1]
    assert layer_rates(0.4, 2, 4) == [0.1, 0.4]


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """A fine-tuning that is never stopped, and its settings."""
    config = RunConfig(source=str(source), epochs=3, gradual=True, average=0.9, device="cpu",
                       threads=1,  # as many as in a fork
                       out=tmp_path_factory.mktemp("whole") / "run")  # fmt: skip
    train(config, echo=None)
    return config


@pytest.mark.parametrize(
    "stop_at", [20, *(pytest.param(n, marks=pytest.mark.soak) for n in (10, 33))]
)
def test_a_stopped_fine_tuning_continues_to_the_same_bits(whole, tmp_path, stop_at):
    parted = tmp_path / "parted"
    train(replace(whole, out=parted), echo=None, callbacks=[Watch(stop_at)])
    resume(parted, echo=None)
    whole = whole.out
    files = [load_file(folder / "model.safetensors") for folder in (whole, parted)]
    assert not differing(*files)
    assert (whole / "steps.csv").read_text() == (parted / "steps.csv").read_text()


def test_the_report_of_a_fine_tuning_looks_at_its_source(whole, source, tmp_path):
    copy, run = (
        shutil.copytree(source, tmp_path / "copy"),
        shutil.copytree(whole.out, tmp_path / "run"),
    )
    record = json.loads((run / "run.json").read_text())
    record["config"]["source"] = str(copy)
    (run / "run.json").write_text(json.dumps(record))
    assert "trains the same again" in Page(write_report(run)).text
    weights = load_file(source / "model.safetensors")
    save_file({name: w + 1 for name, w in weights.items()}, copy / "model.safetensors")
    differs = "This command has the same settings, and does not train the same: "
    assert f"{differs}its source {copy} has other weights now" in Page(write_report(run)).text
    shutil.rmtree(copy)
    assert f"{differs}a source must be a run folder" in Page(write_report(run)).text


OPTIONS = {"gradual": True, "weight_decay": 0.01, "average": 0.9}


@pytest.mark.parametrize(
    ("level", "options"),
    [
        ("loop", OPTIONS),
        ("layers", OPTIONS),
        pytest.param("data", OPTIONS, marks=pytest.mark.soak),
        *(pytest.param(level, {}, marks=pytest.mark.soak) for level in ("loop", "data", "layers")),
    ],
)
def test_an_ejected_fine_tuning_gives_the_same_bits(source, tmp_path, level, options):
    out = tmp_path / "run"
    result = train(RunConfig(source=str(source), epochs=3, out=out, **options), echo=None)
    ejected = eject_run(out, tmp_path / "script.py", level=level)
    losses, weights = run_here(ejected.path)
    assert losses == list(result.history.step_losses)
    assert not differing(weights, load_file(out / "model.safetensors"))


def test_frozen_layers_need_the_modules_of_torch(source, tmp_path):
    train(RunConfig(source=str(source), epochs=1, out=tmp_path / "run"), echo=None)
    with pytest.raises(
        EjectError, match=r"frozen layers need torch\.nn.*level tensors.*works is layers"
    ):
        eject_run(tmp_path / "run", tmp_path / "script.py", level="tensors")
    assert not (tmp_path / "script.py").exists()


def test_a_built_model_is_left_as_it_is_and_gets_another_head():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 4))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ds = torch.utils.data.TensorDataset(torch.randn(64, 8), torch.arange(64) % 3)
    dls = pf.get_data(ds, ds, 16)
    tuned, history = fine_tune(model, *dls, 2, classes=3, echo=None)
    assert not differing(before, model.state_dict())
    assert tuned[-1].out_features == 3
    assert len(history) == 2
    assert layer_groups(tuned, ds[0][0][None]) == [["0", "1"], ["3"]]


def test_a_built_model_that_ends_in_a_convolution_gets_another():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 7, 3, padding=1), nn.Flatten()
    )
    tuned = new_head(model, torch.zeros(2, 1, 3, 3), classes=5, seed=0)
    assert (tuned[2].out_channels, tuned[2].padding, tuned[2].bias.numel()) == (5, (1, 1), 5)
    assert tuned(torch.zeros(2, 1, 3, 3)).shape == (2, 5)
    assert torch.equal(tuned[0].weight, model[0].weight)
    with pytest.raises(ModelError, match="fine-tuning needs layers before the head, and Linear"):
        new_head(nn.Linear(4, 2), torch.zeros(2, 4), classes=3)


@pytest.mark.parametrize(
    ("from_run", "options"),
    [
        pytest.param(True, {"freeze_epochs": 2}, id="run"),
        pytest.param(False, {"gradual": True}, id="built"),
    ],
)
def test_what_fine_tune_did_from_python_is_ejected(source, tmp_path, from_run, options):
    built = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Dropout(0.1),
        nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip
    splits = pf.open_data("digits")
    dls = pf.get_data(splits.train, splits.valid, 64, seed=5)
    model, history = fine_tune(
        source if from_run else built, *dls, 2, classes=10, echo=None, **options
    )
    script = history.run.eject(tmp_path / "script.py", level="data", echo=None)
    losses, weights = run_here(script)
    assert losses == history.step_losses
    assert not differing(weights, model.state_dict())


@pytest.mark.soak
def test_the_script_of_a_fine_tuning_verifies_itself(source, tmp_path):
    splits, said = pf.open_data("digits"), []
    dls = pf.get_data(splits.train, splits.valid, 64)
    _, history = fine_tune(source, *dls, 2, classes=10, echo=None)
    history.run.eject(tmp_path / "s.py", level="data", verify=True, echo=said.append)
    assert "40 losses are equal and 32 tensors are equal, bit for bit" in said[-1]


@pytest.mark.parametrize(
    "calls",
    [
        pytest.param((1, 4, 12, 35), id="few"),
        pytest.param((1, 2, 3, 4, 5, 12, 20, 35, 50, 70), id="many", marks=pytest.mark.soak),
    ],
)
def test_a_fine_tuning_that_is_killed_has_the_same_bits(whole, tmp_path, calls):
    """Killed at the n-th write, sync or rename of each process, until one of them is done."""
    killed, rng, kills = tmp_path / "killed", random.Random(0), 0

    def train_or_resume(call):
        die_at(call, rng.choice(WHEN))
        if (killed / "run.json").exists():
            resume(killed, echo=None)
        else:
            train(replace(whole, checkpoint_every=7, out=killed), echo=None)

    for call in (*calls, 10**6):
        code = ended(forked(lambda call=call: train_or_resume(call), tmp_path / "error.txt"))
        kills += code == -signal.SIGKILL
        if code == 0:
            break
    assert not (tmp_path / "error.txt").exists(), (tmp_path / "error.txt").read_text()
    assert kills >= 0.8 * len(calls)
    for name in ("first.safetensors", "best.safetensors", "model.safetensors", "steps.csv"):
        assert (killed / name).read_bytes() == (whole.out / name).read_bytes(), name


def test_groups_of_a_resnet_are_its_stages():
    groups = layer_groups(resnet18(classes=5), torch.zeros(1, 3, 32, 32))
    stages = [[f"layer{stage}"] for stage in range(1, 5)]
    assert groups == [["conv1", "bn1"], *stages, ["fc"]]


def test_a_model_without_a_body_or_a_head_is_refused():
    with pytest.raises(ModelError, match="layers before the head"):
        layer_groups(pf.LogisticRegression(8, 3), torch.zeros(1, 8))
    with pytest.raises(ModelError, match="layers before the head, and LogisticRegression has none"):
        load_body(pf.LogisticRegression(8, 3), pf.LogisticRegression(8, 3).state_dict(), "lin")
    with pytest.raises(ModelError, match="the last layer with parameters is '1', a BatchNorm1d"):
        find_head(nn.Sequential(nn.Linear(8, 3), nn.BatchNorm1d(3)), torch.zeros(1, 8))


def test_weights_that_do_not_fit_are_listed():
    weights = resnet50().state_dict()
    with pytest.raises(ModelError, match=r"loaded.*skipped.*layer1.0.conv1.weight.*missing"):
        load_body(resnet18(), weights, "fc")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_file_of_weights_in_the_layout_of_torchvision(tmp_path, suffix):
    path, weights = tmp_path / f"net{suffix}", resnet18().state_dict()
    (save_file if suffix == ".safetensors" else torch.save)(weights, path)
    model = new_model(path, "resnet18", input_shape=(1, 32, 32), classes=4)
    unequal = differing(weights, model.state_dict())
    assert unequal == ["fc.bias", "fc.weight"]
    gray = torch.rand(2, 1, 32, 32)
    model.eval()
    assert torch.equal(model(gray), model(gray.repeat(1, 3, 1, 1)))


def test_weights_that_were_saved_within_a_wrapper():
    body, model = pf.ResNet(), pf.ResNet(classes=4)
    load_body(model, nn.DataParallel(body).state_dict(), "fc")
    assert differing(body.state_dict(), model.state_dict()) == ["fc.bias", "fc.weight"]


def test_a_gray_image_in_a_body_for_colors_gives_what_three_equal_channels_give():
    color, gray = pf.ResNet(channels=3), pf.ResNet(channels=1)
    load_body(gray, color.state_dict(), "fc")
    gray.fc.load_state_dict(color.fc.state_dict())
    xb = torch.rand(4, 1, 16, 16)
    torch.testing.assert_close(gray.eval()(xb), color.eval()(xb.repeat(1, 3, 1, 1)))


def test_a_file_with_more_than_tensors_is_refused(tmp_path):
    path = tmp_path / "model.pt"
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(ModelError, match="with tensors only"):
        read_weights(str(path))


def test_sources_that_are_none(tmp_path):
    with pytest.raises(ConfigError, match=r"got 'resnet81'; did you mean 'resnet18'"):
        model_name("resnet81", None)
    with pytest.raises(ConfigError, match="name the architecture"):
        model_name("weights.pt", None)


@pytest.mark.parametrize("missing", ["timm", "torchvision"])
def test_timm_that_cannot_be_imported_is_one_line(tmp_path, monkeypatch, missing):
    from plainfit.cli import app

    monkeypatch.setitem(sys.modules, missing, None)  # what Python takes for one that is not there
    monkeypatch.chdir(tmp_path)
    error = CliRunner().invoke(app, ["fine-tune", "timm:resnet18"]).exception
    assert isinstance(error, ModelError)
    assert "needs timm and torchvision, and importing them failed" in str(error)
    options = ["fine-tune", "timm:resnet18", "--model-args", "width=2"]
    assert "model_args is not for models of timm" in str(CliRunner().invoke(app, options).exception)
    assert "pip install 'plainfit[timm]'" in str(error)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "a source must be a run folder"),
        (["nowhere", "--model", "cnn"], "a source must be a run folder"),
        (["nowhere.pt", "--model", "resnet18"], "must exist, and nowhere.pt does not"),
        (["resnet18", "--lr", "auto"], "a rate for each group"),
        (["resnet18", "--freeze-epochs", "11"], "at most the number of epochs, 10, got 11"),
    ],
)
def test_bad_sources_are_one_line_and_nothing_is_written(tmp_path, monkeypatch, arguments, message):
    from plainfit.cli import app

    monkeypatch.chdir(tmp_path)
    error = CliRunner().invoke(app, ["fine-tune", *arguments]).exception
    assert message in str(error)
    assert not list(tmp_path.iterdir())


def test_other_values_than_the_source_learned_from_are_refused(source, tmp_path, plainfit):
    rng, y = np.random.default_rng(0), np.arange(60) % 3
    x = rng.random((60, 1, 8, 8), np.float32)
    np.savez(tmp_path / "floats.npz", x=x, y=y)
    code, _, errors = plainfit("fine-tune", source, "--data", "floats.npz", "--out", "run")
    assert (code, errors.count("\n"), (tmp_path / "run").exists()) == (2, 1, False)
    assert "floats.npz gives a model values as in the data, and" in errors
    assert "was trained on values bytes / 256, L, " in errors


@pytest.mark.filterwarnings("default:the columns are standardised")
def test_a_run_on_colors_takes_gray_images_and_a_table_its_own_columns(tmp_path, plainfit):
    rng, y = np.random.default_rng(0), np.arange(60) % 3
    color = rng.integers(0, 256, (60, 3, 8, 8), np.uint8)
    np.savez(tmp_path / "color.npz", x=color, y=y)
    np.savez(tmp_path / "gray.npz", x=color[:, :1], y=y)
    for name, columns in {"ab": "a,b", "ba": "b,a", "again": "a,b"}.items():
        rows = [
            f"{a},{b},{label}" for (a, b), label in zip(rng.normal(size=(60, 2)), y, strict=True)
        ]
        (tmp_path / f"{name}.csv").write_text("\n".join([f"{columns},y", *rows]))
    for data, model in (("color.npz", "compact"), ("ab.csv", "mlp")):
        assert (
            plainfit("train", "--data", data, "--model", model, "--epochs", 1, "--out", model)[0]
            == 0
        )
    tune = ["--epochs", 1, "--data"]
    assert plainfit("fine-tune", "compact", *tune, "gray.npz")[::2] == (0, "")
    code, _, errors = plainfit("fine-tune", "mlp", *tune, "ba.csv")
    assert (code, errors.count("\n")) == (2, 1)
    way = "values (column - mean) / std of the columns"
    assert f"{way} b, a, and mlp was trained on {way} a, b; make them in the same way" in errors
    code, _, errors = plainfit("fine-tune", "mlp", *tune, "again.csv")
    assert (
        code,
        "by the mean and std of again.csv, not of mlp" in errors,
    ) == (0, True)
