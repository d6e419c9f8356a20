"""A model's layers, their output shapes, its number of parameters."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plainfit.common.devices import device_of
from plainfit.common.errors import ModelError, raised_as


@dataclass(frozen=True)
class LayerRow:
    """A layer: a module without submodules."""

    name: str
    kind: str
    output_shape: tuple[int, ...] | None  # of one sample; None if it returned no tensor
    parameters: int


def summarize(model: nn.Module, xb: Tensor) -> list[LayerRow]:
    """Pass a batch through the model and return its layers."""
    shapes: dict[nn.Module, tuple[int, ...]] = {}

    def keep_shape(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            shapes[module] = tuple(output.shape[1:])

    leaves = {name: module for name, module in model.named_modules() if not list(module.children())}
    hooks = [module.register_forward_hook(keep_shape) for module in leaves.values()]
    try:
        try_batch(model, xb)
    finally:
        for hook in hooks:
            hook.remove()
    return [
        LayerRow(name or kind, kind, shapes.get(module), count_parameters(module))
        for name, module in leaves.items()
        for kind in [type(module).__name__]
    ]


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def try_batch(model: nn.Module, xb: Tensor) -> Any:
    """Return `model(xb)` in `eval()` mode, without gradients or other side effects."""
    was_training = model.training
    model.eval()
    what = f"the model {type(model).__name__} must take samples of shape {tuple(xb.shape[1:])}"
    try:
        with raised_as(ModelError, what), torch.no_grad(), torch.random.fork_rng(devices=[]):
            return model(xb.to(device_of(model)))
    finally:
        model.train(was_training)
