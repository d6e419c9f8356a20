"""Trainings that are killed: forks of a process that has loaded torch, so that many are quick."""

import io
import os
import random
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch

from plainfit.common.files import write_bytes
from plainfit.training.callbacks import Checkpointing
from plainfit.training.checkpoints import from_bytes, to_bytes
from plainfit.training.state import capture, restore
from trainings import train

RESULT = "result.bin"
CALLS = ("write", "fsync", "replace", "unlink")  # every change on disk is one of these
WHEN = ("before", "half", "after")


def warm_up(folder: Path) -> None:
    """Train once here, so that forked processes find every module loaded."""
    train_to_file(folder)


def forked(work: Callable[[], object], errors: Path) -> int:
    """Run a function in a forked process; return its process number. An error goes to a file."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        torch.set_num_threads(1)  # the parent's threads are not there
        os.setpgid(0, 0)  # its workers with it, so that a signal can be sent to all of them
        signal.signal(signal.SIGINT, signal.default_int_handler)
        work()
        code = 0
    except KeyboardInterrupt:
        code = 130
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        errors.write_text(traceback.format_exc())
    finally:
        sys.stdout.flush()
        os._exit(code)


def output_of(work: Callable[[], object], folder: Path, typed: str = "") -> tuple[int, str, str]:
    """Run a function in a forked process and in a folder; return its exit code, stdout, stderr."""
    paths = [folder / name for name in ("stdin.txt", "stdout.txt", "stderr.txt")]
    paths[0].write_text(typed)

    def in_folder() -> None:
        os.chdir(folder)
        streams = [path.open(mode) for path, mode in zip(paths, "rww", strict=True)]
        for number, stream in enumerate(streams):
            os.dup2(stream.fileno(), number)
        sys.stdin, sys.stdout, sys.stderr = streams
        sys.path.insert(0, str(folder))
        try:
            work()
        finally:
            sys.stderr.flush()

    code = ended(forked(in_folder, paths[2]))
    return code, paths[1].read_text(), paths[2].read_text()


def train_to_file(folder: Path, **options) -> None:
    """Train, or go on, with a checkpoint every 2 steps, and leave the outcome in a file."""
    kind = options.pop("kind", Checkpointing)
    keeper = kind(folder / "checkpoints", every_steps=2)
    outcome = train(folder, resume=True, checkpoint=keeper, **options)
    (folder / RESULT).write_bytes(to_bytes(outcome))


def outcome_of(folder: Path) -> dict:
    """Return what the training that came to its end has left."""
    return from_bytes((folder / RESULT).read_bytes())


def ended(child: int, seconds: float = 60.0) -> int:
    """Wait for a process and return its exit code, negative for a signal; it must end in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError(f"a training did not end within {seconds} s")


def orphans(group: int) -> list[int]:
    """Return the processes of a group that are still there (a zombie has ended)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def finish(folder: Path, **options) -> dict:
    """Let a training that was killed end, and return its outcome."""
    errors = folder / "error.txt"
    code = ended(forked(lambda: train_to_file(folder, **options), errors))
    if errors.exists():
        raise AssertionError(errors.read_text())
    assert code == 0, code
    return outcome_of(folder)


def kill_at_times(folder: Path, rng: random.Random, seconds: float, **options) -> int:
    """Kill a training 1 to 5 times, each after a random time; return how often it was alive."""
    kills, groups = 0, []
    for _ in range(rng.randint(1, 5)):
        child = forked(lambda: train_to_file(folder, **options), folder / "error.txt")
        time.sleep(rng.uniform(0.0, seconds))
        os.kill(child, signal.SIGKILL)
        kills += ended(child) == -signal.SIGKILL
        groups.append(child)
    assert left_behind(groups) == []
    return kills


def left_behind(groups: list[int]) -> list[int]:
    """Return the processes that stay; a worker needs 5 seconds to see that it is left."""
    until = time.monotonic() + 60
    while any(map(orphans, groups)) and time.monotonic() < until:
        time.sleep(0.02)
    return [process for group in groups for process in orphans(group)]


def kill_in_saves(folder: Path, rng: random.Random, calls: int, **options) -> int:
    """Kill a training 1 to 5 times, each at a random write, fsync, rename or unlink."""
    kills = 0
    for _ in range(rng.randint(1, 5)):
        kills += killed_at(folder, rng.randint(1, calls), rng.choice(WHEN), **options)
    return kills


def killed_at(folder: Path, call: int, when: str, **options) -> bool:
    """Let a training kill itself at a call; return whether it came to that."""

    def work() -> None:
        die_at(call, when)
        train_to_file(folder, **options)

    code = ended(forked(work, folder / "error.txt"))
    assert code in (0, -signal.SIGKILL), (code, folder)
    return code != 0


def die_at(call: int, when: str) -> None:
    """Make this process kill itself at the n-th write, fsync or rename that it does.

    `when` is before, after, or (for a write) half: when half of the bytes are written.
    """
    count, process = 0, os.getpid()

    def counted(name: str) -> None:
        real = getattr(os, name)

        def replacement(*arguments, **options):
            nonlocal count
            count += os.getpid() == process  # and not its workers
            if count == call and os.getpid() == process:
                if when == "half" and name == "write":
                    real(arguments[0], arguments[1][: len(arguments[1]) // 2])
                elif when == "after":
                    with suppress(OSError):  # what is to be removed may not be there
                        real(*arguments, **options)
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        setattr(os, name, replacement)

    for name in CALLS:
        counted(name)


class NaiveCheckpointing(Checkpointing):
    """The control: what a loop of one's own does, over the file of the last time."""

    def begin(self, context, resume, echo=None):
        self.folder.mkdir(parents=True, exist_ok=True)
        self.setup = {"is that of fit's checkpoint": True}
        path = self.folder / "last.pt"
        if path.exists():
            restore(context, torch.load(path, weights_only=False))

    def save(self, context, *, at_end_of_epoch=False):
        buffer = io.BytesIO()
        torch.save(capture(context, at_end_of_epoch=at_end_of_epoch), buffer)
        write_bytes(self.folder / "last.pt", [buffer.getvalue()], os.O_CREAT | os.O_TRUNC)


@contextmanager
def small_disk(folder, size):
    """Mount a disk in memory of so many bytes; skip the test where that is not allowed."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def files_up_to(size):
    """Let no file of this process grow beyond so many bytes: its writes fail as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
