"""The README's own code and commands, run as they stand; its tree, compared with the real one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_three_lines_run(tmp_path):
    (code,) = blocks("python")
    code += "print(history)\n"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    printed = done.stdout.splitlines()
    assert printed[:3] == printed[3:]  # as it goes, and again by print(history)


def test_the_longer_lines_run_after_them_and_resume(tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    code = "".join(blocks("python") + blocks("py"))
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", code]
    outputs = [
        subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert "resumed" not in outputs[0]
    assert "resumed in epoch " in outputs[1]


MADE = {  # what the blocks leave that have these words; those of one line need each other
    "runs/mine": {"runs", "lr-find.png", "comparison.html"},
    "runs/yours": {"runs", "train.py"},
    "plainfit ladder": {"mine", "what_is_torch_nn.ipynb"},
    "": {"runs", "digits-samples.png", "digits-augmented.png"},  # the rest
}


@pytest.mark.parametrize("words", MADE)
def test_the_commands_run(tmp_path, words):
    chosen = [b for b in blocks("sh") if words == next(known for known in MADE if known in b)]
    for command in "".join(chosen).splitlines():
        name, *arguments = command.split()
        assert name == "plainfit"
        subprocess.run([sys.executable, "-m", name, *arguments], cwd=tmp_path, check=True)
    assert {path.name for path in tmp_path.iterdir()} == MADE[words]


def test_the_tree_names_every_module():
    tree = README[README.index("## The tree") :]
    named = set(re.findall(r"[─ ](\w+\.py)", tree))
    real = {path.name for path in (ROOT / "src").rglob("*.py")} - {"__main__.py"}
    real -= {path.name for path in (ROOT / "src/plainfit/ladder/rungs").iterdir()}
    assert named == real
    assert all(f"make {target}" in README for target in ("run", "test"))
