"""Running an ejected script within the test, since a process of its own takes seconds."""

import ast
import json
import os
import sys
import tempfile
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import torch
from safetensors.torch import load_file

from plainfit.common import devices
from plainfit.common.errors import EjectError
from plainfit.eject import alone
from plainfit.eject.verify import Outcome


@contextmanager
def kept_as_it_is(folder):
    """Run in a folder; put threads, generator and folder back."""
    before, threads, state = Path.cwd(), torch.get_num_threads(), torch.get_rng_state()
    dtype = torch.get_default_dtype()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)
        torch.set_rng_state(state)


def names_of(script: Path):
    """Return the names that a script has at its end."""
    names = {"__name__": "__main__", "__file__": str(script)}
    with kept_as_it_is(script.parent):
        exec(compile(script.read_text(), str(script), "exec"), names)
    return names


def run_here(script: Path):
    """Return the losses and the weights that a script gives."""
    names = names_of(script)
    return names["losses"], load_file(script.parent / "model.safetensors")


def run_alone_here(script, recorded, steps=None):
    """Do what `run_alone` does within the test: a process of its own takes seconds."""
    whole = script.resolve()
    facts = patch.object(alone, "fingerprint", devices.fingerprint, create=True)
    lists = patch.multiple(sys, path=["", *sys.path], argv=[], meta_path=[*sys.meta_path])
    with tempfile.TemporaryDirectory() as folder:
        report, weights = Path(folder, "report.json"), Path(folder, "model.safetensors")
        with kept_as_it_is(folder), facts, lists, redirect_stdout(StringIO()):
            try:
                alone.main(str(whole), str(report), str(steps or 0))
            except Exception as error:
                raise EjectError(f"{script} must run by itself, and failed: {error}") from error
        found = json.loads(report.read_text())
        tensors = load_file(weights) if weights.exists() else {}
    return Outcome(found["losses"], tensors, fingerprint=found["fingerprint"])


def differing(ours, theirs):
    """Return the names of tensors that are not equal bit for bit, or in one only."""
    unequal = {k for k in ours.keys() & theirs.keys() if not torch.equal(ours[k], theirs[k])}
    return sorted(unequal | (ours.keys() ^ theirs.keys()))


def code_lines(script: Path):
    """Return the number of lines that are not blank, comments or docstrings."""
    text = script.read_text()
    docs = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            docs |= set(range(node.lineno, node.end_lineno + 1))
    numbered = enumerate(map(str.strip, text.splitlines()), 1)
    return sum(bool(line) and line[0] != "#" and number not in docs for number, line in numbered)


def names_in(script: Path):
    """Return every name that a script mentions: variables, attributes, modules, imported names."""
    found = set()
    for node in ast.walk(ast.parse(script.read_text())):
        match node:
            case ast.Name(name) | ast.Attribute(attr=name):
                found.add(name)
            case ast.Import(aliases):
                found |= {part for alias in aliases for part in alias.name.split(".")}
            case ast.ImportFrom(module=module, names=aliases):
                found |= {*(module or "").split("."), *(alias.name for alias in aliases)}
    return found
