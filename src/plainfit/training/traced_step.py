"""The step of `fit` as it is traced: with the hooks that are a part of it, and with its numbers."""

from typing import Any

import torch
from torch import Tensor, nn

from plainfit.training.callbacks.optimization import (
    Averaging,
    GradientAccumulation,
    parameters_of,
)
from plainfit.training.hooks import Context, NoHooks, overriding
from plainfit.training.step import loss_batch
from plainfit.training.tracing import tensors_of


class Sums(nn.Module):
    """The sums of the gradients over the batches of a group, where these are accumulated."""

    def __init__(self, opt: Any) -> None:
        super().__init__()
        self.opt = opt
        for number, parameter in enumerate(parameters_of(opt)):
            self.register_buffer(f"sum{number}", torch.zeros_like(parameter))

    def pairs(self) -> list[tuple[Any, Tensor]]:
        return list(zip(parameters_of(self.opt), self.buffers(), strict=True))

    def read(self) -> None:
        """Take the sums from the parameters."""
        for parameter, total in self.pairs():
            total.zero_() if parameter.grad is None else total.copy_(parameter.grad)

    def write(self, has_stepped: bool) -> None:
        """Give the parameters their sums back."""
        for parameter, total in self.pairs():
            parameter.grad = None if has_stepped or not parameter.requires_grad else total.clone()


class TracedStep(NoHooks):
    """The step, and in place of the context and the optimizer in it.

    Args:
        context: of the training.
        loss_func: as for `loss_batch`, as is `compute_loss`.

    Attributes:
        numbers: the places of numbers that are not options of the optimizer, as (group, name).
        names: of the values beside the loss, after a first call.
        size: the number of samples in a batch, likewise.
    """

    def __init__(self, context: Context, loss_func: Any, compute_loss: Any) -> None:
        self.model, self.opt = context.model, context.opt
        self.loss_func, self.compute_loss = loss_func, compute_loss
        self.batch_size: Any = context.batch_size
        inside = [c for c in context.callbacks if c.in_program == "within"]
        own = (Averaging, GradientAccumulation)  # they have numbers, and are a part of this class
        self.callbacks = [c for c in inside if not isinstance(c, own)]
        self.averaging = next((c for c in inside if isinstance(c, Averaging)), None)
        self.accumulation = next((c for c in inside if isinstance(c, GradientAccumulation)), None)
        self.sums = None if self.accumulation is None else Sums(self.opt)
        used = [(self.averaging, "decay"), (self.accumulation, "total")]
        self.numbers = [(callback.now, name) for callback, name in used if callback is not None]
        self.are_finite: list[Tensor] = []
        self.names: list[str] = []

    def modules(self) -> list[nn.Module]:
        """Return what has tensors that the step uses or changes."""
        average = None if self.averaging is None else self.averaging.averaged
        parts = (self.model, self.loss_func, average, self.sums)
        return [part for part in parts if isinstance(part, nn.Module)]

    def __call__(self, xb: Any, yb: Any) -> list[Tensor]:
        """Take a step; return its loss, NaN if it stops the training, and the values beside it."""
        opt: Any = self
        context: Any = self
        self.are_finite = []
        loss, self.size = loss_batch(
            self.model, self.loss_func, xb, yb, opt, context, self.compute_loss
        )
        if self.averaging is not None:
            self.averaging.update(self.model)
        for is_finite in self.are_finite:
            loss = torch.where(is_finite, loss, torch.nan)
        self.names = list(self.values)
        values = (
            value if isinstance(value, Tensor) else loss.new_full((), value)
            for value in self.values.values()
        )
        return [loss, *(value.to(loss) for value in values)]

    def total(self) -> Tensor:
        """Return the samples of the group that this batch ends, 0 if it does not end one."""
        assert self.accumulation is not None
        total: Tensor = self.accumulation.now["total"]
        return total

    def call(self, name: str) -> None:
        if self.sums is not None and name == "on_loss":
            self.loss = self.loss * self.size
        if self.sums is not None and name == "on_backward_end":
            for parameter, total in self.sums.pairs():
                if parameter.grad is not None:
                    total.add_(parameter.grad)
                    parameter.grad = total / self.total().clamp(min=1)
        for hook in overriding(self.callbacks, name):
            hook(self)

    def must_be_finite(self, value: Tensor, what: str) -> None:
        """Note a value that must be finite for the training to go on."""
        is_finite = torch.isfinite(value)
        self.are_finite.append(is_finite if self.sums is None else is_finite | (self.total() == 0))

    def step(self) -> None:
        """Let the optimizer take its step; within a group, nothing is changed by it."""
        changed = tensors_of([], self.opt) if self.sums is not None else []
        before = [tensor.detach().clone() for tensor in changed]
        self.opt.step()
        with torch.no_grad():
            for tensor, old in zip(changed, before, strict=True):
                tensor.copy_(torch.where(self.total() > 0, tensor, old))

    def zero_grad(self) -> None:
        self.opt.zero_grad()
        if self.sums is not None:
            for total in self.sums.buffers():
                total.copy_(torch.where(self.total() > 0, 0, total))
