"""The loss of a batch in pieces, and its gradients: the same bits on any number of processes.

docs/decisions/0034-processes.md says why it is so.
"""

import copy
import hashlib
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from plainfit.common.errors import ConfigError, unknown_name
from plainfit.common.schema import SHARDS
from plainfit.common.seeding import kept_generators, seed_at, seed_generators
from plainfit.data.batches import called, reader, sizes
from plainfit.data.loaders import BatchOrder, own_order
from plainfit.data.pieces import Pieces, Shards, cut
from plainfit.training.callbacks.checkpointing import changes, setup_of
from plainfit.training.callbacks.optimization import LossScaling
from plainfit.training.callbacks.stopping import OverfitOneBatch
from plainfit.training.checks import is_whole
from plainfit.training.history import kept, read
from plainfit.training.hooks import Context, LossFunction
from plainfit.training.metrics import LossWeights
from plainfit.training.pairwise import PairwiseSum, flat, summed, unflat
from plainfit.training.processes import Processes, is_launched, lost_others
from plainfit.training.step import loss_and_values, own_loss


class FromPieces(torch.autograd.Function):
    """The loss of a batch from its sums over the pieces, which are known with its gradients'."""

    @staticmethod
    def forward(
        ctx: Any, weighted: Tensor, weight: float, sums: list[Tensor | None], *trained: Tensor
    ) -> Tensor:
        ctx.weight, ctx.sums = weight, sums
        return weighted / weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        by = grad / (ctx.weight or 1.0)  # where all labels are ignored, the gradients are 0
        return None, None, None, *(s if s is None else (s * by).to(s.dtype) for s in ctx.sums)


class Sharding:
    """Computes the loss of a batch piece by piece, together with the other processes.

    `sharding(xb, yb)` takes the pieces of this process, and returns the loss of the whole batch,
    which has its gradients.
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
        self.weight = 0.0
        self.is_new = True  # until a loss was computed
        self.names: list[str] = []
        """Of the values beside a loss; saved, as a process may begin with a batch of no piece."""
        self.is_asked = False
        self.asks = self.is_due = False  # of the first process, for all; see `Context.as_the_first`
        scalings = [c for c in context.callbacks if isinstance(c, LossScaling)]
        self.scaling = scalings[0] if scalings else None
        self.inputs_and_target, self.batch_size = context.split, context.batch_size
        context.split, context.batch_size = self.split, lambda xb, yb: xb.size
        self.read = reader(context.train_dl)
        self.order = own_order(context.train_dl)
        if any(isinstance(callback, OverfitOneBatch) for callback in context.callbacks):
            raise ConfigError("OverfitOneBatch takes a whole batch: leave out shards and processes")
        layers = [part for part in context.model.modules() if isinstance(part, nn.SyncBatchNorm)]
        self.synced = layers if processes.world > 1 else []
        if self.synced and not fast:
            raise ConfigError(
                "must be without SyncBatchNorm where reduce='exact', as its processes wait for "
                "each other in each pass, and some have more pieces than others; use BatchNorm, "
                "with the statistics of a piece, or reduce='fast'",
                field="model",
            )
        self.waits = self.has_parts or bool(self.synced)
        if self.waits and isinstance(self.order, BatchOrder) and not self.order.drop_last:
            self.check_size(self.order.samples % self.order.batch_size or self.order.batch_size)

    def split(self, batch: Any) -> tuple[Pieces, Pieces]:
        """Return the inputs and the targets of this process's pieces of a batch."""
        if isinstance(batch, Pieces):
            pairs = batch.map(lambda _, piece: self.inputs_and_target(self.read(piece)))
        else:
            pair = self.inputs_and_target(batch)
            if len(found := sizes(pair)) != 1:
                raise ConfigError(
                    "a batch must be cut into pieces, so its parts must have one length, got "
                    f"{', '.join(map(str, sorted(found))) or 'none'}; serve samples by "
                    "plainfit.get_data, whose collate_fn makes each piece"
                )
            pairs = self.shards.split(pair, found.pop())
        return pairs.map(lambda _, pair: pair[0]), pairs.map(lambda _, pair: pair[1])

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

    def check_size(self, size: int) -> None:
        """Refuse a batch of fewer pieces: the first one, or any where each process takes part."""
        if self.shards.pieces_of(size) == self.shards.count:
            return
        if self.waits:
            world = self.processes.world
            raise ConfigError(
                f"must be at least {2 * world} for {world} processes, also in the last batch, got "
                f"{size}; set drop_last, or choose another",
                field="batch_size",
            )
        raise ConfigError(
            f"must be at most half of the samples of a batch, {size}, got {self.shards.count}",
            field="shards",
        )

    def check_same(self) -> None:
        """Refuse a training of which other processes have other data or another model."""
        for other in self.processes.gather(own := setup_of(self.context)["same"]):
            if differing := changes(other, own):
                raise ConfigError(
                    "each process must have the whole training, of which it then computes a part, "
                    f"and they differ: {'; '.join(differing.values())}; leave out what splits data"
                )

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.shards.count, "seed": self.seed, "names": self.names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seed, self.names = state["seed"], state["names"]

    def weighing(self, loss_func: LossFunction) -> LossFunction:
        """Return the loss of a piece, which also notes by what it counts in that of the batch."""

        def weighed_loss(out: Any, yb: Any) -> Any:
            with self.weighed:
                loss = loss_func(out, yb)
            is_known = self.weighed.sum is loss_and_values(loss)[0]
            if self.is_new and not is_known and adds_up(loss_func, out, yb):
                raise ConfigError(
                    "must return the mean over the samples, as a batch in pieces has the mean of "
                    "their losses, and adds samples up; divide it by len(yb), or return a sum as "
                    "torch computes it, by reduction='sum'",
                    field="loss_func",
                )
            self.is_new = False
            return loss

        return loss_func if loss_func is own_loss else weighed_loss

    def computing(self, compute_loss: LossFunction | None, loss_func: LossFunction) -> "Sharding":
        """Compute the loss of a piece as `loss_batch` would, which these are arguments of."""
        model = self.context.model
        compute = compute_loss or (lambda xb, yb: loss_func(called(model, xb), yb))
        self.compute = compute if self.context.loss_func is not own_loss else self.weighing(compute)
        return self

    def agreed(self, wish: str, is_epoch_end: bool) -> str:
        """Return why all processes stop now; empty if none wants to."""
        is_asked = any(self.processes.gather(bool(wish))) if is_epoch_end else self.is_asked
        return (wish or "another process has stopped") if is_asked else ""

    def together(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield the batches, in pieces if the loader is ours; else every process must have them."""
        if not isinstance(self.order, BatchOrder):
            for [batch] in self.processes.same(batches, "train_dl"):
                yield batch
            return
        each, end = iter(batches), object()
        while True:
            self.order.shards = self.shards  # for this batch: a callback may read the loader
            try:
                batch = next(each, end)
            finally:
                self.order.shards = None
            if batch is end:
                return
            yield batch

    def __call__(self, xb: Pieces, yb: Pieces) -> Any:
        """Return the loss of the whole batch, and the values beside it if there are any."""
        context = self.context
        if self.waits or not context.global_step:
            self.check_size(xb.size)
        trained, buffers = self.trained(), self.buffers()
        before = [owner[name].clone() for owner, name in buffers]
        total, parts = PairwiseSum(), list[Tensor]()
        with kept_generators(), synced_on_cpu(self.synced):
            for number in self.shards.mine:
                size = self.batch_size(xb[number], yb[number]) if number in xb else 0
                parts = self.of_piece(number, xb.get(number), yb.get(number), size, trained)
                for (owner, name), old in zip(buffers, before, strict=True):
                    parts.append(change(owner[name], old, size, number))
                total.add(number, flat(parts))
        head, *sums = unflat(summed(total, self.shards, self.fast), parts)
        weight, _, is_sum, wishes, asks, size, *others = head.tolist()
        means, flags = others[: len(self.names)], others[len(self.names) :]
        by = size or 1.0
        for (owner, name), difference in zip(buffers, sums[len(trained) :], strict=True):
            mean = difference / by if owner[name].is_floating_point() else difference
            owner[name].add_(mean.to(owner[name].dtype))
        self.is_asked, self.is_due, context.size = wishes > 0, asks > 0, round(size)
        self.weight = 1.0 if is_sum else weight
        if context.history.run is not None:
            context.history.run.counts_samples &= weight == size
        gradients = [s if flag else None for s, flag in zip(sums, flags, strict=False)]
        loss = FromPieces.apply(head[1], self.weight, gradients, *trained)  # type: ignore[no-untyped-call]
        values = {name: mean / by for name, mean in zip(self.names, means, strict=True)}
        return (loss, values) if values else loss

    def of_piece(
        self, number: int, xb: Any, yb: Any, size: int, trained: list[Tensor]
    ) -> list[Tensor]:
        """Return what is added of a piece: the numbers of its head, and weighted gradients."""
        context = self.context
        first = context.opt.param_groups[0]["params"][0]
        gradients: list[Tensor | None] = [None] * len(trained)
        numbers: list[Any] = [0.0, 0.0, False]
        values: dict[str, Any] = dict.fromkeys(self.names, 0.0)
        if size:
            seed = seed_at(self.seed, "piece", context.epoch, context.step, number)
            seed_generators(seed)
            if first.device.type != "cpu":
                torch.get_device_module(first.device).manual_seed(seed)
            loss, values = loss_and_values(self.compute(xb, yb))
            context.loss = loss  # for an error that explains what it lacks
            weight = self.weighed.weight(loss, size)
            weighted = loss if self.weighed.is_sum else loss * weight
            gradients = self.gradients(weighted, trained)
            numbers = [weight, weighted.detach(), self.weighed.is_sum]
            self.names = list(values)
        numbers = read([kept(number) for number in numbers])
        if not numbers[0]:  # all labels are ignored: the loss is 0 / 0
            numbers[1] = 0.0
            gradients = [g if g is None else torch.zeros_like(g) for g in gradients]
        numbers += [bool(context.wish), self.asks, size]
        numbers += [size * value for value in values.values()]
        flags = [gradient is not None for gradient in gradients]
        dtype = torch.promote_types(first.dtype, torch.float32).to_real()
        head = torch.tensor([*numbers, *flags], dtype=dtype, device=first.device)
        filled = zip(trained, gradients, strict=True)
        return [head, *(torch.zeros_like(p) if g is None else g for p, g in filled)]

    def trained(self) -> list[Tensor]:
        groups = self.context.groups()
        found = [p for group in groups for p in group["params"] if p.requires_grad]
        if not found:
            raise ConfigError(
                "must hold a parameter with requires_grad=True, got none", field="opt"
            )
        return found

    def gradients(self, weighted: Tensor, trained: list[Tensor]) -> list[Tensor | None]:
        scaled = weighted * self.scaling.scale if self.scaling else weighted
        found = torch.autograd.grad(scaled, trained, allow_unused=True)
        if self.scaling is None:
            return [*found]
        return [g if g is None else g / self.scaling.scale for g in found]

    def buffers(self) -> list[tuple[dict[str, Any], str]]:
        """Return the places of the buffers of model and loss; a forward pass may fill them anew."""
        loss = self.context.loss_func
        modules = [self.context.model, *([loss] if isinstance(loss, nn.Module) else [])]
        owners = (part._buffers for module in modules for part in module.modules())
        return [
            (owner, name)
            for owner in owners
            for name, buffer in owner.items()
            if buffer is not None and buffer.dtype != torch.bool
        ]


def change(buffer: Tensor, old: Tensor, size: int, number: int) -> Tensor:
    """Take back by how much a piece has changed a buffer, times its samples; counts change once."""
    with torch.no_grad():
        if not buffer.is_floating_point():  # such as the batches that batch norm has seen
            moved = (buffer - old).float() * (number == 0)
        else:  # some are infinite
            moved = torch.where(buffer == old, torch.zeros_like(old), buffer - old) * size
        buffer.copy_(old)
    return moved


class SumOfProcesses(torch.autograd.Function):
    """The sum of a tensor over the processes, which all take part in; so does its gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, group: Any) -> Tensor:
        ctx.group, total = group, values.clone()
        with lost_others():
            dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return SumOfProcesses.apply(grad, ctx.group), None  # type: ignore[no-untyped-call]


@contextmanager
def synced_on_cpu(layers: list[nn.SyncBatchNorm]) -> Iterator[None]:
    """Let layers take CPU tensors meanwhile, which torch's own `forward` refuses."""
    for layer in layers:
        layer.forward = partial(sync_batch_norm, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def sync_batch_norm(layer: Any, xb: Tensor) -> Any:
    """Normalize as a layer does, on a CPU too; the mean comes first, as squares of xb round."""
    if not layer.training or xb.device.type != "cpu":
        return nn.SyncBatchNorm.forward(layer, xb)

    def over_all(values: Tensor) -> Tensor:
        group = layer.process_group or dist.group.WORLD
        total: Tensor = SumOfProcesses.apply(values, group)  # type: ignore[no-untyped-call]
        return total

    x = xb.to(torch.promote_types(xb.dtype, torch.float32)).movedim(1, -1)
    own = x.flatten(0, -2)
    sums = over_all(torch.cat([own.sum(0), own.new_tensor([len(own)])]))
    count = sums[-1].detach()
    mean = sums[:-1] / count
    var = over_all((own - mean).square().sum(0)) / count
    out = (x - mean) * (var + layer.eps).rsqrt()
    if layer.weight is not None:
        out = out * layer.weight
    if layer.bias is not None:
        out = out + layer.bias
    if layer.track_running_stats:
        with torch.no_grad():
            seen = layer.num_batches_tracked.add_(1)
            by = 1.0 / float(seen) if layer.momentum is None else layer.momentum
            layer.running_mean.lerp_(mean, by)
            layer.running_var.lerp_(var * (count / (count - 1)), by)
    return out.movedim(-1, 1).to(xb.dtype)


def adds_up(loss_func: LossFunction, out: Any, yb: Any) -> bool:
    """Return whether the loss of a batch is the sum, not the mean, of those of its halves."""
    with suppress(Exception), torch.no_grad():  # of what cannot be cut
        [size] = sizes((out, yb))
        half, loss_func = size // 2, copy.deepcopy(loss_func)  # which may count its calls
        a, b, both = (
            float(loss_and_values(loss_func(cut(out, rows), cut(yb, rows)))[0])
            for rows in (slice(half), slice(half, 2 * half), slice(2 * half))
        )
        return a * b != 0 and math.isfinite(both) and math.isclose(a + b, both, rel_tol=1e-3)
    return False


def seed_of_state() -> int:
    """Return a seed that is a function of the state of torch's global generator."""
    digest = hashlib.sha256(torch.get_rng_state().numpy().tobytes()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
