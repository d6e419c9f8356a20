"""Files that are there whole or not at all, written or downloaded, whenever the process stops."""

import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from plainfit.common.errors import DataError, DownloadError

RECORD, JOURNAL = "run.json", "study.jsonl"  # make a folder a run, a study
CHUNK = 2**24  # bytes per write
NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)  # the latter for Windows
TEMPORARY = re.compile(r"\.plainfit-[0-9a-f]{16}\.tmp")
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
