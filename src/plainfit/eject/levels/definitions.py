"""The definitions of `plainfit.ladder.scratch`: their texts, and what they need of each other."""

import ast
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from plainfit.eject.lifting import shortened
from plainfit.eject.source import Source, names_in

PACKAGE = "plainfit.ladder.scratch"
HOMES = {  # which modules have the definitions for what of torch
    "optim": ("optimizers",),
    "layers": ("layers",),
    "nn": ("modules",),
    "init": ("modules",),
    "utils": ("optimizers",),
    "tensors": ("functions",),
    "math": ("sums", "functions"),
}
ON_TORCH = {"F": "import torch.nn.functional as F", "nn": "from torch import nn"}
"""What a pasted definition imports in place of our own `functional` and `modules`."""
Node = ast.ClassDef | ast.FunctionDef
Key = tuple[str, str]
"""The module of a definition, and its name there."""


@dataclass(frozen=True)
class Signature:
    """The parameters of a function, or of the `__init__` of a class."""

    positional: tuple[str, ...]
    names: frozenset[str]
    takes_all: bool = False
    """Whether it takes any number of positional arguments."""

    def unknown_option(self, call: ast.Call) -> ast.expr | ast.keyword | None:
        """Return the first argument of a call that the function does not take."""
        if self.takes_all:
            return None
        for keyword in call.keywords:
            if keyword.arg and keyword.arg not in self.names:
                return keyword
        if any(isinstance(each, ast.Starred) for each in call.args):
            return None
        return next(iter(call.args[len(self.positional) :]), None)


@dataclass(frozen=True)
class Definition:
    """A function or class of `plainfit.ladder.scratch`."""

    module: str
    name: str
    text: str
    signature: Signature
    needs: dict[str, Key]
    """The definitions that its text names, by their names there."""
    imports: frozenset[str]
    """The import statements that its text needs."""


@cache
def definitions(module: str) -> dict[str, Definition]:
    """Return the definitions of a module by name."""
    text = (files(PACKAGE) / f"{module}.py").read_text(encoding="utf-8")
    source = Source(shortened(text, ()))
    nodes = [node for node in source.tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    needs = {node.name: (module, node.name) for node in nodes}
    imports: dict[str, str] = {}
    for node in source.tree.body:
        if isinstance(node, ast.Import):
            imports |= {alias.name: f"import {alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            for alias in node.names:
                name = alias.asname or alias.name
                if node.module == PACKAGE:
                    imports[name] = ON_TORCH[name]
                elif node.module.startswith(PACKAGE):
                    needs[name] = node.module.rsplit(".", 1)[1], alias.name
                else:
                    imports[name] = f"from {node.module} import {name}"
    return {
        node.name: Definition(
            module,
            node.name,
            source.block([node]),
            signature(node, {each.name: each for each in nodes}),
            {name: needs[name] for name in sorted(names_in(node)) if name in needs},
            frozenset(imports[name] for name in names_in(node) if name in imports),
        )
        for node in nodes
    }


def find(home: str, name: str) -> Definition | None:
    """Return the definition of that name in the first module of a home that has one."""
    found = (definitions(module).get(name) for module in HOMES[home])
    return next((definition for definition in found if definition), None)


def signature(node: Node, nodes: dict[str, Node]) -> Signature:
    """Return the parameters of a call of a definition; its base's if it has no `__init__`."""
    function = node
    if isinstance(node, ast.ClassDef):
        methods = {each.name: each for each in node.body if isinstance(each, ast.FunctionDef)}
        function = methods.get("__init__") or methods.get("__new__") or node
    if isinstance(function, ast.ClassDef):
        names = [base.id for base in function.bases if isinstance(base, ast.Name)]
        bases = [nodes[name] for name in names if name in nodes]
        return signature(bases[0], nodes) if bases else Signature((), frozenset())
    args = function.args
    positional = tuple(arg.arg for arg in args.args[isinstance(node, ast.ClassDef) :])
    parameters = frozenset([*positional, *(arg.arg for arg in args.kwonlyargs)])
    return Signature(positional, parameters, args.vararg is not None)
