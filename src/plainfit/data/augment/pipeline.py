"""Several augmentations, one after another."""

from collections.abc import Sequence
from typing import Any

from torch import Generator

from plainfit.data.augment.names import Step, mixes_labels, named_steps


class Pipeline:
    """Augmentations that draw from one generator in turn.

    Args:
        augment: names, as `--augment` takes them, a function, or several.
        classes: their number, for names that mix labels.
    """

    def __init__(self, augment: str | Step | Sequence[Step], classes: int | None = None) -> None:
        if isinstance(augment, str):
            augment = named_steps(augment, classes)
        self.steps: list[Step] = [augment] if callable(augment) else list(augment)
        self.mixing = [mixes_labels(step) for step in self.steps]

    def __call__(self, xb: Any, yb: Any, generator: Generator) -> tuple[Any, Any]:
        """Return the batch after all of them."""
        for step, mixes in zip(self.steps, self.mixing, strict=True):
            if mixes:
                xb, yb = step(xb, yb, generator)
            else:
                xb = step(xb, generator)
        return xb, yb

    def without_mixing(self) -> "Pipeline":
        """Return those that leave the labels alone."""
        pairs = zip(self.steps, self.mixing, strict=True)
        return Pipeline([step for step, mixes in pairs if not mixes])
