"""Models whose parameters are spread over the processes, by torch's `fully_shard` (FSDP2).

Each process keeps a part of every parameter, and torch gathers those of a layer while it computes.
So whatever reads all weights, such as a checkpoint, is done by all processes, and one writes.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from plainfit.common.errors import ConfigError, near_miss
from plainfit.common.seeding import drawing_from
from plainfit.training.callbacks.optimization import Averaging, LossScaling
from plainfit.training.hooks import Context
from plainfit.training.pairwise import PairwiseSum, flat, summed, unflat
from plainfit.training.processes import join
from plainfit.training.sharding import Sharding, change
from plainfit.training.step import loss_and_values


def is_spread(model: nn.Module) -> bool:
    """Return whether processes have parts of the model, and let go of what was gathered of it."""
    module: Any
    for module in model.modules():
        if hasattr(module, "reshard"):
            module.reshard()
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def spread(model: nn.Module, layers: Sequence[str] = ()) -> None:
    """Spread a model's parameters over the processes of a training, layer by layer.

    Args:
        model: its parameters become parts of what they were, so make the optimizer afterwards.
        layers: the names of those that are gathered as one; by default the members of every
            `nn.Sequential` and `nn.ModuleList`. The rest of the model is one more.
    """
    if join().world == 1:
        raise ConfigError(
            "is for several processes, and this is the only one; add --processes, or leave it out",
            field="fsdp",
        )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # Some layers give views, which are not changed in place.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module")
    device = next(model.parameters()).device.type
    mesh = init_device_mesh(device, (torch.distributed.get_world_size(),))
    named = dict(model.named_modules())
    if unknown := [name for name in layers if name not in named or not name]:
        raise ConfigError(
            f"must be auto, or layers of {type(model).__name__}, got {unknown[0]!r}"
            + near_miss(unknown[0], named),
            field="fsdp",
        )
    lists = [m for m in named.values() if isinstance(m, nn.Sequential | nn.ModuleList)]
    parts = [named[n] for n in layers] or [part for each in lists for part in each.children()]
    for part in reversed(parts):  # the inner ones first
        if any(True for _ in part.parameters()):
            fully_shard(part, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


class SpreadModel(Sharding):
    """Computes the loss of a batch, of which each process has a part, for such a model.

    Its gradients are added by torch, so the bits depend on the number of processes.
    """

    has_parts = True

    def __init__(self, context: Context, *arguments: Any) -> None:
        super().__init__(context, *arguments)
        for callback in context.callbacks:
            if isinstance(callback, Averaging | LossScaling):
                raise ConfigError(
                    f"is without {type(callback).__name__}, which needs all parameters in each "
                    "process; leave one of them out",
                    field="fsdp",
                )

    def __call__(self, xbs: list[Any], ybs: list[Any]) -> Any:
        """Return the loss of the whole batch, and the values beside it if there are any."""
        context, world = self.context, self.processes.world
        if self.shards.pieces_of(self.size) < world:
            raise ConfigError(
                f"must be at least {2 * world} for {world} processes, also in the last batch, got "
                f"{self.size}; set drop_last",
                field="batch_size",
            )
        [xb], [yb] = xbs, ybs
        buffers = [b for b in context.model.buffers() if b.dtype != torch.bool]
        before = [buffer.clone() for buffer in buffers]
        with drawing_from(self.seed, "piece", context.epoch, context.step, self.processes.rank):
            loss, values = loss_and_values(self.compute(xb, yb))
        size = self.batch_size(xb, yb)
        weight = self.weighed.weight(loss, size)
        self.names, self.dtype = list(values), torch.promote_types(loss.dtype, torch.float32)
        weighted = loss if self.weighed.is_sum else loss * weight
        parts = [self.head(weight, weighted.detach(), self.weighed.is_sum, values, size)]
        for buffer, old in zip(buffers, before, strict=True):
            parts.append(change(buffer, old, size, self.processes.rank))
            buffer.copy_(old)
        total = PairwiseSum()
        total.add(self.processes.rank, flat(parts))
        head, *changes = unflat(summed(total, self.shards, fast=True), parts)
        self.join_buffers(buffers, changes)
        means, _ = self.read_head(head)
        own = weighted * (world / self.weight)  # torch takes the mean over the processes
        whole = head[1] / self.weight + (own - own.detach())
        return (whole, means) if means else whole
