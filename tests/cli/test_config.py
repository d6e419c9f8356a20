"""Settings in a file: `--config`, `--print-config` and `init`."""

import json
import re
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from plainfit.cli.config import read_config, to_toml
from plainfit.common.devices import bf16_pays
from plainfit.data.open_data import open_data
from plainfit.runs.settings import RunConfig, preset

AWKWARD = 'it\'s "a" \\ b\n\t\x07\x7f\x85 é 数 😀 #[data]'


def printed(plainfit, *arguments):
    """Return the settings that a training would have, by `--print-config --json`."""
    code, out, err = plainfit("train", *arguments, "--print-config", "--json")
    assert (code, err) == (0, "")
    return RunConfig.from_dict(json.loads(out))


def test_a_file_a_run_and_its_record_give_the_same_training(plainfit, tmp_path):
    (tmp_path / "a.toml").write_text(
        '[model]\nmodel = "logistic"\n[optimizer]\nlr = 0.05\nnesterov = true\n'
        '[training]\nepochs = 3\nkeep_memory = false\nout = "first"\n'
    )
    code, _, err = plainfit("train", "--config", "a.toml", "--epochs", 2)
    assert code == 0, err
    chosen = {"model": "logistic", "optimizer": "sgd", "lr": 0.05, "nesterov": True}
    wanted = RunConfig(**chosen, epochs=2, keep_memory=False)
    record = json.loads((tmp_path / "first" / "run.json").read_text())
    assert record["config"] == wanted.to_dict() | {"out": "first"}
    assert printed(plainfit, "--config", "first") == wanted
    assert plainfit("train", "--config", "first/run.json", "--out", "second")[0] == 0
    weights = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("first", "second")]
    assert weights[0] == weights[1]


def test_the_command_line_wins_then_the_file_the_preset_and_the_defaults(plainfit, tmp_path):
    (tmp_path / "a.toml").write_text(
        '[training]\nepochs = 10\nbatch_size = 64\nprecision = "bf16"\n[optimizer]\nlr = "auto"\n'
    )
    found = printed(plainfit, "--preset", "fast", "--batch-size", 32, "--config", "a.toml")
    fast = preset("fast")
    assert found == RunConfig(**fast | {"epochs": 10, "batch_size": 32, "lr": "auto"})
    assert (found.precision, fast["epochs"]) == ("bf16", 6)


def test_the_command_line_switches_off_what_a_preset_or_a_file_switches_on(plainfit, tmp_path):
    (tmp_path / "a.toml").write_text("[training]\ndrop_last = true\n")
    words = ("--preset", "fast", "--config", "a.toml")
    names = ("channels_last", "nesterov", "drop_last")
    for options, wanted in (((), True), (["--no-" + n.replace("_", "-") for n in names], False)):
        found = printed(plainfit, *words, *options)
        assert [getattr(found, name) for name in names] == [wanted] * 3


@pytest.mark.parametrize(
    "config",
    [
        RunConfig(),
        RunConfig(**preset("accurate")),
        RunConfig(data=AWKWARD, data_dir=Path("a b"), target=AWKWARD, out=Path(AWKWARD)),
        RunConfig(lr=1e-05, time_limit=100, clip=1e38, seed=2**62 + 1, keep_memory=False),
        RunConfig(lr="auto", detect_anomaly=True, model_args="width=8, blocks=(2, 2)"),
    ],
)
def test_what_is_printed_is_read_back(config, tmp_path):
    path = tmp_path / "a.toml"
    path.write_text(to_toml(config, ["a comment", AWKWARD]), encoding="utf-8")
    assert RunConfig.from_dict(read_config(path)) == config
    default = RunConfig().to_dict()
    named = {name for table in tomllib.loads(path.read_text()).values() for name in table}
    assert named == {n for n, value in config.to_dict().items() if value != default[n]}


def test_what_is_commented_out_is_the_default(plainfit, tmp_path):
    code, text, _ = plainfit("train", "--print-config")
    assert code == 0
    assert "# Passes over the training data.\n#epochs = 10\n" in text
    text = re.sub(r"^#(\w+ =.)", r"\1", text, flags=re.MULTILINE)
    (tmp_path / "a.toml").write_text(text)
    given = read_config(tmp_path / "a.toml")
    assert {"epochs": 10, "keep_memory": True}.items() <= given.items()
    assert RunConfig.from_dict(given) == RunConfig()
    assert list(tmp_path.iterdir()) == [tmp_path / "a.toml"]  # nothing was trained


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("epochs = 3", "a.toml: epochs must be in a group, such as [training]"),
        ("[modle]\n", "a.toml: unknown group 'modle': choose from data, model, optimizer, "
         "training, transfer; did you mean 'model'?"),
        ("[training]\nbatch-size = 3", "a.toml: unknown setting of training 'batch-size': choose "),
        ("[training]\nepoch = 3", "did you mean 'epochs'?"),
        ("[model]\nlr = 0.1", "a.toml: lr must be in the group [optimizer]"),
        ("[training]\nepochs = '3'", "a.toml: epochs must be a whole number, got '3'"),
        ("[training]\nepochs = 0", "a.toml: epochs must be at least 1 and at most"),
        ("[model]\nmodel_args = '3'", "a.toml: model_args must be names with values"),
        ("[optimizer]\nschedule = 'cosin'", "a.toml: unknown schedule 'cosin'"),
        ("[training]\nout = 2026-01-31", "a.toml: out must be a path or null, got"),
        ("[training", "a.toml must be a TOML file or a run folder, and failed with TOMLDecodeE"),
        (None, "a.toml must be a TOML file or a run folder, and failed with FileNotFoundError"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_one_line_that_names_it(plainfit, tmp_path, text, says):
    if text is not None:
        (tmp_path / "a.toml").write_text(text)
    code, out, err = plainfit("train", "--config", "a.toml")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err


def test_the_run_of_a_fine_tuning_names_its_own_command(plainfit, trained_run, tmp_path):
    shutil.copytree(trained_run, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    record["config"] |= {"source": "resnet18", "model": "resnet18"}
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    for command in ("train", "tune"):
        assert plainfit(command, "--config", "run") == (
            2, "", f"error: run must have settings of {command}, and source is one of a "
            "fine-tuning: plainfit fine-tune --config run\n",
        )  # fmt: skip


def test_a_fine_tuning_repeats_from_its_run_and_from_what_it_prints(
    plainfit, trained_run, tmp_path
):
    options = ("--model", "mlp", "--epochs", 1, "--precision", "bf16", "--out", "mlp")
    assert plainfit("train", *options)[0] == 0
    assert plainfit("fine-tune", "mlp", "--epochs", 2, "--lr-ratio", 8, "--out", "first")[0] == 0
    _, text, _ = plainfit("fine-tune", "--config", "first", "--lr", 0.1, "--print-config")
    (tmp_path / "a.toml").write_text(text)
    _, found, _ = plainfit("fine-tune", "--config", "a.toml", "--print-config", "--json")
    wanted = RunConfig(source="mlp", model="mlp", optimizer="sgd", epochs=2, lr_ratio=8, lr=0.1)
    assert RunConfig.from_dict(json.loads(found)) == wanted
    assert plainfit("fine-tune", "--config", "a.toml", "--lr", 0.2, "--out", "second")[0] == 0
    assert plainfit("fine-tune", "--config", "first", "--lr", 0.2, "--out", "third")[0] == 0
    weights = [(tmp_path / r / "model.safetensors").read_bytes() for r in ("second", "third")]
    assert weights[0] == weights[1]
    # The settings of a training, whose model is not that of the source.
    code, found, _ = plainfit(
        "fine-tune", "mlp", "--config", trained_run, "--print-config", "--json"
    )
    wanted = RunConfig(source="mlp", model="mlp", optimizer="sgd", epochs=2)
    assert (code, RunConfig.from_dict(json.loads(found))) == (0, wanted)


def test_init_writes_a_file_that_trains(plainfit, tmp_path):
    code, out, err = plainfit("init", "digits", "--split-seed", 3)
    assert code == 0, err
    text = (tmp_path / "run.toml").read_text()
    assert "# 10 classes, with 122 to 129 samples for train\n" in text
    assert "compact for small images; 100 epochs in batches of 64, 2,000 steps in all" in out
    assert out.endswith("file   run.toml\nnext   plainfit train --config run.toml\n")
    config = RunConfig.from_dict(read_config(tmp_path / "run.toml"))
    assert (config.data, config.split_seed, config.model) == ("digits", 3, "compact")
    code, _, err = plainfit("train", "--config", "run.toml", "--epochs", 1)
    assert code == 0, err
    assert plainfit("init", "digits") == (
        2, "", "error: --force must be set to overwrite run.toml, which exists\n",
    )  # fmt: skip
    assert (tmp_path / "run.toml").read_text() == text
    assert plainfit("init", "digits", "--force")[0] == 0


def test_init_says_how_it_read_a_table(plainfit, tmp_path):
    rows = "".join(f"{i};{i % 7},5;{'ab'[i % 2]}\n" for i in range(186))
    (tmp_path / "t.csv").write_text(f"row;x;kind\n{rows}")
    code, out, err = plainfit("init", "t.csv", "--target", "kind", "--drop", "row", "-o", "t.toml")
    assert code == 0, err
    config = RunConfig.from_dict(read_config(tmp_path / "t.toml"))
    assert (config.model, config.target, config.drop) == ("tabular", "kind", "row")
    saw = open_data("t.csv", target="kind", drop="row")
    assert [line[6:] for line in out.splitlines() if line.startswith("note: ")] == list(saw.notes)
    assert saw.notes
    assert all(f"# note: {note}\n" in (tmp_path / "t.toml").read_text() for note in saw.notes)


@pytest.mark.parametrize(
    ("target", "wanted"), [("tags", ("resnet", "adamw")), ("masks", ("unet", "adamw"))]
)
def test_init_chooses_what_trains_on_images_of_no_class(plainfit, tmp_path, target, wanted):
    rows = ["file,tags"]
    (tmp_path / "d/images").mkdir(parents=True)
    (tmp_path / "d/masks").mkdir()
    for number in range(12):
        image = Image.fromarray(np.eye(8, k=number % 5, dtype=np.uint8))
        image.save(tmp_path / f"d/images/{number}.png")
        image.save(tmp_path / f"d/masks/{number}.png")
        rows.append(f"{number}.png,{['a', 'b', 'a|b'][number % 3]}")
    if target == "tags":
        shutil.rmtree(tmp_path / "d/masks")
        (tmp_path / "d/labels.csv").write_text("\n".join(rows))
    code, _, err = plainfit("init", "d")
    assert code == 0, err
    config = RunConfig.from_dict(read_config(tmp_path / "run.toml"))
    assert (config.model, config.optimizer) == wanted
    code, _, err = plainfit("train", "--config", "run.toml", "--epochs", 1)
    assert code == 0, err


def test_init_leaves_out_a_last_batch_of_one(plainfit, tmp_path):
    x, y = np.zeros((129, 3, 80, 80), np.uint8), np.arange(129) % 2
    valid = {"x_valid": x[:4], "y_valid": y[:4], "x_test": x[:4], "y_test": y[:4]}
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, **valid)
    code, out, err = plainfit("init", "a.npz")
    assert code == 0, err
    assert "100 epochs in batches of 64, 200 steps in all" in out
    found = read_config(tmp_path / "run.toml")
    assert (found["drop_last"], found["model"]) == (True, "resnet18")


def test_the_run_of_a_stranger_names_no_code_to_import(plainfit, trained_run, tmp_path):
    source = "from plainfit.models.networks import MLP\nclass Net(MLP): pass\n"
    (tmp_path / "nets.py").write_text(source)
    assert plainfit("train", "--model", "nets:Net", "--epochs", 1, "--out", "own")[0] == 0
    assert printed(plainfit, "--config", "own") == RunConfig(
        model="nets:Net", optimizer="sgd", epochs=1
    )
    (tmp_path / "nets.py").write_text(source + "open('IMPORTED', 'w')\n")
    code, out, err = plainfit("train", "--config", "own")
    assert (code, out) == (2, "")
    assert err.startswith("error: own must name code that is trusted, and ")
    assert err.endswith("read it, then give the settings as options or in a TOML file\n")
    assert not (tmp_path / "IMPORTED").exists()


@pytest.mark.parametrize(
    ("known", "pays"),
    [
        ({}, True),  # another torch, which does not say
        ({"cpu_name": "AMD EPYC"}, False),
        ({"cpu_name": "AMD EPYC", "avx512_bf16": True}, True),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True}, False),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": True}, True),
        ({"cpu_name": "Neoverse-V1", "bf16": True}, True),
    ],
)
def test_bf16_pays_by_the_instructions_of_the_processor(known, pays, monkeypatch):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: known, raising=False)
    assert bf16_pays(torch.device("cpu")) is pays


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_printed_preset_has_the_precision_of_this_processor(
    plainfit, tmp_path, monkeypatch, precision
):
    monkeypatch.setattr("plainfit.common.devices.bf16_pays", lambda device: precision == "bf16")
    code, text, err = plainfit("train", "--preset", "fast", "--print-config")
    assert (code, "fp32 in place of bf16" in err) == (0, precision == "fp32")
    (tmp_path / "a.toml").write_text(text)
    assert printed(plainfit, "--config", "a.toml") == RunConfig(
        **preset("fast") | {"precision": precision}
    )
