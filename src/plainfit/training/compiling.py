"""`fit(compile=True)`: forward pass, loss and gradients as one compiled graph."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from plainfit.common.devices import device_of
from plainfit.training.callbacks.finite import NonFiniteGuard
from plainfit.training.hooks import Callback, Context, overriding

PLAIN_STEPS = 10  # steps before compiling, to know what it gains
TIMED_STEPS = 20  # steps after it that are timed for the same purpose


class OneGraph:
    """Computes the loss of a batch by a compiled graph, and its gradients in the same call.

    `backward()` of the loss only adds these to the parameters' `grad`; this saves autograd's part
    of the step. It needs a setting of torch's compiler that is the whole process's
    (`torch._dynamo.config.trace_autograd_ops`).

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
        modules = nn.ModuleList(
            [part for part in (model, loss_func) if isinstance(part, nn.Module)]
        )
        self.parameters = list(modules.parameters())
        if with_gradients:
            torch._dynamo.config.trace_autograd_ops = True
        compute = self.loss_and_gradients if with_gradients else self.loss
        # A graph for each shape: with one for several, the bits would depend on which came first.
        self.compiled = torch.compile(compute, fullgraph=True, dynamic=False, mode=mode)

    def loss(self, xb: Any, yb: Any) -> Tensor:
        """Return the loss of a batch."""
        loss: Tensor = self.loss_func(self.model(xb), yb)
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
            separate: Tensor = self.compiled(xb, yb).clone()
            return separate
        trained = [parameter for parameter in self.parameters if parameter.requires_grad]
        compiled, gradients = self.compiled(xb, yb, trained)
        loss: Tensor = compiled.clone()
        loss.backward = partial(add_gradients, trained, gradients)  # type: ignore[method-assign]
        return loss


def add_gradients(parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """Add gradients to those that the parameters have."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            had = parameter.grad
            parameter.grad = gradient if had is None else had + gradient


class CompiledLoss:
    """`OneGraph` after a few steps without, which says what that gave.

    The first 10 steps of a training run as they are, always, so that a resumed training has the
    bits of one that was never stopped. Where compiling fails (no C++ compiler, or Python in the
    model that breaks the graph), one line says so and the model runs as it is.

    On CUDA the graph is captured and replayed (`mode="reduce-overhead"`), without the cost of
    starting each kernel from Python.

    Args:
        model: the module; it is not changed.
        loss_func: `(model(xb), yb) -> mean loss`.
        context: of the training.
        echo: is given the line.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_func: Any,
        context: Context,
        echo: Callable[[str], None] | None,
    ) -> None:
        mode = "reduce-overhead" if device_of(model).type == "cuda" else None
        self.graph = OneGraph(model, loss_func, gradients_in_graph(context.callbacks), mode)
        self.context = context
        self.echo = echo or (lambda line: None)
        self.failed = False
        self.compile_seconds = 0.0
        self.calls: dict[bool, list[float]] = {False: [], True: []}

    def __call__(self, xb: Any, yb: Any) -> Tensor:
        """Return `loss_func(model(xb), yb)`."""
        use_compiled = self.context.global_step >= PLAIN_STEPS and not self.failed
        times = self.calls[use_compiled]
        if len(times) < TIMED_STEPS:
            times.append(time.perf_counter())
        elif len(times) == TIMED_STEPS and use_compiled:
            times.append(time.perf_counter())
            self.report()
        if not use_compiled:
            return self.graph.loss(xb, yb)
        try:
            loss = self.graph(xb, yb)
        except torch._dynamo.exc.TorchDynamoException as error:
            self.failed = True
            reason = " ".join(str(error).split("\n")[:2]).strip()
            self.echo(f"note   not compiled, goes on without: {reason}")
            return self.graph.loss(xb, yb)
        if len(times) == 1:
            self.compile_seconds = time.perf_counter() - times[0]
        return loss

    def report(self) -> None:
        """Say what compiling cost and gained, by the time from one step to the next."""
        after = median_gap(self.calls[True][1:])
        before = median_gap(self.calls[False][1:])
        instead = f" instead of {before * 1e3:.2f}" if before else ""
        self.echo(
            f"note   compiled in {self.compile_seconds:.1f} s; "
            f"a step takes {after * 1e3:.2f} ms{instead}"
        )


def gradients_in_graph(callbacks: Sequence[Callback]) -> bool:
    """Return whether gradients can be computed in the graph.

    They can where no callback may change the loss before (the guard only looks), and where torch
    is 2.11 or newer: its compiler does not take `torch.autograd.grad` before.
    """
    others = [c for c in callbacks if not isinstance(c, NonFiniteGuard)]
    knows_gradients = hasattr(torch._dynamo.config, "trace_autograd_ops")
    return knows_gradients and not any(overriding(others, "on_loss"))


def median_gap(times: list[float]) -> float:
    """Return the median of the differences between neighbours; 0 where there are none."""
    gaps = sorted(later - before for before, later in pairwise(times))
    return gaps[len(gaps) // 2] if gaps else 0.0
