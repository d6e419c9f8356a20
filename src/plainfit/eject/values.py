"""Objects as expressions: how a script writes down a function, a layer, a schedule, a number."""

import functools
import inspect
from keyword import iskeyword
from types import BuiltinFunctionType
from typing import Any

import torch
from torch import Tensor, nn, optim

from plainfit.common.errors import EjectError
from plainfit.eject.layout import is_literal, literal
from plainfit.eject.lifting import Lifter, place

# Modules with a usual short name, the most specific first.
USUAL = (
    (torch.nn.functional, "F", "import torch.nn.functional as F"),
    (nn, "nn", "from torch import nn"),
    (optim, "optim", "from torch import optim"),
    (torch, "torch", "import torch"),
)


def expression(value: Any, lifter: Lifter) -> str:
    if is_literal(value):
        return literal(value)
    if isinstance(value, torch.dtype | range):
        return repr(value)
    if isinstance(value, Tensor):
        raise EjectError(
            f"a script cannot write down a tensor of shape {tuple(value.shape)}; make it in the "
            "function or class that uses it"
        )
    if isinstance(value, functools.partial):
        lifter.imports.add("from functools import partial")
        function = expression(value.func, lifter)
        return call("partial", [function, *(expression(v, lifter) for v in value.args)],
                    {k: expression(v, lifter) for k, v in value.keywords.items()})  # fmt: skip
    if isinstance(value, type) or inspect.isroutine(value):
        return named(value, lifter)
    return constructor(value, lifter)


def named(value: Any, lifter: Lifter) -> str:
    name = getattr(value, "__name__", "")
    for module, short, statement in USUAL:
        if getattr(module, name, None) is value:
            lifter.imports.add(statement)
            return f"{short}.{name}"
    if getattr(value, "__module__", None) is None:
        raise EjectError(
            f"a script needs functions and classes that know their module, and {value!r} has no "
            "__module__; wrap it in a function of your own"
        )
    return lifter.lift(value)


def constructor(value: Any, lifter: Lifter) -> str:
    """Return the call that makes an object like this one, from the arguments that it stores."""
    kind = type(value)
    if isinstance(value, nn.Sequential) and kind is nn.Sequential:
        return call(named(kind, lifter), [expression(part, lifter) for part in value], {})
    if kind.__init__ is nn.Module.__init__ or kind is nn.Identity:  # they ignore their arguments
        return f"{named(kind, lifter)}()"
    positional, keywords = [], {}
    if isinstance(kind.__new__, BuiltinFunctionType) and kind.__new__ is not object.__new__:
        raise EjectError(  # an array of NumPy, say: its arguments are not its content
            f"a script cannot write down a {kind.__name__}; use numbers, lists or tensors"
        )
    for name, parameter in inspect.signature(kind).parameters.items():
        if name in ("device", "dtype"):
            continue
        if not hasattr(value, name):
            if parameter.default is not parameter.empty:
                continue
            raise EjectError(
                f"{place(kind)}: a script must know how a {kind.__name__} was made, and it does "
                f"not keep its argument {name}; set self.{name}, or build it in a function that is "
                "passed to plainfit.get_model"
            )
        given = getattr(value, name)
        if parameter.kind is parameter.VAR_POSITIONAL:
            positional += [expression(item, lifter) for item in given]
            continue
        if name == "bias" and not isinstance(given, bool):  # the tensor, where it has one
            given = given is not None
        if parameter.default is parameter.empty:
            positional.append(expression(given, lifter))
        elif not same(given, parameter.default):
            keywords[name] = expression(given, lifter)
    return call(named(kind, lifter), positional, keywords)


def same(value: Any, default: Any) -> bool:
    if isinstance(value, tuple) and not isinstance(default, tuple):
        return all(part == default for part in value)
    return type(value) is type(default) and bool(value == default)


def call(function: str, positional: list[str], keywords: dict[str, str]) -> str:
    is_name = {name: name.isidentifier() and not iskeyword(name) for name in keywords}
    arguments = [*positional, *(f"{k}={v}" for k, v in keywords.items() if is_name[k])]
    if others := [f"{literal(k)}: {v}" for k, v in keywords.items() if not is_name[k]]:
        arguments.append(f"**{{{', '.join(others)}}}")
    return f"{function}({', '.join(arguments)})"
