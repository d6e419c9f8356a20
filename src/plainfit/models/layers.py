"""A model's layers from the input to the head: their shapes and parameters, and rates by group."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from plainfit.common.devices import device_of
from plainfit.common.errors import ModelError, raised_as

MAX_SHARE = 0.9  # a layer with a larger share of the parameters is split into its layers


@dataclass(frozen=True)
class LayerRow:
    """A layer: a module without submodules."""

    name: str
    kind: str
    output_shape: tuple[int, ...] | None  # of one sample; None if it returned no tensor
    parameters: int


def summarize(model: nn.Module, xb: Tensor) -> list[LayerRow]:
    shapes: dict[nn.Module, tuple[int, ...]] = {}

    def keep_shape(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            shapes[module] = tuple(output.shape[1:])

    leaves = {name: module for name, module in model.named_modules() if not list(module.children())}
    hooks = [module.register_forward_hook(keep_shape) for module in leaves.values()]
    try_hooked(model, xb, hooks)
    return [
        LayerRow(name or kind, kind, shapes.get(module), count_parameters(module))
        for name, module in leaves.items()
        for kind in [type(module).__name__]
    ]


def try_hooked(model: nn.Module, xb: Tensor, hooks: Sequence[RemovableHandle]) -> None:
    try:
        try_batch(model, xb)
    finally:
        for hook in hooks:
            hook.remove()


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


def layers_in_order(model: nn.Module, xb: Tensor) -> list[str]:
    # Those with parameters, in the order in which `xb` reaches them.
    order: dict[str, None] = {}
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: order.setdefault(name))
        for name, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    try_hooked(model, xb, hooks)
    return list(order)


def find_head(model: nn.Module, xb: Tensor, classes: int | None = None) -> str:
    """Return the name of the layer that gives the scores: the last one called with parameters."""
    last = (layers_in_order(model, xb) or [""])[-1]
    head = model.get_submodule(last)
    outputs = getattr(head, "out_features", getattr(head, "out_channels", None))
    if outputs is None or classes not in (None, outputs):
        wanted = "its scores" if classes is None else f"{classes} scores"
        raise ModelError(
            f"the head must be the last layer, linear or a convolution, and give {wanted}; in "
            f"{type(model).__name__} the last layer with parameters is {last or 'none'!r}, a "
            f"{type(head).__name__}{'' if outputs is None else f' with {outputs} outputs'}"
        )
    return last


def layer_groups(model: nn.Module, xb: Tensor) -> list[list[str]]:
    """Return the names of the model's layers in groups, from the input to the head.

    A group is a layer with parameters, such as a stage of a ResNet, with the norms right after it.
    A layer that contains the head, or most of the model's parameters, is split. Parameters outside
    of all layers belong to the first group.
    """
    head = find_head(model, xb)
    order = layers_in_order(model, xb)
    parts = parts_of(model, "", head)
    first = {
        part: min((i for i, n in enumerate(order) if f"{n}.".startswith(f"{part}.")), default=-1)
        for part in parts
    }
    groups: list[list[str]] = []
    for part in sorted(parts, key=first.__getitem__):
        if groups and "Norm" in type(model.get_submodule(part)).__name__:
            groups[-1].append(part)
        else:
            groups.append([part])
    if len(groups) < 2 or groups[-1] != [head]:
        raise ModelError(
            f"fine-tuning needs layers before the head, and {type(model).__name__} has none before "
            f"{head or 'itself'!r}; train it from scratch"
        )
    inside = tuple(f"{part}." for part in parts)
    groups[0] += [name for name, _ in model.named_parameters() if not name.startswith(inside)]
    return groups


def parts_of(model: nn.Module, name: str, head: str) -> list[str]:
    module = model.get_submodule(name)
    size = count_parameters(module)
    inner = [f"{name}.{child}".lstrip(".") for child, _ in module.named_children()]
    has_head = name in ("", head[: len(name)]) and name != head
    if not inner or not (has_head or size > MAX_SHARE * count_parameters(model)):
        return [name] if size else []
    return [part for child in inner for part in parts_of(model, child, head)]


def layer_rates(lr: float, groups: int, ratio: float) -> list[float]:
    """Return a learning rate for each group, evenly spaced in their logarithms up to `lr`.

    These are discriminative learning rates (Howard & Ruder 2018, arXiv:1801.06146, section 3.2),
    with fastai's spacing: https://docs.fast.ai/callback.schedule.html#learner.fine_tune.

    >>> layer_rates(1.0, 3, 100)
    [0.01, 0.1, 1.0]
    """
    return [lr * ratio ** (number / (groups - 1) - 1) for number in range(groups)]


def parameter_groups(
    model: nn.Module, groups: Sequence[Sequence[str]], ratio: float
) -> list[tuple[list[Tensor], float]]:
    """Return each group's parameters with their rate, as a factor of the head's.

    A parameter that several groups share belongs to the first.
    """
    left = {id(parameter): parameter for parameter in model.parameters()}
    result = []
    for names, rate in zip(groups, layer_rates(1.0, len(groups), ratio), strict=True):
        params = []
        for part in (attrgetter(name)(model) for name in names):
            found = [part] if isinstance(part, Tensor) else part.parameters()
            params += [p for p in found if left.pop(id(p), None) is not None]
        result.append((params, rate))
    return result
