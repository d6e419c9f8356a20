"""Averaged weights: often a little better than the last ones."""

from typing import Any

from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn

from plainfit.common.errors import ConfigError
from plainfit.training.hooks import Callback, Context


class Averaging(Callback):
    """Validate, keep as the best, and end with averaged weights. It changes the training's result.

    Args:
        decay: of the exponential moving average (Polyak & Juditsky 1992) over steps; None for the
            plain mean of the weights at the ends of epochs (SWA, Izmailov 2018, arXiv:1803.05407).
        start: the first epoch that counts.

    Buffers, such as the means of batch norm, are averaged like the parameters; in a plain mean,
    whole numbers, such as its count of batches, are the last ones.
    """

    def __init__(self, decay: float | None = 0.999, start: int = 0) -> None:
        if decay is not None and not 0 <= decay < 1:
            raise ConfigError(f"the decay of an average must be 0 to below 1, got {decay}")
        self.decay = decay
        self.start = start
        self.averaged: AveragedModel | None = None
        self.saved: dict[str, Any] = {}

    def on_fit_start(self, context: Context) -> None:
        """Copy the model; from then on the copy is what is validated."""
        by_rule = plain_mean if self.decay is None else get_ema_multi_avg_fn(self.decay)
        self.averaged = AveragedModel(context.model, multi_avg_fn=by_rule, use_buffers=True)
        if self.saved and context.global_step:  # resumed, and not another training
            self.averaged.load_state_dict(self.saved)
        if int(self.averaged.n_averaged):
            context.valid_model = self.averaged.module
        if self.decay is None and context.steps is None:
            raise ConfigError(
                "a mean over epochs needs a training loader with a length, and this one has none; "
                "use a moving average: Averaging(decay=0.999)"
            )

    def on_step_end(self, context: Context) -> None:
        """Take in the new weights: after each of the optimizer's steps, or of an epoch's last."""
        is_due = context.take_step if self.decay is not None else context.step == context.steps
        if is_due and context.epoch >= self.start:
            assert self.averaged is not None
            self.averaged.update_parameters(context.model)
            context.valid_model = self.averaged.module

    def on_validate_end(self, context: Context) -> None:
        """Leave the model in the mode that its own validation would leave it in."""
        context.model.eval()

    def on_fit_end(self, context: Context) -> None:
        """Give the model the averaged weights."""
        if context.valid_model is not context.model:
            context.model.load_state_dict(context.valid_model.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Return the average so far."""
        return {} if self.averaged is None else dict(self.averaged.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back, when the training starts."""
        self.saved = state


Tensors = tuple[Tensor, ...] | list[Tensor]


def plain_mean(averaged: Tensors, current: Tensors, count: Tensor | int) -> None:
    """Take values into means of so many before; the rule of torch fails for whole numbers."""
    if averaged[0].is_floating_point() or averaged[0].is_complex():
        get_swa_multi_avg_fn()(averaged, current, count)
        return
    for mean, value in zip(averaged, current, strict=True):
        mean.copy_(value)
