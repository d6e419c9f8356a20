"""The optimizer and torch's schedulers in a script: their classes and options."""

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from keyword import iskeyword
from typing import Any

from torch import Tensor, nn
from torch.optim import LBFGS
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from plainfit.common.errors import EjectError
from plainfit.eject.lifting import Lifter
from plainfit.eject.recipe import Recipe
from plainfit.eject.source import display, literal
from plainfit.eject.values import call, expression, named
from plainfit.training.callbacks.optimization import TorchScheduler

CONSTANTS = {"lr": "LR", "momentum": "MOMENTUM", "weight_decay": "WEIGHT_DECAY"}


class OptimizerText:
    def __init__(self, recipe: Recipe, lifter: Lifter) -> None:
        self.recipe = recipe
        self.lifter = lifter
        self.roots = {"model": recipe.model}
        """What the script has with parameters, by name."""
        if isinstance(recipe.loss_func, nn.Module):
            self.roots["loss_func"] = recipe.loss_func
        parameters = inspect.signature(type(recipe.opt)).parameters
        by_scheduler = any(isinstance(c, TorchScheduler) for c in recipe.callbacks)
        groups = [{k: v for k, v in group.items() if k in parameters} for group in recipe.groups]
        for own, group in zip(groups, recipe.groups, strict=True):
            own["lr"] = group.get("initial_lr", own["lr"]) if by_scheduler else own["lr"]
        differing = {k for k, v in groups[0].items() if any(g[k] != v for g in groups)}
        self.own = [{k: v for k, v in group.items() if k in differing} for group in groups]
        """The options of each group that differ between the groups."""
        self.shared = {
            name: value
            for name, value in groups[0].items()
            if name not in differing and (name == "lr" or value != parameters[name].default)
        }

    def limits(self) -> Iterator[EjectError]:
        kind = type(self.recipe.opt)
        if kind is LBFGS:
            yield EjectError(
                "a script takes one gradient a step, and LBFGS evaluates the loss several times in "
                "one; train with another optimizer"
            )
        if any(group.get("fused") for group in self.recipe.groups):
            yield EjectError(
                f"a fused {kind.__name__} rounds differently from the levels below", "data"
            )

    def constants(self) -> dict[str, Any]:
        return {CONSTANTS[k]: v for k, v in self.shared.items() if k in CONSTANTS}

    def lines(self) -> list[str]:
        options = {
            name: CONSTANTS.get(name) or expression(value, self.lifter)
            for name, value in self.shared.items()
        }
        groups = []
        for group, own in zip(self.recipe.opt.param_groups, self.own, strict=True):
            entries = {"params": parameters_text(group["params"], self.roots)}
            entries |= {name: expression(value, self.lifter) for name, value in own.items()}
            groups.append(display(dict, [f"{literal(k)}: {text}" for k, text in entries.items()]))
        given = display(list, groups) if groups[1:] else entries["params"]
        return [f"opt = {call(named(type(self.recipe.opt), self.lifter), [given], options)}"]


def parameters_text(params: list[Tensor], roots: dict[str, nn.Module]) -> str:
    """Return an expression for some parameters of a model and a loss, in their order."""
    for text, candidate in candidates(roots):
        if same(candidate, params):
            return text
    if layers := layers_text(params, roots):
        return layers
    names = {id(parameter): name for name, parameter in roots["model"].named_parameters()}
    if any(id(parameter) not in names for parameter in params):
        raise EjectError(
            "a script's optimizer holds the model's parameters, and this one holds others too; "
            "make them part of the model, or of a loss that is a module"
        )
    listed = literal(tuple(names[id(parameter)] for parameter in params))
    return f"[model.get_parameter(name) for name in {listed}]"


def candidates(roots: dict[str, nn.Module]) -> Iterator[tuple[str, list[Tensor]]]:
    own: list[Tensor] = list(roots["model"].parameters())
    yield "model.parameters()", own
    frozen = "[p for p in model.parameters() if p.requires_grad]"
    yield frozen, [p for p in own if p.requires_grad]
    for text, inner in layers_of(roots):
        yield text, inner
        yield f"[p for p in {text} if p.dim() > 1]", [p for p in inner if p.dim() > 1]
        yield f"[p for p in {text} if p.dim() <= 1]", [p for p in inner if p.dim() <= 1]


def layers_of(roots: dict[str, nn.Module]) -> Iterator[tuple[str, list[Tensor]]]:
    for root, model in roots.items():
        for name, module in model.named_modules():
            yield f"{path_to(name, model, root)}.parameters()", list(module.parameters())


def path_to(name: str, model: nn.Module, root: str = "model") -> str:
    text, owner = root, model
    for step in filter(None, name.split(".")):
        if step.isidentifier() and not iskeyword(step):
            text += f".{step}"
        elif step.isdecimal() and hasattr(owner, "__getitem__"):
            text += f"[{step}]"
        else:
            text += f".get_submodule({literal(step)})"
        owner = getattr(owner, step)
    return text


def layers_text(params: list[Tensor], roots: dict[str, nn.Module]) -> str:
    texts, rest = [], params
    while rest:
        starts = [(t, p) for t, p in layers_of(roots) if p and same(p, rest[: len(p)])]
        if not starts:
            return ""
        text, own = starts[0]  # an outer layer comes before those in it
        texts.append(f"*{text}")
        rest = rest[len(own) :]
    return f"[{', '.join(texts)}]"


def same(some: Iterable[Tensor], others: Iterable[Tensor]) -> bool:
    return [*map(id, some)] == [*map(id, others)]


def scheduler_text(scheduler: LRScheduler, lifter: Lifter) -> str:
    kind = type(scheduler)
    kept = one_cycle(scheduler) if isinstance(scheduler, OneCycleLR) else vars(scheduler)
    options = {}
    for name, parameter in inspect.signature(kind).parameters.items():
        if name in ("optimizer", "last_epoch", "verbose"):
            continue
        given = argument(name, kept, kind)
        if given != parameter.default:
            options[name] = text_of(given, lifter)
    optimizer = [] if kind.__name__ == "ChainedScheduler" else ["opt"]
    return call(named(kind, lifter), optimizer, options)


def argument(name: str, kept: dict[str, Any], kind: type) -> Any:
    """Return an argument that a scheduler stores: by name, by a private name, or by group."""
    for kept_as in (name, f"_{name}"):
        if kept_as in kept:
            given = kept[kept_as]
            return sorted(given.elements()) if isinstance(given, Counter) else given
    if groups := kept.get(f"{name}s"):
        return groups if any(value != groups[0] for value in groups) else groups[0]
    raise EjectError(
        f"a script needs the arguments of a scheduler, and {kind.__name__} of torch does not store "
        f"{name}; use one of plainfit.training.schedules, or a function step -> factor"
    )


def text_of(value: Any, lifter: Lifter) -> str:
    if isinstance(value, LRScheduler):
        return scheduler_text(value, lifter)
    if isinstance(value, list | tuple):
        return f"[{', '.join(text_of(item, lifter) for item in value)}]"
    return expression(value, lifter)


def one_cycle(scheduler: OneCycleLR) -> dict[str, Any]:
    groups, phases = scheduler.optimizer.param_groups, scheduler._schedule_phases
    steps, end = scheduler.total_steps, phases[0]["end_step"]
    first, low, high = (groups[0][name] for name in ("initial_lr", "min_lr", "max_lr"))
    return {
        "max_lrs": [group["max_lr"] for group in groups],
        "total_steps": steps,
        "epochs": None,
        "steps_per_epoch": None,
        "pct_start": number((end + 1) / steps, lambda part: part * steps - 1 == end),
        "anneal_strategy": scheduler._anneal_func_type,
        "cycle_momentum": scheduler.cycle_momentum,
        "base_momentums": [group.get("base_momentum", 0.85) for group in groups],
        "max_momentums": [group.get("max_momentum", 0.95) for group in groups],
        "div_factor": number(high / first, lambda factor: high / factor == first),
        "final_div_factor": number(first / low, lambda factor: first / factor == low),
        "three_phase": len(phases) == 3,
    }


def number(rough: float, fits: Callable[[float], bool]) -> float:
    """Return the argument that gave a computed value to the last bit."""
    for candidate in (round(rough, 6), rough):
        if fits(candidate):
            return candidate
    raise EjectError(
        "a script needs the arguments of a scheduler to the last bit, and one of this OneCycleLR "
        f"can only be told to be about {rough:.6g}; pass a number with fewer digits"
    )
