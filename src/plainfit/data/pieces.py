"""Batches in pieces: the same pieces of the same batches on any number of processes.

A training has a fixed number of shards. Each batch is cut into so many pieces, each process works
on some of them, and whatever is random in a piece is a function of (seed, epoch, step, piece). So
no result depends on the number of processes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence

from plainfit.common.errors import ConfigError, raised_as
from plainfit.data.batches import has_parts, sizes, to_device

CUT = (
    "a batch must be cut into pieces, as tensors and lists, or tuples and mappings of them, can "
    "be, got a {}; serve samples by plainfit.get_data, whose collate_fn makes each piece"
)


@dataclass(frozen=True)
class Shards:
    """How many pieces a batch has, and which of them belong to this process."""

    count: int
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.count < self.world:
            raise ConfigError(
                f"must be at least the number of processes, {self.world}, got {self.count}",
                field="shards",
            )

    @property
    def mine(self) -> range:
        """The numbers of the pieces of this process."""
        return self.of(self.rank)

    def of(self, rank: int) -> range:
        return range(rank * self.count // self.world, (rank + 1) * self.count // self.world)

    def split(self, batch: Any, size: int) -> "Pieces":
        """Return the pieces of this process of a batch with so many samples, as `tensor_split`."""
        count = self.pieces_of(size)
        small, larger = divmod(size, count)  # the first ones have a sample more
        starts = [small * number + min(number, larger) for number in range(count + 1)]
        mine = {n: slice(starts[n], starts[n + 1]) for n in self.mine if n < count}
        return Pieces({number: cut(batch, rows) for number, rows in mine.items()}, size)

    def pieces_of(self, size: int) -> int:
        """Return how many pieces a batch of so many samples has: two in each, for batch norm."""
        return min(self.count, max(1, size // 2))


class Pieces(dict[int, Any]):
    """The pieces of a batch of `size` samples that belong to one process, by their numbers."""

    def __init__(self, pieces: Mapping[int, Any], size: int) -> None:
        super().__init__(pieces)
        self.size = size

    def map(self, function: Callable[[int, Any], Any]) -> "Pieces":
        """Return what a function of the number and the batch makes of each piece."""
        return Pieces({number: function(number, each) for number, each in self.items()}, self.size)

    def to(self, device: torch.device) -> "Pieces":
        return self.map(lambda _, piece: to_device(piece, device))


def cut(batch: Any, rows: slice) -> Any:
    if isinstance(batch, Mapping):
        return {key: cut(part, rows) for key, part in batch.items()}
    if isinstance(batch, tuple) and has_parts(batch):
        return tuple([cut(part, rows) for part in batch])
    if not sizes(batch):  # one value for all samples
        return batch
    with raised_as(ConfigError, CUT.format(type(batch).__name__)):
        if isinstance(batch, PackedSequence):
            raise TypeError("its samples are interleaved")
        return batch[rows]
