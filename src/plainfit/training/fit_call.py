"""What `fit` was called with: enough to write the training as a script."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from plainfit.common.devices import device_of, fingerprint
from plainfit.data.batches import batch_size, generators_of

MAX_BYTES = 64 * 2**20  # of initial weights that are copied for a model without a factory
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes per value


@dataclass
class FitCall:
    """A call of `fit`: references to its arguments, and copies of a few values at its start."""

    epochs: int
    model: nn.Module
    loss_func: Any
    opt: Any
    train_dl: Any
    valid_dl: Any
    metrics: Sequence[Any]
    callbacks: Sequence[Any]
    """All callbacks, those that `fit` adds included."""
    precision: str
    compile: str
    """What is compiled as one: `epoch`, `step` or nothing."""
    losses: list[float]
    """The loss of every step; the history's own list."""
    unlike_a_script: tuple[str, ...] = ()
    """Options of `fit` that a script has no statements for."""
    batch_size: Any = batch_size
    """The function of inputs and targets that counts the samples of a batch."""
    sharding: Any = None
    """What trains on batches in pieces."""
    groups: list[dict[str, Any]] = field(init=False)
    """The options of each group of the optimizer at the start."""
    has_stepped: bool = field(init=False)
    """Whether the optimizer had taken steps before."""
    fingerprint: dict[str, Any] = field(init=False)
    counts_samples: bool = field(init=False, default=True)
    """Whether a validation loss is the mean over the samples (see `LossWeights`)."""
    joins_tensors: bool = field(init=False, default=True)
    """Whether the outputs and targets that metrics took were tensors."""
    valid_program: bool = field(init=False, default=False)
    """Whether the full batches of the validation were one program."""
    has_values: bool = field(init=False, default=False)
    """Whether the loss came with values by name."""
    generator: Tensor = field(init=False)
    """The state of torch's global generator at the start."""
    order_states: dict[str, Tensor] = field(init=False)
    """The states of the generators of stock loaders, by `train` and `valid`."""
    sums: list[int] = field(init=False)
    """The sum over the bits of each weight at the start."""
    loss_sums: list[int] = field(init=False)
    """The same of a loss with tensors of its own."""
    loss_initial: dict[str, Tensor] = field(init=False)
    """Those tensors at the start."""
    initial: dict[str, Tensor] | None = field(init=False, default=None)
    """The weights at the start, up to 64 MiB, where no factory can build them again."""
    branches: list[str] = field(init=False, default_factory=list)
    """From which step on a resumed training had other settings, and which."""
    first_epoch: int = field(init=False)
    """The epoch that the training loader starts with; not 0 if it was read before."""

    def __post_init__(self) -> None:
        self.groups = [
            {name: value for name, value in group.items() if name != "params"}
            for opt in optimizers_in(self.opt)
            for group in opt.param_groups
        ]
        self.has_stepped = any(opt.state for opt in optimizers_in(self.opt))
        self.fingerprint = fingerprint(device_of(self.model))
        self.first_epoch = getattr(self.train_dl, "epoch", 0)
        self.generator = torch.get_rng_state()
        self.order_states = {
            part: generators[0].get_state()
            for part, dl in (("train", self.train_dl), ("valid", self.valid_dl))
            if (generators := generators_of(dl))
        }
        self.sums = bit_sums(self.model)
        self.loss_sums = bit_sums(self.loss_func) if isinstance(self.loss_func, nn.Module) else []
        own = self.loss_func.state_dict() if isinstance(self.loss_func, nn.Module) else {}
        self.loss_initial = {name: tensor.detach().clone() for name, tensor in own.items()}
        weights = self.model.state_dict()
        factory = getattr(self.model, "plainfit_factory", None)
        if (factory is None or factory.loaded) and size_of(weights) <= MAX_BYTES:
            self.initial = {name: tensor.detach().clone() for name, tensor in weights.items()}

    def eject(
        self,
        path: str | Path = "train.py",
        *,
        level: str = "loop",
        verify: bool = False,
        force: bool = False,
        echo: Callable[[str], None] | None = print,
    ) -> Path:
        """Write this training as a plain PyTorch script.

        Args:
            path: of the script.
            level: how far down: `loop`, `data`, `optim`, `layers`, `tensors` or `math`.
            verify: run the script, and compare its losses and weights with this training.
            force: overwrite an existing file.
            echo: called with the result; None prints nothing.

        Returns:
            The path of the script.

        Raises:
            EjectError: if this training cannot become such a script, or, with `verify`, if the
                script gives other losses or weights.
            ConfigError: if there is no such level, or a file exists already.
        """
        # Imported by name: the rooms of `training` must not depend on `eject`, which is above.
        eject_fit: Callable[..., Path] = import_module("plainfit.eject").eject_fit
        return eject_fit(self, Path(path), level=level, verify=verify, force=force, echo=echo)


def optimizers_in(opt: Any) -> list[Optimizer]:
    if isinstance(opt, Mapping):
        return list(opt.values())
    return list(opt) if isinstance(opt, list | tuple) else [opt]


def bit_sums(model: nn.Module) -> list[int]:
    """Return the sum over the bits of each tensor; nothing if one is lazy or not dense."""
    try:
        return [
            int(tensor.detach().contiguous().view(INTEGERS[tensor.element_size()]).sum())
            for tensor in model.state_dict().values()
        ]
    except (AttributeError, KeyError, RuntimeError, ValueError):
        return []


def size_of(weights: dict[str, Any]) -> float:
    # The weights' bytes; infinity if one is not a plain tensor.
    try:
        return float(sum(tensor.numel() * tensor.element_size() for tensor in weights.values()))
    except (AttributeError, RuntimeError, ValueError):
        return float("inf")
