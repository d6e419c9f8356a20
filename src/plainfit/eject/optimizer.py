"""The optimizer in a script: its class, its options, its groups of parameters."""

import inspect
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.optim import LBFGS

from plainfit.common.errors import EjectError
from plainfit.eject.lifting import Lifter
from plainfit.eject.recipe import Recipe
from plainfit.eject.values import call, expression, named
from plainfit.training.callbacks.optimization import LearningRate, TorchScheduler

CONSTANTS = {"lr": "LR", "momentum": "MOMENTUM", "weight_decay": "WEIGHT_DECAY"}


class OptimizerText:
    """The lines of a script that are about the optimizer."""

    def __init__(self, recipe: Recipe, lifter: Lifter) -> None:
        self.recipe = recipe
        self.lifter = lifter
        kind = type(recipe.opt)
        parameters = inspect.signature(kind).parameters
        self.groups = [self.options(group, parameters) for group in recipe.groups]
        shared = self.groups[0].items()
        self.shared = {k: v for k, v in shared if all(k in g and g[k] == v for g in self.groups)}

    def options(self, group: dict[str, Any], parameters: Any) -> dict[str, Any]:
        """Return the options of a group that are not the class's defaults."""
        kinds = LearningRate | TorchScheduler
        scheduled = any(isinstance(c, kinds) for c in self.recipe.callbacks)
        own = {**group, "lr": group.get("initial_lr", group["lr"]) if scheduled else group["lr"]}
        return {
            name: value
            for name, value in own.items()
            if name in parameters and (name == "lr" or value != parameters[name].default)
        }

    def limits(self) -> Iterator[EjectError]:
        """Yield why it stops above the lowest rung, if it does."""
        kind = type(self.recipe.opt)
        if kind is LBFGS:
            yield EjectError(
                "a script takes one gradient a step, and LBFGS evaluates the loss several times in "
                "one; train with another optimizer"
            )
        if any(group.get("fused") for group in self.recipe.groups):
            yield EjectError(
                f"a fused {kind.__name__} rounds in its own way, and no rung below", "data"
            )

    def settings(self) -> list[str]:
        """Return the usual options as constants."""
        return [f"{CONSTANTS[k]} = {v!r}" for k, v in self.shared.items() if k in CONSTANTS]

    def lines(self) -> list[str]:
        """Return the statement that makes the optimizer."""
        options = {
            name: CONSTANTS.get(name) or expression(value, self.lifter)
            for name, value in self.shared.items()
        }
        kind = named(type(self.recipe.opt), self.lifter)
        groups = self.recipe.opt.param_groups
        if len(groups) == 1:
            names = parameters_text(groups[0]["params"], self.recipe.model)
            return [f"opt = {call(kind, [names], options)}"]
        lines = [f"opt = {kind}(", "    ["]
        for group, own in zip(groups, self.groups, strict=True):
            entries = {
                k: expression(v, self.lifter) for k, v in own.items() if k not in self.shared
            }
            # An option at its default here is said, where another group has its own.
            entries |= self.defaults(own)
            names = parameters_text(group["params"], self.recipe.model)
            items = ", ".join(f'"{k}": {v}' for k, v in {"params": names, **entries}.items())
            lines.append(f"        {{{items}}},")
        rest = "".join(f"    {name}={value},\n" for name, value in options.items())
        return [*lines, "    ],", *rest.splitlines(), ")"]

    def defaults(self, own: dict[str, Any]) -> dict[str, str]:
        """Return what other groups set and this one leaves at its default."""
        others = {name for group in self.groups for name in group} - own.keys() - {*self.shared}
        parameters = inspect.signature(type(self.recipe.opt)).parameters
        return {name: expression(parameters[name].default, self.lifter) for name in sorted(others)}


def parameters_text(params: list[Tensor], model: nn.Module) -> str:
    """Return an expression for some of a model's parameters, in their order.

    Raises:
        EjectError: if one of them is not the model's.
    """
    for text, candidate in candidates(model):
        if same(candidate, params):
            return text
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    if any(id(parameter) not in names for parameter in params):
        raise EjectError(
            "a script's optimizer holds the model's parameters, and this one holds others too; "
            "make them part of the model"
        )
    if layers := layers_text(params, model):
        return layers
    listed = ", ".join(f'"{names[id(parameter)]}"' for parameter in params)
    return f"[model.get_parameter(name) for name in ({listed},)]"


def candidates(model: nn.Module) -> Iterator[tuple[str, list[Tensor]]]:
    """Yield the usual ways to choose parameters, with what they give."""
    own: list[Tensor] = list(model.parameters())
    yield "model.parameters()", own
    frozen = "[p for p in model.parameters() if p.requires_grad]"
    yield frozen, [p for p in own if p.requires_grad]
    for text, inner in layers_of(model):
        yield text, inner
        yield f"[p for p in {text} if p.dim() > 1]", [p for p in inner if p.dim() > 1]
        yield f"[p for p in {text} if p.dim() <= 1]", [p for p in inner if p.dim() <= 1]


def layers_of(model: nn.Module) -> Iterator[tuple[str, list[Tensor]]]:
    """Yield an expression for the parameters of each layer, and those; the model's first."""
    for name, module in model.named_modules():
        steps = [
            f"[{step}]" if step.isdecimal() else f".{step}" for step in name.split(".") if step
        ]
        yield f"model{''.join(steps)}.parameters()", list(module.parameters())


def layers_text(params: list[Tensor], model: nn.Module) -> str:
    """Return a list of the parameters of whole layers one after another; empty if it is none."""
    texts, rest = [], params
    while rest:
        starts = [(t, own) for t, own in layers_of(model) if own and same(own, rest[: len(own)])]
        if not starts:
            return ""
        text, own = starts[0]  # an outer layer comes before those in it
        texts.append(f"*{text}")
        rest = rest[len(own) :]
    return f"[{', '.join(texts)}]"


def same(some: list[Tensor], others: list[Tensor]) -> bool:
    """Return whether two lists hold the very same tensors, in the same order."""
    return len(some) == len(others) and all(a is b for a, b in zip(some, others, strict=True))
