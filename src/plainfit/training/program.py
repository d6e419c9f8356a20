"""Many steps as one program: they run one after another without returning to Python.

On a CPU the graph of a step (`tracing.py`) is called in a loop, and torch compiles the two as one.
A program takes the steps from `first` to before `last`, so a part of an epoch has the bits of the
whole. On CUDA a graph is replayed, which reads and writes the same memory each time: it works on
copies of the training's tensors, and a counter on the device says which step is next.
"""

import hashlib
import inspect
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._higher_order_ops.while_loop import while_loop
from torch.utils._pytree import tree_leaves

from plainfit.common.devices import fingerprint
from plainfit.common.errors import PlainfitError
from plainfit.training import program_cache
from plainfit.training.state import untouched
from plainfit.training.tracing import UntraceableError, contents_of, outputs_of

# A precompiled header would be one that lies in /tmp, and takes longer to make than it saves.
OPTIONS = {"aot_inductor.precompile_headers": False}
FOLDER = "TORCHINDUCTOR_CACHE_DIR"


class Steps(nn.Module):
    """The steps of a range, as a loop over the graph of one.

    Args:
        graph: of a step, by `traced`.
        tensors: how many tensors it takes.
        gathers: whether a step gathers its rows of the data; else the batches are stacked.
    """

    def __init__(self, graph: Any, tensors: int, gathers: bool) -> None:
        super().__init__()
        self.gathers = gathers
        outputs = outputs_of(graph)
        self.graph, self.values = graph, len(outputs) - tensors
        self.changed = [node.op != "placeholder" for node in outputs[:tensors]]
        self.dtype = outputs[-1].meta["val"].dtype

    def forward(
        self,
        tensors: list[Tensor],
        fixed: list[Tensor],
        columns: list[Tensor],
        rows: Tensor,
        numbers: Tensor,
        first: Tensor,
        last: Tensor,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the values of each step, shape (steps, values), and the tensors after the last.

        Args:
            tensors: those that a step changes, before the first one.
            fixed: the others of the graph's tensors.
            columns: of the data, of which step i takes `rows[i]`; or batches that are stacked, of
                which it takes number i.
            rows: int64, shape (steps, batch).
            numbers: the options of the optimizer in each step, float64, shape (steps, options).
            first: the first step, an int64 scalar.
            last: the step after the last one.
        """

        def goes_on(i: Tensor, found: Tensor, *now: Tensor) -> Tensor:
            return i < last

        def step(i: Tensor, found: Tensor, *now: Tensor) -> tuple[Tensor, ...]:
            at = i.view(1)
            row, made = self.one(at, now, fixed, columns, rows, numbers)
            after = map(laid_out_as, made, now)
            return i + 1, found.index_copy(0, at, row), *after

        found = torch.zeros(len(numbers), self.values, dtype=self.dtype)
        _, found, *now = while_loop(goes_on, step, (first, found, *tensors))
        return found, now

    def one(self, at: Tensor, now: Sequence[Tensor], *others: Any) -> tuple[Tensor, list[Tensor]]:
        """Return the values of step `at`, shape (1, values), and the tensors `now` after it."""
        fixed, columns, rows, numbers = others  # as for `forward`
        taken = rows.index_select(0, at)[0] if self.gathers else at
        batch = [column.index_select(0, taken) for column in columns]
        if not self.gathers:
            batch = [each[0] for each in batch]
        moving, still = iter(now), iter(fixed)
        own = [next(moving) if changed else next(still) for changed in self.changed]
        made = self.graph(own, numbers.index_select(0, at)[0], *batch)
        row = torch.stack([value.view(()) for value in made[len(own) :]]).view(1, -1)
        return row, self.those(made[: len(own)], True)

    def those(self, tensors: Sequence[Tensor], changed: bool) -> list[Tensor]:
        return [each for each, moves in zip(tensors, self.changed, strict=True) if moves is changed]


def laid_out_as(tensor: Tensor, other: Tensor) -> Tensor:
    """Return a copy with the strides of another: what a loop returns is as what it was given."""
    if tensor.stride() == other.stride():
        return tensor.clone()
    return torch.empty_strided(other.shape, other.stride(), dtype=other.dtype).copy_(tensor)


def compiled(
    steps: Steps, arguments: Sequence[Any], echo: Callable[[str], None]
) -> tuple[Callable[..., Any], str]:
    """Return a program for such arguments, from the cache or compiled now, and how it was had."""
    key = key_of(steps, arguments)
    if program := program_cache.load(key):
        return program, "compiled before"
    check_compiler()
    echo("note   compiling the steps of an epoch as one program: the first time takes a minute")
    began = time.perf_counter()

    def write(path: Path) -> None:
        with torch.no_grad(), warnings.catch_warnings(), files_of_compiler(path.parent):
            warnings.simplefilter("ignore")  # of torch's own code
            exported = torch.export.export(steps, tuple(arguments), strict=False)
            torch._inductor.aoti_compile_and_package(
                exported, package_path=str(path), inductor_configs=dict(OPTIONS)
            )

    program, why_not = program_cache.save(key, write)
    kept = f"not kept: {why_not}" if why_not else "kept for the next time"
    return program, f"compiled in {time.perf_counter() - began:.1f} s, {kept}"


class NoCompilerError(PlainfitError):
    """Nothing can be compiled on this computer."""


def check_compiler() -> None:
    """Raise an error where torch finds no compiler; its own comes late, and is long."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, OSError) as error:
        text = "there is no C++ compiler (install g++, or name one in CXX)"
        raise NoCompilerError(text) from error


@contextmanager
def files_of_compiler(folder: Path) -> Iterator[None]:
    """Let torch's compiler keep its files in this folder; its own, in /tmp, may be a stranger's."""
    from torch._inductor.utils import clear_caches

    before = os.environ.get(FOLDER)
    os.environ[FOLDER] = str(folder)
    clear_caches()  # paths into the other folder
    try:
        yield
    finally:
        clear_caches()
        os.environ.pop(FOLDER)
        os.environ.update({} if before is None else {FOLDER: before})


def key_of(steps: Steps, arguments: Sequence[Any]) -> str:
    """Return a hash over all that the machine code depends on."""
    leaves = torch.utils._pytree.tree_leaves(arguments)
    parts = [
        f"{contents_of(steps.graph)} {steps.gathers}",
        *(f"{tuple(leaf.shape)} {leaf.stride()} {leaf.dtype} {leaf.device}" for leaf in leaves),
        inspect.getsource(inspect.getmodule(Steps)),  # type: ignore[arg-type]
        *map(str, sorted(fingerprint(leaves[0].device).items())),
        *(each.get_hash().hex() for each in (torch._inductor.config, torch._functorch.config)),
        str(torch.backends.mkldnn.enabled),
        program_cache.processor(),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


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
