"""What was decided of the samples that `clean` ranked: one line each, and then new data."""

import csv
import io
import json
import os
import threading
import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from plainfit.common.errors import (
    ConfigError,
    DataError,
    RunError,
    command,
    raised_as,
    unknown_name,
)
from plainfit.common.files import LOCK, FileLock, append, sync, writing
from plainfit.common.schema import misfit
from plainfit.data.layout import LabelOptions
from plainfit.data.open_data import IMAGES, TABLE
from plainfit.data.relabel import Changes, write_arrays, write_images, write_table
from plainfit.data.tables.reading import TableOptions, read_columns
from plainfit.data.tables.table import find_targets
from plainfit.runs.cleaning import COLUMNS, RESULT, SAMPLES, UTF_8
from plainfit.runs.settings import RunConfig

DECISIONS = "labels.jsonl"
KEEP, RELABEL, DROP, UNDO = "keep", "relabel", "drop", "undo"
turns = threading.Lock()  # the locks of files are between processes


class Found(TypedDict):
    """What `clean.json` must have; it may be from someone else."""

    config: dict[str, Any]
    kind: str
    classes: list[str]
    folds: int
    accuracy: float
    suspects: int
    fingerprint: str
    equal: list[list[dict[str, str]]]


class Sample(NamedTuple):
    """A line of `samples.csv`."""

    origin: str
    """Its file, from the folder; the number of its row in a table, from 1; or PART/ROW."""
    part: str
    label: str
    suggested: str
    is_suspect: bool
    probabilities: list[float]
    """By class; empty for the test set."""


class Decision(NamedTuple):
    """A line of `labels.jsonl` that was not undone."""

    origin: str
    action: str
    label: str | None


@dataclass(frozen=True)
class Cleaning:
    """The folder that `clean` wrote."""

    folder: Path
    record: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> "Cleaning":
        """Read the record of a folder.

        Raises:
            RunError: if there is none, or it is damaged.
        """
        path = folder / RESULT
        if not path.is_file():
            raise RunError(
                f"{folder} must be a folder that plainfit clean wrote, and has no {RESULT}"
            )
        with raised_as(RunError, f"{path} must be what plainfit clean wrote"):
            record = json.loads(path.read_text("utf-8"))
            if wrong := misfit(record, Found, ""):
                raise RunError(f"{path} is damaged: {wrong}; restore it from a copy")
            found = cls(folder, record)
            _ = found.config  # raises
        return found

    @property
    def config(self) -> RunConfig:
        return RunConfig.from_dict(self.record["config"])

    @property
    def classes(self) -> list[str]:
        return list(self.record["classes"])

    @cached_property
    def samples(self) -> list[Sample]:
        path = self.folder / SAMPLES
        with raised_as(RunError, f"{path} must be what plainfit clean wrote"):
            rows = csv.reader(io.StringIO(path.read_bytes().decode(*UTF_8), newline=""))
            if next(rows)[: len(COLUMNS)] != list(COLUMNS):
                raise RunError(f"{path} must be what plainfit clean wrote; restore it from a copy")
            return [
                Sample(origin, part, label, suggested, suspect == "1", [float(p) for p in of if p])
                for origin, part, label, suggested, suspect, _, *of in rows
            ]

    @cached_property
    def by_origin(self) -> dict[str, Sample]:
        return {sample.origin: sample for sample in self.samples}

    def decisions(self) -> dict[str, Decision]:
        """Return what was decided last of each sample, by its origin, and not undone.

        A last line that a killed process has not written to its end is no decision.
        """
        path, found = self.folder / DECISIONS, list[Decision]()
        if not path.exists():
            return {}
        *lines, _ = path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, 1):
            try:
                one = json.loads(line)
                if one["action"] == UNDO:
                    del found[-1:]
                    continue
                decision = Decision(one["sample"], one["action"], one.get("label"))
                self.check(decision)
            except (ValueError, LookupError, TypeError, ConfigError) as error:
                raise RunError(
                    f"{path} must have a decision in each line, and line {number} has none: "
                    f"{line[:80]!r}; mend or remove it"
                ) from error
            found.append(decision)
        return {one.origin: one for one in found}

    def check(self, decision: Decision) -> None:
        if decision.origin not in self.by_origin:
            raise ConfigError(f"{decision.origin!r} must be one of the samples of {self.folder}")
        if decision.action not in (KEEP, RELABEL, DROP):
            raise ConfigError(unknown_name("action", decision.action, (KEEP, RELABEL, DROP)))
        if (decision.label in self.classes) != (decision.action == RELABEL):
            raise ConfigError(
                f"a relabelled sample has one of the classes {', '.join(self.classes)}, and others "
                f"have none, got {decision.action} with {decision.label!r}"
            )

    def decide(self, decision: Decision) -> None:
        """Append a decision; it is on the disk when this returns."""
        self.check(decision)
        line = {"sample": decision.origin, "action": decision.action}
        if decision.label is not None:
            line |= {"from": self.by_origin[decision.origin].label, "label": decision.label}
        self._append(line)

    def undo(self) -> None:
        """Take the last decision back, by a line of its own."""
        if self.decisions():
            self._append({"action": UNDO})

    def _append(self, line: dict[str, str]) -> None:
        path = self.folder / DECISIONS
        content = json.dumps(line | {"at": time.strftime("%Y-%m-%d %H:%M:%S")}) + "\n"
        with writing(path), turns, FileLock(self.folder / LOCK):
            if path.exists():
                whole = path.read_bytes()
                if not whole.endswith(b"\n"):  # cut off: the next line would join it
                    os.truncate(path, whole.rfind(b"\n") + 1)
            else:
                path.touch()
            append(path, content.encode())
            sync(path)
            sync(self.folder)

    def changes(self, decisions: dict[str, Decision]) -> Changes:
        """Return the new class of each sample that gets one, and None for those left out."""
        return {
            origin: one.label
            for origin, one in decisions.items()
            if one.action == DROP
            or (one.action == RELABEL and one.label != self.by_origin[origin].label)
        }

    def counts(self, decisions: dict[str, Decision]) -> dict[str, int]:
        """Return how many samples get another class, and how many are left out."""
        changes = self.changes(decisions)
        dropped = sum(label is None for label in changes.values())
        return {"relabelled": len(changes) - dropped, "dropped": dropped}

    def apply(self, out: Path) -> list[str]:
        """Write new data as decided; return the commands that train on the old and the new.

        Raises:
            ConfigError: if nothing was decided that changes the data.
            DataError: if the data has changed since, or the new one cannot be written.
        """
        config, changes, samples = self.config, self.changes(self.decisions()), self.samples
        if not changes:
            raise ConfigError(
                f"a sample must be relabelled or dropped, and none is in {self.folder}"
            )
        path, labels = Path(config.data), {sample.origin: sample.label for sample in samples}
        data = None if self.record["kind"] == IMAGES else config.open_data()
        if data and data.fingerprint != self.record["fingerprint"]:
            raise DataError(f"{path} must be what was ranked, and has changed since; rank it again")
        written = {name: getattr(config, name) for name in ("delimiter", "encoding", "decimal")}
        own: dict[str, Any] = {}
        if data is None:
            options = LabelOptions(config.target, config.task, TableOptions(**written))
            out = write_images(path, out, options, labels, changes)
        elif self.record["kind"] == TABLE:
            table = TableOptions(**written, na=config.na)
            (target,) = find_targets(path, list(read_columns(path, table).columns), config.target)
            write_table(path, out, table, target, labels, changes)
        else:
            write_arrays(data, out, changes)
            usual = RunConfig()  # the parts are in the folder
            own = {n: getattr(usual, n) for n in ("data_dir", "valid_share", "test_share")}
        return compared(config, replace(config, data=str(out), **own))


def compared(old: RunConfig, new: RunConfig) -> list[str]:
    name = Path(new.data).name.partition(".")[0]
    outs = [Path("runs", f"{name}-{which}") for which in ("before", "after")]
    trained = [
        f"{config.command()} {command('--out', out).removeprefix('plainfit ')}"
        for config, out in zip((old, new), outs, strict=True)
    ]
    return [*trained, command("compare", *outs)]


def cleanings(parent: Path) -> list[Path]:
    """Return the folders in a folder that `clean` wrote, the newest first."""
    found = [path.parent for path in parent.glob(f"*/{RESULT}")]
    return sorted(found, key=lambda folder: (folder / RESULT).stat().st_mtime, reverse=True)
