"""One step of a rung's training to look into: its batch, predictions, loss, gradients, update."""

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from plainfit.common.errors import ConfigError
from plainfit.ladder.catalog import LESSON, RUNGS, Rung
from plainfit.ladder.climb import BATCH
from plainfit.ladder.runner import Parameters, Setting, own_parameters, run_rung

STEPPABLE = RUNGS[1:14]  # the loop of rung 14 is the library's; rung 15 has pieces of a batch
PHASES = {  # what begins the statements of each part of a step, within a loop or a function
    "batch": r"for xb, yb in train_dl|[xy]b\b.* = (?:[xy]_train|train_ds)",
    "predictions": r"pred = |loss = loss_func\(model",
    "loss": r"loss = loss_func",
    "gradients": r"loss\.backward",
}


@dataclass
class Inside:
    """A step of a training; parameters and gradients have the shapes of the program."""

    step: int
    last: int  # step that can be looked into
    xb: Tensor
    yb: Tensor
    pred: Tensor
    loss: float
    parameters: Parameters
    gradients: Parameters
    updated: Parameters
    loss_after: float = math.nan  # of the same batch, after the update


def look_inside(rung: Rung, setting: Setting, step: int, samples: int) -> Inside:
    """Train up to a step, and return what is in it.

    Args:
        rung: one of `STEPPABLE`.
        setting: of the run.
        step: from 0; the last one is not followed by another, which is where its update is read.
        samples: in the training data.
    """
    last = math.ceil(samples / BATCH) * setting.epochs - 2
    if rung not in STEPPABLE or not 0 <= step <= last:
        raise ConfigError(
            f"step must be 0 to {last} of a rung from {STEPPABLE[0].label} to "
            f"{STEPPABLE[-1].label}, got step {step} of rung {rung.label}"
        )
    seen: list[Inside] = []
    steps = 0

    def watch(_: Rung, names: Mapping[str, Any], loss: Tensor) -> None:
        nonlocal steps
        own = own_parameters(names)
        if steps == step:
            xb, yb = batch_of_caller()
            with torch.no_grad():
                pred = names["model"](xb)
            gradients = torch.autograd.grad(loss, [*own.values()], retain_graph=True)
            by_name = dict(zip(own, gradients, strict=True))
            seen.append(Inside(step, last, xb, yb, pred, loss.item(), copied(own), by_name, {}))
        elif steps == step + 1:
            seen[0].updated = copied(own)
            with torch.no_grad():
                after = names["loss_func"](names["model"](seen[0].xb), seen[0].yb)
            seen[0].loss_after = after.item()
        steps += 1

    trace = run_rung(rung, replace(setting, most_steps=step + 2, on_step=watch))
    if trace.error:
        raise ConfigError(f"rung {rung.label} failed: {trace.error}")
    return seen[0]


def batch_of_caller() -> tuple[Tensor, Tensor]:
    """Return `xb, yb` of the nearest caller that has them: the program's own."""
    frame = sys._getframe()
    while "xb" not in frame.f_locals:
        assert frame.f_back, "a rung's batch is xb, yb"
        frame = frame.f_back
    return frame.f_locals["xb"], frame.f_locals["yb"]


def copied(parameters: Parameters) -> Parameters:
    return {name: value.detach().clone() for name, value in parameters.items()}


def lines_of_step(rung: Rung) -> dict[str, list[int]]:
    """Return the numbers of the lines that make each part of a step.

    >>> lines_of_step(RUNGS[7])["gradients"]
    [67]
    """
    lines = rung.source.splitlines()
    lesson = lines.index(LESSON)
    found = {
        phase: [
            at + 1
            for at, line in enumerate(lines)
            if at > lesson and re.match(rf"\s+(?:{start})", line)
        ]
        for phase, start in PHASES.items()
    }
    end = start = found["gradients"][-1]  # the update: what follows, to the end of the block
    while end < len(lines) and lines[end].startswith(indent_of(lines[start - 1])):
        end += 1
    return found | {"update": [*range(start + 1, end + 1)]}


def indent_of(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]
