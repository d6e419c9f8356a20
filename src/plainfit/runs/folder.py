"""The run folder: what a training leaves behind, written whole or not at all."""

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from plainfit.common import files
from plainfit.common.errors import ConfigError, RunError
from plainfit.models.build import Factory

RECORD, CHECKPOINTS = "run.json", "checkpoints"
WEIGHTS, BEST = "model.safetensors", "best.safetensors"
FIRST = "first.safetensors"  # what a fine-tuning began with
METRICS, STEPS, CURVES = "metrics.jsonl", "steps.csv", "curves.png"


def default_folder(data: str, model: str) -> Path:
    """Return `runs/TIME-DATA-MODEL`, with a number behind it if that is taken."""
    data = Path(data).name.split(".")[0] or "data"
    base = Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{data}-{model.split(':')[-1]}"
    folder, number = base, 2
    while folder.exists():
        folder, number = base.with_name(f"{base.name}-{number}"), number + 1
    return folder


def create_folder(folder: Path) -> None:
    """Make a new run folder, or take one that a process left behind which was killed at once.

    Raises:
        RunError: if it exists and has other files, or cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        taken = any(
            path.name != FIRST and not files.is_temporary(path) for path in folder.iterdir()
        )
    except OSError as error:
        raise RunError(
            f"the run folder {folder} must be writable ({error.strerror}); choose another by --out"
        ) from error
    if taken:
        go_on = f"plainfit resume {folder}, or " if (folder / RECORD).exists() else ""
        raise RunError(
            f"the run folder must be new or empty, and {folder} is not; {go_on}choose another"
        )
    if not os.access(folder, os.W_OK):
        raise RunError(f"the run folder {folder} must be writable; choose another with --out")
    files.remove_temporary(folder)


def make_folder(folder: Path) -> None:
    """Make a folder to copy files into, if it is not there.

    Raises:
        ConfigError: if it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the folder {folder} cannot be made ({error.strerror})") from error


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place in one step.

    Raises:
        RunError: if that fails.
    """
    try:
        files.write_whole(path, write)
    except OSError as error:
        raise RunError(f"{path} must be writable ({error.strerror or error})") from error


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write `run.json`."""
    text = json.dumps(record, indent=2) + "\n"
    write_whole(folder / RECORD, lambda path: path.write_text(text, encoding="utf-8"))


def read_record(folder: Path) -> dict[str, Any]:
    """Read `run.json`.

    Raises:
        RunError: if there is none, or it is damaged.
    """
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if not {"state", "config", "data", "model"} <= record.keys():
            raise ValueError("entries are missing")
    except (OSError, ValueError, AttributeError) as error:
        what = "has a damaged one" if (folder / RECORD).exists() else "has none"
        raise RunError(f"{folder} must be a run folder with a {RECORD}, and {what}") from error
    return dict(record)


def update_record(folder: Path, **changes: Any) -> None:
    """Write `run.json` with these entries changed."""
    write_record(folder, read_record(folder) | changes)


@dataclass(frozen=True)
class RunLine:
    """A run as `plainfit runs` lists it."""

    name: str
    state: str
    epochs: int
    """Epochs that are over."""
    of: int
    """Epochs that were asked for."""
    best: dict[str, Any]
    """The row of the epoch with the lowest validation loss; empty before the first one."""
    bytes: int
    """The size of all files in the folder."""


def list_runs(parent: Path) -> list[RunLine]:
    """Return the runs in a folder, by name, so the oldest first where we named them.

    Raises:
        RunError: if there is no such folder.
    """
    if not parent.is_dir():
        raise RunError(f"runs are listed from a folder, and there is none called {parent}")
    lines = []
    for folder in sorted(path.parent for path in parent.glob(f"*/{RECORD}")):
        try:
            record = read_record(folder)
        except RunError:
            lines.append(RunLine(folder.name, "damaged", 0, 0, {}, 0))
            continue
        rows = read_metrics(folder)
        best = min(rows, key=lambda row: float(row["valid_loss"]), default={})
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        of = record["config"]["epochs"]
        lines.append(RunLine(folder.name, record["state"], len(rows), of, best, size))
    return lines


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of `metrics.jsonl`; a last line that was cut off is left out."""
    rows = []
    with suppress(OSError, ValueError):
        for line in (folder / METRICS).read_text(encoding="utf-8").splitlines():
            rows.append(json.loads(line))
    return rows


@dataclass(frozen=True)
class Run:
    """A finished run, read back."""

    folder: Path
    record: dict[str, Any]
    model: nn.Module
    """On the CPU, in `eval()` mode, with the weights that the run ended with."""


def read_run(folder: Path) -> Run:
    """Read a run folder and rebuild its model.

    Raises:
        RunError: if it is no run folder, did not finish, or is damaged.
        ModelError: if the model can no longer be built.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    record = read_record(folder)
    factory = Factory(**record["model"])
    if not (folder / WEIGHTS).exists():
        raise RunError(f"{folder} must hold {WEIGHTS}, and does not: the run did not finish")
    with torch.random.fork_rng(devices=[]):  # building draws initial values
        model = factory.build()
    try:
        load_model(model, str(folder / WEIGHTS))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise RunError(
            f"{folder / WEIGHTS} must hold the weights of {factory.target}: {error}"
        ) from error
    return Run(folder, record, model.eval())
