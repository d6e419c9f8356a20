"""What `fit` was called with: enough to write the training down as a script."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from plainfit.common.devices import device_of, fingerprint

MOST_BYTES = 64 * 2**20  # of initial weights that are kept for a model nobody can build again
WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes a value


@dataclass
class FitRecord:
    """A call of `fit`. It keeps references to what it was given, and copies of a few numbers."""

    epochs: int
    model: nn.Module
    loss_func: Any
    opt: Optimizer
    train_dl: Any
    valid_dl: Any
    metrics: Sequence[Any]
    callbacks: Sequence[Any]
    """All that were called, those that `fit` adds itself included."""
    precision: str
    compile: bool
    groups: list[dict[str, Any]] = field(init=False)
    """The options of each group of the optimizer, as the training began."""
    has_stepped: bool = field(init=False)
    """Whether the optimizer had taken steps before."""
    fingerprint: dict[str, Any] = field(init=False)
    generator: Tensor = field(init=False)
    """The state of the global generator as the training began."""
    order_states: dict[str, Tensor] = field(init=False)
    """The states of the generators that were given to stock loaders, `train` and `valid`."""
    sums: list[int] = field(init=False)
    """A sum over the bits of each weight as the training began."""
    initial: dict[str, Tensor] | None = field(init=False, default=None)
    """The weights as the training began, of at most 64 MiB, where nothing else gives them."""
    first_epoch: int = field(init=False)
    """The epoch that the training loader began with; not 0 where it had served before."""
    losses: list[float] = field(init=False, default_factory=list)
    """The loss of every step; the history's own list."""

    def __post_init__(self) -> None:
        self.groups = [
            {name: value for name, value in group.items() if name != "params"}
            for group in self.opt.param_groups
        ]
        self.has_stepped = bool(self.opt.state)
        self.fingerprint = fingerprint(device_of(self.model))
        self.first_epoch = getattr(self.train_dl, "epoch", 0)
        self.generator = torch.get_rng_state()
        loaders = {"train": self.train_dl, "valid": self.valid_dl}
        generators = {part: generator_of(dl) for part, dl in loaders.items()}
        self.order_states = {
            part: generator.get_state()
            for part, generator in generators.items()
            if isinstance(generator, torch.Generator)
        }
        self.sums = bit_sums(self.model)
        weights = self.model.state_dict()
        factory = getattr(self.model, "plainfit_factory", None)
        if (factory is None or factory.loaded) and size_of(weights) <= MOST_BYTES:
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
            verify: run it, and compare every step's loss and the weights with this training.
            force: write over a file there.
            echo: is told what was found; None for silence.

        Raises:
            EjectError: if that cannot be done, or the script gives something else.
        """
        # Looked up by name: what this layer is part of does not depend on the one above.
        written: Path = import_module("plainfit.eject").eject_fit(
            self, Path(path), level=level, verify=verify, force=force, echo=echo
        )
        return written


def generator_of(dl: Any) -> Any:
    """Return the generator that a `DataLoader`, wrapped or not, or its sampler was given."""
    while hasattr(dl, "dl"):
        dl = dl.dl
    given = (getattr(part, "generator", None) for part in (dl, getattr(dl, "sampler", None)))
    return next((generator for generator in given if generator is not None), None)


def bit_sums(model: nn.Module) -> list[int]:
    """Return a whole number for the bits of each parameter and buffer, in the order of names.

    None where a tensor is of a kind that has no bits yet (lazy layers), or is no dense one.
    """
    try:
        return [
            int(tensor.detach().contiguous().view(WHOLE[tensor.element_size()]).sum())
            for tensor in model.state_dict().values()
        ]
    except (AttributeError, KeyError, RuntimeError, ValueError):
        return []


def size_of(weights: dict[str, Any]) -> float:
    """Return how many bytes weights take; infinitely many, if they are no plain tensors."""
    try:
        return float(sum(tensor.numel() * tensor.element_size() for tensor in weights.values()))
    except (AttributeError, RuntimeError, ValueError):
        return float("inf")
