"""Objects as expressions: how a script writes down a function, a layer, a schedule, a number."""

import argparse
import inspect
from collections import OrderedDict
from collections.abc import Mapping
from enum import Enum
from functools import partial
from keyword import iskeyword
from pathlib import PurePath
from types import BuiltinFunctionType, SimpleNamespace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn, optim

from plainfit.common.errors import EjectError
from plainfit.eject.source import Imports, display, is_literal, literal, place

# Modules with a usual short name, the most specific first.
USUAL = (
    (torch.nn.functional, "F", "import torch.nn.functional as F"),
    (nn, "nn", "from torch import nn"),
    (optim, "optim", "from torch import optim"),
    (torch, "torch", "import torch"),
)
MOST_NUMBERS = 32  # in a tensor that is written down; others go into the file beside the script


class Definitions(Protocol):
    """What an expression may need of a script (a `Lifter`)."""

    imports: Imports

    def lift(self, thing: Any) -> str: ...

    def keep(self, tensor: Tensor) -> str: ...


def expression(value: Any, lifter: Definitions) -> str:
    if is_literal(value):
        return literal(value)
    match value:
        case torch.dtype() | range():
            return repr(value)
        case torch.device():
            return f"torch.device({literal(str(value))})"
        case PurePath():
            lifter.imports.add("from pathlib import Path")
            return literal(value)
        case Enum():
            return f"{named(type(value), lifter)}.{value.name}"
        case np.generic():
            return expression(value.item(), lifter)
        case Tensor():
            return tensor_text(value, lifter)
        case np.ndarray() if value.dtype.kind in "bif":
            return f"{tensor_text(torch.from_numpy(value), lifter)}.numpy()"
        case partial():
            lifter.imports.add("from functools import partial")
            function = expression(value.func, lifter)
            return call("partial", [function, *(expression(v, lifter) for v in value.args)],
                        {k: expression(v, lifter) for k, v in value.keywords.items()})  # fmt: skip
    if type(value) in (list, tuple, dict):  # with others than literals in it
        if isinstance(value, dict):
            pairs = [[expression(part, lifter) for part in pair] for pair in value.items()]
            return display(dict, map(": ".join, pairs))
        return display(type(value), [expression(item, lifter) for item in value])
    if inspect.ismethod(value):
        return f"{expression(value.__self__, lifter)}.{value.__name__}"
    if isinstance(value, type) or inspect.isroutine(value):
        return named(value, lifter)
    return constructor(value, lifter)


def tensor_text(tensor: Tensor, lifter: Definitions) -> str:
    """Return an expression for a tensor: its numbers, or its name in the file of tensors."""
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
        raise EjectError(
            f"a script can write down a dense tensor, got one of layout {tensor.layout}; make it "
            "in the function or class that uses it"
        )
    own = tensor.detach().cpu()
    if 0 < own.numel() <= MOST_NUMBERS:
        numbers = own.tolist()
        if own.dtype is torch.float32:  # with as few digits as give the same bits
            numbers = own.numpy().astype(str).astype(float).tolist()
        is_usual = own.dtype in (torch.int64, torch.bool, torch.get_default_dtype())
        dtype = "" if is_usual else f", dtype={own.dtype}"
        text = f"torch.tensor({literal(numbers)}{dtype})"
    else:
        text = f"data[{literal(lifter.keep(tensor))}]"
    if not tensor.is_cpu:
        text += ".to(DEVICE)"
    return f"{named(nn.Parameter, lifter)}({text})" if isinstance(tensor, nn.Parameter) else text


def named(value: Any, lifter: Definitions) -> str:
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


def constructor(value: Any, lifter: Definitions) -> str:
    positional, keywords = arguments_of(value)
    return call(
        named(type(value), lifter),
        [expression(given, lifter) for given in positional],
        {name: expression(given, lifter) for name, given in keywords.items()},
    )


def arguments_of(value: Any) -> tuple[list[Any], dict[str, Any]]:
    kind = type(value)
    if kind in (nn.ModuleList, nn.ModuleDict, OrderedDict):
        return [dict(value.items()) if isinstance(value, Mapping | nn.ModuleDict) else [*value]], {}
    if kind is nn.Sequential:
        children = OrderedDict(value._modules)  # with one that is there twice
        is_numbered = [*children] == [*map(str, range(len(value)))]
        return [*value] if is_numbered else [children], {}
    if kind in (SimpleNamespace, argparse.Namespace):
        return [], vars(value)
    if kind.__init__ is nn.Module.__init__ or kind is nn.Identity:  # they ignore their arguments
        return [], {}
    if isinstance(kind.__new__, BuiltinFunctionType) and kind.__new__ is not object.__new__:
        raise EjectError(  # an array of NumPy, say: its arguments are not its content
            f"a script cannot write down a {kind.__name__}; use numbers, lists or tensors"
        )
    positional, keywords = list[Any](), dict[str, Any]()
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
            positional += given
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            keywords |= given
            continue
        if name == "bias" and not isinstance(given, bool):  # the tensor, where it has one
            given = given is not None
        if parameter.default is parameter.empty:
            positional.append(given)
        elif not same(given, parameter.default):
            keywords[name] = given
    return positional, keywords


def rebuilt(value: Any) -> Any:
    """Return a module made as this one was: `constructor` as an object."""
    value = getattr(value, "_orig_mod", value)  # what torch.compile wraps
    if isinstance(value, nn.Module):
        positional, keywords = arguments_of(value)
        return type(value)(*rebuilt(positional), **rebuilt(keywords))
    if isinstance(value, dict):
        return type(value)((name, rebuilt(part)) for name, part in value.items())
    return type(value)(map(rebuilt, value)) if type(value) in (list, tuple) else value


def same(value: Any, default: Any) -> bool:
    if isinstance(value, Tensor):
        return value is default
    if isinstance(value, tuple) and not isinstance(default, tuple):
        return all(part == default for part in value)
    return type(value) is type(default) and bool(value == default)


def call(function: str, positional: list[str], keywords: dict[str, str]) -> str:
    is_name = {name: name.isidentifier() and not iskeyword(name) for name in keywords}
    arguments = [*positional, *(f"{k}={v}" for k, v in keywords.items() if is_name[k])]
    if others := [f"{literal(k)}: {v}" for k, v in keywords.items() if not is_name[k]]:
        arguments.append(f"**{{{', '.join(others)}}}")
    return f"{function}({', '.join(arguments)})"
