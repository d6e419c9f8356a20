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

import torch

from plainfit.common.files import write_whole

SIZE = 512 * 2**20  # bytes that are kept; the programs that were used longest ago go first


def folder() -> Path:
    """Return where programs are kept: `plainfit/programs` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "plainfit" / "programs"


def programs(key: str = "*") -> list[Path]:
    """Return the files that are kept, or those of one key; the one that was used last at the end.

    The name of each has its key and the hash of its content.
    """
    found = folder().glob(f"{key}-*.pt2") if folder().is_dir() else []
    return sorted(found, key=lambda path: path.stat().st_mtime)


def load(key: str) -> Callable[..., Any] | None:
    """Return the program of this key; None if there is none that can be trusted."""
    with suppress(OSError):
        for path in programs(key):
            if is_own(path.parent) and is_own(path) and path.name == name(key, path.read_bytes()):
                os.utime(path)
                return loaded(path)
    return None


def name(key: str, data: bytes) -> str:
    return f"{key}-{hashlib.sha256(data).hexdigest()}.pt2"


def loaded(path: Path) -> Callable[..., Any]:
    program: Callable[..., Any] = torch._inductor.aoti_load_package(str(path))
    return program


def save(key: str, write: Callable[[Path], None]) -> Callable[..., Any]:
    """Have a program written, keep it where that is possible, and return it."""
    with tempfile.TemporaryDirectory(prefix="plainfit-") as temporary:
        made = Path(temporary, "program.pt2")
        write(made)
        with suppress(OSError):
            folder().mkdir(mode=0o700, parents=True, exist_ok=True)
            if is_own(folder()):
                data = made.read_bytes()
                path = folder() / name(key, data)
                write_whole(path, data)
                path.chmod(0o600)
                prune()
        return loaded(made)


def is_own(path: Path) -> bool:
    """Return whether nobody but this user can have written here."""
    if not hasattr(os, "getuid"):  # Windows: the folder is in the user's own
        return True
    found = path.lstat()
    is_shared = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return found.st_uid == os.getuid() and not is_shared and not path.is_symlink()


def prune(size: int = SIZE) -> None:
    """Delete the programs that were used longest ago, until the others take `size` bytes."""
    kept = 0
    for path in reversed(programs()):
        kept += path.stat().st_size
        if kept > size:
            path.unlink(missing_ok=True)


def processor() -> str:
    """Return what the machine code of this computer is made for, as far as Python can say."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        found = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
        return "\n".join(sorted(found))
    return f"{platform.machine()} {platform.processor()}"
