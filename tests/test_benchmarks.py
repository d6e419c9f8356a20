"""The benchmark's programs on little data, and the page from few results."""

import io
import json
import runpy
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch

from plainfit.common.seeding import epoch_order
from plainfit.training.program import Replay

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PROCESSES = BENCHMARKS / "processes.py"
N_TRAIN, N_VALID, BATCH_SIZE, SEED = 330, 150, 64, 3  # both end with a smaller batch


@pytest.fixture(scope="module")
def modules():
    """The runner's modules, which import each other as scripts do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        patch.syspath_prepend(str(BENCHMARKS / "peers"))
        import gpu
        import processes
        import results
        import table
        import turns

        import data
        import report

        ours = (data, gpu, processes, report, results, table, turns)
        yield {module.__name__: module for module in ours}
        for name in [n for n, m in sys.modules.items() if is_ours(m)]:
            del sys.modules[name]


def is_ours(module):
    return str(getattr(module, "__file__", None) or "").startswith(str(BENCHMARKS))


@pytest.fixture(scope="module")
def printed(modules, tmp_path_factory):
    """What the programs print after two epochs of the CNN, by their names.

    They run in this process, one after the other: a process each would import torch three times.
    """
    folder = tmp_path_factory.mktemp("images")
    for part, (x, y) in modules["data"].synthetic(N_TRAIN, N_VALID).items():
        np.save(folder / f"x_{part}.npy", x)
        np.save(folder / f"y_{part}.npy", y)
    orders = [epoch_order(N_TRAIN, SEED, epoch, True).numpy() for epoch in range(2)]
    np.save(folder / "orders.npy", np.stack(orders))
    options = ["--data", folder, "--model", "cnn", "--epochs", 2, "--batch-size", BATCH_SIZE]
    more = {"tutorial": [], "hand_loop": ["--orders", folder / "orders.npy"], "plainfit_": []}
    return {name: run(name, *options, "--seed", SEED, *more[name]) for name in more}


def run(name, *arguments):
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as out:
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(BENCHMARKS / "peers" / f"{name}.py"), run_name="__main__")
    return json.loads(out.getvalue().splitlines()[-1])


def test_the_loop_by_hand_gives_the_bits_of_plainfit(printed):
    hand, ours = printed["hand_loop"], printed["plainfit_"]
    assert ours["weights"] == hand["weights"]
    for one, other in zip(ours["epochs"], hand["epochs"], strict=True):
        assert one["valid_loss"] == other["valid_loss"]
        assert one["accuracy"] == pytest.approx(other["accuracy"], abs=1e-7)  # float32, float64


@pytest.mark.parametrize("name", ["tutorial", "hand_loop", "plainfit_"])
def test_a_contender_prints_its_measurements(name, printed):
    line = printed[name]
    assert len(line["epochs"]) == 2
    for epoch in line["epochs"]:
        assert 0 < epoch["train_seconds"] < epoch["seconds"] < 60
    assert line["first_step_seconds"] > 0
    assert line["steps"] == 6
    assert line["peak_rss_mib"] > 50
    assert line["valid_loss"] == line["epochs"][-1]["valid_loss"] == pytest.approx(2.3, abs=0.3)
    assert line["versions"]["torch"].startswith("2.")


def record(contender, number, seconds, **more):
    epochs = [
        {"seconds": s, "train_seconds": s / 2, "valid_loss": 0.3, "accuracy": 0.9}
        for s in (9 * seconds, seconds, 2 * seconds, 3 * seconds)
    ]
    values = {
        "first_step_seconds": 1.5, "warm_up_seconds": 7 * seconds, "steps": 100,
        "valid_loss": 0.3, "accuracy": 0.9, "peak_rss_mib": 321,
        "versions": {"torch": "2"}, "others_cores": 0.01,
    }  # fmt: skip
    return (
        {"contender": contender, "model": "logistic", "round": number, "epochs": epochs}
        | values
        | more
    )


@pytest.fixture
def speed():
    runs = [
        record("tutorial", 0, 2.0), record("tutorial", 1, 4.0), record("hand_loop", 0, 0.5),
        record("plainfit", 0, 1.0), record("plainfit", 1, 1.0), record("jax", 1, 0.25),
        {"contender": "fastai", "model": "logistic", "round": 0, "failed": "no module"},
    ]  # fmt: skip
    where = {
        "name": "A machine, 2 cores", "device": "cpu", "python": "3", "torch": "2", "threads": 2,
    }  # fmt: skip
    return {
        "name": "speed", "machine": where, "date": "2026-01-02", "data": "synthetic images",
        "samples": 1000, "valid_samples": 100, "runs": runs,
        "limits": {"bytes_per_second": 1e10, "flops_per_second": 1e11},
    }  # fmt: skip


def test_rows_are_medians_of_the_later_epochs_and_ratios_within_a_round(modules, speed):
    rows = {row["name"]: row for row in modules["table"].rows(speed, "logistic")}
    ours = rows["plainfit"]
    assert ours["epoch_seconds"] == 2.0  # the median of 1, 2 and 3
    assert ours["samples_per_second"] == 500
    assert ours["step_us"] == pytest.approx(1.0 / 100 * 1e6)
    assert ours["over_hand_us"] == pytest.approx(0.5 / 100 * 1e6)  # round 0 alone has both
    assert ours["of_tutorial_range"] == (2.0, 4.0)
    assert ours["of_tutorial"] == 3.0
    assert ours["fastest_peer"] == "plain JAX"
    assert ours["of_fastest_peer"] == 0.25
    # 64 samples of 4 * 7840 flops at 1e11 flop/s take longer than their bytes at 1e10 byte/s
    limit = max(64 * 31_360 / 1e11, 64 * 4 * (784 + 5 * 10) / 1e10)
    assert ours["of_limit"] == pytest.approx(limit / 0.01)


def test_the_page_has_every_machine_and_every_section(modules, speed, tmp_path):
    results, report = modules["results"], modules["report"]
    other = speed | {"machine": speed["machine"] | {"name": "Another one"}}
    for each in (speed, other):
        results.save(results.path_of("speed", each["machine"], tmp_path), each)
    section = {
        "name": "growth", "title": "Growth", "machine": speed["machine"], "text": "How it grows.",
        "columns": ["", "s"], "rows": [["twice", 0.12345], ["once", 1234.5], ["never", 7]],
        "raw": None,
    }  # fmt: skip
    results.save(results.path_of("growth", speed["machine"], tmp_path), section)
    files = section | {"name": "folder", "title": "A folder", "rows": [], "ratio": 3.1}
    results.save(results.path_of("folder", speed["machine"], tmp_path), files)
    docs = tmp_path / "docs"
    docs.mkdir()
    page = report.write(tmp_path, docs).read_text(encoding="utf-8")
    assert page.index("## A machine, 2 cores") < page.index("### Growth\n\nHow it grows.")
    assert "## Another one" in page
    assert "| twice | 0.123 |\n| once | 1,234 |\n| never | 7 |" in page
    assert "| **plainfit** | 3.00 | 2.00 to 4.00 | 0.25 |" in page
    assert (
        "| logistic regression, by the fastest peer's, plain JAX | at least 2.00 | 0.25 | no |"
        in page
    )
    assert "| 60,000 JPEG files, by the stock `DataLoader` | at least 2.00 | 3.10 | yes |" in page
    assert "No figures for fastai: no module" in page
    pictures = {path.name for path in (docs / "images").iterdir()}
    assert pictures == {"benchmarks-a-machine-2-cores.png", "benchmarks-another-one.png"}
    assert all(f"images/{name}" in page for name in pictures)


def test_every_section_of_the_page_is_named_after_its_program(modules):
    assert set(modules["report"].SECTIONS) <= {path.stem for path in BENCHMARKS.glob("*.py")}


def test_synthetic_images_are_those_of_mnist_in_shape_and_range(modules):
    x, y = modules["data"].synthetic(500, 10)["train"]
    assert x.shape == (500, 28, 28)
    assert x.dtype == np.uint8
    assert (x.min(), x.max()) == (0, 255)
    assert y.dtype == np.int64
    assert set(y) == set(range(10))


def test_ways_take_turns_of_a_few_steps_and_their_seconds_are_their_own(modules):
    turns, steps = modules["turns"], []

    def way(name, seconds):
        def train(loader):
            for _ in range(3):
                for _ in loader:
                    time.sleep(seconds)
                    steps.append(name)

        return train

    ways = {"short": way("short", 0.0), "long": way("long", 0.002)}
    seconds = turns.take_turns(ways, lambda: range(2 * turns.STEPS + 10), times=2)
    assert [len(mine) for mine in seconds.values()] == [4, 4]  # 2 times 3 epochs, less the first
    ends = 2 * np.cumsum([turns.STEPS, turns.STEPS, 10] * 6)
    for start, end in zip([0, *ends], ends, strict=False):
        assert steps[start:end].count("long") == (end - start) / 2
    assert turns.ratio(seconds["long"], seconds["short"])[1] > 5  # waiting is not counted


def test_a_way_that_fails_ends_the_turns(modules):
    ways = {"good": list, "bad": lambda loader: 1 / 0}
    with pytest.raises(ZeroDivisionError):
        modules["turns"].take_turns(ways, lambda: range(40), times=1)


@pytest.mark.soak
@pytest.mark.parametrize("forms", ["eager", "epoch"])
def test_the_program_for_a_gpu_checks_and_times(forms, modules, monkeypatch, capsys):
    """On the CPU, where programs run by the code that a captured graph would replay."""
    make = lambda steps, arguments, echo: (Replay(steps, arguments), "here")  # noqa: E731
    monkeypatch.setattr("plainfit.training.ranges.compiled", make)
    options = ["--device", "cpu", "--tiny", "--forms", forms, "--models", "logistic"]
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)  # what it sets, set back
    assert modules["gpu"].main(options) == 0
    lines = capsys.readouterr().out.splitlines()
    checks = 10 if forms == "eager" else 7  # only eager steps are in pieces
    assert [line[:4] for line in lines[1 : 1 + checks]] == ["PASS"] * checks
    assert f"PASS  {forms}: logistic twice, the same bits" in [line.strip() for line in lines]
    assert [line.split("|")[2].strip() for line in lines[1 + checks :]] == [
        "way",
        "---",
        "loop by hand",
        forms,
    ]


def test_a_check_that_fails_is_no_end_and_the_exit_code(modules, monkeypatch, capsys):
    def check_nothing(work):
        yield "one", False, "of two"
        raise RuntimeError("in the test")

    gpu = modules["gpu"]
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    monkeypatch.setattr(gpu, "CHECKS", (check_nothing,))
    assert gpu.main(["--device", "cpu", "--tiny", "--forms", "eager", "--models", ""]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL")]
    assert failed == [
        "FAIL  eager: one  of two",
        "FAIL  eager: check_nothing  RuntimeError: in the test",
    ]


def test_what_an_exchange_sends(modules):
    load = modules["processes"].load
    assert load(2, 8, is_fast=False) == load(2, 8, is_fast=True) == (2, 1.0)
    assert load(4, 8, is_fast=False) == (4, 2 * 3 / 4)
    assert load(4, 8, is_fast=True) == (6, 2 * 3 / 4)
    assert load(3, 8, is_fast=False) == (3, 3 * 2 / 3)  # a rank has two sums: (2 + 3) and 4
    assert load(3, 24, is_fast=False) == (3, 2 * 2 / 3)


def test_an_exchange_takes_its_messages_and_its_bytes(modules):
    model = modules["processes"].Model(message=1e-5, byte=2e-9)
    assert model.seconds(10**6, (4, 1.5), rate=1e9, latency=1e-3) == pytest.approx(4.04e-3 + 12e-3)
    assert model.seconds(10**6, (4, 1.5), rate=1e11, latency=0) == pytest.approx(4e-5 + 3e-3)


@pytest.mark.soak
def test_trainings_on_several_processes_are_timed(tmp_path):
    done = subprocess.run(
        [sys.executable, PROCESSES, "--rounds=1", "--steps=1", "--folder", tmp_path],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| mlp: ")]
    assert [len(row) for row in rows] == [6] * 9
    assert all(float(row[1].replace(",", "")) > 0 for row in rows)
    [section] = tmp_path.iterdir()
    assert json.loads(section.read_text(encoding="utf-8"))["title"] == "Several processes"


@pytest.mark.soak
def test_servers_are_asked_by_many(tmp_path):
    options = ["--rounds=1", "--seconds=1", "--clients=4", "--folder", tmp_path]
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "serving.py", *options],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "BentoML was not there" in done.stdout
    [section] = tmp_path.iterdir()
    rows = json.loads(section.read_text(encoding="utf-8"))["rows"]
    assert [row[0].strip("`") for row in rows] == [
        "plain FastAPI", "plainfit serve", "plainfit serve --workers 2",
    ]  # fmt: skip
    assert all(float(row[1].replace(",", "")) > 0 for row in rows)
