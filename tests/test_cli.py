"""The command line as a person or a script uses it."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from plainfit.cli import app

SHORT = ["--epochs", "2", "--model", "logistic"]


def plainfit(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, as a shell would."""
    command = [sys.executable, "-m", "plainfit", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def test_train_reports_each_epoch_and_leaves_a_run(tmp_path):
    done = plainfit("train", *SHORT, "--out", tmp_path / "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[2].split() == [
        "epoch", "train_loss", "valid_loss", "accuracy", "seconds", "samples/s",
    ]  # fmt: skip
    assert [line.split()[0] for line in lines[3:5]] == ["0", "1"]
    assert re.search(r"^test   accuracy 0\.\d{4}, loss \d\.\d{4}$", done.stdout, re.MULTILINE)
    assert f"run    {tmp_path / 'run'}" in lines
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "curves.png", "metrics.jsonl", "model.safetensors", "run.json",
    ]  # fmt: skip
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["state"] == "finished"
    assert record["config"]["model"] == "logistic"
    assert record["model"]["arguments"] == {"in_features": 64, "classes": 10}
    assert record["fingerprint"]["torch"] == torch.__version__
    assert len(record["data"]["fingerprint"]) == 64
    logged = [
        json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().split("\n")[:-1]
    ]
    assert [row["epoch"] for row in logged] == [0, 1]
    assert logged[-1] == record["last"]
    with Image.open(tmp_path / "run" / "curves.png") as picture:
        assert picture.width > 600


def test_the_same_seed_gives_the_same_bits_and_another_does_not(tmp_path):
    weights = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        done = plainfit("train", "--epochs", 1, "--seed", seed, "--out", tmp_path / name)
        assert done.returncode == 0, done.stderr
        weights.append(load_file(tmp_path / name / "model.safetensors"))
    first, second, other = weights
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["fc.weight"], other["fc.weight"])


def test_json_is_one_object_and_nothing_else(tmp_path):
    done = plainfit("train", *SHORT, "--json", "--out", tmp_path / "run")
    result = json.loads(done.stdout)
    assert [row["epoch"] for row in result["epochs"]] == [0, 1]
    assert result["run"] == str(tmp_path / "run")
    assert 0 < result["test"]["accuracy"] <= 1
    layers = json.loads(plainfit("summary", tmp_path / "run", "--json").stdout)
    assert layers["parameters"] == 64 * 10 + 10
    found = json.loads(plainfit("data", "digits", "--json", cwd=tmp_path).stdout)
    assert found["counts"] == {"train": 1259, "valid": 269, "test": 269}
    assert sum(found["class_counts"]["train"]) == 1259
    with Image.open(tmp_path / "digits-samples.png") as picture:
        assert picture.width > 600


def test_predict_recognises_a_training_image(tmp_path):
    from plainfit.data.sources import open_data

    done = plainfit("train", "--epochs", "5", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    images, labels = open_data("digits").train.tensors
    path = tmp_path / "digit.png"
    Image.fromarray(images[0, 0].numpy()).save(path)
    (result,) = json.loads(plainfit("predict", tmp_path / "run", path, "--json").stdout)
    assert result["class"] == str(labels[0].item())
    assert sum(result["probabilities"].values()) == pytest.approx(1)
    line = plainfit("predict", tmp_path / "run", path).stdout
    assert line.startswith(f"{path}: {labels[0].item()} ")


def test_summary_of_a_built_in_model_counts_as_torch_does():
    done = plainfit("summary", "cnn", "--input-shape", "3,32,32", "--classes", "5")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^conv1 +Conv2d +16x16x16 +448$", done.stdout, re.MULTILINE)
    total = (3 * 9 * 16 + 16) + (16 * 9 * 16 + 16) + (16 * 9 * 5 + 5)
    assert re.search(rf"^all +{total:,}$", done.stdout, re.MULTILINE)


def test_a_model_of_the_users_own(tmp_path):
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n"
        "def small(in_features, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(in_features, classes))\n"
    )
    done = plainfit("train", "--model", "nets:small", "--epochs", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.endswith("-digits-small")
    assert plainfit("summary", run, cwd=tmp_path).returncode == 0


def test_help_is_quick_and_loads_no_torch():
    code = "import sys; sys.argv = ['plainfit', '--help']\n" + (
        "from plainfit.cli import main\ntry: main()\n"
        "except SystemExit: assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        assert "train" in plainfit("--help").stdout
        times.append(time.perf_counter() - started)
    assert min(times) < 0.3, times


# Scripts depend on these names. A change here is a change of the interface: say it in CHANGELOG.md.
OPTIONS = {
    "train": """--batch-size --data --data-dir --debug --device --epochs --help --image-size --json
        --lr --memory-budget --model --momentum --optimizer --out --seed --skip-bad --split-seed
        --target""",
    "predict": "--debug --help --json",
    "data": """--data-dir --debug --help --image-size --json --memory-budget --picture --skip-bad
        --split-seed --target""",
    "summary": "--classes --debug --help --input-shape --json",
    "ladder": """--data --data-dir --debug --epochs --help --json --rungs --scratch --seed
        --split-seed""",
    "ladder show": "--debug --help",
    "ladder diff": "--debug --help --side-by-side",
    "ladder copy": "--data --data-dir --debug --force --help --split-seed",
    "ladder repeat": "--data --data-dir --debug --help --json --seeds --split-seed --workers",
    "notebook": "--debug --force --help --lang --no-open --open",
}


@pytest.mark.parametrize("command", OPTIONS)
def test_options_are_frozen(command):
    text = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*command.split(), "--help"]).stdout
    assert sorted(set(re.findall(r"--[a-z][a-z-]+", text))) == OPTIONS[command].split()


def test_the_commands_are_frozen():
    text = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["--help"]).stdout
    listed = text[text.index("Commands") :]
    assert re.findall(r"^│ (\w+)", listed, re.MULTILINE) == [
        "train", "predict", "data", "summary", "notebook", "ladder",
    ]  # fmt: skip
    assert plainfit("--version").stdout.startswith("plainfit 0.")


def test_without_arguments_it_shows_the_help_and_nothing_else():
    done = plainfit()
    assert done.returncode == 2
    assert "Commands" in done.stdout
    assert done.stderr == ""


def test_ctrl_c_stops_with_130_and_keeps_the_figures(tmp_path):
    command = [sys.executable, "-m", "plainfit", "train", "--epochs", "100000", "--model", "mlp"]
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "run")],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    figures = tmp_path / "run" / "metrics.jsonl"
    while not figures.exists() or figures.stat().st_size < 1000:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stderr.strip() == "stopped"
    assert all(json.loads(line)["train_loss"] > 0 for line in figures.read_text().splitlines())
