"""Searches for settings: what is tried, what counts, what is refused."""

import contextlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import time
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

import plainfit as pf
from killing import ended, files_up_to, forked
from pages import Page, quiet
from plainfit.common.errors import ConfigError, NonFiniteError, PlainfitError, RunError
from plainfit.tuning import results, trials
from plainfit.tuning.space import Choices, Range, StudyConfig, kinds_of_setting, parse, parse_space
from plainfit.tuning.trials import RunTraining
from test_adversary import mutate

pytest.importorskip("optuna", reason="Optuna is not installed")
from plainfit.tuning import storage  # it needs Optuna

SHORT = {"model": "logistic", "epochs": 2, "batch_size": 512}


def bowl(x, kind="round"):
    """A training that takes no time: the lower the nearer to 0.3."""
    return (x - 0.3) ** 2 + (kind != "round")


def search(folder, train=bowl, space=None, **options):
    options = {"folder": folder, "trials": 12, "monitor": "loss", "echo": None, **options}
    return pf.tune(space or {"x": (0.0, 1.0), "kind": ["square", "round"]}, train, **options)


def tried(study):
    return [(t.number, t.state, t.settings, t.value) for t in study.trials]


def runs_in(folder, space, monitor="valid_loss", **options):
    fixed = SHORT | options.pop("fixed", {})
    return pf.tune(
        space, RunTraining(monitor), folder=folder, fixed=fixed, monitor=monitor,
        **{"trials": 4, "echo": None, **options},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("lr", "log:1e-3..1", Range(0.001, 1.0, log=True)),
        ("lr", "1..5", Range(1.0, 5.0)),
        ("lr", "auto,0.1,1", Choices(("auto", 0.1, 1.0))),
        ("batch_size", "log:16..256", Range(16, 256, log=True)),
        ("momentum", "0..0.95", Range(0.0, 0.95)),
        ("clip", "none,1,5", Choices((None, 1.0, 5.0))),
        ("augment", "none,warp", Choices(("none", "warp"))),
        ("nesterov", "true, false", Choices((True, False))),
        ("model_args", ["width=8, blocks=0", "w=1"], Choices(("width=8, blocks=0", "w=1"))),
    ],
)  # fmt: skip
def test_what_is_searched_has_the_type_of_its_setting(name, text, wanted):
    found = parse(name, text, kinds_of_setting(name))
    assert found == wanted
    assert list(map(type, found.values)) == list(map(type, wanted.values))
    stored = json.dumps(StudyConfig({name: found}, {}, "loss", True, "none", 1, 0).to_dict())
    assert parse_space(json.loads(stored)["space"], kinds_of_setting) == {name: found}


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "a search needs at least one setting"),
        ({"lrr": "1..2"}, "unknown setting to search 'lrr': .* did you mean 'lr'"),
        ({"seed": "1..2"}, "seed must be the same in all trials"),
        ({"lr": "1..0.1"}, "the range of lr must be A..B with A below B, got 1..0.1"),
        ({"lr": "log:1"}, "A..B with A below B, got log:1"),
        ({"lr": "a..b"}, "A..B with A below B, got a..b"),
        ({"lr": "0..inf"}, "A..B with A below B"),
        ({"lr": "log:0..1"}, "the log range of lr must start above 0"),
        ({"epochs": "0.5..2"}, "the range of epochs must be of whole numbers, got 0.5..2"),
        ({"model": "1..2"}, "model must have choices, .* it takes no numbers"),
        ({"epochs": "1,many"}, "of epochs must be of type int, got 'many'"),
        ({"epochs": [1, 2.5]}, "of epochs must be of type int, got 2.5"),
        ({"model": ""}, "of model must be of type str, got ''"),
        ({"model": []}, "at least one, all different"),
        ({"model": "mlp,mlp"}, "at least one, all different"),
        ({"model": 3}, "model must be text .* got 3"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(space, message):
    with pytest.raises(ConfigError, match=message):
        parse_space(space, kinds_of_setting)


def test_the_search_finds_the_bottom_and_prints_it(tmp_path, capsys):
    study = search(tmp_path / "s", trials=20, echo=print)
    assert study.best.value == min(bowl(**trial.settings) for trial in study.trials) < 0.05
    assert (
        len(re.findall(r"^trial +\d+ complete loss", capsys.readouterr().out, re.MULTILINE)) == 20
    )
    assert str(study).splitlines()[1].split()[0] == str(study.best.number)
    high = search(tmp_path / "h", monitor="accuracy", trials=4)
    assert high.best.value == max(bowl(**trial.settings) for trial in high.trials)
    other = search(tmp_path / "m", monitor="quality", mode="max", trials=4)
    assert tried(other) == tried(high)
    assert other.best.number == high.best.number


def test_what_is_tried_depends_on_the_seed_and_not_on_the_calls(tmp_path):
    whole = search(tmp_path / "whole")
    for count in (5, 12):
        parts = search(tmp_path / "parts", trials=count)
        assert len(parts.trials) == count
    assert tried(parts) == tried(whole)
    assert tried(search(tmp_path / "parts", trials=3)) == tried(whole)  # and none is added
    assert tried(search(tmp_path / "other", seed=1))[0] != tried(whole)[0]


def test_a_trial_is_the_run_that_its_settings_make(tmp_path):
    study = runs_in(
        tmp_path / "s", {"lr": "log:0.01..1", "momentum": [0.0, 0.9]}, trials=2, pruner="none"
    )
    best = study.best
    alone = quiet(tmp_path / "alone", **SHORT, **best.settings)
    record = json.loads((alone / "run.json").read_text())
    assert best.value == record["last"]["valid_loss"] == min(t.value for t in study.trials)
    for name in ("model.safetensors", "best.safetensors", "steps.csv"):
        assert (best.folder / name).read_bytes() == (alone / name).read_bytes(), name
    assert best.intermediate_values == [
        json.loads(line)["valid_loss"]
        for line in (alone / "metrics.jsonl").read_text().splitlines()
    ]


def test_hopeless_trials_are_pruned_and_others_are_not(tmp_path, study_page):
    space = {"lr": [1e-6, 0.3, 0.4, 0.5, 0.2, 0.25]}
    study = runs_in(tmp_path / "s", space, trials=8)
    pruned = [trial for trial in study.trials if trial.state == "pruned"]
    assert pruned
    assert study.count("complete") + len(pruned) == 8
    points = Page(tmp_path / "s" / "study.html").all("circle", style="stroke:var(--c1)", r="2.5")
    assert len(points) == 2 * (1 + len(pruned))  # of history and slice, each with its legend
    for trial in pruned:
        record = json.loads((trial.folder / "run.json").read_text())
        assert record["stopped"].startswith("pruned")
        assert len(trial.intermediate_values) < 2
        done = [
            other.intermediate_values
            for other in study.trials[: trial.number]
            if other.value is not None
        ]
        step = len(trial.intermediate_values) - 1
        median = sorted(values[step] for values in done)[len(done) // 2 - 1]
        assert trial.intermediate_values[step] > median


def test_the_mean_of_the_seeds_counts(tmp_path):
    study = runs_in(tmp_path / "s", {"lr": [0.05, 0.2]}, trials=1, seeds=2, seed=4)
    (trial,) = study.trials
    values = []
    for seed in (4, 5):
        alone = quiet(tmp_path / str(seed), **SHORT, **trial.settings, seed=seed)
        values.append(json.loads((alone / "run.json").read_text())["last"]["valid_loss"])
    assert trial.values == values
    assert trial.value == pytest.approx(sum(values) / 2, rel=1e-15)
    names = sorted(path.name for path in (tmp_path / "s").glob("0*"))
    assert names == ["0000", "0000-seed-5"]


def test_the_best_settings_are_repeated_with_seeds_that_the_search_has_not_seen(tmp_path, capsys):
    calls = []

    def noisy(x, seed):
        calls.append(seed)
        return x + seed

    space = {"x": (0.0, 1.0)}
    study = search(tmp_path / "s", noisy, space, trials=3, seeds=2, repeat=3)
    assert calls == [0, 1] * 3 + [2, 3, 4]
    assert study.repeated == [study.best.settings["x"] + seed for seed in (2, 3, 4)]
    assert search(tmp_path / "s", noisy, space, trials=3, seeds=2, repeat=3) == study
    assert len(calls) == 9  # nothing is done twice
    more = search(tmp_path / "s", noisy, space, trials=3, seeds=2, repeat=4)
    assert (more.repeated[:3], calls[9:]) == (study.repeated, [5])


def test_settings_that_diverge_count_as_bad_and_those_that_fail_do_not(tmp_path):
    def fragile(x):
        if x > 0.6:
            raise NonFiniteError("the loss is nan")
        if x < 0.2:
            raise MemoryError("too large")
        return x if x < 0.55 else float("nan")

    with pytest.raises(MemoryError):  # nothing works yet: say so at once
        search(tmp_path / "first", lambda x: fragile(0), {"x": (0.0, 1.0)})
    study = search(tmp_path / "s", fragile, {"x": (0.0, 1.0)}, trials=30)
    by_state = {state: [t.settings["x"] for t in study.trials if t.state == state]
                for state in ("complete", "diverged", "failed")}  # fmt: skip
    assert sum(map(len, by_state.values())) == 30
    assert min(by_state["diverged"]) >= 0.55
    assert max(by_state["failed"]) < 0.2
    assert {t.note for t in study.trials if t.state == "failed"} == {"MemoryError: too large"}


def test_a_run_that_diverges_does_not_end_the_search(tmp_path, study_page):
    study = runs_in(tmp_path / "s", {"lr": [1e38]}, trials=2)
    assert [trial.state for trial in study.trials] == ["diverged", "diverged"]
    assert "the loss must be finite" in study.trials[0].note
    assert f"Trial 0 diverged: {study.trials[0].note}" in Page(tmp_path / "s" / "study.html").text


def test_the_time_limit_stops_within_a_training_and_the_study_goes_on(tmp_path, monkeypatch):
    space, options = {"lr": "log:0.01..1"}, {"trials": 1, "pruner": "none"}
    ticks = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + 100 * (next(ticks) >= 4))
    with monkeypatch.context() as patched:
        patched.setattr(trials, "time", clock)
        study = runs_in(tmp_path / "s", space, time_limit=99, **options)
    assert (study.trials[0].state, len(study.trials)) == ("waiting", 1)
    assert len(study.trials[0].intermediate_values) == 1  # of two; an epoch has three steps
    assert tried(runs_in(tmp_path / "s", space, **options)) == tried(
        runs_in(tmp_path / "whole", space, **options)
    )


def test_ctrl_c_leaves_a_trial_to_go_on_with(tmp_path):
    calls = []

    def interrupted(x):
        calls.append(x)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return x

    space = {"x": (0.0, 1.0)}
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "s", interrupted, space, trials=4)
    study = search(tmp_path / "s", interrupted, space, trials=4)
    assert calls[2] == calls[3] == study.trials[2].settings["x"]
    assert study.count("complete") == len(study.trials) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {"x": (0.0, 2.0)}}, "has search x=0.0..1.0, got search x=0.0..2.0"),
        (
            {"space": {"x": (0.0, 1.0), "kind": ["round"]}},
            "has no search kind, got search kind=round",
        ),
        ({"fixed": {"kind": "round"}}, "has no kind, got kind=round"),
        ({"monitor": "error"}, "has monitor=loss, got monitor=error"),
        ({"seed": 2}, "has seed=0, got seed=2"),
    ],
)
def test_a_study_of_something_else_is_refused(tmp_path, changes, message):
    space = changes.pop("space", {"x": (0.0, 1.0)})
    search(tmp_path / "s", space={"x": (0.0, 1.0)}, trials=1)
    before = (tmp_path / "s" / "study.jsonl").read_bytes()
    with pytest.raises(ConfigError, match=message):
        search(tmp_path / "s", space=space, trials=2, **changes)
    assert (tmp_path / "s" / "study.jsonl").read_bytes() == before


def test_a_study_of_before_mode_goes_on(tmp_path):
    first = search(tmp_path / "s", trials=3)
    journal = tmp_path / "s" / "study.jsonl"
    text = journal.read_text()
    journal.write_text(text.replace('"mode":"min"', '"lower_is_better":true'))
    assert journal.read_text() != text
    assert search(tmp_path / "s", trials=4).trials[:3] == first.trials
    with pytest.raises(ConfigError, match="has mode=min, got mode=max"):
        search(tmp_path / "s", trials=4, mode="max")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"monitor": "quality"}, "mode must say which values of 'quality' are better: pass mode='"),
        ({"mode": "low"}, "mode must be 'min' or 'max', got 'low'"),
        ({"space": {"y": (0, 1)}}, "unknown argument of bowl 'y'"),
        ({"space": {"kind": ["a"]}}, "missing a required argument: 'x'"),
        ({"fixed": {"x": 1}}, "x is searched and fixed"),
        ({"pruner": "medium"}, "did you mean 'median'"),
        ({"trials": 0}, "trials must be at least 1 and at most"),
        ({"seeds": 2}, "train must have a parameter seed"),
        ({"repeat": 1}, "train must have a parameter seed"),
        ({"time_limit": 0}, "time_limit must be at least 1e-09 and at most 1e"),
    ],
)
def test_what_tune_cannot_do_is_refused_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        search(tmp_path / "s", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_training_must_return_a_number_and_a_folder_must_be_free(tmp_path):
    with pytest.raises(ConfigError, match="a History or a number, got str"):
        search(tmp_path / "s", lambda x: "good", {"x": (0.0, 1.0)})
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="must be new or empty"):
        search(tmp_path)
    (tmp_path / "s" / "study.jsonl").write_text("what\nis\nthis\n")
    with pytest.raises(RunError, match="must be a study's journal"):
        search(tmp_path / "s")


def test_a_history_counts_by_its_last_epoch_and_prunes_by_the_callback(tmp_path):
    data = pf.open_data("digits")
    train_dl, valid_dl = pf.get_data(data.train, data.valid, bs=256)

    def train(lr, report, folder, seed):
        model, opt = pf.get_model("logistic", lr=lr, input_shape=data.input_shape, seed=seed)
        return pf.fit(
            3, model, torch.nn.functional.cross_entropy, opt, train_dl, valid_dl,
            callbacks=[report], checkpoint=folder, resume=True, echo=None,
        )  # fmt: skip

    def epochs_of(study):
        return sum(len(trial.intermediate_values) for trial in study.trials)

    seen = []
    study = search(
        tmp_path / "s", train, {"lr": [0.1, 0.2, 1e-7]}, trials=12, monitor="valid_loss",
        watch=lambda study: seen.append(epochs_of(study)),
    )  # fmt: skip
    assert all(t.value == t.intermediate_values[2] for t in study.trials if t.state == "complete")
    assert study.count("pruned")
    unpruned = search(
        tmp_path / "n", train, {"lr": [0.1, 0.2, 1e-7]}, trials=12, monitor="valid_loss",
        pruner="none",
    )  # fmt: skip
    assert unpruned.count("complete") == 12
    assert seen == sorted(seen)
    assert seen[-1] == epochs_of(study)
    assert len(list((tmp_path / "s" / "0000").glob("*.safetensors"))) == 2


def test_a_study_of_someone_else_leads_to_no_file_outside(tmp_path):
    (tmp_path / "precious").write_text("precious")
    search(tmp_path / "s", trials=1)
    study = storage.optuna.load_study(
        study_name="study", storage=storage.open_storage(tmp_path / "s", None)
    )
    trial = study.ask({"x": storage.distribution_of(Range(0.0, 1.0))})
    trial.set_user_attr("worker", "../precious")
    trial.set_user_attr("folder", "../elsewhere")
    search(tmp_path / "s", trials=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["precious", "s"]
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_trial_that_begins_anew_leaves_the_files_of_others(tmp_path):
    folder = tmp_path / "s" / "0000"
    search(tmp_path / "s", trials=1)
    (folder / "notes.txt").write_text("precious")
    call = RunTraining("valid_loss")
    with pytest.raises(RunError, match="must be new or empty"):
        call(seed=0, report=trials.Report("valid_loss"), folder=folder, **SHORT)
    assert (folder / "notes.txt").read_text() == "precious"


def test_a_line_of_the_journal_that_was_cut_off_is_dropped(tmp_path):
    search(tmp_path / "s", trials=3)
    journal = tmp_path / "s" / "study.jsonl"
    whole = search(tmp_path / "whole", trials=5)
    last = journal.read_bytes().splitlines(keepends=True)[-1]
    journal.write_bytes(journal.read_bytes() + last[: len(last) // 2])
    assert tried(search(tmp_path / "s", trials=5)) == tried(whole)
    for line in journal.read_text().splitlines():
        json.loads(line)


@pytest.mark.parametrize("step", [700, pytest.param(100, marks=pytest.mark.soak)])
def test_a_study_on_a_full_disk_goes_on_later(tmp_path, step):
    whole = tried(search(tmp_path / "whole", trials=3))
    size = (tmp_path / "whole" / "study.jsonl").stat().st_size
    for room in range(0, size, step):
        with files_up_to(room), pytest.raises(RunError, match=r"must be writable .*File too large"):
            search(tmp_path / str(room), trials=3)
        assert tried(search(tmp_path / str(room), trials=3)) == whole


@pytest.mark.filterwarnings("ignore")
def test_a_trial_that_finds_no_space_is_tried_again(tmp_path):
    whole = tried(runs_in(tmp_path / "whole", {"lr": (0.1, 1.0)}, trials=1))
    with files_up_to(3100), pytest.raises(PlainfitError, match="must be writable"):
        runs_in(tmp_path / "s", {"lr": (0.1, 1.0)}, trials=1)
    assert tried(runs_in(tmp_path / "s", {"lr": (0.1, 1.0)}, trials=1)) == whole


@pytest.mark.parametrize("count", [12, pytest.param(1000, marks=pytest.mark.soak)])
def test_a_damaged_journal_is_one_line(tmp_path, count):
    search(tmp_path / "s", trials=2)
    lines, rng = (tmp_path / "s" / "study.jsonl").read_text().splitlines(), random.Random(count)
    for number in range(count):
        damaged = [json.loads(line) for line in lines]
        said = mutate(rng.choice(damaged), rng)
        copy = shutil.copytree(tmp_path / "s", tmp_path / "copy")
        (copy / "study.jsonl").write_text("".join(json.dumps(line) + "\n" for line in damaged))
        try:
            search(copy, trials=3)
        except PlainfitError as error:
            assert "\n" not in str(error), (said, number)  # noqa: PT017
        shutil.rmtree(copy)


def test_a_journal_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "mine").write_text("no end of line")
    (tmp_path / "s" / "study.jsonl").symlink_to(tmp_path / "mine")
    with pytest.raises(RunError, match="must be a file, and is a link to"):
        search(tmp_path / "s")
    assert (tmp_path / "mine").read_text() == "no end of line"


def test_the_page_shows_every_trial_and_loads_nothing(tmp_path, study_page):
    study = search(tmp_path / "<s>", trials=20)
    page = Page(tmp_path / "<s>" / "study.html")
    assert [row[0] for row in page.tables["Trials"][1:]] == [str(t.number) for t in study.ranked()]
    shares = {row[0]: float(row[1]) for row in page.tables["Importance"]}
    assert set(shares) == {"x", "kind"}
    assert shares["kind"] > 0.5 > shares["x"]  # a whole unit against at most 0.49
    assert sum(shares.values()) == pytest.approx(1.0, abs=2e-3)
    assert page.headings()[1:] == [
        "History", "Importance", "Parallel coordinates", "Slices", "Trials", "Search",
    ]  # fmt: skip
    count = len(study.trials)
    points = [attrs for attrs in page.all("circle") if attrs["r"] == "2.5" and attrs["cx"] != "12"]
    assert len(points) == 3 * count  # in the history and in two slices
    assert page.source.count("</title></circle>") == 3 * count
    assert page.source.count("</title></path>") == count  # parallel coordinates
    assert not page.all("script") + page.all("link") + page.all("img")
    assert "http" not in page.source.replace("http-equiv", "")


def test_the_table_on_a_terminal_follows_the_trials(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "REFRESH", 0.0)
    console = Console(file=StringIO(), force_terminal=True, color_system=None, width=100)
    with results.live_table(console, 4) as watch:
        study = search(tmp_path / "s", trials=4, watch=watch)
    shown = console.file.getvalue()
    words = " ".join(shown.split())  # a title that is longer than its table has several lines
    assert [f"{n} of 4 trials, {n} complete" in words for n in range(1, 5)] == [True] * 4
    last = [line.split("│") for line in shown.splitlines() if line.startswith("│")][-4:]
    rows = [[cell.strip() for cell in line[1:-1]] for line in last]
    assert rows == study.table(study.ranked())[1:]


def test_in_a_database_a_trial_without_a_heartbeat_starts_again(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "BEAT", 1)
    monkeypatch.setattr(storage, "SILENCE", 1)
    url, space = f"sqlite:///{tmp_path / 'study.db'}", {"x": (0.0, 1.0)}

    def killed(x):
        with contextlib.closing(sqlite3.connect(tmp_path / "study.db")) as database:
            while not database.execute("SELECT * FROM trial_heartbeats").fetchone():
                time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

    options = {"trials": 3, "storage": url}
    child = forked(lambda: search(tmp_path / "s", killed, space, **options), tmp_path / "error.txt")
    assert ended(child) == -signal.SIGKILL
    with contextlib.closing(sqlite3.connect(tmp_path / "study.db")) as database, database:
        database.execute("UPDATE trial_heartbeats SET heartbeat = '2026-01-01 00:00:00'")
    study = search(tmp_path / "s", space=space, **options)
    assert [trial.state for trial in study.trials] == ["complete"] * 3
    assert study.trials[0].folder.name == "0000"
    assert not (tmp_path / "s" / "study.jsonl").exists()
    with pytest.raises(ConfigError, match=r"got search x=0\.0\.\.3\.0"):
        search(tmp_path / "s", space={"x": (0.0, 3.0)}, **options)


def test_the_lines_of_the_docs_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    docs = (Path(__file__).parents[2] / "docs" / "tuning.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", docs, re.MULTILINE | re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert names["study"].best.value < 1
