"""The peers' own environments, made when they are first needed, at pinned versions."""

import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Each line of files is one call of pip.
STEPS = {
    "torch": [["-r", "torch.txt"], ["--no-deps", "-r", "fastai.txt"]],
    "jax": [["-r", "jax.txt"]],
}


def python_of(environment: str) -> str:
    """Return the interpreter of an environment; make the environment if it is not there."""
    if environment == "here":
        return sys.executable
    folder = HERE / ".envs" / environment
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    pins = "".join((HERE / "peers" / step[-1]).read_text() for step in STEPS[environment])
    done = folder / ".done"
    if not done.is_file() or done.read_text() != pins:
        print(f"making {folder}, once ...", flush=True)
        venv.create(folder, with_pip=True)
        for step in STEPS[environment]:
            command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*command, *step], cwd=HERE / "peers", check=True)
        done.write_text(pins)
    return str(python)
