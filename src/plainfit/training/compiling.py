"""How `fit` computes a loss other than by `loss_func(model(xb), yb)`: autocast, one graph."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import pairwise
from statistics import median
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from plainfit.common.devices import bf16_pays, device_of
from plainfit.common.errors import ConfigError, unknown_name
from plainfit.data.batches import called, caller, tensors_in
from plainfit.training.callbacks.stopping import NonFiniteGuard
from plainfit.training.hooks import Callback, Context, LossFunction, overriding

if TYPE_CHECKING:
    from plainfit.training.ranges import EpochProgram

FORMS = ("epoch", "step")  # of what is compiled as one
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
PLAIN_STEPS = 10  # steps before compiling, to know what it gains
TIMED_STEPS = 20  # steps after it that are timed for the same purpose
OWN_GRAPHS = 4  # shapes of batches with a graph of their own, of which each takes seconds


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Return the context manager for forward pass and loss.

    With `bf16` or `fp16`, matrix products and convolutions are in that type, and what needs more
    (sums, norms, losses) in float32, as are weights, gradients and the optimizer.
    """
    if precision == "fp32":
        return nullcontext()
    if precision not in DTYPES:
        raise ConfigError(unknown_name("precision", precision, ["fp32", *DTYPES]))
    return torch.autocast(device.type, dtype=DTYPES[precision])


@contextmanager
def computation(
    context: Context,
    loss_func: LossFunction,
    precision: str,
    compile: str,
    echo: Callable[[str], None] | None,
) -> Iterator[tuple[LossFunction | None, "EpochProgram | None"]]:
    """Yield `(xb, yb) -> loss`, or None for `loss_func(model(xb), yb)`, and the epochs' program.

    At the end, the settings of torch's compiler and `sys.path` are as before. The arguments are
    those of `fit`.
    """
    model, tell = context.model, echo or (lambda line: None)
    cast = autocast(precision, device_of(model))
    if precision == "bf16" and not bf16_pays(device_of(model)):
        tell("note   bf16 is no faster than fp32 on this processor")

    def in_precision(xb: Any, yb: Any) -> Any:
        with cast:
            return compute(xb, yb) if compute else loss_func(called(model, xb), yb)

    with compiling() if compile else nullcontext():
        program = None
        if compile == "epoch":
            from plainfit.training.program_validation import ValidationProgram
            from plainfit.training.ranges import EpochProgram

            program = EpochProgram(context, loss_func, tell)
            context.valid_program = ValidationProgram(program, tell)
        compute = CompiledLoss(context, loss_func, tell, program) if compile else None
        chosen = compute if precision == "fp32" else in_precision
        if program is not None:
            program.compute_loss = None if precision == "fp32" else chosen
        yield chosen, program


def form_of(compile: bool | str) -> str:
    """Return what is compiled as one, by the argument of `fit`: `epoch`, `step` or nothing."""
    if isinstance(compile, str) and compile not in FORMS:
        raise ConfigError(unknown_name("form", compile, FORMS), field="compile")
    return compile if isinstance(compile, str) else FORMS[0] if compile else ""


@contextmanager
def compiling() -> Iterator[None]:
    """Compile a backward pass with its forward pass; later, a failure could not be mended.

    What `OneGraph` may change is as before in the end, as is `sys.path`: torch's compiler imports
    setuptools, which adds to it.
    """
    path, dynamo, inductor = list(sys.path), torch._dynamo.config, torch._inductor.config
    traced = {n: getattr(dynamo, n) for n in ("trace_autograd_ops",) if hasattr(dynamo, n)}
    whole = torch._functorch.config.patch(force_non_lazy_backward_lowering=True)
    try:
        with whole, inductor.patch(fallback_random=inductor.fallback_random), dynamo.patch(traced):
            yield
    finally:
        sys.path[:] = path


class OneGraph:
    """Computes the loss of a batch by a compiled graph, and its gradients in the same call.

    `backward()` of the loss only adds these to the parameters' `grad`; this saves autograd's part
    of the step. It needs settings of torch's compiler that are the whole process's
    (`torch._dynamo.config.trace_autograd_ops`, and `fallback_random` of inductor but on the CPU).

    Args:
        model: the module; it is not changed.
        loss_func: `(model(xb), yb) -> mean loss`.
        with_gradients: False where the loss is changed before its gradients are computed: the
            backward pass is a graph of its own then, and autograd calls it.
        mode: of `torch.compile`.
    """

    def __init__(
        self, model: nn.Module, loss_func: Any, with_gradients: bool = True, mode: str | None = None
    ) -> None:
        self.model, self.loss_func, self.with_gradients = model, loss_func, with_gradients
        self.forward: Any = model
        modules = nn.ModuleList(
            [part for part in (model, loss_func) if isinstance(part, nn.Module)]
        )
        self.parameters = list(modules.parameters())
        if with_gradients:
            torch._dynamo.config.trace_autograd_ops = True
        if any(parameter.device.type != "cpu" for parameter in self.parameters):
            # Dropout by torch's own kernels: those that 2.13 compiles for CUDA repeat their masks
            # (pytorch issue 198333).
            torch._inductor.config.fallback_random = True
        self.mode = mode
        self.graphs: dict[bool, Any] = {}
        self.shapes: set[Any] = set()
        self.shares = False

    def graph_of(self, *batch: Any) -> Any:
        """Return the graph for a batch of this shape.

        Each of the first few shapes has its own; there is one for all others, whose bits depend on
        the shape that it first comes with.
        """
        shape = tuple(tensor.shape for tensor in tensors_in(batch))
        if len(self.shapes) < OWN_GRAPHS:
            self.shapes.add(shape)
        self.shares = shape not in self.shapes
        if self.shares not in self.graphs:
            compute = self.loss_and_gradients if self.with_gradients else self.loss
            self.graphs[self.shares] = torch.compile(
                with_own_code(compute), fullgraph=True, dynamic=self.shares, mode=self.mode
            )
        return self.graphs[self.shares]

    def loss(self, xb: Any, yb: Any) -> Tensor:
        loss: Tensor = self.loss_func(self.forward(xb), yb)
        return loss

    def loss_and_gradients(self, xb: Any, yb: Any, trained: list[Tensor]) -> Any:
        """Return the loss of a batch, detached, and its gradients, None for what it is not from."""
        loss = self.loss(xb, yb)
        gradients = torch.autograd.grad(loss, trained, allow_unused=True)
        # Two parameters may have one gradient, and clipping would scale it twice.
        return loss.detach(), [g if g is None else g.clone() for g in gradients]

    def __call__(self, xb: Any, yb: Any) -> Tensor:
        """Return the loss of a batch. Its own memory: a captured CUDA graph would reuse its."""
        if not self.with_gradients:
            separate: Tensor = self.graph_of(xb, yb)(xb, yb).clone()
            return separate
        trained = [parameter for parameter in self.parameters if parameter.requires_grad]
        compiled, gradients = self.graph_of(xb, yb)(xb, yb, trained)
        loss: Tensor = compiled.clone()
        loss.backward = partial(add_gradients, trained, gradients)  # type: ignore[method-assign]
        return loss


def with_own_code(method: Any) -> Any:
    """Copy a method with its code: torch keeps graphs by the code, and only so many for each."""
    function = method.__func__
    copied = FunctionType(function.__code__.replace(), function.__globals__)
    return MethodType(copied, method.__self__)


def add_gradients(parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            had = parameter.grad
            parameter.grad = gradient if had is None else had + gradient


class CompiledLoss:
    """`OneGraph` after a few steps without it; reports what compiling cost and gained.

    It waits while a `program` works. The first 10 steps are never compiled, so that a resumed
    training has the same bits as one that was never stopped. If compiling fails (no C++ compiler,
    Python in the model that breaks the graph, too many variants of it), one line says so and the
    model runs as it is.
    """

    def __init__(
        self,
        context: Context,
        loss_func: Any,
        echo: Callable[[str], None],
        program: "EpochProgram | None" = None,
    ) -> None:
        # On CUDA the graph is captured and replayed, without starting each kernel from Python.
        mode = "reduce-overhead" if device_of(context.model).type == "cuda" else None
        in_graph = gradients_in_graph(context.callbacks)
        self.graph = OneGraph(context.model, loss_func, in_graph, mode)
        self.context, self.echo, self.program = context, echo, program
        self.failed = self.has_shared = False
        self.compile_seconds = 0.0
        self.calls: dict[bool, list[float]] = {False: [], True: []}

    def __call__(self, xb: Any, yb: Any) -> Any:
        if not isinstance(xb, Tensor) and self.graph.forward is self.graph.model:
            self.graph.forward = caller(self.graph.model, xb)
        use_compiled = self.context.global_step >= PLAIN_STEPS and not self.failed
        if self.program is not None and self.program.form != "step":  # this is a step beside it
            return self.graph.loss(xb, yb)
        times = self.calls[use_compiled]
        if len(times) < TIMED_STEPS:
            times.append(time.perf_counter())
        elif len(times) == TIMED_STEPS and use_compiled:
            times.append(time.perf_counter())
            self.report()
        if not use_compiled:
            return self.graph.loss(xb, yb)
        if len(times) == 1:
            self.echo("note   compiling: this takes some seconds")
        try:
            loss: Any = self.graph(xb, yb)
        except Exception as error:
            why = " ".join(f"{type(error).__name__}: {error}".split("\n")[:2]).strip()
        else:
            if self.graph.shares and not self.has_shared:
                self.has_shared = True
                self.echo(
                    f"note   batches of more than {OWN_GRAPHS} shapes: the others share a graph, "
                    "and the last bits of a resumed training may differ"
                )
            if len(times) == 1:
                self.compile_seconds = time.perf_counter() - times[0]
            return loss
        loss = self.graph.loss(xb, yb)  # raises what is no failure of the compiler
        if not isinstance(loss, Tensor):
            why = "a graph gives the loss alone, and train_metrics or values by name are beside it"
        self.failed = True
        if self.context.global_step == PLAIN_STEPS and (call := self.context.history.run):
            call.compile = ""  # a script of this training compiles nothing, too
        self.echo(f"note   not compiled, goes on without: {why}")
        return loss

    def report(self) -> None:
        gaps = {key: [b - a for a, b in pairwise(times[1:])] for key, times in self.calls.items()}
        instead = f" instead of {median(gaps[False]) * 1e3:.2f}" if gaps[False] else ""
        self.echo(
            f"note   compiled in {self.compile_seconds:.1f} s; "
            f"a step takes {median(gaps[True]) * 1e3:.2f} ms{instead}"
        )


def gradients_in_graph(callbacks: Sequence[Callback]) -> bool:
    """Return whether no callback may change the loss before its gradients are computed."""
    if not hasattr(torch._dynamo.config, "trace_autograd_ops"):  # before torch 2.11
        return False
    others = [c for c in callbacks if not isinstance(c, NonFiniteGuard)]  # which only looks
    return not any(overriding(others, "on_loss"))
