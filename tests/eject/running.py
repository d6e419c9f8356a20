"""Run scripts in this process, and compare what they leave behind."""

import contextlib
import io

import torch

from plainfit.eject.rungs import lower
from plainfit.eject.verify import MOST_ULP

ULP = MOST_ULP


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


def ulps(a, b):
    """Return the distance of two losses in units in the last place of float32."""
    step = torch.nextafter(torch.tensor(abs(b)), torch.tensor(torch.inf)) - abs(b)
    return abs(a - b) / float(step) if a != b else 0.0


def assert_same(script, rung, expected=None):
    """Assert that a script at a rung keeps the promise of that rung; return its text."""
    losses, state = expected or run(script)
    text = lower(script, rung)
    new_losses, new_state = run(text)
    assert len(new_losses) == len(losses)
    if rung == "tensors":
        assert max(map(ulps, new_losses, losses)) <= ULP
    else:
        assert new_losses == losses
    assert not differing(new_state, state)
    return text
