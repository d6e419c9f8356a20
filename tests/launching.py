"""`plainfit train --processes N` in forks of a process that has loaded torch, so that it is quick.

The launcher and its workers run the command as they do; only the start of an interpreter is left
out.
"""

import os
import signal
import sys
import time
from pathlib import Path

from killing import forked
from plainfit.cli import main, processes
from plainfit.training import processes as joined

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


def write_model(folder, events="()"):
    """Write `mine:Net`, to which these events happen: a literal of (rank, call, statement)."""
    (folder / "mine.py").write_text(MODEL.replace("EVENTS", events))


class Process:
    """A forked process: as much of a `Popen` as the launcher uses."""

    def __init__(self, work, errors):
        self.pid, self.code = forked(work, errors), None

    def poll(self):
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def started(env):
    """Start a worker in the current folder, and leave its number in a file."""

    def work():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as in a program of its own
        os.environ.clear()
        os.environ.update(env)
        if env["RANK"] != "0":
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        main()

    name = f"{env['TORCHELASTIC_RESTART_COUNT']}-{env['RANK']}"
    worker = Process(work, Path(f"error-{name}.txt"))
    Path(f"{name}.new").write_text(str(worker.pid))
    Path(f"{name}.new").rename(f"{name}.pid")
    return worker


class Launched(Process):
    """A command that runs in a folder, in forks."""

    def __init__(self, folder, *arguments, timeout=60.0):
        def work():
            os.chdir(folder)
            for number, name in ((1, "stdout.txt"), (2, "stderr.txt")):
                os.dup2(os.open(name, os.O_WRONLY), number)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            sys.argv = ["plainfit", *map(str, arguments)]
            sys.path.insert(0, str(folder))
            processes.started, joined.TIMEOUT = started, timeout
            main()

        folder.mkdir(exist_ok=True)
        self.folder = folder
        for left in folder.glob("*.pid"):
            left.unlink()
        for name in ("stdout.txt", "stderr.txt"):
            (folder / name).write_text("")
        super().__init__(work, folder / "error.txt")

    def worker(self, rank, restart=0):
        """Wait until a worker has started; return its number, or None if all is over."""
        path = self.folder / f"{restart}-{rank}.pid"
        while not path.exists():
            if self.poll() is not None:
                return None
            time.sleep(0.005)
        return int(path.read_text())

    def text(self, stream):
        return (self.folder / f"{stream}.txt").read_text()

    def end(self, seconds=100.0):
        """Wait for the end; return the exit code, stdout, stderr, and the processes left behind."""
        until = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        assert self.code is not None, f"{self.text('stdout')}\n{self.text('stderr')}"
        for path in self.folder.glob("error*.txt"):
            raise AssertionError(path.read_text())
        return self.code, self.text("stdout"), self.text("stderr"), self.left()

    def left(self):
        """Return the workers that are still there; a zombie has ended."""
        numbers = [path.read_text() for path in self.folder.glob("*.pid")]
        stats = [Path(f"/proc/{number}/stat") for number in numbers]
        return [stat for stat in stats if stat.exists() and ") Z" not in stat.read_text()]
