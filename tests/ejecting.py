"""Running an ejected script within the test, since a process of its own takes seconds."""

import ast
import os
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file


@contextmanager
def kept_as_it_is(folder):
    """Run in a folder; put threads, generator and folder back."""
    before, threads, state = Path.cwd(), torch.get_num_threads(), torch.get_rng_state()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        torch.set_num_threads(threads)
        torch.set_rng_state(state)


def run_here(script: Path):
    """Return the losses and the weights that a script gives."""
    names = {"__name__": "__main__", "__file__": str(script)}
    with kept_as_it_is(script.parent):
        exec(compile(script.read_text(), str(script), "exec"), names)
    return names["losses"], load_file(script.parent / "model.safetensors")


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
