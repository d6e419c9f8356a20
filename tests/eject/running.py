"""Run scripts in this process, and compare what they leave behind."""

import contextlib
import io

import torch

from plainfit.eject.lower import lower


def run(text):
    """Run a script, and return its `losses`, and the tensors of its `state`."""
    dtype, state = torch.get_default_dtype(), torch.get_rng_state()
    namespace = {"__name__": "__main__"}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(text, "script.py", "exec"), namespace)
    finally:
        torch.set_default_dtype(dtype)
        torch.set_rng_state(state)
    final = {name: value.detach().clone() for name, value in namespace["state"].items()}
    return namespace["losses"], final


def differing(first, second):
    """Return the names that one state alone has, or whose values differ in a bit."""
    return {
        name
        for name in {*first, *second}
        if name not in first or name not in second or not torch.equal(first[name], second[name])
    }


def assert_same(script, level, expected=None):
    """Assert that a script at a level keeps the promise of that level; return its text."""
    losses, state = expected or run(script)
    text = lower(script, level)
    new_losses, new_state = run(text)
    assert new_losses == losses
    assert not differing(new_state, state)
    return text
