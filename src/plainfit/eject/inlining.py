"""One small function of ours put into another, where only that one calls it."""

from collections.abc import Callable
from typing import Any

from plainfit.eject.layout import indented
from plainfit.eject.lifting import Lifter
from plainfit.eject.specialise import Facts, Specialiser


def inline(outer: Callable[..., Any], inner: Callable[..., Any], lifter: Lifter) -> None:
    """Lift a function that returns an expression with a call of another one.

    Both have parameters of the same names, and the call passes them on as they are.
    """
    code = Specialiser(inner, Facts())
    passed = ", ".join(parameters(inner))
    facts = Facts(texts={f"{inner.__name__}({passed})": code.returned()})
    whole = Specialiser(outer, facts)
    first_line = next(line for line in whole.lines if line.startswith("def "))
    doc = (outer.__doc__ or "").split("\n")[0]
    body = [f'"""{doc}"""', *code.body(), f"return {whole.returned()}"]
    lifter.put(outer, "\n".join([first_line, *indented(body)]))


def parameters(function: Callable[..., Any]) -> list[str]:
    """Return how a function's parameters are passed on."""
    arguments = Specialiser(function, Facts()).arguments()
    return [arg.arg for arg in arguments.args] + (
        [f"*{arguments.vararg.arg}"] if arguments.vararg else []
    )
