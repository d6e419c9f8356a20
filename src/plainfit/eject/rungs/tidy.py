"""The layout of ruff, where it is installed: names that have become shorter join lines."""

import shutil
import subprocess
import sys
from pathlib import Path

from plainfit.eject.source import WIDTH


def tidy(text: str) -> str:
    """Return a script as `ruff format` lays it out; as it is, where there is no ruff."""
    beside = Path(sys.executable).with_name("ruff")
    ruff = str(beside) if beside.exists() else shutil.which("ruff")
    if ruff is None:
        return text
    command = [ruff, "format", "--isolated", f"--line-length={WIDTH}", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else text
