"""How a program uses a definition: which of its options any call passes."""

import ast
from collections.abc import Iterable
from dataclasses import dataclass, field

from plainfit.eject.rungs.library import Parameter


@dataclass
class Uses:
    """What the calls of a name pass."""

    positions: int = 0
    """The largest number of arguments passed by position."""
    keywords: set[str] = field(default_factory=set)
    unpacked: bool = False
    """Whether a call passes `*args` or `**kwargs`, or a class is derived: all may be used."""
    count: int = 0
    """In how many places the name stands."""

    def add(self, call: ast.Call) -> None:
        """Take a call in."""
        self.positions = max(self.positions, len(call.args))
        self.keywords |= {keyword.arg for keyword in call.keywords if keyword.arg}
        self.unpacked |= any(isinstance(arg, ast.Starred) for arg in call.args)
        self.unpacked |= any(keyword.arg is None for keyword in call.keywords)

    def passes(self, parameters: Iterable[Parameter]) -> set[str]:
        """Return the names of the parameters that a call passes."""
        parameters = list(parameters)
        if self.unpacked:
            return {parameter.name for parameter in parameters}
        by_position = [parameter.name for parameter in parameters if parameter.by_position]
        return set(by_position[: self.positions]) | self.keywords

    def beyond(self, parameters: Iterable[Parameter]) -> str | None:
        """Return an option that a call passes and the parameters lack, if there is one."""
        parameters = list(parameters)
        names = {parameter.name for parameter in parameters}
        if missing := sorted(self.keywords - names):
            return missing[0]
        by_position = [parameter for parameter in parameters if parameter.by_position]
        return f"argument {self.positions}" if self.positions > len(by_position) else None


def uses_of(nodes: set[ast.AST], tree: ast.AST) -> Uses:
    """Return how a program uses what stands at some nodes.

    Where it is passed on (`loss_func = F.cross_entropy`, `act=nn.ReLU`), any call of a variable may
    be a call of it; the ones that call it under a name of its own do not count.
    """
    uses = Uses(count=len(nodes))
    passed_on = set(nodes)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if node.func in nodes:
                passed_on.discard(node.func)
                uses.add(node)
            if isinstance(node.func, ast.Name) and node.func.id in ("isinstance", "issubclass"):
                passed_on -= set(ast.walk(node))
        elif isinstance(node, ast.ClassDef):
            uses.unpacked |= bool(nodes & set(node.bases))
        elif isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            passed_on -= set(ast.walk(node.annotation))
        elif isinstance(node, ast.FunctionDef) and node.returns is not None:
            passed_on -= set(ast.walk(node.returns))
    if passed_on:
        for call in _calls_of_variables(tree):
            uses.add(call)
    return uses


def _calls_of_variables(tree: ast.AST) -> list[ast.Call]:
    """Return the calls of what a program gets as an argument, assigns, or keeps in `self`."""
    variables: set[str] = set()
    defined: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            variables.add(node.id)
        elif isinstance(node, ast.arg):
            variables.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
    variables -= defined

    def is_variable(func: ast.expr) -> bool:
        if isinstance(func, ast.Attribute):
            is_own = isinstance(func.value, ast.Name) and func.value.id == "self"
            return is_own and func.attr not in defined
        return isinstance(func, ast.Name) and func.id in variables

    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    has_star = [any(isinstance(arg, ast.Starred) for arg in call.args) for call in calls]
    pairs = zip(calls, has_star, strict=True)
    return [call for call, star in pairs if is_variable(call.func) and not star]
