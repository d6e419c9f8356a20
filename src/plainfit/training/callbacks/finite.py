"""The guard that stops a training before a broken step."""

import math

import torch
from torch import Tensor
from torch.optim import LBFGS

from plainfit.common.errors import NonFiniteError
from plainfit.data.batches import tensors_in
from plainfit.training.hooks import Callback, Context

HOW_TO_FIND = "find it with --detect-anomaly or torch.autograd.set_detect_anomaly(True)"


class NonFiniteGuard(Callback):
    """Stop before the update of a step whose loss is NaN or infinite. `fit` has one by default.

    The parameters are then those of the step before; a batch norm has seen the batch already.
    Gradients that are not finite break the parameters, which shows in the next step's loss, or at
    the end of the epoch, before a checkpoint is written; `GradientClipping` sees them at once.

    Args:
        every: look only after so many steps, at the losses since. Looking waits for the device,
            so on an accelerator `fit` looks every 100 steps; the steps since the bad one are lost.

    Raises:
        NonFiniteError: with the epoch, the step and the batch, and where the value comes from.
    """

    observer = True

    def __init__(self, every: int = 1) -> None:
        self.every = every
        self.before: list[Tensor] = []

    def on_batch_start(self, context: Context) -> None:
        """Keep the parameters, if the optimizer moves them before the step is over."""
        if isinstance(context.opt, LBFGS):
            self.before = [p.detach().clone() for p in context.model.parameters()]

    def on_loss(self, context: Context) -> None:
        """Look at the loss, unless that would hold up the device."""
        if self.every > 1:
            return
        loss = context.loss.item()
        if not math.isfinite(loss):
            with torch.no_grad():
                for parameter, value in zip(context.model.parameters(), self.before, strict=False):
                    parameter.copy_(value)
            raise NonFiniteError(
                f"the loss must be finite, and is {loss} in epoch {context.epoch}, "
                f"step {context.step} (batch {context.step} of that epoch, from 0); "
                f"{cause(context)}"
            )

    def on_step_end(self, context: Context) -> None:
        """Look at the losses since the last time, where each one by itself would cost too much."""
        is_due = self.every > 1 and (
            context.step % self.every == 0 or context.step == context.steps
        )
        recent = context.pending[-self.every :] if is_due else []
        bad = (~torch.isfinite(torch.stack(recent))).nonzero().flatten().tolist() if recent else []
        if bad:
            step = context.step - len(recent) + bad[0]
            raise NonFiniteError(
                f"the loss must be finite, and is {float(recent[bad[0]])} in epoch "
                f"{context.epoch}, step {step}; seen after step {context.step - 1}, as the losses "
                "of an accelerator are read together; go on from the last checkpoint, with a lower "
                "learning rate or clipped gradients"
            )

    def on_epoch_end(self, context: Context) -> None:
        """Look at the parameters, as no loss has shown yet what the last step did to them."""
        if broken := broken_parameter(context):
            raise NonFiniteError(
                f"the parameters must be finite, and {broken} is not after the last step of epoch "
                f"{context.epoch}, whose gradients were not; {HOW_TO_FIND}"
            )


def cause(context: Context) -> str:
    """Say where the value comes from, as far as can be seen, and what to do."""
    for name, batch in (("inputs", context.xb), ("targets", context.yb)):
        if any(not is_finite(tensor) for tensor in tensors_in(batch)):
            return f"the {name} of the batch hold NaN or infinite values: mend the data"
    if broken := broken_parameter(context):
        return (
            f"the parameter {broken} holds such values since an earlier step, whose gradients "
            f"had them; {HOW_TO_FIND}"
        )
    return "the data and the parameters are finite: lower the learning rate, or clip gradients"


def broken_parameter(context: Context) -> str:
    """Return the name of the first trained parameter that is not finite, if there is one."""
    parameters = context.model.named_parameters()
    return next((name for name, p in parameters if p.requires_grad and not is_finite(p)), "")


def is_finite(tensor: Tensor) -> bool:
    """Return whether no value is NaN or infinite."""
    return bool(torch.isfinite(tensor).all())
