"""Sums of tensors over the pieces of a batch, in one order on any number of processes.

Floating-point sums depend on their order, so the pieces are added in a fixed one, two by two:
((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)). A process adds what belongs together of its own pieces,
and the processes exchange these sums.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from plainfit.data.pieces import Shards
from plainfit.training.processes import lost_others

Row = list[Tensor]
"""What is added over the pieces: a flat tensor for each dtype."""
Node = tuple[int, int]
"""A sum in the tree: its level, and its number there; those of level 0 are the pieces."""


class PairwiseSum:
    """The sum over pieces in the fixed order, as they come, from the first one on."""

    def __init__(self) -> None:
        self.nodes: dict[Node, Row] = {}

    def add(self, number: int, row: Row) -> None:
        """Add the next piece; it may be changed."""
        level = 0
        while number % 2 and (level, number - 1) in self.nodes:
            left = self.nodes.pop((level, number - 1))
            row = [a.add_(b) for a, b in zip(left, row, strict=True)]
            level, number = level + 1, number // 2
        self.nodes[level, number] = row


def nodes_of(pieces: Iterable[int]) -> list[Node]:
    """Return which sums a process has of its pieces.

    >>> nodes_of(range(4)), nodes_of(range(2, 5))
    ([(2, 0)], [(1, 1), (0, 4)])
    """
    total = PairwiseSum()
    for number in pieces:
        total.add(number, [])
    return list(total.nodes)


def root(nodes: dict[Node, Row], count: int) -> Row:
    """Return the sum over all pieces from sums that hold each of them once."""

    def at(level: int, number: int) -> Row:
        if (level, number) in nodes:
            return nodes[level, number]
        left = at(level - 1, 2 * number)
        if (2 * number + 1) << (level - 1) >= count:  # there is no piece on the right
            return left
        return [a + b for a, b in zip(left, at(level - 1, 2 * number + 1), strict=True)]

    return at((count - 1).bit_length(), 0)


def summed(total: PairwiseSum, shards: Shards, fast: bool = False) -> Row:
    """Return the sum over the pieces of all processes, the same bits on each of them.

    Each process adds a part of the values, so that it sends and receives about twice as many bytes
    as they have, as in an all-reduce. Two processes have one sum each, and a + b is b + a.
    """
    if shards.world == 1:
        return root(total.nodes, shards.count)
    owned = [nodes_of(shards.of(rank)) for rank in range(shards.world)]
    rows = list(total.nodes.values())
    if fast or (shards.world == 2 and all(len(nodes) == 1 for nodes in owned)):
        [row] = rows
        with lost_others():
            for flat in row:
                dist.all_reduce(flat)
        return row
    slots = max(map(len, owned))
    return [exchanged([row[i] for row in rows], owned, slots, shards) for i in range(len(rows[0]))]


def exchanged(flats: list[Tensor], owned: list[list[Node]], slots: int, shards: Shards) -> Tensor:
    world, width = shards.world, flats[0].numel()
    part = -(-width // world)
    sent = flats[0].new_zeros(world, slots, part)
    for slot, values in enumerate(flats):
        sent[:, slot] = nn.functional.pad(values, (0, world * part - width)).view(world, part)
    received, whole = torch.empty_like(sent), flats[0].new_empty(world * part)
    with lost_others():
        dist.all_to_all_single(received, sent)
        nodes = {
            node: [received[rank, slot]]
            for rank, its in enumerate(owned)
            for slot, node in enumerate(its)
        }
        [mine] = root(nodes, shards.count)
        dist.all_gather(list(whole.view(world, part)), mine.contiguous())
    return whole[:width]


def flat(parts: Sequence[Tensor]) -> Row:
    """Return the values of some tensors, one after the other, those of each dtype in one tensor."""
    kinds = dict.fromkeys(part.dtype for part in parts)
    return [torch.cat([p.reshape(-1) for p in parts if p.dtype == kind]) for kind in kinds]


def unflat(row: Row, parts: Sequence[Tensor]) -> list[Tensor]:
    left = {values.dtype: values for values in row}
    found = []
    for part in parts:
        values = left[part.dtype]
        found.append(values[: part.numel()].view(part.shape))
        left[part.dtype] = values[part.numel() :]
    return found
