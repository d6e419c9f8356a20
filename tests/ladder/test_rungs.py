"""The programs themselves: short, independent, each a small step from the one before."""

import ast
import difflib
import gzip
import re
import runpy
import shutil
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch

from plainfit.data.mnist import IDX_SETS
from plainfit.data.open_data import open_data
from plainfit.ladder.catalog import LESSON, RUNGS
from plainfit.ladder.climb import write_data

PAIRS = list(pairwise(RUNGS))
labelled = pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.label)
paired = pytest.mark.parametrize(("before", "after"), PAIRS, ids=[b.label for _, b in PAIRS])

# Lines removed and added, without docstrings. More than this is no small step any more.
STEP = {
    1: (44, 55),
    2: (12, 4), 3: (11, 14), 4: (4, 2), 5: (6, 9), 6: (5, 4), 7: (4, 4), 8: (10, 8), 9: (13, 25),
    10: (7, 15), 11: (13, 20), 12: (5, 15), 13: (2, 3), 14: (74, 6), 15: (6, 102),
}  # fmt: skip
# Definitions that a rung changes on purpose; all others of the same name stay the same text.
REWRITTEN = {
    (2, "model"), (4, "MnistLogistic"), (10, "get_model"), (11, "get_model"), (12, "get_model"),
    (12, "preprocess"), (13, "get_model"), (13, "preprocess"),
}  # fmt: skip


def body(rung):
    """A program's lines after its docstring."""
    return rung.source.partition('"""\n\n')[2].splitlines()


@labelled
def test_a_rung_is_short_and_imports_torch_and_numpy_only(rung):
    lines = [line.strip() for line in body(rung)]
    assert sum(bool(line) and not line.startswith("#") for line in lines) <= 105
    imported = set()
    for node in ast.walk(ast.parse(rung.source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    ours = {"plainfit"} if rung.number == 14 else set()
    assert imported - set(sys.stdlib_module_names) == {"torch", "numpy"} | ours


@pytest.mark.parametrize("rung", RUNGS[1:], ids=lambda rung: rung.label)
def test_reading_the_data_is_the_same_text_in_every_rung(rung):
    def block(text):
        return text[text.index("# --- Reading") : text.index(LESSON)]

    assert block(rung.source) == block(RUNGS[1].source)


@paired
def test_a_rung_is_a_small_step(before, after):
    changes = [
        line
        for line in difflib.unified_diff(body(before), body(after), n=0, lineterm="")
        if re.match(r"[-+](?![-+]{2} )", line)
    ]
    gone = [line[1:] for line in changes if line[0] == "-"]
    come = [line[1:] for line in changes if line[0] == "+"]
    assert (len(gone), len(come)) == STEP[after.number]


@paired
def test_what_stays_does_not_drift(before, after):
    def definitions(rung):
        tree = ast.parse(rung.source)
        kinds = (ast.FunctionDef, ast.ClassDef)
        found = [node for node in tree.body if isinstance(node, kinds)]
        return {node.name: ast.get_source_segment(rung.source, node) for node in found}

    old, new = definitions(before), definitions(after)
    differ = {(after.number, name) for name in old.keys() & new.keys() if old[name] != new[name]}
    assert differ == {pair for pair in REWRITTEN if pair[0] == after.number}

    def plain(lines):
        return {"".join(line.partition("#")[0].split()) for line in lines} - {""}

    if before.number == 0:
        return  # another program
    old, new = ({line.strip() for line in body(rung)} for rung in (before, after))
    assert not plain(old - new) & plain(new - old)  # nothing differs in spaces or comments alone


def run(rung, monkeypatch, *arguments):
    """Run a program in this process and return its names."""
    monkeypatch.setattr(sys, "argv", [rung.path.name, *map(str, arguments)])
    with torch.random.fork_rng(devices=[]):
        return runpy.run_path(str(rung.path), run_name="__main__")


@labelled
def test_a_rung_runs_and_prints(rung, digits_file, monkeypatch, capsys):
    more = ["--epochs", 2, "--seed", 1] if rung.number else []
    run(rung, monkeypatch, "--data", digits_file, *more)
    out = capsys.readouterr().out
    if rung.number == 0:
        assert "    %%@@**@@--\n" in out
        assert "label: 0\n" in out
        assert "1259 samples of 64 numbers from 0.00 to 1.00\nlabels from 0 to 9\n" in out
    elif rung.number != 14:
        assert re.fullmatch(
            r"before: loss [\d.]+, accuracy [\d.]+\nafter: loss [\d.]+, accuracy [\d.]+\n"
            if rung.number < 8
            else r"(epoch \d: valid_loss [\d.]+\n){2}",
            out,
        )
    else:
        assert [line.split()[0] for line in out.splitlines()][-2:] == ["0", "1"]


def test_a_rung_is_a_program(digits_file, tmp_path):
    """A process of its own, since a rung must not need one that has imported plainfit."""
    done = subprocess.run(
        [sys.executable, "-I", RUNGS[2].path, "--data", digits_file, "--epochs", "1"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("before: loss 2.")


@labelled
def test_a_rung_without_its_file_says_where_one_comes_from(rung, tmp_path, monkeypatch, capsys):
    missing = tmp_path / "none.npz"
    with pytest.raises(SystemExit, match="2"):
        run(rung, monkeypatch, "--data", missing)
    remedy = "`plainfit ladder copy 01 .` makes one"
    if rung.number == 0:
        remedy = "without --data, MNIST is downloaded"
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"{rung.path.name}: error: no such file: {missing}; {remedy}"
    )


class Response:
    """What `urlopen` returns."""

    def __init__(self, content):
        self.read = lambda: content


def test_rung_00_checks_what_it_downloads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = []
    damaged = gzip.compress(b"not MNIST")
    monkeypatch.setattr(
        "urllib.request.urlopen", lambda url: asked.append(url) or Response(damaged)
    )
    url = f"{IDX_SETS['mnist'].mirrors[0]}train-images-idx3-ubyte.gz"
    with pytest.raises(SystemExit, match=f"{url} is not MNIST's file"):
        run(RUNGS[0], monkeypatch)
    assert asked == [url]
    assert not list(tmp_path.iterdir())
    for name, sha256 in IDX_SETS["mnist"].hashes.items():
        assert (sha256 in RUNGS[0].source) == name.startswith("train")


@pytest.mark.soak
def test_rung_00_has_the_data_of_the_ladder_on_mnist(mnist_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for path in mnist_folder.glob("train*.gz"):
        shutil.copy(path, "data")
    names = run(RUNGS[0], monkeypatch)
    write_data(open_data("mnist", data_dir=mnist_folder), tmp_path / "mnist.npz")
    arrays = np.load("mnist.npz")
    for part in ("train", "valid"):
        x = torch.tensor(arrays[f"x_{part}"]).flatten(1) / 256
        assert torch.equal(names[f"x_{part}"], x)
        assert torch.equal(names[f"y_{part}"], torch.tensor(arrays[f"y_{part}"]))
