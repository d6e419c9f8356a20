"""What a study is about, and whether a training can be called with it."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plainfit.common.errors import ConfigError, unknown_name
from plainfit.models.build import known_arguments
from plainfit.tuning.space import Spec, parse_space

PRUNERS = ("median", "hyperband", "none")
OFFERED = ("seed", "report", "folder")  # what `train` is given if it names them


@dataclass(frozen=True)
class Plan:
    """What a study is about: what all its processes must agree on."""

    space: dict[str, Spec]
    fixed: dict[str, Any]
    monitor: str
    lower_is_better: bool
    pruner: str
    seeds: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as it is written down."""
        return vars(self) | {"space": {name: spec.plain() for name, spec in self.space.items()}}

    def check_against(self, known: Mapping[str, Any], folder: Path) -> None:
        """Check that a study that was begun is this one.

        Raises:
            ConfigError: if it searches something else, or in another way.
        """
        before = flat({**known, "space": parse_space(known["space"])})
        now = flat(vars(self))
        for name in now | before:
            if before.get(name) != now.get(name):
                was, wanted = (
                    f"{name}={told[name]}" if name in told else f"no {name}"
                    for told in (before, now)
                )
                raise ConfigError(
                    f"a study goes on as it was begun: {folder} with {was}, and {wanted} was asked "
                    "for; choose another folder (--out) for that"
                )


def flat(plan: Mapping[str, Any]) -> dict[str, str]:
    """Return a plan as texts, its settings among them."""
    rest = {n: value for n, value in plan.items() if n not in ("space", "fixed", "trials")}
    searched = {f"search {name}": spec for name, spec in plan["space"].items()}
    return {name: str(value) for name, value in {**searched, **plan["fixed"], **rest}.items()}


def check(
    plan: Plan, train: Callable[..., Any], trials: int, repeat: int, time_limit: float | None
) -> None:
    """Check what `tune` was given.

    Raises:
        ConfigError: if a number or a name is wrong, or `train` cannot be called so.
    """
    for name, value, least in (
        ("trials", trials, 1),
        ("seeds", plan.seeds, 1),
        ("repeat", repeat, 0),
        ("seed", plan.seed, 0),
    ):
        if value < least:
            raise ConfigError(f"{name} must be at least {least}, got {value}")
    if time_limit is not None and not time_limit > 0:
        raise ConfigError(f"a time limit must be a positive number of seconds, got {time_limit}")
    if plan.pruner not in PRUNERS:
        raise ConfigError(unknown_name("pruner", plan.pruner, PRUNERS))
    settings = [*plan.space, *plan.fixed]
    for name in settings:
        if name in OFFERED or settings.count(name) > 1:
            given = "given by tune itself" if name in OFFERED else "fixed"
            raise ConfigError(f"a setting must have one origin, and {name} is searched and {given}")
    known_arguments(train, dict.fromkeys(settings))
    signature = inspect.signature(train)
    offered = [name for name in OFFERED if name in signature.parameters]
    try:
        signature.bind(**dict.fromkeys([*settings, *offered]))
    except TypeError as error:
        raise ConfigError(
            f"train is called with {', '.join(settings)} as keyword arguments: {error}; give the "
            "others by fixed={...}"
        ) from error
    if (plan.seeds > 1 or repeat) and "seed" not in offered:
        raise ConfigError("train must have a parameter seed, to be called with several of them")
