"""Climbing the ladder: running the rungs and checking each against the one before."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from plainfit.common.errors import DataError
from plainfit.data.loaders import ImageDataset
from plainfit.data.splits import DataSplits
from plainfit.ladder.catalog import BITWISE, CHANGED, FLOAT64, RUNGS, STEPS, Rung
from plainfit.ladder.relations import Rerun, Verdict, judge
from plainfit.ladder.runner import (
    Parameters,
    Setting,
    Swap,
    Trace,
    run_rung,
    unchanged,
    use_scratch,
)

TUTORIAL_EPOCHS, LEAST_STEPS, BATCH = 2, 400, 64
CONVOLUTIONS = 10
"""The rung from which on `scratch`, which convolves by matmul, rounds otherwise than torch."""


@dataclass(frozen=True)
class Row:
    """A rung of the table."""

    trace: Trace
    verdict: Verdict
    slowdown: float | None = None
    """Seconds on `scratch` over seconds on torch."""

    def to_dict(self) -> dict[str, Any]:
        """Return the record for `--json`."""
        rung, trace = self.trace.rung, self.trace
        record = {
            "rung": rung.number,
            "name": rung.name,
            "adds": rung.adds,
            "lines": rung.lines,
            "seconds": trace.seconds,
            "valid_loss": trace.loss,
            "accuracy": trace.accuracy,
            **self.verdict.to_dict(),
            "slowdown": self.slowdown,
            "error": trace.error,
        }
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in record.items()
        }


def write_data(data: DataSplits, path: Path) -> None:
    """Write a data set as the file that the rungs read.

    Raises:
        DataError: if it does not hold gray, square images, in memory.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for part, dataset in (("train", data.train), ("valid", data.valid)):
        square = data.input_shape == (1, data.input_shape[-1], data.input_shape[-1])
        if not (square and isinstance(dataset, ImageDataset)):
            raise DataError(
                "the ladder is for gray, square images that fit in memory, got samples of "
                f"{'x'.join(map(str, data.input_shape))} in {data.name}; take digits, mnist, "
                "fashion-mnist, or bytes of shape (samples, side, side) in a .npz"
            )
        images, labels = dataset.tensors
        arrays |= {f"x_{part}": images.numpy(), f"y_{part}": labels.numpy()}
    np.savez(path, allow_pickle=False, **arrays)


def usual_epochs(samples: int) -> int:
    """Return the tutorial's two epochs, or more of a small data set: 400 steps at least."""
    return max(TUTORIAL_EPOCHS, math.ceil(LEAST_STEPS / math.ceil(samples / BATCH)))


def relation_here(rung: Rung) -> str:
    """Return the relation to check on this machine: on an accelerator, other kernels run."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None or rung.number < 13:
        return rung.relation
    return CHANGED if accelerator.type == "mps" else FLOAT64  # MPS has no float64


def climb(rungs: Sequence[Rung], setting: Setting) -> Iterator[Row]:
    """Run rungs and yield each with the verdict on its relation to the one before.

    A rung gets the initial values of the one before, where they fit. The rung before the first
    of a selection is run too, to compare with.
    """
    done: dict[int, Trace] = {}
    for rung in rungs:
        for needed in RUNGS[max(0, rung.number - 2) : rung.number]:
            if needed.number not in done:
                start = start_of(done.get(needed.number - 1))
                done[needed.number] = run_rung(needed, setting, start)
        before, after = done.get(rung.number - 1), done[rung.number]
        done = {rung.number: after}  # traces are large: the parameters at every step
        yield Row(after, judge(relation_here(rung), before, after, in_float64(setting)))


def climb_on_scratch(rungs: Sequence[Rung], setting: Setting) -> Iterator[Row]:
    """Run rungs on torch and on `scratch`, and yield each with what the second is to the first."""
    for rung in rungs:
        on_torch = run_rung(rung, setting)
        again = run_rung(rung, setting, start_of(on_torch), use_scratch)
        relation = BITWISE if rung.number < CONVOLUTIONS else FLOAT64
        verdict = judge(relation, on_torch, again, in_float64(setting, use_scratch))
        failed = on_torch.error or again.error
        yield Row(again, verdict, math.nan if failed else again.seconds / on_torch.seconds)


def in_float64(setting: Setting, swap: Swap = unchanged) -> Rerun:
    """Return a function that runs two rungs again, in float64 and for some steps only."""

    def rerun(before: Trace, after: Trace) -> tuple[Trace, Trace]:
        short = replace(setting, dtype=torch.float64, most_steps=STEPS, epochs=STEPS)
        start = start_of(before)
        return run_rung(before.rung, short, start), run_rung(after.rung, short, start, swap)

    return rerun


def start_of(trace: Trace | None) -> Parameters | None:
    """Return the initial values that a rung had."""
    return trace.parameters[0] if trace and trace.parameters else None
