"""`--processes N`: killed, stopped and failing processes, and what the terminal shows of them."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from launching import Launched, write_model
from plainfit.cli.processes import failures, outcome
from plainfit.runs.folder import read_record
from plainfit.runs.settings import RunConfig
from plainfit.runs.train import train

TRAIN = ("train", "--model", "mine:Net", "--batch-size", 128, "--epochs", 3, "--out", "run")
TWO = (*TRAIN, "--processes", 2, "--checkpoint-every", 1)
KILL, STOP = "os.kill(os.getpid(), signal.SIGKILL)", "os.kill(os.getpid(), signal.SIGSTOP)"


@pytest.fixture
def launch(tmp_path):
    """Run a command in forks, in a folder with a model to which something happens."""

    def launched(*arguments, events=(), folder=tmp_path, **options):
        folder.mkdir(exist_ok=True)
        if not (folder / "mine.py").exists():
            write_model(folder, repr(events))
        return Launched(folder, *arguments, **options)

    return launched


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an undisturbed training on one process."""
    folder = tmp_path_factory.mktemp("whole")
    train(RunConfig(model="logistic", epochs=1, shards=8, out=folder / "warm"), echo=None)
    write_model(folder)
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
    undisturbed, kills = launch(*TWO, folder=tmp_path / "first"), 0
    undisturbed.worker(0, 0)
    began = time.monotonic()
    undisturbed.end()
    seconds = time.monotonic() - began
    for number in range(50):
        rng, folder = random.Random(number), tmp_path / str(number)
        launched = launch(*TWO, "--max-restarts", 3, folder=folder)
        for restart in range(rng.randint(1, 3)):
            worker = launched.worker(rng.randrange(2), restart)
            time.sleep(rng.uniform(0.0, seconds))
            if worker is not None and launched.poll() is None:
                with suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
        kills += restarts(launched)
        assert bits(folder) == bits(whole), number
    print(f"\n50 of 50 trainings equal in every bit after {kills} kills")
    assert kills > 25


def restarts(launched):
    """Wait for the end of a training whose workers were killed; return how often it said so."""
    code, _, err, left = launched.end()
    assert (code, left) == (0, []), err
    # gloo, too, writes of a process that is killed before all are connected.
    err = "".join(line for line in err.splitlines(keepends=True) if not line.startswith("["))
    count = err.count("note")
    says = (
        "note   process [01] was ended by SIGKILL; restart {} of 3 goes on from the last checkpoint"
    )
    assert re.fullmatch("".join(f"{says}\n".format(n) for n in range(1, count + 1)), err), err
    return count


@pytest.mark.soak  # which waits for 20 s, the longest pause of a busy machine
def test_a_worker_that_is_stopped(whole, launch, tmp_path):
    events = [("1", 9, STOP)]
    code, _, err, left = launch(*TWO, "--max-restarts", 1, events=events, timeout=20.0).end()
    assert (code, left) == (0, []), err
    assert err == (
        "note   all processes of a training must go on, and another one has ended, or did not "
        "answer for 20 s (set by PLAINFIT_TIMEOUT), in epoch 0, after 2 of 10 steps; restart 1 of "
        "1 goes on from the last checkpoint\n"
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
    code, out, err, left = launch(*TWO, events=[("0", 9, sends)]).end()
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


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--processes", 9), "--processes must be at most --shards, 8, got 9"),
        (("--processes", 3, "--shards", 2), "--processes must be at most --shards, 2, got 3"),
        (
            ("--processes", 0),
            "--processes must be at least 1 and at most 1,024, got 0",
        ),
        (
            ("--max-restarts", -1),
            "--max-restarts must be at least 0 and at most 1,000,000,000, got -1",
        ),
        (("--max-restarts", 1), "--max-restarts is for --processes: leave it out"),
        (
            ("--shards", 4, "--reduce", "fast"),
            "--shards is for reduce='exact': leave one of them out",
        ),
        (("--shards", 33), "--shards must be at most half of the samples of a batch, 64, got 33"),
        (
            ("--shards", 4, "--overfit-one-batch"),
            "OverfitOneBatch takes a whole batch: leave out shards and processes",
        ),
    ],
)
def test_refused_before_anything_starts(plainfit, tmp_path, arguments, error):
    assert plainfit("train", *arguments) == (2, "", f"error: {error}\n")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("code", [1, 2])
def test_the_code_is_that_of_the_process_that_tells_why(tmp_path, code):
    """Another one, which failed for the same reason, may have ended before it."""
    (tmp_path / "1-0").write_text("a must be b")
    end = f"input(); raise SystemExit({code})"
    last = subprocess.Popen([sys.executable, "-c", end], stdin=subprocess.PIPE)
    first = subprocess.Popen([sys.executable, "-c", f"raise SystemExit({3 - code})"])
    workers = [last, first]
    first.wait()
    failed = failures(workers)
    last.communicate(b"\n")
    assert failed == {1: 3 - code}
    assert outcome(workers, failed, tmp_path, False) == (code, "a must be b")


def test_refused_by_all_processes(launch, tmp_path):
    """A run of whole batches, and parts of parameters with what needs them whole."""
    small = ("--epochs", 1, "--batch-size", 512)
    refused = {
        (
            "resume",
            "run",
            "--epochs",
            2,
        ): "a run that has trained on whole batches goes on in one process",
        ("train", "--fsdp", "auto", "--average", 0.9): "--fsdp is without Averaging",
    }
    assert launch("train", "--model", "logistic", *small, "--out", "run").end()[0] == 0
    before = (tmp_path / "run" / "run.json").read_bytes()
    for arguments, says in refused.items():
        code, out, err, left = launch(*arguments, "--processes", 2).end()
        assert (code, out, err.count("\n"), left) == (2, "", 1, [])
        assert err.startswith(f"error: {says}")
    assert (tmp_path / "run" / "run.json").read_bytes() == before
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("variables", "arguments", "says"),
    [
        ({}, (), "environment variable MASTER_ADDR expected, but not set; start them by torchrun"),
        ({"RANK": "x"}, (), "base 10: 'x'; start them by torchrun"),
        ({}, ("--processes", 2), "and torchrun has started this one: leave it out"),
        (
            {"TORCHELASTIC_MAX_RESTARTS": "1", "WORLD_SIZE": "1"},
            (),
            "got torchrun --max-restarts without one; add --standalone or --rdzv-id NAME",
        ),
    ],
)
def test_processes_of_others(plainfit, monkeypatch, variables, arguments, says):
    for name, value in ({"RANK": "0", "WORLD_SIZE": "2"} | variables).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # in which torchrun would end it
    code, out, err = plainfit("train", "--model", "logistic", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error")
    assert err.endswith(f"{says}\n")


def test_a_job_that_is_begun_again_finds_its_run(plainfit, monkeypatch, tmp_path):
    """On fewer processes than before, here on one; another command is another run."""
    job = {"RANK": "0", "WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "mine"}
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    command = ("train", "--model", "logistic", "--batch-size", 512, "--epochs", 2)
    assert plainfit(*command, "--time-limit", 1e-6)[0] == 0
    [run] = (tmp_path / "runs").iterdir()
    assert read_record(run)["state"] == "interrupted"
    code, out, _ = plainfit(*command, "--time-limit", 1e-6)
    assert (code, "resumed in epoch 0, after 1 of its steps" in out) == (0, True)
    assert plainfit(*command)[0] == 0
    assert len([*(tmp_path / "runs").iterdir()]) == 2
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")  # lost as it ended
    assert plainfit(*command)[0] == 0
    assert len([*(tmp_path / "runs").iterdir()]) == 2


REAL = [sys.executable, "-m", "plainfit"]


def test_real_processes(whole, tmp_path):
    shutil.copy(whole / "mine.py", tmp_path)
    command = [*REAL, *map(str, TWO), "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(json.loads(done.stdout)["epochs"]) == 3
    assert bits(tmp_path) == bits(whole)


@pytest.mark.soak
@pytest.mark.parametrize("launcher", [REAL, [sys.executable, "-m", "torch.distributed.run"]])
def test_real_processes_killed_and_stopped(whole, launch, tmp_path, launcher):
    """Ctrl-C of a terminal comes to the whole group of the launcher."""
    ctrl_c = "os.killpg(os.getpgid(os.getppid()), signal.SIGINT); time.sleep(1)"
    events = repr([("1", 9, KILL), ("0", 30, ctrl_c)])
    write_model(tmp_path, events)
    options = ["--processes", "2", "--max-restarts", "1"]
    if launcher is not REAL:
        own = ["--standalone", "--nproc-per-node", "2", "--max-restarts", "1", "-m", "plainfit"]
        launcher, options = [*launcher, *own], []
    command = [*launcher, *map(str, TRAIN), "--checkpoint-every", "1", *options]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, start_new_session=True
    )
    assert done.returncode == (130 if options else 1)
    says = "\nstopped; everything is saved; continue with: plainfit resume run\n"
    assert done.stdout.endswith(says)
    assert options == [] or done.stderr == (
        "note   process 1 was ended by SIGKILL; restart 1 of 1 goes on from the last checkpoint\n"
        "\nstopped\n"
    )
    subprocess.run([*REAL, "resume", "run", "--processes", "2"], cwd=tmp_path, check=True)
    assert bits(tmp_path) == bits(whole)
