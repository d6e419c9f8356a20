"""Runs watched from outside, while other processes write to them, are killed, and resume."""

import json
import os
import shutil
import signal
import time

import pytest

from killing import ended, forked
from plainfit.common.files import one_writer, writer_of
from plainfit.runs import watching
from plainfit.runs.folder import open_run
from plainfit.runs.watching import Log, Watcher, parse_step


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "steps.csv"
    log = Log(path, parse_step)

    def after(text, *, append=False, replace=False):
        """Return the rows once the file holds this, and whether they go on from those before."""
        before = log.rows
        if replace:
            path.unlink()
        with path.open("a" if append else "w") as file:
            file.write(text)
        log.look()
        return [(step, loss) for step, _, loss, _ in log.rows], log.rows is before

    return after


HEADER, ROWS = "step,epoch,loss,lr\n", [f"{n},{n // 2},{n}.5,0.1\n" for n in range(9)]


def test_a_log_is_read_on(log):
    assert log(HEADER + ROWS[0] + ROWS[1][:5]) == ([(0, 0.5)], True)
    assert log(ROWS[1][5:] + ROWS[2], append=True) == ([(0, 0.5), (1, 1.5), (2, 2.5)], True)
    assert log("damaged\n1,2\n\xff,,,\n" + ROWS[3], append=True)[0][-1] == (3, 3.5)


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("first", [2, 5, 8], ids=["shorter", "as long", "longer"])
def test_rows_that_a_resume_cut_away_are_taken_back(log, first, replace):
    log(HEADER + "".join(ROWS[:5]))
    others = [row.replace(".5,", ".7,") for row in ROWS[:first]]
    assert log(HEADER + ROWS[0] + "".join(others[1:]), replace=replace) == (
        [(0, 0.5), *((n, n + 0.7) for n in range(1, first))], False,
    )  # fmt: skip


def test_a_long_log_is_thinned_and_one_that_is_gone_is_empty(log, monkeypatch, tmp_path):
    monkeypatch.setattr(watching, "MOST_ROWS", 4)
    assert [step for step, _ in log(HEADER + "".join(ROWS))[0]] == [0, 4, 8]
    assert log("9,4,9.5,0.1\n10,4,1,1\n11,5,1,1\n12,5,1,1\n", append=True)[0][-1] == (12, 1)
    path = tmp_path / "gone.jsonl"
    lost = Log(path, json.loads)
    path.write_text("{}\n")
    lost.look()
    path.unlink()
    os.mkfifo(path)  # to open it would wait for ever
    lost.look()
    assert lost.rows == []


def test_a_folder_of_runs_of_all_kinds(trained_run, tmp_path):
    for name in ("good", "other", "wrong", "odd"):
        shutil.copytree(trained_run, tmp_path / name)
    (tmp_path / "wrong" / "run.json").write_text("{")
    (tmp_path / "odd" / "metrics.jsonl").write_text("[1]\nnull\n{}\n")
    (tmp_path / "no run").mkdir()
    seen = []

    def describe(one):
        seen.append(one.name)
        assert one.name != "odd" or one.run is None, "fails"
        return one.state, one.problem

    watcher = Watcher(tmp_path, describe)
    watcher.look({"good", "nowhere"})
    states = {name: state for name, (state, _) in watcher.found.items()}
    assert states == {"good": "finished", "odd": "damaged", "other": "finished", "wrong": "damaged"}
    assert "damaged one" in watcher.found["wrong"][1]
    assert [row["epoch"] for row in watcher.logs["good"]["epochs"].rows] == [0, 1]
    assert len(watcher.logs["good"]["steps"].rows) == open_run(trained_run).record["steps"]
    first, seen[:] = watcher.found["good"], []
    shutil.rmtree(tmp_path / "other")
    watcher.look()
    assert (seen, {*watcher.found}) == ([], {"good", "odd", "wrong"})
    assert watcher.found["good"] is first
    assert not watcher.logs


def test_a_process_that_writes_and_is_killed(trained_run, tmp_path):
    folder = shutil.copytree(trained_run, tmp_path / "runs" / "run")
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"state": "started"}))
    watcher = Watcher(folder.parent, lambda one: (one.state, len(one.run.epochs)))
    watcher.look()
    assert watcher.found["run"] == ("started", 2)
    assert writer_of(folder) is None

    def write():
        with one_writer(folder):
            (tmp_path / "locked").touch()
            time.sleep(60)

    child = forked(write, tmp_path / "errors")
    while not (tmp_path / "locked").exists():
        time.sleep(0.01)
    assert writer_of(folder) == child
    watcher.look()
    assert watcher.found["run"] == ("running", 2)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write((folder / "metrics.jsonl").read_text().splitlines()[-1] + "\n")
    watcher.look()
    assert watcher.found["run"] == ("running", 3)
    os.kill(child, signal.SIGKILL)
    ended(child)
    watcher.look()
    assert watcher.found["run"] == ("killed", 3)
    with one_writer(folder):  # of this process, which a look must not take away
        assert writer_of(folder) == os.getpid()
        assert ended(forked(lambda: one_writer(folder).__enter__(), tmp_path / "errors")) == 1
    assert "one writer" in (tmp_path / "errors").read_text()
