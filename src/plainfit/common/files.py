"""Files that are there whole or not at all, whenever the process or the machine stops."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

CHUNK = 2**24  # bytes handed over at once


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place in one step.

    The file reaches the disk before its name does, and the name before this returns.

    Raises:
        OSError: if that fails; the temporary file is gone, and what was at `path` is still there.
    """
    scratch = path.with_name(f".{path.stem}-{os.getpid()}.tmp{path.suffix}")
    try:
        write(scratch)
        sync(scratch)
        os.replace(scratch, path)  # noqa: PTH105  # counted by the tests, call by call
        sync(path.parent)
    finally:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes to a new file, a chunk at a time."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest[:CHUNK]) :]
    finally:
        os.close(descriptor)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders, and keeps names by itself
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_scratch(path: Path) -> bool:
    """Return whether a file is a temporary one of `write_whole`, by its name."""
    return path.match(".*-*.tmp*")


def remove_scratch(folder: Path) -> None:
    """Remove the temporary files that a killed process left in a folder."""
    for path in filter(is_scratch, folder.iterdir()):
        with suppress(OSError):
            path.unlink()
