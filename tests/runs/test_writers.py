"""One process writes to a run at a time; and what Ctrl-C leaves, whenever it comes."""

import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from killing import ended, files_up_to, forked
from plainfit.common import files
from plainfit.common.errors import RunError, command
from plainfit.runs import train as module
from plainfit.runs.folder import default_folder, read_record
from plainfit.runs.settings import RunConfig
from plainfit.runs.train import resume, train
from plainfit.training.hooks import Callback
from small import batches, fit, network, sgd

SETTINGS = {"model": "logistic", "epochs": 2}


class Meanwhile(Callback):
    """Calls a function at the end of the first epoch."""

    observer = True

    def __init__(self, call):
        self.call = call

    def on_epoch_end(self, context):
        if context.epoch == 0:
            self.call()


@pytest.fixture
def running(tmp_path):
    """A run in another process that waits after its first epoch; the process's number."""
    reading, writing = os.pipe()
    wait = Meanwhile(lambda: (os.write(writing, b"."), signal.pause()))
    config = RunConfig(**SETTINGS, out=tmp_path / "run")
    child = forked(lambda: train(config, echo=None, callbacks=[wait]), tmp_path / "error.txt")
    assert os.read(reading, 1), (tmp_path / "error.txt").read_text()
    yield child
    if Path(f"/proc/{child}").exists():
        os.kill(child, signal.SIGKILL)
        ended(child)


def same_as(trained_run, folder):
    assert read_record(folder)["state"] == "finished"
    assert not [path.name for path in folder.rglob(".*")]
    for name in ("model.safetensors", "best.safetensors", "steps.csv"):
        assert (folder / name).read_bytes() == (trained_run / name).read_bytes()


def test_a_second_process_is_told_who_writes_and_a_dead_one_does_not_count(
    tmp_path, running, plainfit, trained_run
):
    folder = tmp_path / "run"
    for arguments in (["resume", folder], ["train", "--out", folder], ["resume", folder]):
        code, _, error = plainfit(*arguments)
        assert code == 2
        assert error.startswith(
            f"error: a folder must have one writer, and process {running} on {os.uname().nodename}"
        )
        assert error.endswith(f"writes to {folder}; wait until it ends, or stop it\n")
    with pytest.raises(RunError, match=f"process {running} on"):
        fit(model := network(), sgd(model), batches(5), checkpoint=folder / "checkpoints")
    os.kill(running, signal.SIGKILL)
    assert ended(running) == -signal.SIGKILL
    assert (folder / ".plainfit.lock").exists()
    resume(folder, echo=None)
    same_as(trained_run, folder)


def test_a_second_training_in_this_process_is_refused_too(tmp_path, trained_run):
    folder, seen = tmp_path / "run", []

    def again():
        for call in (lambda: resume(folder), lambda: train(RunConfig(**SETTINGS, out=folder))):
            with pytest.raises(RunError, match="and this process writes to"):
                call()
            seen.append(call)

    train(RunConfig(**SETTINGS, out=folder), echo=None, callbacks=[Meanwhile(again)])
    assert len(seen) == 2
    same_as(trained_run, folder)


def test_two_begin_at_once(tmp_path, trained_run):
    """One trains, and the other writes nothing."""
    go, ready = os.pipe()
    config = RunConfig(**SETTINGS, out=tmp_path / "run")

    def begin():
        os.read(go, 1)
        train(config, echo=None)

    errors = [tmp_path / "a", tmp_path / "b"]
    children = [forked(begin, path) for path in errors]
    os.write(ready, b"..")
    assert sorted(map(ended, children)) == [0, 1]
    told = [path.read_text() for path in errors if path.exists()]
    assert len(told) == 1
    assert "RunError" in told[0]
    same_as(trained_run, tmp_path / "run")


def test_default_folders_of_one_second_differ(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda *_: "now")
    names = [default_folder("a.csv", "net:Net").name for _ in range(3)]
    assert names == ["now-a-Net", "now-a-Net-2", "now-a-Net-3"]
    assert sorted(path.name for path in Path("runs").iterdir()) == names


def test_without_locks_a_warning_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "fcntl", None)  # as on Windows
    with pytest.warns(RuntimeWarning, match="could not be locked.*no other process writes to it"):
        train(RunConfig(**SETTINGS, out=tmp_path / "run"), echo=None)


@pytest.mark.parametrize("kind", ["symlink_to", "hardlink_to"])
def test_a_lock_that_leads_elsewhere_is_not_written_to(copied_run, kind):
    (copied_run.parent / "precious").write_text("precious")
    getattr(copied_run / ".plainfit.lock", kind)(copied_run.parent / "precious")
    with pytest.warns(RuntimeWarning, match="could not be locked"):
        resume(copied_run, epochs=3, echo=None)
    assert (copied_run.parent / "precious").read_text() == "precious"


@pytest.fixture
def copied_run(trained_run, tmp_path):
    return shutil.copytree(trained_run, tmp_path / "run")


# Ctrl-C


def stopped(folder, callbacks=(), stop=KeyboardInterrupt):
    lines = []
    with pytest.raises(stop):
        train(RunConfig(**SETTINGS, out=folder), echo=lines.append, callbacks=callbacks)
    return [line for line in lines if line.startswith("stopped")]


class Interrupt(Callback):
    """Sends Ctrl-C, so many times, within step 10."""

    observer = True

    def __init__(self, times):
        self.times = times

    def on_batch_start(self, context):
        if context.global_step == 10:
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("times", "limit", "kept"),
    [(1, None, "everything is"), (2, None, "0 of 10 steps are"), (1, 9000, "0 of 11 steps are")],
)
@pytest.mark.filterwarnings("ignore:.*training goes on")
def test_what_is_said_to_be_saved_is(tmp_path, trained_run, times, limit, kept):
    """Once, twice, and on a disk that is full."""
    folder = tmp_path / "run"
    with files_up_to(limit or 2**30):
        lines = stopped(folder, [Interrupt(times)])
    assert lines == [f"stopped; {kept} saved; continue with: {command('resume', folder)}"]
    assert bool(list((folder / "checkpoints").iterdir())) == (kept == "everything is")
    resume(folder, echo=None)
    same_as(trained_run, folder)


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_in_the_final_test(tmp_path, trained_run, monkeypatch, number, raised):
    def validate(*arguments, real=module.validate, **options):
        os.kill(os.getpid(), number)
        return real(*arguments, **options)

    folder, before = tmp_path / "run", signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(module, "validate", validate)
        (line,) = stopped(folder, stop=raised)
    assert line.startswith("stopped; everything is saved; continue with: plainfit resume ")
    assert read_record(folder)["state"] == "interrupted"
    assert signal.getsignal(number) is before
    resume(folder, echo=None)
    same_as(trained_run, folder)


def interrupted_at(call, folder, monkeypatch):
    """Train, with Ctrl-C at a call of the end and at the next one; return if it came to that."""
    calls = []

    def count(name, real):
        def replacement(*arguments, **options):
            calls.extend([name] if calls or name == "validate" else [])
            if len(calls) - 1 in (call, call + 1):
                raise KeyboardInterrupt
            return real(*arguments, **options)

        return replacement

    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(module, "validate", count("validate", module.validate))
        for name in ("write", "fsync", "replace"):
            patch.setattr(os, name, count(name, getattr(os, name)))
        train(RunConfig(**SETTINGS, out=folder), echo=None)
    return len(calls) > call


def test_ctrl_c_at_each_write_of_the_end(tmp_path, trained_run, monkeypatch):
    call = 1
    while interrupted_at(call, folder := tmp_path / str(call), monkeypatch):
        if read_record(folder)["state"] != "finished":
            resume(folder, echo=None)
        same_as(trained_run, folder)
        call += 1
    assert call > 10
