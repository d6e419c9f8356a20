"""`plainfit tune` as a person uses it; its best trial is a run like any other."""

import json
import re
import sys
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file

from killing import ended, forked
from pages import Page
from plainfit.cli import main

pytest.importorskip("optuna", reason="Optuna is not installed")

SHORT = ["--model", "logistic", "--epochs", "2", "--batch-size", "256"]
LR = ["--search", "lr=log:1e-3..1"]


@pytest.mark.parametrize("verify", [[], pytest.param(["--verify"], marks=pytest.mark.soak)])
def test_the_best_trial_resumes_reports_and_ejects_as_any_run(
    tmp_path, plainfit, study_page, verify
):
    out = tmp_path / "study"
    (tmp_path / "space.toml").write_text('model = ["logistic", "mlp"]\nbatch-size = "32..128"\n')
    search = [*LR, "--space", tmp_path / "space.toml", "--trials", 3, "--out", out]
    code, printed, _ = plainfit("tune", "--epochs", 1, *search, "--repeat", 2)
    assert code == 0
    assert len(re.findall(r"^trial +\d+ (?:complete|pruned) ", printed, re.MULTILINE)) == 3
    number = re.search(r"^best   trial (\d+): valid_loss \d\.\d{4} with ", printed, re.MULTILINE)[1]
    assert re.search(
        r"^repeat valid_loss \d\.\d{4} ± \d\.\d{4} .* 2 further", printed, re.MULTILINE
    )
    best = out / f"{int(number):04d}"
    assert f"next   plainfit report {best}\n" in printed
    assert "valid_loss, repeated" in Page(out / "study.html").text
    assert plainfit("runs", out)[1].count(" finished ") == 5
    assert plainfit("eject", best, "-o", tmp_path / "train.py", *verify)[0] == 0
    assert plainfit("resume", best, "--epochs", 2)[0] == 0
    settings = json.loads((best / "run.json").read_text())["config"]
    options = [
        x for n in ("model", "lr", "batch_size") for x in (f"--{n}".replace("_", "-"), settings[n])
    ]
    assert plainfit("train", "--epochs", 2, *options, "--out", tmp_path / "alone")[0] == 0
    runs = [load_file(folder / "model.safetensors") for folder in (best, tmp_path / "alone")]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[1])
    assert plainfit("report", best)[0] == 0


def test_the_short_command_goes_on_with_the_study_as_it_was(tmp_path, plainfit):
    out = tmp_path / "study"
    options = [*SHORT, *LR, "--pruner", "none", "--monitor", "accuracy", "--out", out]
    assert plainfit("tune", *options, "--trials", 2)[0] == 0
    code, printed, _ = plainfit("tune", "--out", out, "--trials", 3, "--json")
    result = json.loads(printed)
    assert (code, len(result["trials"]), result["monitor"]) == (0, 3, "accuracy")
    code, printed, _ = plainfit("tune", "--out", out, "--json")
    assert json.loads(printed) == result  # there are three, as was last asked
    config = json.loads((out / "0002" / "run.json").read_text())["config"]
    assert (config["model"], config["epochs"]) == ("logistic", 2)
    for changed, message in (
        (
            ["--search", "lr=log:1e-3..2"],
            "has search lr=log:0.001..1.0, got search lr=log:0.001..2.0",
        ),
        (["--epochs", "4"], "has epochs=2, got epochs=4; choose another folder"),
        (["--seeds", "2"], "has seeds=1, got seeds=2"),
        (["--search", "momentum=0..0.9"], "has no search momentum, got search momentum=0.0..0.9"),
    ):
        code, _, error = plainfit("tune", "--out", out, *changed)
        assert (code, error.count("\n"), message in error) == (2, 1, True), error


def test_a_study_takes_a_file_of_settings_and_a_search_wins_over_it(tmp_path, plainfit):
    (tmp_path / "a.toml").write_text(
        '[model]\nmodel = "logistic"\n[optimizer]\nlr = 5.0\nmomentum = 0.5\n'
        "[training]\nepochs = 3\n"
    )
    options = ["--config", "a.toml", "--epochs", 1, "--trials", 1, "--out", "study"]
    assert plainfit("tune", *options, *LR)[0] == 0
    config = json.loads((tmp_path / "study" / "0000" / "run.json").read_text())["config"]
    found = [config[name] for name in ("model", "momentum", "epochs", "lr")]
    assert (found[:3], found[3] <= 1) == (["logistic", 0.5, 1], True)
    assert plainfit("tune", *options)[0] == 0  # the same study, not another lr


def test_two_processes_share_the_trials(tmp_path, monkeypatch, plainfit):
    out = tmp_path / "study"
    command = ["tune", *SHORT, *LR, "--trials", "4", "--pruner", "none", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["plainfit", *command, "--out", str(out)])
    children = [forked(main, tmp_path / f"error-{number}.txt") for number in range(2)]
    assert [ended(child) for child in children] == [0, 0]
    trials = [
        json.loads(line)["user_attr"]
        for line in (out / "study.jsonl").read_text().splitlines()
        if '"worker":' in line
    ]
    workers = Counter(attribute["worker"] for attribute in trials)
    assert (len(workers), workers.total()) == (2, 4)
    study = json.loads(plainfit("tune", "--out", out, "--json")[1])
    assert [trial["state"] for trial in study["trials"]] == ["complete"] * 4
    assert len({trial["settings"]["lr"] for trial in study["trials"]}) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "a search needs at least one setting, got none"),
        (["--search", "lrr=0.1..1"], "unknown setting to search 'lrr'.* did you mean 'lr'"),
        (["--search", "lr"], "--search must be NAME=WHAT, such as lr=log:1e-3..1, got 'lr'"),
        (["--search", "lr=1..0"], "A..B with A below B"),
        (
            ["--search", "lr=-1..1"],
            "at most 1e.38, or auto, got -1.0",
        ),
        (["--search", "model=mlp,cnnn"], "unknown model 'cnnn'"),
        (["--search", "schedule=linear,cosin"], "unknown schedule 'cosin'.* 'cosine'"),
        (["--search", "momentum=0.5,0.9", "--search", "optimizer=sgd,adam"], "momentum applies to"),
        ([*LR, *LR], "a setting must be searched once, and lr is named twice"),
        ([*LR, "--lr", "0.1"], "--lr must be either searched or given"),
        ([*LR, "--space", "none.toml"], "none.toml must be a TOML file"),
        ([*LR, "--monitor", "valid-loss"], "unknown metric 'valid-loss'.* 'valid_loss'"),
        ([*LR, "--monitor", "acuracy"], "unknown metric 'acuracy'.* 'accuracy'"),
        ([*LR, "--pruner", "medium"], "unknown pruner 'medium'.* 'median'"),
        ([*LR, "--data", "digit"], "digit"),
        ([*LR, "--storage", "postgre://x"], "--storage must be the URL of an existing database"),
        ([*LR, "--time-limit", "0"], "--time-limit must be at least 1e-09 and"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2_and_nothing_is_written(
    tmp_path, plainfit, options, message
):
    code, printed, error = plainfit("tune", *options)
    assert (code, printed, error.count("\n")) == (2, "", 1), error
    assert re.search(message, error), error
    assert list(tmp_path.iterdir()) == []


def test_a_study_monitors_any_metric_of_its_task(tmp_path, plainfit, study_page):
    x = torch.randn(80, 2, generator=torch.Generator().manual_seed(0)).tolist()
    lines = [f"{a:.3f},{b:.3f},{5000 * a + 700:.1f}" for a, b in x]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,price", *lines]))
    search = ["--search", "lr=0.001,0.1", "--trials", 3, "--monitor"]
    options = ["--data", "t.csv", "--target", "price", *SHORT, *search]
    for monitor, better in (("mae", min), ("r2", max)):
        code, _, error = plainfit("tune", *options, monitor, "--out", monitor)
        assert (code, error) == (0, "")
        study = json.loads(plainfit("tune", "--out", monitor, "--json")[1])
        of_trials = {trial["number"]: trial["value"] for trial in study["trials"]}
        assert study["best"] == better(of_trials, key=of_trials.get)
        last = json.loads((tmp_path / monitor / "0000" / "run.json").read_text())["last"]
        assert of_trials[0] == last[monitor]
        assert f"{monitor}, best" in Page(tmp_path / monitor / "study.html").text
    line = plainfit("runs", "mae")[1].splitlines()[1]
    best = json.loads((tmp_path / "mae" / "0000" / "run.json").read_text())["best"]
    assert line.endswith(f" mae {best['mae']:,.1f}")
    code, _, error = plainfit("tune", *options, "accuracy", "--out", "new")
    assert (code, error.count("\n")) == (2, 1)
    assert "unknown metric 'accuracy'" in error
    assert not (tmp_path / "new").exists()


def test_without_optuna_it_says_what_to_install(tmp_path, plainfit, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    code, printed, error = plainfit("tune", *SHORT, "--search", "lr=0.1..1", "--out", "study")
    assert (code, printed, error.count("\n")) == (2, "", 1), error
    assert "pip install 'plainfit[tune]'" in error
    assert list(tmp_path.iterdir()) == []
