"""The scripts in the docs are those that a run gives now."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MNIST = ROOT.parent / "shared/data/mnist"


def below_header(text):
    """Return a script without its docstring, which has a hash and a fingerprint."""
    return text.splitlines()[ast.parse(text).body[0].end_lineno :]


@pytest.mark.skipif(not MNIST.is_dir(), reason="real MNIST is not in ../shared/data/mnist")
def test_the_scripts_in_the_docs_are_up_to_date(tmp_path):
    writer = ROOT / "docs/eject/write.py"
    command = [sys.executable, writer, "--data-dir", MNIST, "--into", tmp_path]
    subprocess.run(list(map(str, command)), check=True)
    made = sorted(path.name for path in tmp_path.iterdir())
    assert made == sorted(p.name for p in writer.parent.iterdir() if p.suffix in (".py", ".diff")
                          and p != writer)  # fmt: skip
    for name in (name for name in made if name.endswith(".py")):
        new, old = ((folder / name).read_text() for folder in (tmp_path, writer.parent))
        assert below_header(new) == below_header(old), f"run {writer} to bring {name} up to date"
