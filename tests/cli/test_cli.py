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
        "best.safetensors", "checkpoints", "curves.png", "metrics.jsonl", "model.safetensors",
        "run.json", "steps.csv",
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
    from plainfit.data.open_data import open_data

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
    while len(times) < 5 or (min(times) >= 0.3 and len(times) < 30):  # other tests run beside it
        started = time.perf_counter()
        assert "train" in plainfit("--help").stdout
        times.append(time.perf_counter() - started)
    assert min(times) < 0.3, times


# Scripts depend on these names. A change here is a change of the interface: say it in CHANGELOG.md.
OPTIONS = {
    "train": """--accumulate --augment --average --batch-size --channels-last --checkpoint-every
        --clip --compile --data --data-dir --debug --detect-anomaly --device --epochs --fused --help
        --image-size --json --keep-memory --label-smoothing --lr --memory-budget --model
        --model-args --momentum --nesterov --no-keep-memory --optimizer --out --overfit-one-batch
        --patience --precision --preset --schedule --seed --skip-bad --split-seed --target
        --threads --time-limit --track --weight-decay""",
    "fine-tune": """--accumulate --augment --average --batch-size --channels-last --checkpoint-every
        --clip --compile --data --data-dir --debug --detect-anomaly --device --epochs
        --freeze-epochs --fused --gradual --help --image-size --json --keep-memory
        --label-smoothing --lr --lr-ratio --memory-budget --model --model-args --momentum --nesterov
        --no-keep-memory --optimizer --out --overfit-one-batch --patience --precision --schedule
        --seed --skip-bad --split-seed --target --threads --time-limit --track --weight-decay""",
    "resume": "--debug --epochs --help --json",
    "lr-find": """--batch-size --data --data-dir --debug --device --help --image-size --json
        --memory-budget --model --momentum --optimizer --picture --seed --skip-bad --split-seed
        --target""",
    "tune": """--accumulate --augment --average --batch-size --channels-last --checkpoint-every
        --clip --compile --data --data-dir --debug --detect-anomaly --device --epochs --fused --help
        --image-size --json --keep-memory --label-smoothing --lr --memory-budget --model
        --model-args --momentum --monitor --nesterov --no-keep-memory --optimizer --out
        --overfit-one-batch --patience --precision --pruner --repeat --schedule --search --seed
        --seeds --skip-bad --space --split-seed --storage --target --threads --time-limit --track
        --trials --weight-decay""",
    "runs": "--debug --help --json",
    "report": "--debug --help --out",
    "compare": "--debug --help --json --out",
    "export": "--debug --force --format --help --json --out",
    "eject": "--all --debug --force --help --inline --out --rung --steps --verify",
    "predict": "--augment --debug --help --json --tta",
    "augment": """--augment --data-dir --debug --help --image-size --json --memory-budget --picture
        --seed --skip-bad --split-seed --target""",
    "data": """--data-dir --debug --help --image-size --json --memory-budget --only --picture
        --skip-bad --split-seed --target --write""",
    "summary": "--classes --debug --help --input-shape --json",
    "ladder": """--data --data-dir --debug --epochs --help --json --rungs --scratch --seed
        --split-seed""",
    "ladder show": "--debug --help",
    "ladder diff": "--debug --help --side-by-side",
    "ladder copy": "--data --data-dir --debug --force --help --split-seed",
    "notebook": "--debug --force --help --lang --no-open --open",
}


@pytest.mark.parametrize("command", OPTIONS)
def test_options_are_frozen(command):
    text = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*command.split(), "--help"]).stdout
    assert sorted(set(re.findall(r"--[a-z][a-z-]+", text))) == OPTIONS[command].split()


def test_the_commands_are_frozen():
    text = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["--help"]).stdout
    listed = text[text.index("Commands") :]
    assert re.findall(r"^│ ([\w-]+)", listed, re.MULTILINE) == [
        "train", "fine-tune", "resume", "lr-find", "tune", "predict", "data", "augment",
        "summary", "runs", "report", "compare", "export", "eject", "notebook", "ladder",
    ]  # fmt: skip
    assert plainfit("--version").stdout.startswith("plainfit 0.")


def test_without_arguments_it_shows_the_help_and_nothing_else():
    done = plainfit()
    assert done.returncode == 2
    assert "Commands" in done.stdout
    assert done.stderr == ""


def started(folder, *options):
    """Start a long training and return its process, once it has done some epochs."""
    command = [sys.executable, "-m", "plainfit", "train", "--model", "mlp", *options]
    process = subprocess.Popen(
        [*command, "--out", str(folder)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    figures = folder / "metrics.jsonl"
    while not figures.exists() or figures.stat().st_size < 1000:
        assert process.poll() is None
        time.sleep(0.02)
    return process


@pytest.mark.parametrize(("kind", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_and_resume_goes_on_to_the_same_bits(tmp_path, kind, code):
    options = ["--epochs", "400", "--schedule", "one-cycle", "--average", "0.9", "--clip", "1"]
    process = started(tmp_path / "run", *options)
    process.send_signal(kind)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == code
    assert f"go on with: plainfit resume {tmp_path / 'run'}" in stdout
    assert stderr.strip() in ("", "stopped")
    listing = plainfit("runs", tmp_path).stdout
    assert re.search(r"^run +interrupted +\d+/400 ", listing, re.MULTILINE)
    resumed = plainfit("resume", tmp_path / "run")
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed in epoch " in resumed.stdout
    whole = plainfit("train", "--model", "mlp", *options, "--out", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    for name in ("model.safetensors", "best.safetensors", "steps.csv"):
        parts = [(tmp_path / run / name).read_bytes() for run in ("run", "whole")]
        assert parts[0] == parts[1], name


def test_a_run_that_has_finished_goes_on_with_more_epochs_only(tmp_path):
    run = tmp_path / "run"
    assert plainfit("train", *SHORT, "--out", run).returncode == 0
    done = plainfit("resume", run)
    assert done.returncode == 2
    assert "has finished its 2: plainfit resume" in done.stderr
    assert plainfit("resume", run, "--epochs", 4).returncode == 0
    assert plainfit("train", "--model", "logistic", "--epochs", 4, "--out", tmp_path / "whole")
    weights = [(tmp_path / n / "model.safetensors").read_bytes() for n in ("run", "whole")]
    assert weights[0] == weights[1]


def test_a_loss_that_is_not_finite_is_one_line_and_exit_code_1(tmp_path):
    done = plainfit("train", *SHORT, "--lr", "1e38", "--out", tmp_path / "run")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert re.search(r"the loss must be finite, and is \w+ in epoch 0, step \d+", done.stderr)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "failed"


def test_the_rate_is_found_and_recorded(tmp_path):
    done = plainfit("train", *SHORT, "--lr", "auto", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    rate = json.loads((tmp_path / "run" / "run.json").read_text())["config"]["lr"]
    assert f"lr     {rate:g}, the valley" in done.stdout
    found = json.loads(plainfit("lr-find", "--model", "logistic", "--json", cwd=tmp_path).stdout)
    assert float(f"{found['valley']:.2g}") == rate
    with Image.open(tmp_path / "lr-find.png") as picture:
        assert picture.width > 600


def test_report_compare_and_export(tmp_path):
    for name, epochs in (("a", 1), ("b", 2)):
        done = plainfit(
            "train", "--model", "logistic", "--epochs", epochs, "--out", tmp_path / name
        )
        assert done.returncode == 0, done.stderr
    assert plainfit("report", tmp_path / "a").stdout == f"report {tmp_path / 'a' / 'report.html'}\n"
    assert "<svg" in (tmp_path / "a" / "report.html").read_text()
    done = plainfit("compare", tmp_path / "a", tmp_path / "b", cwd=tmp_path)
    assert re.search(r"^epochs +1 +2$", done.stdout, re.MULTILINE)
    assert (tmp_path / "comparison.html").exists()
    done = plainfit("export", tmp_path / "b", "--format", "torch-export")
    assert "scores differ by at most 0.0e+00" in done.stdout
    done = plainfit("export", tmp_path / "b", "--format", "onx")
    assert (done.returncode, "did you mean 'onnx'" in done.stderr) == (2, True)


def test_track_and_the_other_settings(tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    done = plainfit(
        "train", *SHORT, "--track", "tensorboard", "--accumulate", 2, "--patience", 1,
        "--time-limit", 100, "--checkpoint-every", 5, "--out", tmp_path / "run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "run" / "tracked").glob("events.*"))
    for options in (["--track", "tensorbord"], ["--schedule", "onecycle"], ["--lr", "fast"]):
        assert plainfit("train", *options).returncode == 2
