"""The commands of `docs/example.md`, one after the other."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "example.md"


@pytest.mark.soak
def test_the_commands_of_the_example_run_in_order(tmp_path, mnist_folder):
    pytest.importorskip("optuna", reason="Optuna is not installed")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "mnist").symlink_to(mnist_folder)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = os.environ | {"PLAINFIT_DATA": str(tmp_path / "cache"), "PATH": path}
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) == 6
    for block in blocks:
        started = time.perf_counter()
        done = subprocess.run(
            ["sh", "-e", "-c", block], cwd=tmp_path, env=env, text=True, capture_output=True
        )
        print(f"\n{block}{done.stdout}{time.perf_counter() - started:.0f} s")
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "light" / "report.html").exists()
    assert "plainfit" not in re.findall(
        r"^(?:import|from) (\w+)", (tmp_path / "train.py").read_text(), re.M
    )
