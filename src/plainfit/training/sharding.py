"""The loss of a batch in pieces, and its gradients: the same bits on any number of processes.

docs/decisions/0034-processes.md says why it is so.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
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
from plainfit.training.pairwise import PairwiseSum, flat, summed, unflat
from plainfit.training.processes import Processes, is_launched
from plainfit.training.step import loss_and_values

SHARDS = 8  # of a training on several processes, where their number is not given


class FromPieces(torch.autograd.Function):
    """The loss of a batch whose gradients are known already."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor | None], *trained: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return None, None, *(None if g is None else g * grad for g in ctx.gradients)


class Sharding:
    """Computes the loss of a batch piece by piece, together with the other processes.

    `sharding(xb, yb)` takes lists with an entry for each piece of this process, and returns the
    loss of the whole batch, which has its gradients.
    """

    has_parts = False  # whether each process has a part of every parameter

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
        is_fast |= cls.has_parts
        count = processes.world if is_fast else shards or (SHARDS if is_launched() else 1)
        if count == processes.world == 1 and not cls.has_parts:
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
        loss_func = self.context.loss_func
        modules = [self.context.model, *([loss_func] if isinstance(loss_func, nn.Module) else [])]
        trained = [p for group in self.context.groups() for p in group["params"] if p.requires_grad]
        buffers = [b for module in modules for b in module.buffers() if b.dtype != torch.bool]
        before = [buffer.clone() for buffer in buffers]
        given = dict(zip(self.pieces, zip(xbs, ybs, strict=True), strict=True))
        total, parts = PairwiseSum(), list[Tensor]()
        for number in self.shards.mine:
            size = self.batch_size(*given[number]) if number in given else 0
            head, gradients = self.of_piece(number, *given.get(number, (None, None)), size, trained)
            flags = head.new_tensor([gradient is not None for gradient in gradients])
            parts = [torch.cat([head, flags])]
            for parameter, gradient in zip(trained, gradients, strict=True):
                parts.append(torch.zeros_like(parameter) if gradient is None else gradient)
            for buffer, old in zip(buffers, before, strict=True):
                parts.append(change(buffer, old, size, number))
                buffer.copy_(old)
            total.add(number, flat(parts))
        head, *sums = unflat(summed(total, self.shards, self.fast), parts)
        self.join_buffers(buffers, sums[len(trained) :])
        values, has_gradient = self.read_head(head)
        by = self.weight or 1.0  # where all labels are ignored, the gradients are 0
        found = [s / by if has else None for s, has in zip(sums, has_gradient, strict=False)]
        loss = FromPieces.apply(head[1] / self.weight, found, *trained)  # type: ignore[no-untyped-call]
        return (loss, values) if values else loss

    def join_buffers(self, buffers: list[Tensor], changes: list[Tensor]) -> None:
        """Change each buffer by the mean over the samples, or as the first piece did."""
        for buffer, total in zip(buffers, changes, strict=True):
            mean = total / self.size if buffer.is_floating_point() else total
            buffer.add_(mean.to(buffer.dtype))

    def read_head(self, head: Tensor) -> tuple[dict[str, float], list[float]]:
        """Note the sums of all heads; return the values beside the loss, and what comes after."""
        weight, _, is_sum, wishes, *others = head.tolist()
        self.is_asked = wishes > 0
        self.weight = 1.0 if is_sum else weight
        if self.context.history.run is not None:
            self.context.history.run.counts_samples &= weight == self.size
        count = len(self.names)
        means = zip(self.names, others[:count], strict=True)
        return {name: total / self.size for name, total in means}, others[count:]

    def of_piece(
        self, number: int, xb: Any, yb: Any, size: int, trained: list[Tensor]
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Return what is added of a piece: its head, and the gradients of its loss by weight."""
        context, none = self.context, [None] * len(trained)
        if not size:
            return self.head(0.0, 0.0, False, dict.fromkeys(self.names, 0.0), 0), [*none]
        with drawing_from(self.seed, "piece", context.epoch, context.step, number):
            loss, values = loss_and_values(self.compute(xb, yb))
        weight = self.weighed.weight(loss, size)
        is_sum = self.weighed.is_sum
        self.names = list(values)
        self.dtype = torch.promote_types(loss.dtype, torch.float32)
        if not float(weight):  # all labels are ignored: the loss is 0 / 0
            return self.head(0.0, 0.0, is_sum, values, size), [*none]
        weighted = loss if is_sum else loss * weight
        scale = self.scaling.scale if self.scaling else 1.0
        gradients = torch.autograd.grad(weighted * scale, trained, allow_unused=True)
        head = self.head(weight, weighted.detach(), is_sum, values, size)
        return head, [g if g is None else g / scale for g in gradients]

    def head(
        self, weight: Any, weighted: Any, is_sum: bool, values: Mapping[str, Any], size: int
    ) -> Tensor:
        """Return the numbers of a piece that are added like its gradients, and before them."""
        sums = [weight, weighted, is_sum, bool(self.context.wish)]
        sums += [size * value for value in values.values()]
        device = device_of(self.context.model)
        return torch.stack([torch.as_tensor(n, dtype=self.dtype, device=device) for n in sums])


def change(buffer: Tensor, old: Tensor, size: int, number: int) -> Tensor:
    """Return by how much a piece has changed a buffer, times its samples; counts change once."""
    if not buffer.is_floating_point():  # such as the batches that batch norm has seen
        return (buffer - old).float() * (number == 0)
    moved = torch.where(buffer == old, torch.zeros_like(old), buffer - old)  # some are infinite
    return moved * size


def seed_of_state() -> int:
    """Return a seed that is a function of the state of torch's global generator."""
    digest = hashlib.sha256(torch.get_rng_state().numpy().tobytes()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
