"""Gradients, between `backward` and the optimizer's step: clipped, or summed over batches."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from plainfit.common.errors import ConfigError, NonFiniteError
from plainfit.data.batches import batch_size
from plainfit.training.hooks import Callback, Context


class GradientClipping(Callback):
    """Scale the gradients down to a norm of at most `max_norm`. It changes the training's result.

    The norm is that of all gradients as one vector (Pascanu et al. 2013, arXiv:1211.5063), as in
    `torch.nn.utils.clip_grad_norm_`: of the optimizer's parameters, as nobody clears the gradients
    of others.

    Raises:
        NonFiniteError: before the step, if the norm is NaN or infinite.
    """

    def __init__(self, max_norm: float) -> None:
        if not max_norm > 0:
            raise ConfigError(f"the largest norm of gradients must be positive, got {max_norm}")
        self.max_norm = max_norm

    def on_fit_start(self, context: Context) -> None:
        """Refuse an optimizer that has no gradients to clip between its own evaluations."""
        refuse_lbfgs(self, context)

    def on_step_start(self, context: Context) -> None:
        """Clip."""
        norm = torch.nn.utils.clip_grad_norm_(parameters_of(context.opt), self.max_norm)
        if not torch.isfinite(norm):
            raise NonFiniteError(
                f"the gradients must be finite, and their norm is {float(norm)} in epoch "
                f"{context.epoch}, step {context.step}; lower the learning rate"
            )


class GradientAccumulation(Callback):
    """Take a step every `batches` batches, on the gradient of the mean over all their samples.

    That is what one batch of that many samples would give, batch norm apart. The last group of an
    epoch may have fewer batches; where the loader has no length, it goes on in the next epoch.
    It changes the training's result.
    """

    def __init__(self, batches: int) -> None:
        if batches < 1:
            raise ConfigError(f"gradients are summed over at least 1 batch, got {batches}")
        self.batches = batches
        self.samples: list[int] = []

    def on_fit_start(self, context: Context) -> None:
        """Begin a group; refuse an optimizer that evaluates the loss itself."""
        refuse_lbfgs(self, context)
        if context.global_step == 0:  # a training before may have stopped within a group
            self.samples.clear()
            context.opt.zero_grad()

    def on_loss(self, context: Context) -> None:
        """Make the loss a sum over the samples, as only sums add up over unequal batches."""
        self.samples.append(batch_size(context.xb))
        context.loss = context.loss * self.samples[-1]

    def on_backward_end(self, context: Context) -> None:
        """Make the summed gradients a mean, if the group is full; else wait for more."""
        is_full = len(self.samples) >= self.batches or context.step + 1 == context.steps
        if is_full:
            total = sum(self.samples)
            self.samples.clear()
            for parameter in parameters_of(context.opt):
                if parameter.grad is not None:
                    parameter.grad.div_(total)
        else:
            context.take_step = False

    def state_dict(self) -> dict[str, Any]:
        """Return the sizes of the batches that wait; their gradients are in the checkpoint too."""
        return {"samples": list(self.samples)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.samples = list(state["samples"])


def parameters_of(opt: Optimizer) -> list[Tensor]:
    """Return the parameters that an optimizer changes, group by group."""
    return [parameter for group in opt.param_groups for parameter in group["params"]]


def refuse_lbfgs(callback: Callback, context: Context) -> None:
    """Raise if the optimizer evaluates the loss itself, several times a step."""
    if isinstance(context.opt, LBFGS):
        raise ConfigError(
            f"{type(callback).__name__} needs an optimizer that takes one gradient a step, and "
            "LBFGS takes several; leave it out, or choose another optimizer"
        )
