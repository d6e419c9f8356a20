"""Trainings that the page starts: a process each, as if its command were typed in a terminal.

They go on when the page ends. A page that is started later finds them by their runs.
"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from threading import Lock
from typing import Any

from fastapi import HTTPException

from plainfit.common.errors import ConfigError, command, unknown_name
from plainfit.common.files import writer_of
from plainfit.common.schema import hints_of
from plainfit.runs.folder import default_name
from plainfit.runs.settings import RunConfig, TransferSettings, names_of, option

SETTINGS = names_of(RunConfig, without=(*names_of(TransferSettings), "out"))
BAD_INPUT = 2  # the exit code of a command that refuses its input
MOST_SHOWN = 8192  # bytes of what a training has printed
MOST_ENDED = 20  # that are remembered

Settings = dict[str, str | bool]


class Training:
    """A process, and what it prints."""

    def __init__(self, number: int, name: str, words: list[str]) -> None:
        self.number, self.name = number, name
        self.command = command(*words)
        self.lock = Lock()
        self.output = tempfile.TemporaryFile()  # noqa: SIM115  # until it has ended
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "plainfit", *words],
                stdin=subprocess.DEVNULL,
                stdout=self.output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the page's terminal is not for it
            )
        except (OSError, ValueError) as error:  # too long, NUL, half a character
            self.output.close()
            raise HTTPException(422, {"text": "no_command", "error": str(error)}) from error
        self.shown: dict[str, Any] = {}

    def card(self) -> dict[str, Any]:
        with self.lock:
            if not self.output.closed:
                code, printed = self.process.poll(), self.printed()
                refused = printed.strip().rpartition("\n")[2] if code == BAD_INPUT else ""
                self.shown = {
                    "number": self.number,
                    "name": self.name,
                    "command": self.command,
                    "code": code,
                    "output": printed,
                    "refused": refused,
                }
                if code is not None:
                    self.output.close()
            return self.shown

    def printed(self) -> str:
        if not hasattr(os, "pread"):  # Windows: to read would move the place where it writes
            return ""
        descriptor = self.output.fileno()
        start = max(os.fstat(descriptor).st_size - MOST_SHOWN, 0)
        text = os.pread(descriptor, MOST_SHOWN, start).decode("utf-8", "replace")
        return text.partition("\n")[2] if start else text


class Trainings:
    """Those that were started here, the newest first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.all: list[Training] = []
        self.count = 0

    def start(self, name: str, settings: Settings) -> Training:
        """Start a training with these settings, in a new folder of this name.

        Raises:
            HTTPException: 422 if that is no name, or no command can be made of it.
            ConfigError: if they are no settings. What their values are worth, the command finds
                out.
        """
        if name != Path(name).name or name.startswith((".", "-")) or not name.isprintable():
            raise HTTPException(422, {"text": "no_run_name", "name": repr(name)})
        data, model = (str(settings.get(key, getattr(RunConfig, key))) for key in ("data", "model"))
        name = name or default_name(data, model)
        return self.run(name, ["train", *words_of(settings), "--out", str(self.folder / name)])

    def resume(self, name: str, epochs: int | None) -> Training:
        more = [] if epochs is None else ["--epochs", str(epochs)]
        return self.run(name, ["resume", str(self.folder / name), *more])

    def run(self, name: str, words: list[str]) -> Training:
        ended = [one for one in self.all if one.card()["code"] is not None]
        self.all = [one for one in self.all if one not in ended[MOST_ENDED:]]
        training = Training(self.count, name, words)
        self.count += 1
        self.all.insert(0, training)
        return training

    def stop(self, number: int) -> None:
        """Send SIGTERM, after which a training saves its state and ends."""
        for training in self.all:
            if training.number == number and training.process.poll() is None:
                training.process.terminate()

    def running(self) -> list[Training]:
        return [training for training in self.all if training.process.poll() is None]


def stop_run(folder: Path) -> None:
    """Send SIGTERM to the process that writes to a run folder, whoever has started it.

    Raises:
        HTTPException: 422 if none does, or it is out of reach.
    """
    process = writer_of(folder)
    if not process:
        key = "not_trained" if process is None else "trained_elsewhere"
        raise HTTPException(422, {"text": key, "folder": str(folder)})
    try:
        os.kill(process, signal.SIGTERM)
    except OSError as error:
        detail = {"text": "not_stopped", "process": process, "error": str(error.strerror)}
        raise HTTPException(422, detail) from error


def words_of(settings: Settings) -> list[str]:
    """Return settings as the words of a command.

    >>> words_of({"lr": "0.1", "nesterov": True, "keep_memory": False})
    ['--lr=0.1', '--nesterov', '--no-keep-memory']
    """
    words, hints = [], hints_of(RunConfig)
    for name, value in settings.items():
        if name not in SETTINGS:
            raise ConfigError(unknown_name("setting", name, SETTINGS))
        if (hints[name].__origin__ is bool) != isinstance(value, bool):
            raise ConfigError(f"must be {'true or false' if isinstance(value, str) else 'text'}, "
                              f"got {value!r}", field=name)  # fmt: skip
        if isinstance(value, bool):
            words.append(option(name) if value else f"--no-{option(name)[2:]}")
        else:
            words.append(f"{option(name)}={value}")
    return words
