"""What every other room uses: errors, files, devices, random numbers, plots; the version."""

import warnings
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

__version__ = "0.1.0"
P = ParamSpec("P")
T = TypeVar("T")


def deprecated(since: str, gone_in: str, remedy: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Have a function, or a class by its `__init__`, warn each place in a program that calls it."""

    def decorate(call: Callable[P, T]) -> Callable[P, T]:
        name = call.__qualname__.removesuffix(".__init__")
        text = f"{name} is deprecated since plainfit {since}, and goes in {gone_in}; {remedy}"

        @wraps(call)
        def warned(*args: P.args, **kwargs: P.kwargs) -> T:
            warnings.warn(text, FutureWarning, stacklevel=2)  # shown once for each place
            return call(*args, **kwargs)

        return warned

    return decorate
