"""`fit(compile=True)`: the model, forward and backward, as one compiled graph."""

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from plainfit.devices import device_of
from plainfit.hooks import Context

PLAIN_STEPS = 10  # steps before compiling, to know what it gains
TIMED_STEPS = 20  # steps after it that are timed for the same purpose


class CompiledModel(nn.Module):
    """Calls a model through `torch.compile`, after a few steps without, and says what that gave.

    The first 10 steps of a training run as they are, always, so that a resumed training has the
    bits of one that was never stopped. Where compiling fails (no C++ compiler, or Python in the
    model that breaks the graph), one line says so and the model runs as it is.

    On CUDA the graph is captured and replayed (`mode="reduce-overhead"`), without the cost of
    starting each kernel from Python.

    Args:
        model: the module; it is not changed.
        context: of the training.
        echo: is given the line.
    """

    def __init__(
        self, model: nn.Module, context: Context, echo: Callable[[str], None] | None
    ) -> None:
        super().__init__()
        on_cuda = device_of(model).type == "cuda"
        mode = "reduce-overhead" if on_cuda else None
        self.model = model
        self.compiled = torch.compile(model, fullgraph=True, mode=mode)
        self.context = context
        self.echo = echo or (lambda line: None)
        self.failed = False
        self.compile_seconds = 0.0
        self.calls: dict[bool, list[float]] = {False: [], True: []}

    def forward(self, xb: Any) -> Any:
        """Return `model(xb)`."""
        use_compiled = self.context.global_step >= PLAIN_STEPS and not self.failed
        times = self.calls[use_compiled]
        if len(times) < TIMED_STEPS:
            times.append(time.perf_counter())
        elif len(times) == TIMED_STEPS and use_compiled:
            times.append(time.perf_counter())
            self.report()
        if not use_compiled:
            return self.model(xb)
        try:
            out = self.compiled(xb)
        except torch._dynamo.exc.TorchDynamoException as error:
            self.failed = True
            reason = " ".join(str(error).split("\n")[:2]).strip()
            self.echo(f"note   not compiled, goes on without: {reason}")
            return self.model(xb)
        if len(times) == 1:
            self.compile_seconds = time.perf_counter() - times[0]
        return out

    def report(self) -> None:
        """Say what compiling cost and gained, by the time from one step to the next."""
        after = median_gap(self.calls[True][1:])
        before = median_gap(self.calls[False][1:])
        instead = f" instead of {before * 1e3:.2f}" if before else ""
        self.echo(
            f"note   compiled in {self.compile_seconds:.1f} s; "
            f"a step takes {after * 1e3:.2f} ms{instead}"
        )


def median_gap(times: list[float]) -> float:
    """Return the median of the differences between neighbours; 0 where there are none."""
    gaps = sorted(later - before for before, later in pairwise(times))
    return gaps[len(gaps) // 2] if gaps else 0.0
