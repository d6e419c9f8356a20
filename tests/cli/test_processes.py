"""`--processes N`: killed, stopped and failing processes, and what the terminal shows of them."""

import os
import random
import re
import signal
import time
from contextlib import suppress

import pytest

from launching import Launched
from plainfit.cli import processes
from plainfit.runs.folder import read_record
from plainfit.runs.settings import RunConfig
from plainfit.runs.train import train

# In some forward passes of some processes, once each, something happens.
MODEL = """
import os, signal, time
from pathlib import Path

from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.calls = nn.Linear(64, 10), 0

    def forward(self, xb):
        self.calls += self.training
        for number, (rank, call, action) in enumerate(EVENTS):
            done = Path(f"done-{number}")
            if (rank, call) == (os.environ.get("RANK"), self.calls) and not done.exists():
                done.touch()
                exec(action)
        return self.layer(xb.flatten(1))
"""
TRAIN = ("train", "--model", "mine:Net", "--batch-size", 128, "--epochs", 3, "--out", "run")
TWO = (*TRAIN, "--processes", 2, "--checkpoint-every", 1)
KILL, STOP = "os.kill(os.getpid(), signal.SIGKILL)", "os.kill(os.getpid(), signal.SIGSTOP)"


@pytest.fixture
def launch(tmp_path):
    """Run a command in forks, in a folder with a model to which something happens."""

    def launched(*arguments, events=(), folder=tmp_path, **options):
        folder.mkdir(exist_ok=True)
        if not (folder / "mine.py").exists():
            (folder / "mine.py").write_text(MODEL.replace("EVENTS", repr(events)))
        return Launched(folder, *arguments, **options)

    return launched


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an undisturbed training on one process."""
    folder = tmp_path_factory.mktemp("whole")
    train(RunConfig(model="logistic", epochs=1, shards=8, out=folder / "warm"), echo=None)
    (folder / "mine.py").write_text(MODEL.replace("EVENTS", "()"))
    assert Launched(folder, *TRAIN, "--shards", 8).end()[0] == 0
    return folder


def bits(folder):
    return [(folder / "run" / name).read_bytes() for name in ("model.safetensors", "steps.csv")]


def test_random_workers_killed(whole, launch, tmp_path):
    rng = random.Random(0)
    events = [(rng.choice("01"), rng.randint(1, 40), KILL) for _ in range(3)]
    assert restarts(launch(*TWO, "--max-restarts", 3, events=events)) == 3
    assert bits(tmp_path) == bits(whole)


@pytest.mark.soak
def test_random_workers_killed_50_times_at_random_times(whole, launch, tmp_path):
    kills = 0
    for number in range(50):
        rng, folder = random.Random(number), tmp_path / str(number)
        launched = launch(*TWO, "--max-restarts", 3, folder=folder)
        for restart in range(rng.randint(1, 3)):
            worker = launched.worker(rng.randrange(2), restart)
            time.sleep(rng.uniform(0.0, 1.0))
            if worker is not None and launched.poll() is None:
                with suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
        kills += restarts(launched)
        assert bits(folder) == bits(whole), number
    print(f"\n50 of 50 trainings equal in every bit after {kills} kills")
    assert kills > 50


def restarts(launched):
    """Wait for the end of a training whose workers were killed; return how often it said so."""
    code, _, err, left = launched.end()
    assert (code, left) == (0, []), err
    count = err.count("note")
    says = (
        "note   process [01] was ended by SIGKILL; restart {} of 3 goes on from the last checkpoint"
    )
    assert re.fullmatch("".join(f"{says}\n".format(n) for n in range(1, count + 1)), err), err
    return count


def test_a_worker_that_is_stopped(whole, launch, tmp_path):
    def before():
        processes.GRACE = 0.5

    code, _, err, left = launch(
        *TWO, "--max-restarts", 1, events=[("1", 9, STOP)], timeout=2.0, before=before
    ).end()
    assert (code, left) == (0, [])
    assert err == (
        "note   all processes of a training must go on, and another one has ended, or did not "
        "answer for 2 s (set by PLAINFIT_TIMEOUT), in epoch 0, after 2 of 10 steps; restart 1 of 1 "
        "goes on from the last checkpoint\n"
    )
    assert bits(tmp_path) == bits(whole)


@pytest.mark.parametrize(("ranks", "where"), [("1", "in process 1: "), ("01", "")])
def test_a_model_that_raises(launch, tmp_path, ranks, where):
    events = [(rank, 9, "raise RuntimeError('mine')") for rank in ranks]
    code, _, err, left = launch(*TWO, events=events).end()
    assert (code, left) == (1, [])
    assert err == (
        f"error: {where}RuntimeError: mine, in epoch 0, after 2 of 10 steps; what was saved is in "
        "run: plainfit resume run\n"
    )
    assert read_record(tmp_path / "run")["state"] == "failed"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_and_resumed(whole, launch, tmp_path, number):
    events = [("0", 9, f"os.kill(os.getppid(), {number:d}); time.sleep(1)")]
    code, out, err, left = launch(*TWO, events=events).end()
    assert (code, left) == (128 + number, [])
    assert out.endswith("\nstopped; everything is saved; continue with: plainfit resume run\n")
    assert err == "\nstopped\n" * (number == signal.SIGINT)
    assert read_record(tmp_path / "run")["state"] == "interrupted"
    code, out, err, left = launch("resume", "run", "--processes", 2).end()
    assert (code, err, left) == (0, "", [])
    assert bits(tmp_path) == bits(whole)


def test_a_second_ctrl_c_ends_at_once(launch, tmp_path):
    sends = "os.kill(os.getppid(), signal.SIGINT); time.sleep(0.5); " * 2 + "time.sleep(60)"
    code, out, err, left = launch(*TWO, events=[("0", 9, sends)]).end(30)
    assert (code, err, left) == (130, "\nstopped\n", [])
    assert out.endswith("\nstopped; everything is saved; continue with: plainfit resume run\n")


def test_a_launcher_that_is_killed_leaves_nothing(whole, launch, tmp_path):
    events = [("0", 9, f"os.kill(os.getppid(), {signal.SIGKILL:d}); time.sleep(2)")]
    launched = launch(*TWO, events=events)
    code, _, err, _ = launched.end()
    assert (code, err) == (-signal.SIGKILL, "")
    until = time.monotonic() + 30
    while launched.left() and time.monotonic() < until:
        time.sleep(0.05)
    assert launched.left() == []
    says = "\nstopped; everything is saved; continue with: plainfit resume run\n"
    assert launched.text("stdout").endswith(says)
    assert launch("resume", "run", "--processes", 2).end()[0] == 0
    assert bits(tmp_path) == bits(whole)
