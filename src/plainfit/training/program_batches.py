"""Where the batches of a program come from: tensors in memory, or any of our loaders."""

from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from plainfit.common.devices import device_of
from plainfit.data.batches import order_of
from plainfit.data.datasets import Columns, ImageDataset, Rows, bytes_to_floats
from plainfit.data.loaders import TensorLoader
from plainfit.training.hooks import Context
from plainfit.training.state import rest_of_pass
from plainfit.training.tracing import UntraceableError

STACK = 64 * 2**20  # bytes of batches that are stacked for a range


class Resident:
    """The batches of tensors in memory, by their rows: the program gathers them itself.

    They are on the model's device, and stay there.
    """

    def __init__(self, loader: TensorLoader, rows: Rows, device: torch.device) -> None:
        self.loader, self.at, self.part, self.device = loader, rows.at, rows.parts[0], device
        self.columns = [column.to(device) for column in self.part.tensors]
        self.begin()

    def begin(self) -> None:
        order = self.at[self.loader.order()]
        self.steps = len(order) // self.loader.batch_size
        full = order[: self.steps * self.loader.batch_size]
        self.rows = full.view(self.steps, -1).to(self.device)

    def example(self) -> list[Tensor]:
        return [column.index_select(0, self.rows[0]) for column in self.columns]

    def pair(self, context: Context, *columns: Tensor) -> tuple[Any, Any]:
        xb, *rest = columns
        batch: Any = (bytes_to_floats(xb) if isinstance(self.part, ImageDataset) else xb, *rest)
        if isinstance(self.part, Columns):
            batch = dict(zip(self.part.names, batch, strict=True))
        return context.split(batch)

    def take(self, context: Context, most: int) -> tuple[int, int]:
        """Return the first step of a range of at most so many, and the one after its last."""
        return context.batch, min(context.batch + most, len(self.rows))

    def leave(self, context: Context, step: int) -> None:
        """Let the loader go on at a step of the pass."""
        context.batches = None


class Stacked:
    """The batches of any other loader of ours, stacked by the range."""

    rows = torch.empty(0, dtype=torch.int64)

    def __init__(self, context: Context, full: int) -> None:
        self.full = full
        context.batches = context.batches or rest_of_pass(context, device_of(context.model))
        pair = next(context.batches)
        context.batches = chain([pair], context.batches)
        example, self.form = tree_flatten(pair)
        if not all(isinstance(leaf, Tensor) for leaf in example):
            raise UntraceableError("a batch has other parts than tensors")
        self.steps = max(1, min(256, STACK // max(1, sum(leaf.nbytes for leaf in example))))
        self.columns = [t.new_zeros(self.steps, *t.shape) for t in example]
        self.last = 0

    def example(self) -> list[Tensor]:
        return [column[0] for column in self.columns]

    def pair(self, context: Context, *columns: Tensor) -> tuple[Any, Any]:
        pair: tuple[Any, Any] = tree_unflatten(list(columns), self.form)
        return pair

    def take(self, context: Context, most: int) -> tuple[int, int]:
        """Read the batches of a range of at most so many steps; return its ends, from 0."""
        context.batches = context.batches or rest_of_pass(context, device_of(context.model))
        self.last = 0
        for pair in islice(context.batches, min(most, self.steps, self.full - context.batch)):
            leaves, form = tree_flatten(pair)
            if form != self.form or any(
                not isinstance(leaf, Tensor) or (leaf.shape, leaf.dtype) != (c.shape[1:], c.dtype)
                for leaf, c in zip(leaves, self.columns, strict=True)
            ):
                self.leave(context, 0, pair)
                raise UntraceableError(
                    "not all batches have the same shape (and a resumed training may differ in the "
                    "last bits)"
                )
            for leaf, column in zip(leaves, self.columns, strict=True):
                column[self.last] = leaf
            self.last += 1
        return 0, self.last

    def leave(self, context: Context, step: int, *others: Any) -> None:
        """Give back the batches from a step on, and others."""
        rest = range(step, self.last)
        pairs = [self.pair(context, *(c[i].clone() for c in self.columns)) for i in rest]
        context.batches = chain(pairs, others, context.batches or ())


def resident_rows(loader: Any) -> Rows | None:
    """Return the rows that a program can gather from memory itself."""
    rows = Rows.of(loader.dataset) if type(loader) is TensorLoader else None
    is_one = rows is not None and len(rows.parts) == 1 and hasattr(rows.parts[0], "tensors")
    return rows if is_one else None


def full_batches(loader: Any) -> int:
    order = order_of(loader)
    count: int = order.samples // order.batch_size
    return count
