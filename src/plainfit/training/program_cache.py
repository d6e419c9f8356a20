"""Compiled programs on disk, in a folder of the user's own: each is native code.

A file is loaded only if it is whole, by its hash, and nobody else could have written it; never from
the folder of a run.
"""

import hashlib
import os
import platform
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from plainfit.common.files import remove_temporary, write_whole

SIZE = 512 * 2**20  # bytes that are kept; the programs that were used longest ago go first
HASH = "?" * 64  # any SHA-256, in a pattern


def folder() -> Path:
    """Return where programs are kept: `programs` in the user's cache folder of plainfit."""
    import platformdirs

    found = platformdirs.user_cache_path("plainfit") / "programs"
    if not found.is_absolute():  # whoever made the current folder would choose the programs
        raise RuntimeError(f"the cache folder must be absolute, got {found}")
    return found.resolve()


def programs(key: str = HASH) -> list[tuple[Path, os.stat_result]]:
    """Return the files that are kept, or those of one key; the one that was used last at the end.

    The name of each has its key and the hash of its content.
    """
    found = []
    for path in folder().glob(f"{key}-{HASH}.pt2"):
        with suppress(FileNotFoundError):  # another process has deleted it
            found.append((path, path.lstat()))
    return sorted(found, key=lambda each: each[1].st_mtime)


def load(key: str) -> Callable[..., Any] | None:
    """Return the program of this key; None if there is none that can be trusted."""
    with suppress(OSError, RuntimeError):
        for path, _ in programs(key):
            if danger(path):
                continue
            if path.name != name(key, path.read_bytes()):
                path.unlink()  # it is damaged
                continue
            with suppress(OSError):  # of a folder that can only be read
                os.utime(path)
            return loaded(path)
    return None


def name(key: str, data: bytes) -> str:
    return f"{key}-{hashlib.sha256(data).hexdigest()}.pt2"


def loaded(path: Path) -> Callable[..., Any]:
    """Return the program of a file. torch's own function also compares processors, for 1.2 s."""
    import torch  # not to list the files
    from torch._inductor.package.package import AOTICompiledModel

    loader = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, -1)
    program: Callable[..., Any] = AOTICompiledModel(loader)
    return program


def save(key: str, write: Callable[[Path], None]) -> tuple[Callable[..., Any], str]:
    """Have a program written; return it, and why it cannot be kept, if that is so."""
    options: Any = {"prefix": "plainfit-", "ignore_cleanup_errors": True}
    with tempfile.TemporaryDirectory(**options) as temporary:
        made = Path(temporary, "program.pt2")
        write(made)
        why = danger(Path(temporary).resolve())
        return loaded(made), why or keep(key, made.read_bytes())


def keep(key: str, data: bytes) -> str:
    """Keep a program; return why not, if that cannot be."""
    try:
        for each in (*reversed(folder().parents), folder()):
            each.mkdir(mode=0o700, exist_ok=True)
        if why := danger(folder()):
            return why
        folder().chmod(0o700)
        path = folder() / name(key, data)
        write_whole(path, data)
        path.chmod(0o600)
        prune()
    except (OSError, RuntimeError) as error:
        text = getattr(error, "strerror", None) or error
        return f"the cache folder cannot be written to ({text})"
    return ""


def danger(path: Path) -> str:
    """Return how somebody else could change a file, or what its path leads to; else nothing."""
    if not hasattr(os, "getuid"):  # Windows: the folder is in the user's own
        return ""
    for each in (path, *path.parents):
        found = each.lstat()
        if found.st_uid not in (os.getuid(), 0):
            return f"{each} belongs to another user"
        is_shared = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if is_shared and not found.st_mode & stat.S_ISVTX:  # where all delete only their own
            return f"others can write to {each} (chmod go-w {each})"
    return ""


def prune(size: int = SIZE) -> None:
    """Delete the programs that were used longest ago, until the others take `size` bytes."""
    kept = 0
    for path, found in reversed(programs()):
        kept += found.st_size
        if kept > size:
            path.unlink(missing_ok=True)


def clear() -> None:
    """Delete all programs, and what a process that was killed has left of one."""
    for path, _ in programs():
        path.unlink(missing_ok=True)
    if folder().is_dir():
        remove_temporary(folder())


def processor() -> str:
    """Return what the machine code of this computer is made for, as far as Python can say."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        found = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
        return "\n".join(sorted(found))
    return f"{platform.machine()} {platform.processor()}"
