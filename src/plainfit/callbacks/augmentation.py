"""Other views of the training batches, on the model's device."""

from plainfit.augment import Augment
from plainfit.hooks import Callback, Context
from plainfit.seeding import stream


class Augmentation(Callback):
    """Train on `augment(xb, generator)` instead of `xb`. It changes the training's result.

    The generator is a function of the seed, the epoch and the step, so a resumed training sees
    what it would have seen, whatever else was drawn.

    Args:
        augment: such as `plainfit.augment.warp`.
        seed: of the generators.
    """

    def __init__(self, augment: Augment, seed: int = 0) -> None:
        self.augment = augment
        self.seed = seed

    def on_batch_start(self, context: Context) -> None:
        """Replace the inputs."""
        generator = stream(self.seed, "augment", context.epoch, context.step)
        context.xb = self.augment(context.xb, generator)
