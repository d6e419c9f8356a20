"""Random numbers with an address: every draw outside the model is a function of named things.

The global generator of torch serves initial values and dropout only. Data order, splits and
augmentation each draw from a generator of their own, seeded by what they depend on; so looking at a
batch, adding a validation pass or resuming in the middle changes nothing else.
"""

import hashlib
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def stream(seed: int, *address: str | int) -> torch.Generator:
    """Return a CPU generator that is a function of the seed and an address, and of nothing else.

    The address is hashed (SHA-256, first 8 bytes, little-endian), so that streams of
    neighbouring seeds or epochs share no pattern.

    >>> torch.equal(torch.rand(3, generator=stream(0, "order", 1)),
    ...             torch.rand(3, generator=stream(0, "order", 1)))
    True
    """
    return torch.Generator().manual_seed(seed_at(seed, *address))


def epoch_order(n: int, seed: int, epoch: int, shuffle: bool) -> Tensor:
    if not shuffle:
        return torch.arange(n)
    return torch.randperm(n, generator=stream(seed, "order", epoch))


def seed_at(seed: int, *address: str | int) -> int:
    """Return a seed of 64 bits that is a function of a seed and an address."""
    digest = hashlib.sha256(repr((int(seed), *address)).encode()).digest()
    return int.from_bytes(digest[:8], "little")


@contextmanager
def drawing_from(seed: int, *address: str | int) -> Iterator[None]:
    """Let the global generators of torch (CPU), NumPy and Python draw from an address meanwhile.

    >>> with drawing_from(0, "samples", 1):
    ...     a = random.random()
    >>> with drawing_from(0, "samples", 1):
    ...     a == random.random()
    True
    """
    with kept_generators():
        seed_generators(seed_at(seed, *address))
        yield


def seed_generators(number: int) -> None:
    """Seed the global generators of torch (CPU), NumPy and Python."""
    torch.default_generator.manual_seed(number)
    random.seed(number)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(number % 2**32)


@contextmanager
def kept_generators() -> Iterator[None]:
    """Leave the same generators as they were."""
    numpy = sys.modules.get("numpy")
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    numpy_state = numpy.random.get_state() if numpy else None
    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        random.setstate(python_state)
        if numpy:
            numpy.random.set_state(numpy_state)
