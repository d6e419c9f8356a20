"""Where in its data a training is, and how to get there again.

Our loaders are functions of (seed, epoch), so they start anywhere at once. Any other loader is
read from the beginning of the epoch, with the generators as they were then, and the batches that
were used are left out.
"""

import random
from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy as np
import torch

from plainfit.data.batches import opened
from plainfit.training.hooks import Context


def random_state(dl: Any = None) -> dict[str, Any]:
    """Return the state of every generator that a step may draw from, as plain values and tensors.

    Args:
        dl: a loader, whose own generator (and its sampler's) is included.
    """
    version, numbers, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state()
    state: dict[str, Any] = {
        "python": [version, torch.tensor(numbers), gauss],
        "numpy": [kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "loader": [generator.get_state() for generator in generators_of(dl)],
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(state: dict[str, Any], dl: Any = None) -> None:
    """Put every generator back to a state that `random_state` returned."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    for generator, saved in zip(generators_of(dl), state["loader"], strict=True):
        generator.set_state(saved)
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])


def generators_of(dl: Any) -> list[torch.Generator]:
    """Return the generators that a stock `DataLoader` and its sampler were given."""
    found: list[torch.Generator] = []
    if hasattr(dl, "seek"):  # ours: a function of (seed, epoch)
        return found
    dl = getattr(dl, "dl", dl)  # within a WrappedDataLoader
    for part in (dl, getattr(dl, "sampler", None)):
        generator = getattr(part, "generator", None)
        if isinstance(generator, torch.Generator) and all(generator is not one for one in found):
            found.append(generator)
    return found


def rest_of_epoch(context: Context) -> Iterable[Any]:
    """Return the batches of the current epoch that have not been used yet."""
    dl = context.train_dl
    if context.step == 0:
        context.epoch_start = {"random": random_state(dl), "epoch": getattr(dl, "epoch", None)}
        return opened(dl)
    if hasattr(dl, "seek"):
        dl.seek(context.epoch_start["epoch"], context.step)
        return opened(dl)
    now = random_state()
    set_random_state(context.epoch_start["random"], dl)
    batches = iter(opened(dl))
    for _ in islice(batches, context.step):
        pass
    set_random_state(now)
    return batches
