"""Models whose parameters are spread over the processes, by torch's `fully_shard` (FSDP2).

Each process keeps a part of every parameter, and torch gathers those of a layer while it computes.
So whatever reads all weights, such as a checkpoint, is done by all processes, and one writes.
"""

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS

from plainfit.common.errors import ConfigError, near_miss
from plainfit.data.pieces import Pieces
from plainfit.training.callbacks.optimization import Averaging
from plainfit.training.hooks import Context
from plainfit.training.processes import Processes, join
from plainfit.training.sharding import FromPieces, Sharding
from plainfit.training.step import loss_and_values

AT_ONCE = "is without {}, which needs all parameters in each process; leave one of them out"


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
            `nn.Sequential` and `nn.ModuleList`. The rest of the model is one more, with those
            that share parameters with others.
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
    uses = uses_of(model)
    own = [(part, uses_of(part)) for part in parts]
    alone = [part for part, its in own if its and all(its[p] == uses[p] for p in its)]
    for part in reversed(alone):  # the inner ones first
        fully_shard(part, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def uses_of(module: nn.Module) -> Counter[nn.Parameter]:
    """Return how often a module has each parameter; those of tied layers more than once."""
    return Counter(parameter for _, parameter in module.named_parameters(remove_duplicate=False))


def sharding_of(
    context: Context, shards: int | None, reduce: str, processes: Processes
) -> Sharding | None:
    """Return what trains on pieces by the arguments of `fit`; None for whole batches."""
    kind = SpreadModel if is_spread(context.model) else Sharding
    return kind.of(context, shards, reduce, processes)


class SpreadModel(Sharding):
    """Computes the loss of a batch, of which each process has a piece, for such a model.

    Its gradients are added by torch, so the bits depend on the number of processes.
    """

    has_parts = True

    def __init__(self, context: Context, *arguments: Any) -> None:
        super().__init__(context, *arguments)
        for part in (*context.callbacks, context.opt):
            if isinstance(part, Averaging | LBFGS):
                raise ConfigError(AT_ONCE.format(type(part).__name__), field="fsdp")
        world = self.processes.world
        for parameter in super().trained():
            mesh = getattr(parameter, "device_mesh", None)
            if mesh is None or mesh.ndim > 1 or mesh.size() != world:
                raise ConfigError(
                    "must have every parameter that is trained spread by fully_shard over all "
                    f"{world} processes, and one of shape {tuple(parameter.shape)} is not; call "
                    "fully_shard(model) after that of its layers, and leave other meshes out",
                    field="model",
                )

    def trained(self) -> list[Tensor]:
        return []

    def gradients(self, weighted: Tensor, trained: list[Tensor]) -> list[Tensor | None]:
        self.own = weighted
        for owner, name in self.buffers():  # the backward pass needs what they were
            owner[name] = owner[name].clone()
        return []

    def __call__(self, xb: Pieces, yb: Pieces) -> Any:
        """Return the loss of the whole batch, and the values beside it if there are any."""
        loss, values = loss_and_values(super().__call__(xb, yb))
        by = loss.new_tensor(self.processes.world / (self.weight or 1.0))  # torch takes the mean
        loss = FromPieces.apply(loss, 1.0, [by], self.own)  # type: ignore[no-untyped-call]
        return (loss, values) if values else loss
