"""`benchmarks/ladder_repeat.py`, on little data."""

import importlib.util
from pathlib import Path

import pytest

from plainfit.ladder.catalog import RUNGS

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "ladder_repeat.py"
SPEC = importlib.util.spec_from_file_location("ladder_repeat", PROGRAM)
repeat = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(repeat)


@pytest.fixture
def run(digits_file, monkeypatch):
    monkeypatch.setattr(repeat.sys, "argv", [])
    programs = dict(repeat.programs())
    return lambda label, seed=0: repeat.run((label, programs[label]), digits_file, 2, seed)


def test_the_programs_are_the_tutorials():
    labels = [label for label, _ in repeat.programs()]
    assert [label for label in labels if "listed" not in label] == [r.label for r in RUNGS[1:14]]
    assert [label for label in labels if "listed" in label] == ["10 as listed", "13 as listed"]
    assert len({source for _, source in repeat.programs()}) == len(labels)
    assert set(repeat.TUTORIAL) <= set(labels)
    assert sum(map(len, repeat.TUTORIAL.values())) == 26


def test_a_run_gives_the_numbers_that_a_rung_prints(run):
    first, again, other = run("01"), run("01"), run("01", seed=1)
    assert first == again != other
    assert list(first) == [*repeat.TUTORIAL["01"]]
    assert run("03")["after loss"] == first["after loss"]
    batches, samples = run("08"), run("09")
    difference = batches["epoch 1 valid_loss"] - samples["epoch 1 valid_loss"]
    assert batches[repeat.UNWEIGHTED] == pytest.approx(difference, abs=2e-4)
    assert run("10 as listed") != run("10")


def test_the_table_shows_ranges_and_the_tutorials_numbers():
    runs = {
        "05": [{"after loss": 0.06}, {"after loss": 0.08}],
        "10": [{"epoch 1 valid_loss": 0.3}, {"epoch 1 valid_loss": 0.4}],
        "10 as listed": [{"epoch 1 valid_loss": 0.2}, {"epoch 1 valid_loss": 0.25}],
        "08": [{repeat.UNWEIGHTED: 0.1}, {repeat.UNWEIGHTED: 0.3}],
    }
    rows = list(repeat.table(runs, compare=True))[2:]
    outside = "above by 0.0027; 2 of 3 new runs are outside"
    assert rows == [
        f"| 05 | after loss | 0.0827 | 0.0600 | 0.0700 | 0.0800 | {outside} |",
        "| 10 | epoch 1 valid_loss | 0.2279 | 0.3000 | 0.3500 | 0.4000 | below by 0.0721; "
        "inside for 10 as listed |",
        "| 10 as listed | epoch 1 valid_loss | 0.2279 | 0.2000 | 0.2250 | 0.2500 | inside |",
        "| 08 | unweighted less weighted | | 0.1000 | 0.2000 | 0.3000 | |",
    ]
    assert "0.0827" not in "".join(repeat.table(runs, compare=False))
