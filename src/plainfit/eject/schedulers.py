"""Schedulers of torch: how each was made, from what it keeps of its arguments."""

import inspect
from collections import Counter
from collections.abc import Callable
from typing import Any

from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from plainfit.common.errors import EjectError
from plainfit.eject.lifting import Lifter
from plainfit.eject.values import call, expression, named


def made(scheduler: LRScheduler, lifter: Lifter) -> str:
    """Return the call that makes a scheduler like this one as it was at first.

    Raises:
        EjectError: if it does not keep what it was made with.
    """
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
    """Return what was given as an argument: kept as it is, once for each group, or in private.

    Raises:
        EjectError: if it was not kept.
    """
    for kept_as in (name, f"_{name}"):
        if kept_as in kept:
            given = kept[kept_as]
            return sorted(given.elements()) if isinstance(given, Counter) else given
    if groups := kept.get(f"{name}s"):
        return groups if any(value != groups[0] for value in groups) else groups[0]
    raise EjectError(
        f"a script must know how a scheduler was made, and {kind.__name__} of torch does not keep "
        f"its argument {name}; use one of plainfit.training.schedules, or a function step -> factor"
    )


def text_of(value: Any, lifter: Lifter) -> str:
    """Return an argument as text; schedulers may be in it."""
    if isinstance(value, LRScheduler):
        return made(value, lifter)
    if isinstance(value, list | tuple):
        return f"[{', '.join(text_of(item, lifter) for item in value)}]"
    return expression(value, lifter)


def one_cycle(scheduler: OneCycleLR) -> dict[str, Any]:
    """Return what a OneCycleLR was made with, which it keeps in its groups and phases only."""
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
    """Return the number that was given, by what was computed from it.

    Raises:
        EjectError: if none gives that to the last bit.
    """
    for candidate in (round(rough, 6), rough):
        if fits(candidate):
            return candidate
    raise EjectError(
        "a script must know how a scheduler was made to the last bit, and this OneCycleLR keeps "
        f"only about {rough:.6g} of an argument; give one with fewer digits"
    )
