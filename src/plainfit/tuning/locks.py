"""Locks that end with the process that holds them, however that ends.

They are POSIX record locks: of the process alone, not of its children, so that a killed one's
workers, which live for some seconds longer, do not hold on to them. Windows has no such locks.
"""

import fcntl
import os
from pathlib import Path
from types import TracebackType


class FileLock:
    """A lock that processes take in turn: `with FileLock(path):`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = -1

    def acquire(self, *, wait: bool = True) -> bool:
        """Take the lock; return whether it was free, where that is not waited for."""
        self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(self.descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            self.release()
            return False
        except BaseException:
            self.release()
            raise
        return True

    def release(self) -> None:
        """Let others have it."""
        os.close(self.descriptor)

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.release()


def is_held(path: Path) -> bool:
    """Return whether another process holds a lock; a free one is removed.

    Never ask that of a lock of one's own: it would end with the question.
    """
    lock = FileLock(path)
    if not path.exists():
        return False
    if not lock.acquire(wait=False):
        return True
    path.unlink(missing_ok=True)
    lock.release()
    return False
