"""Data sets whose samples are on disk, read as they are used."""

from typing import Any, Protocol

from torch import Tensor
from torch.utils.data import Dataset


class Digest(Protocol):
    """A hash, such as those of `hashlib`."""

    def update(self, data: Any, /) -> None:
        """Take in some bytes."""


class LazySamples(Dataset[tuple[Tensor, Tensor]]):
    """Samples on disk: images (`plainfit.data.folder`) or rows (`plainfit.data.ondisk`)."""

    labels: Tensor

    def __len__(self) -> int:
        raise NotImplementedError

    def rows(self, rows: Tensor) -> "LazySamples":
        """Return the same kind of data set with these rows only."""
        raise NotImplementedError

    def hash_into(self, digest: Digest) -> None:
        """Let a hash take in every sample."""
        raise NotImplementedError


class LazyImages(LazySamples):
    """Images, which are floats in [0, 1) when read."""

    content_hash: str

    def hash_into(self, digest: Digest) -> None:
        """Let a hash take in what is known of the content."""
        digest.update(self.content_hash.encode())
