"""Many steps as one CUDA graph that is replayed: the kernels of a step start without Python.

The graph reads and writes the same memory in each replay. So it works on copies of the training's
tensors, and a counter on the device says which step is next.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from plainfit.training.program import Steps
from plainfit.training.state import untouched
from plainfit.training.tracing import UntraceableError


class Replay:
    """The steps of a range by calls of a function without arguments.

    It is called as `Steps` is, each time with the same columns.

    Attributes:
        once: takes the next step; a captured graph can take its place.
    """

    def __init__(self, steps: Steps, arguments: Sequence[Any]) -> None:
        moving, fixed, self.columns, rows, numbers, _, _ = arguments
        self.steps, device = steps, numbers.device
        given = [*moving, *fixed, rows, numbers]
        self.inputs = [tensor.to(device, copy=True) for tensor in given]
        self.moving = self.inputs[: len(moving)]
        self.fixed = self.inputs[len(moving) : -2]
        self.at = torch.zeros(1, dtype=torch.int64, device=device)
        self.found = torch.zeros(len(numbers), steps.values, dtype=steps.dtype, device=device)
        self.once: Callable[[], None] = self.step

    def step(self) -> None:
        rows, numbers = self.inputs[-2:]
        row, made = self.steps.one(self.at, self.moving, self.fixed, self.columns, rows, numbers)
        self.found.index_copy_(0, self.at, row)
        torch._foreach_copy_(self.moving, made)
        self.at += 1

    def check(self, fixed: Sequence[Tensor]) -> None:
        """Refuse a step that has changed what it does not say to change: that would be lost."""
        pairs = zip(self.fixed, fixed, strict=True)
        if not all(torch.equal(ours, given.to(ours.device)) for ours, given in pairs):
            raise UntraceableError("an operation changes a tensor, and its schema does not say so")

    def __call__(self, *arguments: Any) -> tuple[Tensor, list[Tensor]]:
        """Return the values of each step, and the tensors after the last, until the next call."""
        moving, fixed, _, rows, numbers, first, last = arguments
        torch._foreach_copy_(self.inputs, [*moving, *fixed, rows, numbers])
        self.at.fill_(int(first))
        for _ in range(int(last) - int(first)):
            self.once()
        return self.found.clone(), self.moving


def captured(
    steps: Steps, arguments: Sequence[Any], echo: Callable[[str], None]
) -> tuple[Callable[..., Any], str]:
    """Return what replays the steps on a CUDA device, and how it was had; as `compiled` does."""
    began, device = time.perf_counter(), arguments[4].device
    check_place(steps.graph, device)
    replay = Replay(steps, arguments)
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)
    with torch.no_grad(), torch.cuda.device(device), untouched(None):  # the kernels draw numbers
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # around the capture: one that fails would stay in it
            for check in (nullcontext, nullcontext, nothing_waited_for):  # as torch's notes ask
                replay.at.zero_()
                with check():
                    replay.step()
            replay.check(arguments[1])
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                replay.step()
        torch.cuda.current_stream().wait_stream(stream)
    replay.once = graph.replay
    return replay, f"captured in {time.perf_counter() - began:.1f} s"


@contextmanager
def nothing_waited_for() -> Iterator[None]:
    """Refuse a step that waits for the device; in a capture, that would break its generator."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is a prototype of torch
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)


def check_place(graph: Any, device: torch.device) -> None:
    """Refuse values that change from step to step on another device: replays would keep them."""
    changing: set[Any] = set()
    for node in graph.graph.nodes:
        is_random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        if node.op == "placeholder" or is_random or not changing.isdisjoint(node.all_input_nodes):
            changing.add(node)
            for value in tree_leaves(node.meta.get("val")):
                if isinstance(value, Tensor) and value.device.type != device.type:
                    raise UntraceableError(
                        f"a step on {device.type} computes on {value.device.type} too ({node.name})"
                    )
