"""Lower precision where it pays: autocast for the forward pass, scaled losses for float16."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from plainfit.common.errors import ConfigError, unknown_name
from plainfit.training.callbacks.gradients import parameters_of, refuse_lbfgs
from plainfit.training.hooks import Callback, Context

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
FIRST_SCALE = 2.0**16  # torch.amp.GradScaler's defaults, as are the two below
GROWTH_STEPS = 2000  # steps without overflow, after which the scale doubles


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Return what the forward pass and the loss run in.

    Args:
        precision: `fp32`: as the model is; `bf16` or `fp16`: matrix products and convolutions in
            that type, and what needs more (sums, norms, losses) in float32. Weights, gradients and
            the optimizer stay in float32.
        device: of the model.

    Raises:
        ConfigError: if there is no such precision.
    """
    if precision != "fp32" and precision not in DTYPES:
        raise ConfigError(unknown_name("precision", precision, ["fp32", *DTYPES]))
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])


def within(
    cast: AbstractContextManager[Any], model: nn.Module, loss_func: Callable[[Any, Any], Tensor]
) -> Callable[[Any, Any], Tensor]:
    """Return `loss_func(model(xb), yb)`, run in a context, as one function of `xb` and `yb`."""

    def loss(xb: Any, yb: Any) -> Tensor:
        with cast:
            return loss_func(model(xb), yb)

    return loss


class LossScaling(Callback):
    """Multiply the loss, and divide the gradients, so that small ones survive float16.

    Dynamic scaling (Micikevicius 2018, arXiv:1710.03740, section 3.2), with the rules and numbers
    of `torch.amp.GradScaler`: a step whose gradients overflow is left out and halves the scale;
    2,000 steps without overflow double it. All scales are powers of two, so that nothing is
    rounded. It changes the training's result. `fit(precision="fp16")` has one.
    """

    def __init__(self) -> None:
        self.scale = FIRST_SCALE
        self.good_steps = 0

    def on_fit_start(self, context: Context) -> None:
        """Refuse an optimizer that evaluates the loss itself."""
        refuse_lbfgs(self, context)

    def on_loss(self, context: Context) -> None:
        """Multiply."""
        context.loss = context.loss * self.scale

    def on_step_start(self, context: Context) -> None:
        """Divide; without gradients, the optimizer leaves the step out."""
        gradients = [p.grad for p in parameters_of(context.opt) if p.grad is not None]
        if not gradients:
            return
        if not torch.stack([torch.isfinite(gradient).all() for gradient in gradients]).all():
            self.scale, self.good_steps = self.scale / 2, 0
            context.opt.zero_grad()
            return
        for gradient in gradients:
            gradient.mul_(1 / self.scale)
        self.good_steps += 1
        if self.good_steps == GROWTH_STEPS:
            self.scale, self.good_steps = self.scale * 2, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the scale, and how long it has held."""
        return {"scale": self.scale, "good_steps": self.good_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.scale, self.good_steps = state["scale"], state["good_steps"]
