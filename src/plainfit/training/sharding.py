"""The loss of a batch in pieces, and its gradients: the same bits on any number of processes.

Floating-point sums depend on their order, so the pieces are added in a fixed one, two by two:
((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)). A process adds what belongs together of its own pieces,
and the processes exchange these sums. docs/decisions/0034-processes.md says why.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from plainfit.common.devices import device_of
from plainfit.common.errors import ConfigError, unknown_name
from plainfit.common.seeding import drawing_from
from plainfit.data.batches import called, reader
from plainfit.data.loaders import BatchOrder, order_of
from plainfit.data.pieces import Pieces, Shards
from plainfit.training.callbacks.optimization import LossScaling
from plainfit.training.checks import is_whole
from plainfit.training.hooks import Context, LossFunction
from plainfit.training.metrics import LossWeights
from plainfit.training.processes import Processes, is_launched, lost_others
from plainfit.training.step import loss_and_values

SHARDS = 8  # of a training on several processes, where their number is not given
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
        dist.all_gather_into_tensor(whole, mine.contiguous())
    return whole[:width]


class FromPieces(torch.autograd.Function):
    """The loss of a batch whose gradients are known already."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor | None], *trained: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        return None, None, *(None if g is None else g * grad for g in ctx.gradients)


class Sharding:
    """Computes the loss of a batch piece by piece, together with the other processes.

    `sharding(xb, yb)` takes lists with an entry for each piece of this process, and returns the
    loss of the whole batch, which has its gradients.
    """

    def __init__(self, context: Context, shards: Shards, processes: Processes, fast: bool) -> None:
        self.context = context
        self.shards = shards
        self.processes = processes
        self.fast = fast
        self.seed = seed_of_state()
        self.compute: Any = None
        """`(xb, yb) -> loss` of a piece."""
        self.weighed = LossWeights()
        self.pieces: list[int] = []
        self.size = 0
        self.weight = 0.0
        self.names: list[str] = []
        self.dtype = torch.float32
        self.is_asked = False
        scalings = [c for c in context.callbacks if isinstance(c, LossScaling)]
        self.scaling = scalings[0] if scalings else None
        self.inputs_and_target, self.batch_size = context.split, context.batch_size
        context.split, context.batch_size = self.split, self.size_of
        self.read = reader(context.train_dl)
        order = order_of(context.train_dl)
        self.serves_pieces = isinstance(order, BatchOrder)
        if self.serves_pieces:
            order.shards = shards

    def split(self, batch: Any) -> tuple[Any, Any]:
        """Return the inputs and the targets of this process's pieces of a batch, as lists."""
        if not isinstance(batch, Pieces):
            pair = self.inputs_and_target(batch)
            batch = self.shards.split(pair, self.batch_size(*pair))
            pairs = batch.batches
        else:
            pairs = {n: self.inputs_and_target(self.read(b)) for n, b in batch.batches.items()}
        self.pieces, self.size = list(pairs), batch.size
        return [xb for xb, _ in pairs.values()], [yb for _, yb in pairs.values()]

    @classmethod
    def of(
        cls, context: Context, shards: int | None, reduce: str, processes: Processes
    ) -> "Sharding | None":
        """Return what trains on pieces by the arguments of `fit`; None for whole batches."""
        if reduce not in ("exact", "fast"):
            raise ConfigError(unknown_name("reduce", reduce, ["exact", "fast"]), field="reduce")
        if shards is not None and not is_whole(shards, 1):
            raise ConfigError(f"must be a whole number, 1 or more, got {shards!r}", field="shards")
        is_fast = reduce == "fast"
        if is_fast and shards is not None:
            raise ConfigError("is for reduce='exact': leave one of them out", field="shards")
        count = processes.world if is_fast else shards or (SHARDS if is_launched() else 1)
        if count == processes.world == 1:
            return None
        return cls(context, Shards(count, processes.rank, processes.world), processes, is_fast)

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.shards.count, "seed": self.seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seed = state["seed"]

    def weighing(self, loss_func: LossFunction) -> LossFunction:
        """Return the loss of a piece, which also notes by what it counts in that of the batch."""

        def weighed_loss(out: Any, yb: Any) -> Any:
            with self.weighed:
                return loss_func(out, yb)

        return weighed_loss

    def computing(self, compute_loss: LossFunction | None, loss_func: LossFunction) -> "Sharding":
        """Compute the loss of a piece as `loss_batch` would, which these are arguments of."""
        model = self.context.model
        self.compute = compute_loss or (lambda xb, yb: loss_func(called(model, xb), yb))
        return self

    def agreed(self, wish: str, is_epoch_end: bool) -> str:
        """Return why all processes stop now; empty if none wants to."""
        is_asked = any(self.processes.gather(bool(wish))) if is_epoch_end else self.is_asked
        return (wish or "another process has stopped") if is_asked else ""

    def size_of(self, xb: Any, yb: Any) -> int:
        """Return the number of samples in the whole batch."""
        return self.size

    def together(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield the batches of a loader of others, which must be the same on every process."""
        if self.serves_pieces or self.processes.world == 1:
            yield from batches
            return
        each = iter(batches)
        while True:
            batch = next(each, None)
            pair = None if batch is None else self.inputs_and_target(self.read(batch))
            size = None if pair is None else self.batch_size(*pair)
            sizes = self.processes.gather(size)
            if len({*sizes}) > 1:
                raise ConfigError(
                    "must give the same batches on every process, of which each trains on a part, "
                    f"got batches of {', '.join(map(str, sizes))} samples (None: it has ended); "
                    "serve a data set by plainfit.get_data, or leave out what splits it",
                    field="train_dl",
                )
            if batch is None:
                return
            yield batch

    def __call__(self, xbs: list[Any], ybs: list[Any]) -> Any:
        """Return the loss of the whole batch, and the values beside it if there are any."""
        count = self.shards.count
        if not self.context.global_step and self.shards.pieces_of(self.size) < count:
            raise ConfigError(
                f"must be at most half of the samples of a batch, {self.size}, got {count}",
                field="shards",
            )
        trained = [p for group in self.context.groups() for p in group["params"] if p.requires_grad]
        modules = [m for m in (self.context.model, self.context.loss_func) if isinstance(m, nn.Module)]
        buffers = [b for module in modules for b in module.buffers() if b.dtype != torch.bool]
        before = [buffer.clone() for buffer in buffers]
        given = dict(zip(self.pieces, zip(xbs, ybs, strict=True), strict=True))
        total, parts = PairwiseSum(), []
        for number in self.shards.mine:
            head, gradients = self.head(), [None] * len(trained)
            size = 0
            if number in given:
                xb, yb = given[number]
                size = self.batch_size(xb, yb)
                head, gradients = self.of_piece(number, xb, yb, size, trained)
            flags = head.new_tensor([g is not None for g in gradients])
            parts = [
                torch.cat([head, flags]),
                *(torch.zeros_like(p) if g is None else g for p, g in zip(trained, gradients)),
                *(change(b, old, size, number) for b, old in zip(buffers, before)),
            ]  # fmt: skip
            total.add(number, flat(parts))
            for buffer, old in zip(buffers, before, strict=True):
                buffer.copy_(old)
        summary, *sums = unflat(summed(total, self.shards, self.fast), parts)
        for buffer, difference in zip(buffers, sums[len(trained) :], strict=True):
            whole = difference / self.size if buffer.is_floating_point() else difference
            buffer.add_(whole.to(buffer.dtype))
        weight, loss, is_sum, stops, *others = summary.tolist()
        self.is_asked = stops > 0
        self.weight = 1.0 if is_sum else weight
        by = self.weight or 1.0  # without labels that count, the gradients are 0
        values, flags = others[: len(self.names)], others[len(self.names) :]
        gradients = [g / by if flag else None for g, flag in zip(sums, flags, strict=False)]
        whole = FromPieces.apply(summary[1] / self.weight, gradients, *trained)
        named = {n: v / self.size for n, v in zip(self.names, values, strict=True)}
        return (whole, named) if named else whole

    def of_piece(
        self, number: int, xb: Any, yb: Any, size: int, trained: list[Tensor]
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Return what is added of a piece: its head, and the gradients of its loss by weight."""
        context = self.context
        with drawing_from(self.seed, "piece", context.epoch, context.step, number):
            loss, values = loss_and_values(self.compute(xb, yb))
        weight = self.weighed.weight(loss, size)
        is_sum = self.weighed.is_sum
        self.names = list(values)
        self.dtype = torch.promote_types(loss.dtype, torch.float32)
        if not float(weight):  # all labels are ignored: 0 / 0
            return self.head([0.0, 0.0, is_sum], values, size), [None] * len(trained)
        weighted = loss if is_sum else loss * weight
        scale = self.scaling.scale if self.scaling else 1.0
        gradients = torch.autograd.grad(weighted * scale, trained, allow_unused=True)
        head = self.head([weight, weighted.detach(), is_sum], values, size)
        return head, [g if g is None else g / scale for g in gradients]

    def head(
        self,
        sums: Sequence[Any] = (0.0, 0.0, 0.0),
        values: Mapping[str, Any] | None = None,
        size: int = 0,
    ) -> Tensor:
        wish = float(bool(self.context.wish))
        means = [size * v for v in (values or dict.fromkeys(self.names, 0.0)).values()]
        device = device_of(self.context.model)
        parts = [torch.as_tensor(x, dtype=self.dtype, device=device) for x in (*sums, wish, *means)]
        return torch.stack(parts)


def change(buffer: Tensor, old: Tensor, size: int, number: int) -> Tensor:
    """Return by how much a piece has changed a buffer, times its samples; counts change once."""
    if not buffer.is_floating_point():  # such as the batches that batch norm has seen
        return (buffer - old).float() * (number == 0)
    moved = torch.where(buffer == old, torch.zeros_like(old), buffer - old)  # some are infinite
    return moved * size


def flat(parts: Sequence[Tensor]) -> Row:
    """Return the values of some tensors, one after the other, those of each dtype in one tensor."""
    kinds = dict.fromkeys(part.dtype for part in parts)
    return [torch.cat([p.reshape(-1) for p in parts if p.dtype == kind]) for kind in kinds]


def unflat(row: Row, parts: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors of a row, in the shapes of `parts`."""
    left = {values.dtype: values for values in row}
    found = []
    for part in parts:
        values = left[part.dtype]
        found.append(values[: part.numel()].view(part.shape))
        left[part.dtype] = values[part.numel() :]
    return found


def seed_of_state() -> int:
    """Return a seed that is a function of the state of torch's global generator."""
    digest = hashlib.sha256(torch.get_rng_state().numpy().tobytes()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
