"""Standard streams that are closed, full or of few characters; and the process left as it was."""

import os
import shutil
import sys
import warnings
from contextlib import ExitStack
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
import torch
from PIL import Image

from plainfit.runs.folder import read_record

TRAIN = ("train", "--model", "logistic", "--epochs", "2", "--out")


@pytest.fixture
def open_stream():
    """Open a stream by its name: closed, full, or a pipe that nobody reads."""
    with ExitStack() as opened:

        def open_one(name):
            if name == "closed":
                return None
            if name == "full":
                return opened.enter_context(Path("/dev/full").open("w"))
            reading, writing = os.pipe()
            os.close(reading)
            return opened.enter_context(os.fdopen(writing, "w"))

        yield open_one


@pytest.mark.parametrize("kind", ["closed", "full", "pipe"])
@pytest.mark.parametrize("both", [False, True])
def test_a_training_ends_as_any_other(
    plainfit, tmp_path, trained_run, monkeypatch, open_stream, kind, both
):
    monkeypatch.setattr(sys, "stdout", open_stream(kind))
    if both:
        monkeypatch.setattr(sys, "stderr", open_stream(kind))
    streams = sys.stdout, sys.stderr
    code, _, error = plainfit(*TRAIN, "run")
    assert code == (kind == "full")
    says = "error: the output could not be written (No space left on device)\n"
    assert error == (says if kind == "full" and not both else "")
    assert read_record(tmp_path / "run")["state"] == "finished"
    for name in ("model.safetensors", "steps.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (trained_run / name).read_bytes()
    assert (sys.stdout, sys.stderr) == streams


@pytest.mark.parametrize("kind", ["closed", "full", "pipe"])
def test_a_message_that_nobody_reads(plainfit, monkeypatch, open_stream, kind):
    monkeypatch.setattr(sys, "stderr", open_stream(kind))
    assert plainfit("report", "nowhere")[0] == 2
    monkeypatch.setattr(sys, "stdout", open_stream(kind))
    assert plainfit("ladder", "show", "3")[0] == (kind == "full")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_characters_that_a_terminal_lacks_become_question_marks(plainfit, monkeypatch, encoding):
    name, out = "\N{GREEK SMALL LETTER ALPHA}\udcff", BytesIO()
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(out, encoding))
    monkeypatch.setattr(sys, "stderr", TextIOWrapper(err := BytesIO(), encoding))
    assert plainfit(*TRAIN, name)[0] == 0
    assert plainfit("runs", ".")[0] == 0
    assert plainfit("report", name + "x")[0] == 2
    shown = name.encode(encoding, "replace").decode(encoding)
    assert f"\nrun    {shown}\n" in out.getvalue().decode(encoding)
    assert f"\n{shown}" in out.getvalue().decode(encoding).partition("valid loss")[2]
    assert err.getvalue().decode(encoding).startswith(f"error: {shown}x must be a run folder")
    assert sys.stdout.errors == sys.stderr.errors == "strict"


def surroundings():
    return {
        "dynamo": torch._dynamo.config.get_config_copy(),  # its import adds a filter
        "path": list(sys.path),
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "excepthook": sys.excepthook,
        "filters": list(warnings.filters),
        "showwarning": warnings.showwarning,
    }


@pytest.mark.parametrize(
    "arguments",
    ["--version", "runs .", "nonsense", "report nowhere", "train --model no:Model",
     "train --model logistic --epochs 1 --out run"],
)  # fmt: skip
def test_a_command_leaves_the_process_as_it_was(plainfit, arguments):
    before = surroundings()
    plainfit(*arguments.split())
    assert surroundings() == before


def test_a_name_commands_no_terminal(plainfit, trained_run, tmp_path):
    shutil.copytree(trained_run, tmp_path / "a\x1b[2J\x9b1m\a")
    code, out, _ = plainfit("runs", ".")
    assert code == 0
    assert out.splitlines()[1].startswith(r"a\x1b[2J\x9b1m\x07  finished")
    code, _, error = plainfit("report", "\x1b[2J")
    assert error.startswith(r"error: \x1b[2J must be a run folder")


def test_a_name_is_no_mathematics(plainfit, tmp_path):
    for kind in ("a$_{$", "b"):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for number in range(6):
            Image.new("L", (8, 8), number).save(tmp_path / "data" / kind / f"{number}.png")
    assert plainfit("data", "data")[::2] == (0, "")
    assert (tmp_path / "data-samples.png").exists()
