"""Values that come from outside, checked against type hints: settings, and what JSON files hold."""

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from plainfit.common.errors import ConfigError

KINDS: dict[Any, tuple[type, str]] = {
    bool: (bool, "true or false"),
    dict: (dict, "names with values"),
    float: (Real, "a number"),
    int: (Integral, "a whole number"),
    list: (list, "a list"),
    str: (str, "text"),
    NoneType: (NoneType, "null"),
    Path: (Path, "a path"),
}
WIDEST = 2**63  # whole numbers from here on do not fit into the integers of torch


@dataclass(frozen=True)
class Between:
    """The least and the largest value of a number, both included."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        low, high = (
            f"{value:,}" if isinstance(value, int) else f"{value:g}"
            for value in (self.low, self.high)
        )
        return f"at least {low} and at most {high}"


# Numbers have limits, within which they do what they say: no overflow of an integer, no float32
# that is rounded to 0, 1 or infinity.
COUNT, UP_TO_COUNT, SEED = Between(1, 10**9), Between(0, 10**9), Between(0, 2**63 - 1)
SHARDS = 8  # pieces of a batch on several processes, where their number is not given
SHARE, AMOUNT, UP_TO_AMOUNT = Between(0, 0.999999), Between(1e-38, 1e38), Between(0, 1e38)


def check_values(values: Mapping[str, Any], hints: Mapping[str, Any]) -> None:
    """Refuse the first value that does not fit its type hint."""
    for name, value in values.items():
        if wrong := misfit(value, hints[name], name):
            raise ConfigError(wrong, field=name)


def misfit(value: Any, hint: Any, name: str) -> str:
    """Return what is wrong with a value, in one line that starts with its name; empty if it fits.

    >>> misfit({"sizes": [3, "4"]}, dict[str, list[int]], "data")
    "data.sizes[1] must be a whole number, got '4'"
    >>> misfit(0, Annotated[int, Between(1, 10)], "epochs")
    'epochs must be at least 1 and at most 10, got 0'
    """
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return ""
    if origin is NotRequired:
        return misfit(value, args[0], name)
    if origin is Annotated:
        limits = next((part for part in args if isinstance(part, Between)), None)
        wrong = misfit(value, args[0], name)
        if wrong or limits is None or not isinstance(value, Real):
            return wrong
        number = int(value) if isinstance(value, Integral) else float(value)
        return "" if number in limits else f"{name} must be {limits}, got {shown(value)}"
    if origin in (Union, UnionType):
        kinds = [kind for kind in args if fits_kind(value, kind)]
        wanted = " or ".join(dict.fromkeys(kind_of(kind)[1] for kind in args))
        return misfit(value, kinds[0], name) if kinds else must_be(name, wanted, value)
    if origin is Literal:
        return "" if value in args else must_be(name, f"one of {', '.join(args)}", value)
    if not fits_kind(value, hint):
        return must_be(name, kind_of(hint)[1], value)
    if isinstance(value, Integral) and not -WIDEST <= int(value) < WIDEST:
        return must_be(name, "below 2**63", value)
    if isinstance(value, str | Path) and "\0" in str(value):
        return must_be(name, "without NUL characters", value)
    parts: list[tuple[Any, Any, str]] = []  # values, hints and names within the value
    if is_typeddict(hint):
        if missing := sorted(hint.__required_keys__ - value.keys()):
            return f"{name or 'it'} must have {missing[0]!r}, and lacks it"
        hints = hints_of(hint)
        start = f"{name}." if name else ""
        parts = [(value[key], hints[key], f"{start}{key}") for key in hints if key in value]
    elif origin is dict:
        parts = [(key, args[0], f"a name in {name}") for key in value]
        parts += [(part, args[1], f"{name}.{key}") for key, part in value.items()]
    elif origin is list:
        parts = [(part, args[0], f"{name}[{place}]") for place, part in enumerate(value)]
    return next(filter(None, (misfit(*part) for part in parts)), "")


@cache
def hints_of(hint: type) -> dict[str, Any]:
    return get_type_hints(hint, include_extras=True)


def kind_of(hint: Any) -> tuple[type, str]:
    return KINDS[dict if is_typeddict(hint) else get_origin(hint) or hint]


def fits_kind(value: Any, hint: Any) -> bool:
    return isinstance(value, kind_of(hint)[0]) and (hint is bool or not isinstance(value, bool))


def must_be(name: str, wanted: str, value: Any) -> str:
    return f"{name or 'it'} must be {wanted}, got {shown(value)}"


def shown(value: Any) -> str:
    # Large whole numbers have no `repr` that Python agrees to write.
    return (
        "a huge number"
        if isinstance(value, int) and abs(value) > WIDEST**2
        else reprlib.repr(value)
    )
