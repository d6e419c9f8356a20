"""Locks between processes.

They are POSIX record locks: they end with the process that holds them, however that ends, and
belong to it alone and not to its children, so that the workers of a killed process, which live for
some seconds longer, do not hold on to them.
"""

import errno
import os
import re
import socket
import struct
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from plainfit.common.errors import RunError
from plainfit.common.files import NO_LINK

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".plainfit.lock"  # in a folder that a process writes to; it says which one
ANY_LOCK = re.compile(r"\..+\.lock")
held_here: set[tuple[int, int, int]] = set()  # to open a file again, and close it, would unlock it


class FileLock:
    """A lock between processes: `with FileLock(path):`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = -1

    def acquire(self, *, wait: bool = True) -> bool:
        """Take the lock and return True; with `wait=False`, return False if it is held."""
        if fcntl is None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        while True:
            self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | NO_LINK, 0o666)
            try:
                fcntl.lockf(self.descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                links = os.fstat(self.descriptor).st_nlink
            except (BlockingIOError, PermissionError):
                self.release()
                return False
            except BaseException:
                self.release()
                raise
            if links == 1:
                return True
            self.release()
            if links > 1:  # of a file elsewhere, which must not be written to
                raise OSError(errno.EMLINK, os.strerror(errno.EMLINK), str(self.path))
            # Else its holder has removed it after this process opened it.

    def release(self) -> None:
        os.close(self.descriptor)

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Keep other processes from writing to a folder until the block ends.

    A warning says so where there are no locks: on Windows, on some network file systems, and in a
    folder that cannot be written to.

    Raises:
        RunError: if another process, or another training in this one, writes to the folder.
    """
    lock = FileLock(folder / LOCK)
    try:
        holder = take(lock)
    except OSError as error:
        warnings.warn(
            f"{folder} could not be locked ({error.strerror}): make sure that no other process "
            "writes to it",
            RuntimeWarning,
            stacklevel=4,
        )
        yield
        return
    if holder:
        raise RunError(
            f"a folder must have one writer, and {holder} writes to {folder}; wait until it ends, "
            "or stop it"
        )
    key = key_of(os.fstat(lock.descriptor))
    held_here.add(key)
    try:
        yield
    finally:
        held_here.discard(key)
        with suppress(OSError):
            lock.path.unlink()
        lock.release()


def take(lock: FileLock) -> str:
    """Take a lock and note this process in it; return the holder if that is another one."""
    if lock.path.exists() and key_of(lock.path.stat()) in held_here:
        return "this process"
    if not lock.acquire(wait=False):
        return lock.path.read_text(encoding="utf-8", errors="replace") or "another process"
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    text = f"process {os.getpid()} on {socket.gethostname()}, since {since},"
    with suppress(OSError):  # on a full disk, another process only learns that it is locked
        os.ftruncate(lock.descriptor, 0)
        os.write(lock.descriptor, text.encode())
    return ""


def writer_of(folder: Path) -> int | None:
    """Return the number of the process that writes to a folder; None if none is known to.

    It is 0 for a process on another machine or in another container. Nothing is locked meanwhile.
    """
    path = folder / LOCK
    try:
        if key_of(path.lstat()) in held_here:  # to close it would unlock it
            return os.getpid()
        descriptor = os.open(path, os.O_RDONLY | NO_LINK | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return None
    try:
        layout, kind, process = ("qqihh", 3, 2) if sys.platform == "darwin" else ("hhqqi0q", 0, 4)
        flock = [0] * 5  # a `struct flock` of the whole file
        flock[kind] = fcntl.F_WRLCK
        packed = fcntl.fcntl(descriptor, fcntl.F_GETLK, struct.pack(layout, *flock))
        found = struct.unpack(layout, packed)
    except (AttributeError, OSError):  # Windows, some network file systems
        return None
    finally:
        os.close(descriptor)
    return None if found[kind] == fcntl.F_UNLCK else max(found[process], 0)


def key_of(found: os.stat_result) -> tuple[int, int, int]:
    return os.getpid(), found.st_dev, found.st_ino  # a forked process has its parent's set
