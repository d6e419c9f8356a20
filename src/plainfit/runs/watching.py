"""A folder of runs, watched from outside: the trainings do not know of it.

Nothing is opened unless its size or time has changed. A log is read on from where it was read to;
where what was read last is not there any more, a resume has cut rows away, or a new training has
begun, and the log is read again from its first row.
"""

import os
import stat
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from plainfit.common.errors import reason
from plainfit.common.files import LOCK, writer_of
from plainfit.runs.folder import METRICS, RECORD, STEPS, Run, open_run
from plainfit.runs.record import DAMAGED, parse_epoch, parse_step

MOST_ROWS = 30_000  # of a log in memory; of a longer one every second, fourth, ... is kept


class Log:
    """The rows of a log that grows. `rows` is another list once rows are taken back."""

    def __init__(self, path: Path, parse: Callable[[str], Any]) -> None:
        self.path, self.parse = path, parse
        self.rows: list[Any] = []
        self.every, self.count = 1, 0
        self.offset, self.last = 0, b""
        self.stamp: Any = None

    def look(self) -> None:
        if (stamp := stamp_of(self.path)) == self.stamp:
            return
        self.stamp = stamp
        try:
            if stamp is None:
                raise OSError
            with self.path.open("rb") as file:
                file.seek(self.offset - len(self.last))
                if file.read(len(self.last)) != self.last:
                    self.forget()
                    file.seek(0)
                for line in file:
                    if line.endswith(b"\n"):  # else it is being written
                        self.take(line)
        except OSError:
            self.forget()

    def forget(self) -> None:
        self.rows, self.every, self.count, self.offset, self.last = [], 1, 0, 0, b""

    def take(self, line: bytes) -> None:
        self.offset, self.last = self.offset + len(line), line
        with suppress(*DAMAGED):  # as a header is
            row = self.parse(line.decode())
            if self.count % self.every == 0:
                self.rows.append(row)
            self.count += 1
        if len(self.rows) > MOST_ROWS:
            self.rows, self.every = self.rows[::2], self.every * 2


class Seen(NamedTuple):
    """A run, as far as it could be read."""

    name: str
    run: Run | None
    state: str
    """That of its record; `running` while a process writes to it, `killed` if one has left it
    without a word, `damaged` if it cannot be read."""
    problem: str = ""


class Watcher:
    """All runs of a folder.

    Args:
        folder: of runs.
        describe: what to keep of a run that has changed.

    `found` has what `describe` gave by the name of the run, and keeps the same object as long as
    the run is the same; `logs` has the rows of the runs that were asked for.
    """

    def __init__(self, folder: Path, describe: Callable[[Seen], Any]) -> None:
        self.folder, self.describe = folder, describe
        self.found: dict[str, Any] = {}
        self.stamps: dict[str, Any] = {}
        self.active: set[str] = set()
        self.logs: dict[str, dict[str, Log]] = {}

    def look(self, chosen: Collection[str] = ()) -> None:
        found = {}
        for name in self.names():
            place = f"{self.folder}/{name}"
            stamp: list[Any] = [stamp_of(f"{place}/{RECORD}"), stamp_of(place)]
            if stamp[0] is None:
                continue
            if name in self.active:
                stamp += [stamp_of(f"{place}/{METRICS}"), writer_of(Path(place))]
            if name not in self.found or self.stamps[name] != stamp:
                found[name] = self.described(Path(place))
                self.stamps[name] = stamp
            else:
                found[name] = self.found[name]
        self.found = found
        self.active &= found.keys()
        self.stamps = {name: self.stamps[name] for name in found}
        wanted = found.keys() & chosen
        self.logs = {name: self.logs_of(name) for name in wanted | self.active}
        for name in wanted:
            for log in self.logs[name].values():
                log.look()

    def described(self, folder: Path) -> Any:
        try:
            return self.describe(self.seen(folder))
        except Exception as error:  # a file from elsewhere fails in many ways, and is one of many
            return self.describe(Seen(folder.name, None, "damaged", reason(error)))

    def names(self) -> list[str]:
        with suppress(OSError):
            return sorted(os.listdir(self.folder))  # noqa: PTH208  # as in `stamp_of`
        return []

    def logs_of(self, name: str) -> dict[str, Log]:
        folder = self.folder / name
        return self.logs.get(name) or {
            "epochs": Log(folder / METRICS, parse_epoch),
            "steps": Log(folder / STEPS, parse_step),
        }

    def seen(self, folder: Path) -> Seen:
        name, writer = folder.name, writer_of(folder)
        self.active.discard(name)
        name.encode()  # else no browser can ask for it
        run = open_run(folder)
        state = run.record["state"]
        if writer is not None or state == "started":
            self.active.add(name)
            self.logs[name] = self.logs_of(name)
            log = self.logs[name]["epochs"]
            log.look()
            run.epochs = log.rows
            noted = stamp_of(folder / LOCK)  # with the process in it, if that could be locked
            is_left = writer is None and noted is not None and noted[1] > 0
            state = "killed" if is_left else state if writer is None else "running"
        return Seen(name, run, state)


def stamp_of(path: str | Path) -> tuple[int, ...] | None:
    """Return what changes with a file or a folder; None if it is neither, such as a pipe."""
    with suppress(OSError):
        found = os.stat(path)  # noqa: PTH116  # a Path takes longer to make than to look up
        if stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode):
            return found.st_mtime_ns, found.st_size, found.st_ino
    return None
