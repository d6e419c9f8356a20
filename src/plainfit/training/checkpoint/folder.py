"""A folder of checkpoints: `STEP-SHA256.safetensors`, the newest valid one wins."""

import hashlib
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from plainfit.common.errors import CheckpointError
from plainfit.common.files import write_bytes, write_whole
from plainfit.training.checkpoint.encoding import from_bytes, to_bytes

NAME = re.compile(r"(\d{12})-([0-9a-f]{64})\.safetensors")


def save(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write a checkpoint, read it back, and return its path.

    Raises:
        OSError: if it cannot be written; what was there before is untouched.
        CheckpointError: if what is read back is not what was written.
    """
    data = to_bytes(state)
    path = folder / f"{step:012d}-{hashlib.sha256(data).hexdigest()}.safetensors"
    write_whole(path, lambda scratch: write_bytes(scratch, data))
    try:
        check(path, path.read_bytes())
    except CheckpointError:
        path.unlink()
        raise
    return path


def check(path: Path, data: bytes) -> None:
    """Check a file's content against the SHA-256 in its name.

    Raises:
        CheckpointError: if they differ.
    """
    wanted = path.stem.rpartition("-")[2]
    found = hashlib.sha256(data).hexdigest()
    if found != wanted:
        raise CheckpointError(
            f"{path.name} must have the SHA-256 in its name, and has {found[:12]}...: it is damaged"
        )


def listed(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, oldest first."""
    found = [path for path in folder.glob("*.safetensors") if NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: (path.name[:12], path.stat().st_mtime_ns))


def newest(folder: Path, report: Callable[[str], object]) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest checkpoint that is whole, and its state; None if there is none.

    Args:
        folder: with checkpoints.
        report: is told of each damaged one that is passed over.
    """
    for path in reversed(listed(folder)):
        try:
            data = path.read_bytes()
            check(path, data)
            return path, from_bytes(data)
        except (CheckpointError, OSError) as error:
            report(f"{error}; trying the one before")
    return None


def prune(folder: Path, keep: int, best_step: int) -> None:
    """Remove all but the newest checkpoints and the best one, which was written at that step."""
    for path in listed(folder)[:-keep]:
        if int(path.name[:12]) != best_step:
            with suppress(OSError):  # a folder that has become read-only: nothing to gain
                path.unlink()
