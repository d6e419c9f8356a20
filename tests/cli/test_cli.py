"""The command line as a person or a script uses it.

Commands run in this process; those of which the process is the point have one of their own.
"""

import ast
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from pdb import Pdb

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from killing import output_of
from plainfit.cli import main
from plainfit.common.devices import bf16_pays
from plainfit.data.open_data import open_data
from plainfit.runs import settings
from plainfit.training.program_cache import keep

SHORT = ("--epochs", 2, "--model", "logistic")


def test_train_reports_each_epoch_and_leaves_a_run(plainfit, tmp_path, curves):
    code, out, err = plainfit("train", *SHORT, "--out", "run")
    assert code == 0, err
    lines = out.splitlines()
    assert lines[2].split() == [
        "epoch", "train_loss", "valid_loss", "accuracy", "seconds", "samples/s",
    ]  # fmt: skip
    assert [line.split()[0] for line in lines[3:5]] == ["0", "1"]
    assert re.search(r"^test   accuracy 0\.\d{4}, loss \d\.\d{4}$", out, re.MULTILINE)
    assert "run    run" in lines
    run = tmp_path / "run"
    assert sorted(path.name for path in run.iterdir()) == [
        "best.safetensors", "checkpoints", "curves.png", "metrics.jsonl", "model.safetensors",
        "run.json", "steps.csv",
    ]  # fmt: skip
    record = json.loads((run / "run.json").read_text())
    assert record["state"] == "finished"
    assert record["config"]["model"] == "logistic"
    assert record["model"]["arguments"] == {"in_features": 64, "classes": 10}
    assert record["fingerprint"]["torch"] == torch.__version__
    assert len(record["data"]["fingerprint"]) == 64
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in logged] == [0, 1]
    assert logged[-1] == record["last"]
    with Image.open(run / "curves.png") as picture:
        assert picture.width > 600


def test_the_same_seed_gives_the_same_bits_and_another_does_not(plainfit, trained_run, tmp_path):
    for name, seed in (("b", 0), ("c", 1)):
        assert plainfit("train", *SHORT, "--seed", seed, "--out", name)[0] == 0
    folders = trained_run, tmp_path / "b", tmp_path / "c"
    first, second, other = (load_file(path / "model.safetensors") for path in folders)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["lin.weight"], other["lin.weight"])


def test_json_is_one_object_and_nothing_else(plainfit, trained_run, tmp_path):
    result = json.loads(plainfit("train", *SHORT, "--json", "--out", "run")[1])
    assert [row["epoch"] for row in result["epochs"]] == [0, 1]
    assert result["run"] == "run"
    assert 0 < result["test"]["accuracy"] <= 1
    layers = json.loads(plainfit("summary", trained_run, "--json")[1])
    assert layers["parameters"] == 64 * 10 + 10
    found = json.loads(plainfit("data", "digits", "--json")[1])
    assert found["counts"] == {"train": 1259, "valid": 269, "test": 269}
    assert sum(found["class_counts"]["train"]) == 1259
    with Image.open(tmp_path / "digits-samples.png") as picture:
        assert picture.width > 600


def test_predict_recognises_training_images(plainfit, trained_run, tmp_path):
    images, labels = open_data("digits").train.tensors
    paths = [tmp_path / f"{number}.png" for number in range(20)]
    for path, image in zip(paths, images, strict=False):
        Image.fromarray(image[0].numpy()).save(path)
    results = json.loads(plainfit("predict", trained_run, *paths, "--json")[1])
    right = [r["class"] == str(int(label)) for r, label in zip(results, labels, strict=False)]
    assert sum(right) >= 15
    assert sum(results[0]["probabilities"].values()) == pytest.approx(1)
    line = plainfit("predict", trained_run, paths[0])[1]
    assert line.startswith(f"{paths[0]}: {results[0]['class']} 0.")


def test_summary_of_a_built_in_model_counts_as_torch_does(plainfit):
    code, out, _ = plainfit("summary", "cnn", "--input-shape", "3,32,32", "--classes", "5")
    assert code == 0
    assert re.search(r"^conv1 +Conv2d +16x16x16 +448$", out, re.MULTILINE)
    total = (3 * 9 * 16 + 16) + (16 * 9 * 16 + 16) + (16 * 9 * 5 + 5)
    assert re.search(rf"^all +{total:,}$", out, re.MULTILINE)


def test_a_folder_does_not_hide_what_has_its_name(plainfit, trained_run, tmp_path):
    for name in ("cnn", "resnet18", "digits"):
        (tmp_path / name).mkdir()
    code, out, err = plainfit("summary", "cnn")
    assert (code, "conv3" in out) == (0, True), err
    assert plainfit("summary", "./cnn")[2] == (
        "error: cnn must be a run folder with a run.json, and has none\n"
    )
    shutil.copytree(trained_run, tmp_path / "mlp")
    assert "lin" in plainfit("summary", "./mlp")[1]
    assert "hidden.0" in plainfit("summary", "mlp")[1]
    _, _, err = plainfit("fine-tune", "resnet18", "--model", "cnn")
    assert err == (
        "error: --model is for files of weights, and resnet18 names its own: leave it out\n"
    )
    assert plainfit("data", "digits")[0] == 0


def test_a_model_of_the_users_own(plainfit, tmp_path):
    """It may import another module of the current folder as late as when it is called."""
    (tmp_path / "nets_helpers.py").write_text("def doubled(x): return 2 * x\n")
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n"
        "class small(nn.Sequential):\n"
        "    def __init__(self, in_features, classes):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(in_features, classes))\n"
        "    def forward(self, xb):\n"
        "        from nets_helpers import doubled\n"
        "        return doubled(super().forward(xb))\n"
    )
    code, _, err = plainfit("train", "--model", "nets:small", "--epochs", 1)
    assert code == 0, err
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.endswith("-digits-small")
    assert plainfit("summary", run)[0] == 0


SMALLEST = """
import typer
app = typer.Typer()
app.command()(lambda: None)
app.command()(lambda: None)
app()
"""


def test_help_loads_no_package_that_the_smallest_program_does_not():
    assert packages_of("from plainfit.cli import main\nmain()") - packages_of(SMALLEST) == {
        "plainfit"
    }


def packages_of(program):
    show = "import atexit, sys\natexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
    done = subprocess.run(
        [sys.executable, "-c", show + program, "--help"], check=True, capture_output=True, text=True
    )
    packages = {name.partition(".")[0] for name in done.stderr.split()}
    return packages - sys.stdlib_module_names


# Scripts depend on these names. A change here is a change of the interface: say it in CHANGELOG.md.
OPTIONS = {
    "train": """--accumulate --augment --average --batch-size --categorical --channels-last
        --checkpoint-every --class-weights --clip --compile --config --data --data-dir --debug
        --decimal --delimiter --detect-anomaly --device --drop --drop-last --embed-above --encoding
        --epochs --fsdp --fused --group-by --help --image-mode --image-size --json --keep-memory
        --label-smoothing --loss --lr --max-restarts --memory-budget --metrics --missing --model
        --model-args --momentum --monitor --na --nesterov --numeric --optimizer --optimizer-args
        --order-by --out --overfit-one-batch --patience --precision --preset --print-config
        --processes --reduce --resize --sampler --schedule --seed --shards --skip-bad --split-seed
        --stratify --sync-batch-norm --target --task --test-share --text --threads --time-limit
        --track --valid-share --weight-decay""",
    "fine-tune": """--accumulate --augment --average --batch-size --categorical --channels-last
        --checkpoint-every --class-weights --clip --compile --config --data --data-dir --debug
        --decimal --delimiter --detect-anomaly --device --drop --drop-last --embed-above --encoding
        --epochs --freeze-epochs --fsdp --fused --gradual --group-by --help --image-mode
        --image-size --json --keep-memory --label-smoothing --loss --lr --lr-ratio --max-restarts
        --memory-budget --metrics --missing --model --model-args --momentum --monitor --na
        --nesterov --numeric --optimizer --optimizer-args --order-by --out --overfit-one-batch
        --patience --precision --print-config --processes --reduce --resize --sampler --schedule
        --seed --shards --skip-bad --split-seed --stratify --sync-batch-norm --target --task
        --test-share --text --threads --time-limit --track --trust-code --valid-share
        --weight-decay""",
    "resume": "--debug --epochs --help --json --max-restarts --processes --trust-code",
    "lr-find": """--batch-size --categorical --data --data-dir --debug --decimal --delimiter
        --device --drop --drop-last --embed-above --encoding --group-by --help --image-mode
        --image-size --json --memory-budget --missing --model --momentum --na --numeric --optimizer
        --optimizer-args --order-by --picture --resize --seed --skip-bad --split-seed --stratify
        --target --task --test-share --text --valid-share""",
    "tune": """--accumulate --augment --average --batch-size --categorical --channels-last
        --checkpoint-every --class-weights --clip --compile --config --data --data-dir --debug
        --decimal --delimiter --detect-anomaly --device --drop --drop-last --embed-above --encoding
        --epochs --fsdp --fused --group-by --help --image-mode --image-size --json --keep-memory
        --label-smoothing --loss --lr --memory-budget --metrics --missing --mode --model
        --model-args --momentum --monitor --na --nesterov --numeric --optimizer --optimizer-args
        --order-by --out --overfit-one-batch --patience --precision --processes --pruner --reduce
        --repeat --resize --sampler --schedule --search --seed --seeds --shards --skip-bad --space
        --split-seed --storage --stratify --sync-batch-norm --target --task --test-share --text
        --threads --time-limit --track --trials --valid-share --weight-decay""",
    "runs": "--debug --help --json",
    "report": "--debug --help --out --trust-code",
    "compare": "--debug --help --json --out",
    "export": "--debug --force --format --help --json --out --trust-code",
    "eject": "--all --debug --force --help --level --out --steps --trust-code --verify",
    "cache": "--clear --debug --help --json",
    "predict": """--augment --debug --decimal --delimiter --encoding --help --json --na --out
        --trust-code --tta""",
    "augment": """--augment --categorical --data-dir --debug --decimal --delimiter --drop
        --embed-above --encoding --group-by --help --image-mode --image-size --json --memory-budget
        --missing --na --numeric --order-by --picture --resize --seed --skip-bad --split-seed
        --stratify --target --task --test-share --text --valid-share""",
    "data": """--baseline --categorical --data-dir --debug --decimal --delimiter --drop
        --embed-above --encoding --group-by --help --image-mode --image-size --json --memory-budget
        --missing --na --numeric --only --order-by --picture --resize --skip-bad --split-seed
        --stratify --target --task --test-share --text --valid-share --write""",
    "init": """--categorical --data-dir --debug --decimal --delimiter --drop --embed-above
        --encoding --force --group-by --help --image-mode --image-size --memory-budget --missing
        --na --numeric --order-by --out --resize --skip-bad --split-seed --stratify --target --task
        --test-share --text --valid-share""",
    "summary": "--classes --debug --help --input-shape --json --trust-code",
    "ladder": """--data --data-dir --debug --epochs --help --json --rungs --scratch --seed
        --split-seed""",
    "ladder show": "--debug --help",
    "ladder diff": "--debug --help --side-by-side",
    "ladder copy": "--data --data-dir --debug --force --help --split-seed",
    "notebook": "--debug --force --help --lang --no-open --open",
}


SWITCHES = {settings.option(n) for n, value in settings.RunConfig().to_dict().items()
            if isinstance(value, bool)}  # fmt: skip


@pytest.mark.parametrize("command", OPTIONS)
def test_options_are_frozen(command, plainfit, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    _, text, _ = plainfit(*command.split(), "--help")
    wanted = {*OPTIONS[command].split()}
    wanted |= {f"--no-{name[2:]}" for name in wanted & SWITCHES}
    assert {*re.findall(r"--[a-z][a-z-]+", text)} == wanted


def test_texts_name_options_that_there_are():
    known = {name for options in OPTIONS.values() for name in options.split()}
    known |= {f"--no-{name[2:]}" for name in known & SWITCHES}
    others = {"--version", "--nproc-per-node", "--standalone", "--rdzv-id"}  # and torchrun's
    others |= {"--logdir", "--upgrade"}  # of tensorboard and pip
    for path in Path(settings.__file__).parents[1].rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                named = {*re.findall(r"(?<!var\()(?<![\w-])--[a-z][a-z-]+", node.value)}
                assert named <= known | others | {"--no-"}, (path, node.value)


def test_the_commands_are_frozen(plainfit, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    _, text, _ = plainfit("--help")
    listed = text[text.index("Commands") :]
    assert re.findall(r"^│ ([\w-]+)", listed, re.MULTILINE) == [
        "train", "fine-tune", "resume", "lr-find", "tune", "predict", "data", "init",
        "augment", "summary", "runs", "report", "compare", "export", "app", "serve", "clean",
        "relabel", "eject", "cache", "notebook", "ladder",
    ]  # fmt: skip
    assert plainfit("--version")[1].startswith("plainfit 0.")


def test_compiled_programs_are_listed_and_cleared(plainfit, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "plainfit" / "programs"
    nothing = f"no compiled programs in {folder}; plainfit train --compile epoch makes one\n"
    for options in ((), ("--clear",)):
        assert plainfit("cache", *options) == (0, nothing, "")
    for i, letter in enumerate("ab"):
        assert keep(letter * 64, bytes(1_500_000)) == ""
        os.utime(next(folder.glob(f"{letter}*")), (1_699_963_200 + i * 86_400,) * 2)
    others = [folder / "mine-of.pt2", tmp_path / "plainfit" / "mnist"]
    for path in others:
        path.write_text("data")
    (folder / f".plainfit-{'0' * 16}.tmp").write_text("of a process that was killed")
    _, text, _ = plainfit("cache")
    assert re.sub(r"\d\d:\d\d", "hh:mm", text).splitlines() == [
        "program           MB  used last",
        "aaaaaaaaaaaa     1.5  2023-11-14 hh:mm",
        "bbbbbbbbbbbb     1.5  2023-11-15 hh:mm",
        f"all              3.0  {folder}",
    ]
    found = json.loads(plainfit("cache", "--json")[1])
    assert found["bytes"] == 3_000_000
    assert [each["program"][0] for each in found["programs"]] == ["a", "b"]
    folder.chmod(0o777)
    assert plainfit("cache")[1].endswith(
        f"none is used, as others can write to {folder} (chmod go-w {folder})\n"
    )
    assert plainfit("cache", "--clear")[1] == f"deleted 2 programs (3.0 MB) in {folder}\n"
    assert sorted([*folder.iterdir(), *folder.parent.glob("mnist")]) == sorted(others)


def test_without_arguments_it_shows_the_help_and_nothing_else(plainfit):
    code, out, err = plainfit()
    assert (code, err) == (2, "")
    assert "Commands" in out


STOPPING = """
import os
from plainfit.models.networks import MLP

class Net(MLP):
    seen = 0

    def forward(self, xb):
        Net.seen += 1
        if str(Net.seen) == os.environ.get("STOP_AT"):
            os.kill(os.getpid(), int(os.environ["SIGNAL"]))
        return super().forward(xb)
"""


@pytest.mark.parametrize(
    ("kind", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.soak)],
)
def test_a_signal_stops_and_resume_continues_to_the_same_bits(plainfit, tmp_path, kind, code):
    (tmp_path / "nets.py").write_text(STOPPING)
    options = ("--model", "nets:Net", "--epochs", 4, "--schedule", "one-cycle", "--average", 0.9,
               "--clip", 1)  # fmt: skip

    def work():
        os.environ |= {"STOP_AT": "60", "SIGNAL": str(int(kind))}
        sys.argv = ["plainfit", "train", *map(str, options), "--out", "run"]
        main()

    ended_with, out, err = output_of(work, tmp_path)
    assert ended_with == code, err
    assert "continue with: plainfit resume run" in out
    assert err.strip() in ("", "stopped")
    assert re.search(r"^run +interrupted +[12]/4 ", plainfit("runs", ".")[1], re.MULTILINE)
    code, out, err = plainfit("resume", "run")
    assert code == 0, err
    assert "resumed in epoch " in out
    assert plainfit("train", *options, "--out", "whole")[0] == 0
    for name in ("model.safetensors", "best.safetensors", "steps.csv"):
        parts = [(tmp_path / run / name).read_bytes() for run in ("run", "whole")]
        assert parts[0] == parts[1], name


def test_a_finished_run_continues_with_more_epochs_only(plainfit, trained_run, tmp_path):
    shutil.copytree(trained_run, tmp_path / "run")
    code, _, err = plainfit("resume", "run")
    assert code == 2
    assert "has finished its 2: plainfit resume run --epochs 4" in err
    assert plainfit("resume", "run", "--epochs", 4)[0] == 0
    assert plainfit("train", "--model", "logistic", "--epochs", 4, "--out", "whole")[0] == 0
    weights = [(tmp_path / n / "model.safetensors").read_bytes() for n in ("run", "whole")]
    assert weights[0] == weights[1]


def test_a_loss_that_is_not_finite_is_one_line_and_exit_code_1(plainfit, tmp_path):
    code, _, err = plainfit("train", *SHORT, "--lr", "1e38", "--out", "run")
    assert code == 1
    assert err.count("\n") == 1
    assert re.search(r"the loss must be finite, and is \w+ in epoch 0, step \d+", err)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "failed"


def test_the_rate_is_found_and_recorded(plainfit, tmp_path):
    code, out, err = plainfit("train", *SHORT, "--lr", "auto", "--out", "run")
    assert code == 0, err
    rate = json.loads((tmp_path / "run" / "run.json").read_text())["config"]["lr"]
    assert f"lr     {rate:g}, the valley" in out
    found = json.loads(plainfit("lr-find", "--model", "logistic", "--json")[1])
    assert float(f"{found['valley']:.2g}") == rate
    with Image.open(tmp_path / "lr-find.png") as picture:
        assert picture.width > 600


def test_report_compare_and_export(plainfit, trained_run, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(trained_run, tmp_path / name)
    assert plainfit("report", "a")[1] == "report a/report.html\n"
    assert "<svg" in (tmp_path / "a" / "report.html").read_text()
    _, out, _ = plainfit("compare", "a", "b")
    assert re.search(r"^epochs +2 +2$", out, re.MULTILINE)
    assert (tmp_path / "comparison.html").exists()
    _, out, _ = plainfit("export", "b", "--format", "torch-export")
    assert "scores differ by at most 0.0e+00" in out
    code, _, err = plainfit("export", "b", "--format", "onx")
    assert (code, "did you mean 'onnx'" in err) == (2, True)


def test_track_and_the_other_settings(plainfit, tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    code, _, err = plainfit(
        "train", *SHORT, "--track", "tensorboard", "--accumulate", 2, "--patience", 1,
        "--time-limit", 100, "--checkpoint-every", 5, "--out", "run",
    )  # fmt: skip
    assert code == 0, err
    assert list((tmp_path / "run" / "tracked").glob("events.*"))


@pytest.mark.parametrize("name", ["fastest", "fast", "accurate"])
def test_a_preset_trains_the_digits_and_given_options_override_it(name, plainfit, tmp_path):
    options = ("--epochs", 3, "--model-args", "width=16", "--precision", "fp32")
    code, _, err = plainfit("train", "--preset", name, *options, "--out", "run")
    assert code == 0, err
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    given = {"epochs": 3, "model_args": "width=16", "precision": "fp32"}
    wanted = settings.preset(name) | given
    assert {key: record["config"][key] for key in wanted} == wanted
    assert record["last"]["accuracy"] > 0.5


@pytest.mark.parametrize("options", [(), ("--precision", "bf16")], ids=["preset", "asked for"])
def test_a_preset_is_in_bf16_only_where_that_is_fast_or_asked_for(options, plainfit, tmp_path):
    run = ("--epochs", 1, "--batch-size", 1000, "--out", "run")
    code, out, err = plainfit("train", "--preset", "fastest", *run, *options)
    assert code == 0, err
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    is_fast = bf16_pays(torch.device("cpu"))
    assert record["config"]["precision"] == ("bf16" if options or is_fast else "fp32")
    note = "note   bf16 is no faster than fp32" if options else "note   fp32 in place of bf16"
    assert (note in out + err) is not is_fast


@pytest.mark.filterwarnings("ignore:Anomaly Detection", "ignore:Error detected in Sqrt")
def test_detect_anomaly_names_the_operation(plainfit, tmp_path):
    # The square root's gradient at 0 is infinite, and times 0 it is NaN, while the loss is finite.
    (tmp_path / "nets.py").write_text(
        "from plainfit.models.networks import LogisticRegression\n"
        "class Root(LogisticRegression):\n"
        "    def forward(self, xb):\n"
        "        out = super().forward(xb)\n"
        "        return out + (out * 0).sqrt() * 0\n"
    )
    for options, says in (
        (["--detect-anomaly"], "Function 'SqrtBackward0' returned nan values"),
        ([], "the parameter lin.weight holds such values since an earlier step"),
    ):
        code, _, err = plainfit("train", "--model", "nets:Root", "--epochs", 1, *options)
        assert code == 1
        assert says in err
        assert "Traceback (most recent" not in err.splitlines()[-1]


LOOK = """
import torch, torch.nn.functional as F
from torch import nn, optim
import plainfit as pf

def loss_func(out, yb):
    breakpoint()
    return F.cross_entropy(out, yb)

model = nn.Linear(2, 2)
data = [(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]))]
pf.fit(1, model, loss_func, optim.SGD(model.parameters(), lr=0.1), data, None)
"""


def test_a_breakpoint_lands_two_readable_frames_below_fit(tmp_path):
    (tmp_path / "look.py").write_text(LOOK)

    def work():
        sys.breakpointhook = lambda: Pdb().set_trace(sys._getframe(1))  # pytest has its own
        runpy.run_path("look.py", run_name="__main__")

    typed = "where\nup\np xb.shape\nup\np context.step, model\nquit\n"
    _, out, _ = output_of(work, tmp_path, typed)
    assert "loss_func(model(xb) if isinstance(xb, Tensor) else" in out
    assert "-> loss, n = loss_batch(model, train_loss, xb, yb, " in out
    assert "torch.Size([4, 2])" in out
    assert "(0, Linear(in_features=2, out_features=2, bias=True))" in out
