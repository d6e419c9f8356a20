"""Why a model answers as it does: its layers, its gradient, what hiding changes, what is near.

All of it is of one sample, and leaves the model as it was.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import cached_property
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from plainfit.data.loaders import make_loader
from plainfit.data.splits import DataSplits, labels_of
from plainfit.runs.folder import Run
from plainfit.runs.inputs import batch_of

MOST_SAMPLES = 10_000  # of the training set, evenly spaced, among which the nearest are looked for
MOST_FEATURES = 4096  # of a sample; of more, a mean over neighbouring ones is kept
NEAREST = 8
BATCH = 256


class Inside:
    """A run's model, opened: a copy of it, as hooks on the model itself would slow down others."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.model = deepcopy(run.model)
        self.lock = Lock()

    @cached_property
    def data(self) -> DataSplits:
        return self.run.open_data()

    def layers(self, xb: Tensor) -> dict[str, Tensor]:
        """Return what each layer with weights gives for a sample, by its name.

        Shape (channels, height, width) of convolutions, (features,) of others; norms are left out.
        """
        found: dict[str, Tensor] = {}

        def keep(name: str, out: Any) -> None:
            if isinstance(out, Tensor) and out.dim() in (2, 4):
                found[name] = out[0].clone()  # a layer after it may change it in place

        with self.lock, torch.no_grad(), hooked(self.model, lambda name, _, out: keep(name, out)):
            self.model(xb)
        return found

    def features(self, xb: Tensor) -> Tensor:
        """Return what the last layer with weights is given, shape (samples, features)."""
        found = [xb]

        def keep(_: str, given: Any, __: Any) -> None:
            if given and isinstance(given[0], Tensor) and len(given[0]) == len(xb):
                found[:] = given[:1]

        with self.lock, torch.no_grad(), hooked(self.model, keep):
            self.model(xb)
        features = found[0].flatten(1).float()
        if features.shape[1] > MOST_FEATURES:
            features = nn.functional.adaptive_avg_pool1d(features, MOST_FEATURES)
        return features.clone()

    @cached_property
    def known(self) -> tuple[Tensor, list[int]]:
        """The features of training samples, and the rows of these in the training set."""
        count = len(labels_of(self.data.train))
        rows = [*range(0, count, -(-count // MOST_SAMPLES))]
        size = batch_of(self.data.input_shape, BATCH) if len(self.data.input_shape) == 3 else BATCH
        loader = make_loader(Subset(self.data.train, rows), size, False)
        return torch.cat([self.features(xb) for xb, _ in loader]), rows

    def nearest(self, xb: Tensor) -> list[int]:
        """Return the training samples whose features are nearest to a sample's, nearest first.

        Raises:
            DataError: if the data of the training is gone or has changed.
        """
        features, rows = self.known
        distances = (features - self.features(xb)).square_().sum(1)
        return [rows[at] for at in distances.argsort()[:NEAREST].tolist()]

    def gradient(self, xb: Tensor, output: int) -> Tensor:
        """Return how an output changes with each pixel, shape (height, width), channels added."""
        with self.lock, torch.enable_grad():
            xb = xb.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(scores(self.model(xb))[0, output], xb)
        return gradient[0].sum(0)

    def hiding(self, xb: Tensor, output: int) -> Tensor:
        """Return how much of an output is lost where a patch is hidden, shape (height, width).

        Patches of about an eighth of the side take the median colour; a pixel has the mean over the
        patches that cover it (Zeiler and Fergus 2013, arXiv:1311.2901, section 4.2).
        """
        _, _, height, width = xb.shape
        patch = max(2, round(max(height, width) / 8))
        step = max(1, patch // 2) if max(height, width) <= 64 else patch
        ground = xb[0].flatten(1).median(1).values.view(-1, 1, 1)
        places = [(y, x) for y in range(0, height, step) for x in range(0, width, step)]
        lost, covered = torch.zeros(height, width), torch.zeros(height, width)
        size = batch_of(tuple(xb.shape[1:]), BATCH)
        with self.lock, torch.no_grad():
            whole = scores(self.model(xb))[0, output]
            for first in range(0, len(places), size):
                some = places[first : first + size]
                hidden = xb.repeat(len(some), 1, 1, 1)
                for at, (y, x) in enumerate(some):
                    hidden[at, :, y : y + patch, x : x + patch] = ground
                without = scores(self.model(hidden))[:, output]
                for (y, x), drop in zip(some, (whole - without).tolist(), strict=True):
                    lost[y : y + patch, x : x + patch] += drop
                    covered[y : y + patch, x : x + patch] += 1
        return lost / covered


def scores(out: Any) -> Tensor:
    found: Tensor = getattr(out, "logits", out)
    return found


@contextmanager
def hooked(model: nn.Module, keep: Any) -> Iterator[None]:
    """Call `keep(name, inputs, output)` after each layer that has a matrix or filters."""
    handles = [
        layer.register_forward_hook(lambda _, given, out, name=name: keep(name, given, out))
        for name, layer in model.named_modules()
        if any(weight.dim() > 1 for weight in layer.parameters(recurse=False))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
