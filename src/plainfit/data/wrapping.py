"""Loaders around a loader, whose batches pass through a function."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from plainfit.common.errors import ConfigError
from plainfit.common.seeding import stream
from plainfit.data.augment import Pipeline, Step
from plainfit.data.batches import to_device


class WrappedDataLoader:
    """A loader whose batches pass through a function: `func(xb, yb) -> (xb, yb)`.

    >>> dl = WrappedDataLoader([(torch.zeros(2, 784), torch.zeros(2))],
    ...                        lambda xb, yb: (xb.view(-1, 1, 28, 28), yb))
    >>> len(dl), next(iter(dl))[0].shape
    (1, torch.Size([2, 1, 28, 28]))
    """

    def __init__(self, dl: Iterable[Any], func: Callable[..., Any]) -> None:
        self.dl = dl
        self.func = func

    def __len__(self) -> int:
        return len(self.dl)  # type: ignore[arg-type]  # a loader without a length says so itself

    def __getattr__(self, name: str) -> Any:
        """Return what says the position of the loader within, where it has that."""
        if name in ("epoch", "first", "seek", "mixes_labels"):
            return getattr(self.dl, name)
        raise AttributeError(name)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.dl:
            yield self.func(*batch)


class AugmentedLoader(WrappedDataLoader):
    """A loader whose batches are augmented, with random numbers by (seed, epoch, step).

    So a resumed training sees what it would have seen. By hand, a step's generator is
    `stream(seed, "augment", epoch, step)`, and each function draws from it in turn.

    Args:
        dl: one that says its epoch, such as those of `get_data`.
        augment: names, such as `light` or `rotate=10,mixup`; a function `(xb, generator) -> xb` or
            `(xb, yb, generator) -> (xb, yb)`, such as those of `plainfit.data.augment`; or several.
        seed: of the generators.
        classes: their number, for names that mix labels.
        device: where batches are moved before; None to leave them where they are.

    Raises:
        ConfigError: if a name is not known, or the loader does not say its epoch.
    """

    def __init__(
        self,
        dl: Any,
        augment: str | Step | Sequence[Step],
        seed: int = 0,
        *,
        classes: int | None = None,
        device: torch.device | None = None,
    ) -> None:
        if not hasattr(dl, "seek"):
            raise ConfigError(
                f"an augmentation draws by epoch and step, and a {type(dl).__name__} does not say "
                "its epoch; serve a data set with a length by plainfit.get_data"
            )
        self.dl: Any = dl
        self.func: Pipeline = Pipeline(augment, classes)
        self.seed = seed
        self.device = device
        self.only_images = isinstance(augment, str)

    @property
    def mixes_labels(self) -> bool:
        """Whether the targets become probabilities."""
        return any(self.func.mixing)

    def __iter__(self) -> Iterator[Any]:
        epoch = self.dl.epoch
        for step, (xb, yb) in enumerate(self.dl, self.dl.first):
            if self.only_images and xb.dim() != 4:
                raise ConfigError(
                    "an augmentation by name varies images, (channels, height, width), and the "
                    f"samples have shape {tuple(xb.shape[1:])}; leave it out"
                )
            if self.device is not None:
                xb, yb = to_device(xb, self.device), to_device(yb, self.device)
            yield self.func(xb, yb, stream(self.seed, "augment", epoch, step))
