"""A body that is frozen at first, and thawed from the head down."""

from collections.abc import Sequence
from operator import attrgetter

from torch import nn

from plainfit.training.hooks import Callback, Context


class Unfreezing(Callback):
    """Train the last group of layers alone at first, then all. It changes the training's result.

    A frozen layer is a fixed function: its parameters get no gradients, and it is in `eval()`
    mode, so that batch norm neither updates its means nor uses those of the batch, and dropout
    leaves it alone.

    Args:
        groups: names of layers or parameters, from the input to the head.
        epochs: how many train the last group alone.
        gradual: then thaw one more group in each epoch (Howard & Ruder 2018, arXiv:1801.06146,
            section 3.3), instead of all at once.
    """

    def __init__(
        self, groups: Sequence[Sequence[str]], epochs: int = 1, gradual: bool = False
    ) -> None:
        self.groups = groups
        self.epochs = epochs
        self.gradual = gradual
        self.is_resumed = False

    def on_fit_start(self, context: Context) -> None:
        """Note whether the first epoch has begun already."""
        self.is_resumed = context.step > 0

    def on_epoch_start(self, context: Context) -> None:
        """Freeze what is frozen in this epoch; the loop has put the model in `train()` mode."""
        frozen = frozen_groups(context.epoch, len(self.groups), self.epochs, self.gradual)
        freeze(context.model, self.groups, frozen)

    def on_batch_start(self, context: Context) -> None:
        """Freeze it again, where a training goes on within an epoch."""
        if self.is_resumed:
            self.is_resumed = False
            self.on_epoch_start(context)


def frozen_groups(epoch: int, groups: int, epochs: int, gradual: bool) -> int:
    """Return how many groups, counted from the input, are frozen in an epoch.

    >>> [frozen_groups(epoch, 4, 2, gradual=True) for epoch in range(6)]
    [3, 3, 2, 1, 0, 0]
    """
    if epoch < epochs:
        return groups - 1
    return max(0, groups - 2 - (epoch - epochs)) if gradual else 0


def freeze(model: nn.Module, groups: Sequence[Sequence[str]], frozen: int) -> None:
    """Freeze the first groups of layers; the others are trained."""
    for number, names in enumerate(groups):
        for name in names:
            part = attrgetter(name)(model)
            part.requires_grad_(number >= frozen)
            if number < frozen and isinstance(part, nn.Module):
                part.eval()
