"""Checking what a rung is to the one before, from what both of them did."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from plainfit.ladder.catalog import (
    BITWISE,
    CHANGED,
    FIRST,
    FLOAT64,
    TOLERANCE,
)
from plainfit.ladder.runner import Trace

Rerun = Callable[[Trace, Trace], tuple[Trace, Trace]]
LEARNED = 0.75
"""A rung that starts something new has to end below this share of the loss it began with. Slack
enough for the tutorial's CNN on a small set, where a class can stay dead behind the last ReLU."""


@dataclass(frozen=True)
class Verdict:
    """Whether a relation holds, and what was measured."""

    relation: str
    holds: bool
    measured: str
    difference: float | None = None
    """The largest one in float64, for the relation `float64`."""

    def to_dict(self) -> dict[str, Any]:
        """Return the record for `--json`."""
        return vars(self)


def judge(
    relation: str,
    before: Trace | None,
    after: Trace,
    in_float64: Rerun,
) -> Verdict:
    """Check a relation between two traces.

    Args:
        relation: one of the catalog's.
        before: the trace of the rung before; None for the first.
        after: the trace of the rung itself.
        in_float64: runs both again in float64, for the relation of that name.
    """
    if relation in (FIRST, CHANGED) or before is None:
        return outcome(relation, after)
    if relation == FLOAT64:
        before, after = in_float64(before, after)
    failed = [trace.rung.label for trace in (before, after) if trace.error]
    if failed:
        return Verdict(relation, False, f"rung {' and '.join(failed)} failed")
    unlike = different_form(before, after)
    if unlike:
        return Verdict(relation, False, unlike)
    if relation == FLOAT64:
        difference = largest_difference(before, after)
        holds = difference <= TOLERANCE  # False for NaN
        return Verdict(
            relation, holds, f"{difference:.1e} over {len(after.losses)} steps", difference
        )
    return same_bits(before, after)


def outcome(relation: str, trace: Trace) -> Verdict:
    """Check that a rung learns: its outputs have the right shape, and its loss falls."""
    if trace.error:
        return Verdict(relation, False, "it failed")
    text = f"loss {trace.loss_before:.2f} to {trace.loss:.2f}"
    if trace.rung.what_changed:
        text = f"{trace.rung.what_changed}: {text}"
    if len(trace.outputs) != 2:
        return Verdict(relation, False, f"outputs of shape {trace.outputs}")
    return Verdict(relation, trace.loss < LEARNED * trace.loss_before, text)


def different_form(before: Trace, after: Trace) -> str:
    """Say how two traces differ before any value is looked at: steps, parameters, shapes."""
    if len(before.losses) != len(after.losses):
        return f"{len(before.losses)} and {len(after.losses)} steps"
    shapes = [[tuple(p.shape) for p in trace.parameters[0].values()] for trace in (before, after)]
    if shapes[0] != shapes[1]:
        names = [", ".join(trace.parameters[0]) for trace in (before, after)]
        return f"parameters {names[0]} and {names[1]}"
    return ""


def same_bits(before: Trace, after: Trace) -> Verdict:
    """Find the first step whose loss or parameters differ."""
    for step, losses in enumerate(zip(before.losses, after.losses, strict=True)):
        if not torch.equal(*losses):
            return Verdict(BITWISE, False, f"losses differ at step {step}")
    for step, (old, new) in enumerate(zip(before.parameters, after.parameters, strict=True)):
        for name, values in zip(new, zip(old.values(), new.values(), strict=True), strict=True):
            if not torch.equal(*values):
                return Verdict(BITWISE, False, f"{name} differs before step {step}")
    return Verdict(BITWISE, True, f"{len(after.losses)} steps")


def largest_difference(before: Trace, after: Trace) -> float:
    """Return the largest absolute difference of losses and parameters over all steps."""
    pairs = list(zip(before.losses, after.losses, strict=True))
    for old, new in zip(before.parameters, after.parameters, strict=True):
        pairs += zip(old.values(), new.values(), strict=True)
    return torch.stack([(a.cpu() - b.cpu()).abs().max() for a, b in pairs]).max().item()
