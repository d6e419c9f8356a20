"""The learning-rate range test (Smith 2015, arXiv:1506.01186)."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer

from plainfit.common.devices import device_of
from plainfit.common.errors import ConfigError, TrainingError
from plainfit.data.batches import Batches, pairs
from plainfit.training.checks import check_call, check_last_batch, check_optimizer
from plainfit.training.hooks import Context, LossFunction
from plainfit.training.metrics import lacks_labels
from plainfit.training.state import capture, restore
from plainfit.training.step import loss_batch

if TYPE_CHECKING:
    from plainfit.common.plots import Picture

SMOOTHING, DIVERGED = 0.98, 4.0  # of the running mean; times the best loss, as in fastai
LEFT_OUT = 10  # the first tenth is ignored, while the running mean warms up, as in fastai


@dataclass(frozen=True)
class RateSearch:
    """The result of `lr_find`."""

    rates: list[float]
    losses: list[float]
    """The smoothed loss at each rate."""

    @property
    def valley(self) -> float:
        """The suggested rate, in the middle of the longest fall of the loss."""
        first = len(self.rates) // LEFT_OUT
        return self.rates[first + valley(self.losses[first:])]

    @property
    def steep(self) -> float:
        """The rate at which the loss falls fastest, by the logarithm of the rate."""
        first = len(self.rates) // LEFT_OUT
        points = list(zip(map(math.log, self.rates), self.losses, strict=True))[first:]
        slopes = [(y - x) / (b - a) for (a, x), (b, y) in pairwise(points)]
        return self.rates[first + slopes.index(min(slopes))]

    def __repr__(self) -> str:
        return f"<RateSearch: valley {self.valley:.2g}, steep {self.steep:.2g}>"

    def plot(self) -> "Picture":
        """Draw the loss by rate, and both suggestions."""
        from plainfit.common.plots import rate_curve

        marks = {"valley": self.valley, "steep": self.steep}
        return rate_curve(self.rates, self.losses, marks)


def valley(losses: list[float]) -> int:
    """Return the index in the middle of the longest falling subsequence, by fastai's rule.

    >>> valley([3.0, 2.9, 2.5, 2.0, 1.5, 1.2, 1.1, 4.0])
    2
    """
    longest = [1] * len(losses)
    for end in range(len(losses)):
        for before in range(end):
            if losses[end] < losses[before]:
                longest[end] = max(longest[end], longest[before] + 1)
    # The middle of the second third of the indices it spans (its length, back from its end).
    end = longest.index(max(longest))
    third = longest[end] / 3
    return end - longest[end] + int(third) + int(third / 2)


def lr_find(
    model: nn.Module,
    loss_func: LossFunction | None,
    opt: Optimizer,
    train_dl: Batches,
    *,
    target: str | None = None,
    low: float = 1e-7,
    high: float = 10.0,
    steps: int = 100,
) -> RateSearch:
    """Train a few steps at increasing rates, then restore everything.

    Model, optimizer, loader and generators end bit for bit as they began.

    Args:
        model: to be trained afterwards.
        loss_func: as in `fit`.
        opt: likewise; groups of parameters keep the ratio of their rates.
        train_dl: likewise; read again from the start if it has fewer batches than `steps`.
        target: likewise.
        low: the first rate.
        high: the last rate, unless the loss grows to 4 times its best first.
        steps: the number of rates, in geometric progression.

    Raises:
        ConfigError: if the rates do not ascend, or `steps` are too few.
        TrainingError: if the loss is not finite within the first tenth of the rates.
    """
    if not (0 < low < high < math.inf and steps >= 2 * LEFT_OUT):
        raise ConfigError(
            f"lr_find needs 0 < low < high, both finite, and at least {2 * LEFT_OUT} steps, got "
            f"low={low}, high={high}, steps={steps}"
        )
    check_call(0, model, loss_func, opt, train_dl)
    check_last_batch(model, train_dl, target, steps)
    check_optimizer(model, opt)
    context = Context(model, opt, train_dl, [], 0, None, loss_func)
    before = copy.deepcopy(capture(context))
    modes = {name: module.training for name, module in model.named_modules()}
    rates: list[float] = []
    losses: list[float] = []
    mean = 0.0
    base = [group["lr"] for group in opt.param_groups]
    model.train()
    try:
        for step, (xb, yb) in zip(range(steps), endless(train_dl, model, target), strict=False):
            rate = low * (high / low) ** (step / (steps - 1))
            for group, own in zip(opt.param_groups, base, strict=True):
                group["lr"] = rate * (own / max(base) if max(base) else 1.0)
            loss = float(loss_batch(model, loss_func, xb, yb, opt)[0])
            if math.isnan(loss) and lacks_labels(model, loss_func, xb, yb):
                continue
            mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
            smooth = mean / (1 - SMOOTHING ** (len(losses) + 1))
            if not math.isfinite(loss) or smooth > DIVERGED * min([smooth, *losses]):
                break
            rates.append(rate)
            losses.append(smooth)
    finally:
        restore(context, before)
        for name, module in model.named_modules():
            module.training = modes[name]
    if len(rates) < 2 * LEFT_OUT:
        raise TrainingError(
            f"the loss must stay finite for some rates, and left after {len(rates)}: look at the "
            f"data, or begin lower than {low:g}"
        )
    return RateSearch(rates, losses)


def endless(dl: Batches, model: nn.Module, target: str | None) -> Iterator[tuple[Any, Any]]:
    """Yield batches on the model's device, starting again when they end."""
    is_empty = False
    while not is_empty:
        is_empty = True
        for pair in pairs(dl, device_of(model), target):
            is_empty = False
            yield pair
