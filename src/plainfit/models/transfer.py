"""A model's layers from the input to the head, and the learning rate of each group."""

from collections.abc import Sequence
from operator import attrgetter

from torch import Tensor, nn

from plainfit.common.errors import ModelError
from plainfit.models.summary import count_parameters, try_batch

MAX_SHARE = 0.9  # a layer with a larger share of the parameters is split into its layers


def layers_in_order(model: nn.Module, xb: Tensor) -> list[str]:
    # Those with parameters, in the order in which `xb` reaches them.
    order: dict[str, None] = {}
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: order.setdefault(name))
        for name, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    try:
        try_batch(model, xb)
    finally:
        for hook in hooks:
            hook.remove()
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
