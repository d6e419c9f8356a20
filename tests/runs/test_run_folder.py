"""Run folders read back: whole, cut off, changed, or written by an older plainfit."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import plainfit as pf
from plainfit.common.devices import cpu_threads
from plainfit.common.errors import ConfigError, DataError, RunError
from plainfit.models.build import MOVED, Factory, resolve
from plainfit.models.weights import weights_to_bytes
from plainfit.runs.export import export_run
from plainfit.runs.folder import check_output, list_runs, open_run
from plainfit.runs.predict import predict_images
from plainfit.runs.settings import RunConfig
from plainfit.runs.train import resume, train
from small import same

OLD_RECORD = Path(__file__).with_name("run_0.1.0.json")


@pytest.fixture
def copied(trained_run, tmp_path):
    return shutil.copytree(trained_run, tmp_path / "run")


def change_config(folder, **changes):
    """Change settings in a record; None removes one."""
    path = folder / "run.json"
    record = json.loads(path.read_text())
    record["config"] |= changes
    for name in [name for name, value in changes.items() if value is None]:
        del record["config"][name]
    path.write_text(json.dumps(record))


def test_a_run_is_read_back(trained_run):
    run = open_run(trained_run)
    assert run.config == RunConfig(model="logistic", optimizer="sgd", epochs=2, out=trained_run)
    assert [row["epoch"] for row in run.epochs] == [0, 1]
    assert run.epochs[-1] == run.record["last"]
    assert len(run.steps) == run.record["steps"] == 40
    assert {step.lr for step in run.steps} == {0.1}
    assert run.notes == []
    weights = load_file(trained_run / "model.safetensors")
    assert run.model.state_dict().keys() == weights.keys()
    assert all(torch.equal(run.model.state_dict()[name], weights[name]) for name in weights)
    assert not run.model.training
    assert run.open_data().fingerprint == run.record["data"]["fingerprint"]


def test_a_run_is_loaded_with_its_best_weights(trained_run, copied):
    run = pf.load_run(str(trained_run))
    assert not run.model.training
    assert run.classes == list("0123456789")
    assert run.preprocessing["values"] == "bytes / 256"
    assert (run.history.best(), len(run.history.step_losses)) == (run.best, 40)
    assert repr(run) == f"<Run {trained_run}: logistic, finished>"
    data = run.open_data()
    _, valid_dl = pf.get_data(data.train, data.valid, bs=64)
    with cpu_threads(run.record["fingerprint"]["threads"]):
        loss = pf.validate(run.model, torch.nn.functional.cross_entropy, valid_dl)["loss"]
    assert loss == run.best["valid_loss"]
    (copied / "best.safetensors").write_bytes(weights_to_bytes(pf.LogisticRegression(64, 10)))
    best = load_file(copied / "best.safetensors")
    assert torch.equal(pf.load_run(copied).model.lin.weight, best["lin.weight"])
    assert same(pf.load_run(copied, best=False).model, open_run(trained_run).model)


def test_a_run_without_the_weights_that_are_asked_for(copied, monkeypatch):
    (copied / "model.safetensors").unlink()  # as in a run that was killed
    assert len(pf.load_run(copied).classes) == 10
    with pytest.raises(RunError, match=r"must hold model.safetensors, which is written when the r"):
        pf.load_run(copied, best=False)
    (copied / "best.safetensors").unlink()
    with pytest.raises(RunError, match=r"must hold best.safetensors, .*best=False loads the last"):
        pf.load_run(copied)
    monkeypatch.chdir(copied.parent)
    for name in (copied.with_name("runn"), "ran"):
        with pytest.raises(RunError, match=r"and has none; did you mean 'run'\?$"):
            pf.load_run(name)


def test_lines_that_were_cut_off_are_counted(copied):
    for name in ("metrics.jsonl", "steps.csv"):
        path = copied / name
        path.write_text(path.read_text()[:-15])
    run = open_run(copied)
    assert (len(run.epochs), len(run.steps)) == (1, 39)
    assert run.notes == [
        "1 of the 2 lines of metrics.jsonl cannot be read: left out.",
        "1 of the 40 lines of steps.csv cannot be read: left out.",
    ]


def test_no_run_and_damaged_runs(copied, tmp_path):
    with pytest.raises(RunError, match=r"must be a run folder with a run.json, and has none"):
        open_run(tmp_path)
    (copied / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(RunError, match=r"must hold the weights of plainfit\.models\.networks:Log"):
        _ = open_run(copied).model
    (copied / "model.safetensors").unlink()
    with pytest.raises(RunError, match=r"must hold model.safetensors, .*: plainfit resume "):
        _ = open_run(copied).model
    (copied / "run.json").write_text("{}")
    with pytest.raises(RunError, match=r"run.json is damaged: it must have 'config', and lacks it"):
        open_run(copied)
    assert [line.state for line in list_runs(tmp_path)] == ["damaged"]


@pytest.mark.parametrize("name", ["model.safetensors", "metrics.jsonl", "steps.csv"])
def test_a_finished_run_gets_a_lost_file_anew(copied, trained_run, name, plainfit):
    (copied / name).unlink()
    code, out, error = plainfit("resume", copied)
    assert (code, error) == (0, "")
    assert "resumed in epoch 2, after 0 of its steps" in out
    assert (copied / name).read_bytes() == (trained_run / name).read_bytes()
    assert plainfit("resume", copied)[0] == 2  # nothing is missing now


def test_without_checkpoints_a_training_begins_again_and_says_so(copied, trained_run, plainfit):
    shutil.rmtree(copied / "checkpoints")
    code, out, _ = plainfit("resume", copied, "--epochs", 3)
    assert code == 0
    assert "\nnote   there is no checkpoint: the training begins again\n" in out
    assert (copied / "steps.csv").read_text().startswith((trained_run / "steps.csv").read_text())


def test_no_path_leads_to_a_run_s_own_files(copied, plainfit):
    """By another way to the folder, in capitals (as on macOS), and by each command."""
    checkpoint = next((copied / "checkpoints").iterdir())
    (copied.parent / "link").symlink_to(copied)
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    for name in [*sorted(path.name for path in copied.iterdir() if path.is_file()), checkpoint]:
        for path in (copied / name, copied.parent / "link/../run" / name):
            for each in (path, path.with_name(path.name.upper())):
                with pytest.raises(
                    ConfigError, match="must not be a run's own file or a study's; choose"
                ):
                    check_output(each)
    for arguments in (
        f"report {copied} --out",
        f"compare {copied} --out",
        f"export {copied} --force --out",
        f"eject {copied} --force --out",
        "lr-find --picture",
        "data digits --picture",
        "augment digits --augment light --picture",
    ):
        code, _, error = plainfit(*arguments.split(), copied / "best.safetensors")
        assert (code, error.count("must not be a run's own file")) == (2, 1)
    assert before == {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    check_output(copied / "report.html")
    check_output(copied.parent / "model.safetensors")
    study = copied.parent / "study"
    study.mkdir()
    (study / "study.jsonl").touch()
    for path in (
        study / "study.jsonl",
        study / ".host-3-0123abcd.lock",
        copied / "tracked" / "a" / "events",
        copied / "checkpoints" / "page.html",
    ):
        with pytest.raises(ConfigError, match="must not be a run's own file or a study's; choose"):
            check_output(path)


@pytest.mark.parametrize(
    "command", ["report", "predict", "runs", "compare", "eject", "train --out"]
)
def test_a_name_that_is_too_long_is_one_line(plainfit, command):
    words = [*command.split(), "x" * 300, *["a.png"] * (command == "predict")]
    code, out, error = plainfit(*words)
    assert (code, out, error.count("\n"), "--debug" in error) == (2, "", 1, False)


def test_a_run_whose_checkpoints_are_another_s_does_not_continue(copied, trained_run):
    shutil.rmtree(copied / "checkpoints")
    (copied / "checkpoints").symlink_to(trained_run / "checkpoints")
    before = sorted((trained_run / "checkpoints").iterdir())
    with pytest.raises(RunError, match="must be a folder, and is a link to"):
        resume(copied, epochs=9, echo=None)
    assert sorted((trained_run / "checkpoints").iterdir()) == before


def test_a_run_begins_beside_the_files_of_others_or_not_at_all(tmp_path):
    names = [".plainfit-0123456789abcdef.tmp", "first.safetensors", ".plainfit.lock"]
    for name in names:  # what a run leaves that was killed before its record was written
        (tmp_path / name).touch()
    config = RunConfig(model="logistic", epochs=1, out=tmp_path)
    (tmp_path / ".env-prod.tmpl").write_text("precious")
    with pytest.raises(RunError, match="must be new or empty"):
        train(config, echo=None)
    assert {path.name for path in tmp_path.iterdir()} == {*names[:2], ".env-prod.tmpl"}
    (tmp_path / ".env-prod.tmpl").unlink()
    train(config, echo=None)
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_data_that_has_changed(copied):
    change_config(copied, split_seed=1)
    with pytest.raises(DataError, match=r"must be what .*run was trained on, and digits has chan"):
        open_run(copied).open_data()
    with pytest.raises(DataError, match="has changed since"):
        resume(copied, epochs=3, echo=None)
    record = json.loads((copied / "run.json").read_text())
    record["data"]["classes"].reverse()  # of labels.csv, they were once sorted as texts
    (copied / "run.json").write_text(json.dumps(record))
    with pytest.raises(
        DataError, match=r"classes of digits are in another order or .* of an older"
    ):
        resume(copied, epochs=3, echo=None)


def test_the_best_epoch_is_never_one_whose_loss_is_nan(copied):
    rows = [json.loads(line) for line in (copied / "metrics.jsonl").read_text().splitlines()]
    rows[0]["valid_loss"] = float("nan")
    (copied / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (line,) = list_runs(copied.parent)
    assert line.best == rows[1]


def test_a_run_from_before_a_setting_has_its_default(copied, tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "digit.png")
    given = predict_images(open_run(copied), [tmp_path / "digit.png"], views=2, augment="light")
    change_config(copied, augment=None, seed=None, split_seed=None, keep_memory=None)
    run = open_run(copied)
    assert predict_images(run, [tmp_path / "digit.png"], views=2, augment="light") == given
    assert len(predict_images(run, [tmp_path / "digit.png"])) == 1
    assert export_run(run, "safetensors").difference == 0
    assert len(resume(copied, epochs=3, echo=None).history) == 3


def test_settings_that_an_older_plainfit_took_for_any_data(copied, plainfit):
    command = open_run(copied).config.command()
    change_config(copied, image_size=32, drop="id", missing="mean")
    run = open_run(copied)
    assert run.open_data().fingerprint == run.record["data"]["fingerprint"]
    assert (run.config.image_size, run.config.command()) == (None, command)
    assert len(resume(copied, epochs=3, echo=None).history) == 3
    code, _, err = plainfit("train", "--image-size", 32)
    assert (code, "--image-size is for a folder of images" in err) == (2, True)


def test_a_run_of_an_older_plainfit(tmp_path, plainfit):
    folder = tmp_path / "old"
    folder.mkdir()
    shutil.copy(OLD_RECORD, folder / "run.json")
    run = open_run(folder)
    model = run.factory.build()
    assert same(model, pf.get_model("cnn", input_shape=(1, 8, 8), device="cpu")[0])
    (folder / "model.safetensors").write_bytes(weights_to_bytes(model))
    assert same(run.model, model)
    assert run.open_data().counts() == run.record["data"]["counts"]
    assert run.config.command() == "plainfit train --model cnn --epochs 1"
    assert plainfit("summary", folder)[0] == 0
    assert plainfit("runs", tmp_path)[0] == 0
    assert plainfit("report", folder)[0] == 0


@pytest.mark.parametrize("old", MOVED)
def test_names_of_models_that_have_moved(old):
    names = {"plainfit.models": "MnistCNN", "plainfit.transfer.sources": "timm_model"}
    name = names.get(old, "resnet18")
    assert resolve(f"{old}:{name}").__module__ == MOVED[old]


def test_importing_a_users_module_leaves_the_path_as_it_is(tmp_path, monkeypatch):
    """Also where the module imports another one, and that only when the model is built."""
    (tmp_path / "their_sizes.py").write_text("WIDTH = 3\n")
    (tmp_path / "their_nets.py").write_text(
        "from torch import nn\n"
        "def small(in_features, classes):\n"
        "    from their_sizes import WIDTH\n"
        "    layers = nn.Linear(in_features, WIDTH), nn.Linear(WIDTH, classes)\n"
        "    return nn.Sequential(nn.Flatten(), *layers)\n"
    )
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    model, _ = pf.get_model("their_nets:small", device="cpu")
    assert sys.path == before
    del sys.modules["their_sizes"]
    assert same(model.plainfit_factory.build(), model)
    assert sys.path == before
    with pytest.raises(pf.PlainfitError, match="must import"):
        Factory("their_nothing:small", {}, 0).build()
    assert sys.path == before
    for name in ("their_sizes", "their_nets"):
        del sys.modules[name]
