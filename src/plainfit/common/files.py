"""Files that are there whole or not at all, whenever the process stops; locks between processes."""

import errno
import os
import re
import secrets
import socket
import struct
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from plainfit.common.errors import DataError, DownloadError, PlainfitError, RunError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

RECORD, JOURNAL = "run.json", "study.jsonl"  # make a folder a run, a study
CHUNK = 2**24  # bytes per write
NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)  # the latter for Windows
TEMPORARY = re.compile(r"\.plainfit-[0-9a-f]{16}\.tmp")
LOCK = ".plainfit.lock"  # in a folder that a process writes to; it says which one
ANY_LOCK = re.compile(r"\..+\.lock")
held_here: set[tuple[int, int, int]] = set()  # to open a file again, and close it, would unlock it
T = TypeVar("T")


def write_whole(
    path: Path, *parts: bytes | memoryview, check: Callable[[Path], object] | None = None
) -> None:
    """Write a temporary file beside `path`, let `check` read it, and rename it to `path`.

    The content reaches the disk before the name does, and the name before this returns.

    Raises:
        OSError: if that fails; the temporary file is gone, and `path` is as it was.
    """
    temporary = path.with_name(f".plainfit-{secrets.token_hex(8)}.tmp")
    try:
        write_bytes(temporary, parts, os.O_CREAT | os.O_EXCL)
        sync(temporary)
        if check is not None:
            check(temporary)
        os.replace(temporary, path)  # noqa: PTH105  # counted by the tests, call by call
        sync(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path, kind: type[PlainfitError] = RunError) -> Iterator[None]:
    """Raise what the disk says while a path is written as an error that names it."""
    try:
        yield
    except OSError as error:
        raise kind(f"{path} must be writable ({error.strerror or error})") from error


def append(path: Path, data: bytes) -> None:
    write_bytes(path, [data], os.O_APPEND)


def write_bytes(path: Path, parts: Iterable[bytes | memoryview], flags: int) -> None:
    # A link is not followed: in a folder from someone else, it may lead to a file outside.
    descriptor = os.open(path, os.O_WRONLY | NO_LINK | flags, 0o666)
    try:
        for rest in chunks(parts):
            while rest:
                rest = rest[os.write(descriptor, rest) :]
    finally:
        os.close(descriptor)


def chunks(parts: Iterable[bytes | memoryview]) -> Iterator[memoryview]:
    """Yield all bytes of some parts, so many at a time."""
    waiting = bytearray()
    for part in parts:
        for first in range(0, len(part), CHUNK):
            waiting += memoryview(part)[first : first + CHUNK]
            if len(waiting) >= CHUNK:
                yield memoryview(waiting)
                waiting = bytearray()
    yield memoryview(waiting)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders, and keeps names by itself
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_temporary(path: Path) -> bool:
    return TEMPORARY.fullmatch(path.name) is not None


def remove_temporary(folder: Path) -> None:
    for path in filter(is_temporary, folder.iterdir()):
        with suppress(OSError):
            path.unlink()


def download(
    urls: Sequence[str],
    path: Path,
    check: Callable[[Path], T | None],
    *,
    place: str,
    otherwise: str,
) -> T:
    """Fetch a file from the first URL whose file passes the check; return the check's result.

    The check returns None if the SHA-256 is wrong; `path` exists only after it. The messages say
    how the user chooses another folder (`place`), and what to do offline (`otherwise`).
    """
    import pooch

    from plainfit.common.progress import DownloadBar, on_terminal

    pooch.get_logger().setLevel("ERROR")  # the bar shows the rest
    tried = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".download-") as temporary:
            for url in urls:
                bar = DownloadBar(url)
                fetch = pooch.HTTPDownloader(progressbar=bar, timeout=30)
                try:
                    with on_terminal(bar.bar):
                        pooch.retrieve(url, None, path.name, temporary, downloader=fetch)
                except (OSError, ValueError) as error:  # requests' errors are OSErrors
                    status = getattr(getattr(error, "response", None), "status_code", None)
                    tried.append(f"{url} ({f'HTTP {status}' if status else type(error).__name__})")
                    continue
                got = Path(temporary, path.name)
                checked = check(got)
                if checked is not None:
                    got.replace(path)  # within one folder, so all or nothing
                    return checked
                tried.append(f"{url} (wrong SHA-256)")
                got.unlink()
    except OSError as error:
        raise DataError(
            f"the folder {path.parent} must be writable ({error.strerror}); choose another with "
            f"{place}"
        ) from error
    raise DownloadError(
        f"{path.name} could not be downloaded; tried {', '.join(tried)}; offline, {otherwise}"
    )


class FileLock:
    """A lock between processes: `with FileLock(path):`.

    It is a POSIX record lock: it ends with the process that holds it, however that ends, and is not
    its children's, so that the workers of a killed process, which live for some seconds longer, do
    not hold on to it.
    """

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
