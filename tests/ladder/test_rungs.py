"""The programs themselves: short, alone, each a small step from the one before."""

import ast
import difflib
import re
import subprocess
import sys
from itertools import pairwise

import pytest

from plainfit.ladder.catalog import LESSON, RUNGS
from plainfit.ladder.runner import Setting, run_rung

PAIRS = list(pairwise(RUNGS))
labelled = pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.label)
paired = pytest.mark.parametrize(("before", "after"), PAIRS, ids=[b.label for _, b in PAIRS])

# Lines that go and lines that come, docstrings apart. More than this is no small step any more.
STEP = {
    2: (11, 4), 3: (11, 14), 4: (4, 2), 5: (6, 9), 6: (5, 4), 7: (4, 4), 8: (10, 8), 9: (14, 26),
    10: (7, 15), 11: (13, 20), 12: (5, 15), 13: (2, 3), 14: (75, 6),
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
def test_a_rung_is_short_and_needs_torch_alone(rung):
    lines = [line.strip() for line in body(rung)]
    assert sum(bool(line) and not line.startswith("#") for line in lines) <= 85
    imported = set()
    for node in ast.walk(ast.parse(rung.source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    ours = {"plainfit"} if rung.number == 14 else set()
    assert imported - set(sys.stdlib_module_names) == {"torch"} | ours


@labelled
def test_reading_the_data_is_the_same_text_in_every_rung(rung):
    def block(text):
        return text[text.index("# --- Reading") : text.index(LESSON)]

    assert block(rung.source) == block(RUNGS[0].source)


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

    old, new = ({line.strip() for line in body(rung)} for rung in (before, after))
    assert not plain(old - new) & plain(new - old)  # nothing differs in spaces or comments alone


@labelled
def test_a_rung_runs_alone_and_prints_what_the_runner_reads(rung, digits_file):
    done = subprocess.run(
        [sys.executable, rung.path, "--data", digits_file, "--epochs", "3", "--seed", "1"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    trace = run_rung(rung, Setting(digits_file, epochs=3, seed=1, as_written=True))
    assert trace.error == ""
    if rung.number < 14:
        assert done.stdout == trace.printed
        assert re.fullmatch(
            r"before: loss [\d.]+, accuracy [\d.]+\nafter: loss [\d.]+, accuracy [\d.]+\n"
            if rung.number < 8
            else r"(epoch \d: valid_loss [\d.]+\n){3}",
            done.stdout,
        )
    else:  # the library's own table: the last columns are seconds
        assert [line.split()[:3] for line in done.stdout.splitlines()] == [
            line.split()[:3] for line in trace.printed.splitlines()
        ]


def test_a_rung_without_its_file_says_where_one_comes_from(tmp_path):
    missing = tmp_path / "none.npz"
    done = subprocess.run(
        [sys.executable, RUNGS[4].path, "--data", missing], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"r05_optim.py: error: there is no file {missing}; `plainfit ladder copy 01 .` makes one"
    )
