"""The definitions of `plainfit.ladder.scratch`: their text, and what they need of each other."""

import ast
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from plainfit.eject.source import Source, blocks, edited

MAKERS = ("__init__", "__new__")
Nodes = dict[str, ast.ClassDef | ast.FunctionDef]
ON_TORCH = {"F": "import torch.nn.functional as F", "nn": "from torch import nn"}


@dataclass(frozen=True)
class Parameter:
    """An argument of a function, or of what makes an object of a class."""

    name: str
    default: str | None
    """Its text; None where there is none."""
    by_position: bool = True


@dataclass(frozen=True)
class Definition:
    """A function or class of a module of `plainfit.ladder.scratch`."""

    module: str
    name: str
    text: str
    parameters: tuple[Parameter, ...] = ()
    needs: tuple[tuple[str, str], ...] = ()
    """(module, name) of the definitions that its text names."""
    imports: tuple[str, ...] = field(default=())
    """The imports of its module whose names its text has, but those of `plainfit`."""


@cache
def definitions(module: str) -> dict[str, Definition]:
    """Return the definitions of a module by name."""
    text = (files("plainfit.ladder.scratch") / f"{module}.py").read_text(encoding="utf-8")
    source = Source(text)
    nodes = {
        node.name: node
        for node in source.tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
    }
    origins = {name: (module, name) for name in nodes}
    imports: dict[str, str] = {}
    for node in source.tree.body:
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        origin = getattr(node, "module", None) or ""
        for alias in node.names:
            name = alias.asname or alias.name
            if origin.startswith("plainfit.ladder.scratch."):
                origins[name] = (origin.rsplit(".", 1)[1], alias.name)
            elif (
                origin == "plainfit.ladder.scratch"
            ):  # our functional and modules: torch's, in a script
                imports[name] = ON_TORCH[name]
            else:
                imports[name] = f"from {origin} import {name}" if origin else f"import {name}"
    return {
        name: _definition(module, source, node, nodes, origins, imports)
        for name, node in nodes.items()
    }


def _definition(
    module: str,
    source: Source,
    node: ast.ClassDef | ast.FunctionDef,
    nodes: Nodes,
    origins: dict[str, tuple[str, str]],
    imports: dict[str, str],
) -> Definition:
    text = source.block([node])
    if isinstance(node, ast.ClassDef) and len(node.body) == 1:
        text = _with_inherited(source, node, nodes)
    text = with_summary(without_checks(text))
    node = Source(text).tree.body[0]  # type: ignore[assignment]
    names = {child.id for child in ast.walk(node) if isinstance(child, ast.Name)}
    return Definition(
        module,
        node.name,
        text,
        parameters_of(text),
        tuple(origins[n] for n in sorted(names) if n in origins and n != node.name),
        tuple(imports[n] for n in sorted(names) if n in imports),
    )


def _with_inherited(source: Source, node: ast.ClassDef, nodes: Nodes) -> str:
    """Return a class that only names its base, as a copy of the base with its own docstring."""
    assert isinstance(node.bases[0], ast.Name)
    base = nodes[node.bases[0].id]
    assert isinstance(base, ast.ClassDef)
    text = source.block([base])
    copy = Source(text)
    made = copy.tree.body[0]
    assert isinstance(made, ast.ClassDef)
    start = copy.text.index(made.name)
    rename = (start, start + len(made.name), node.name)
    return edited(text, [rename, (*copy.span(made.body[0]), source.of(node.body[0]))])


def without_checks(text: str) -> str:
    """Drop what only raises an error: the arguments of the script that is lowered have passed."""
    source = Source(text)
    for node in ast.walk(source.tree):
        for block in blocks(node):
            for statement in block:
                if not isinstance(statement, ast.Raise) and _only_raises(statement):
                    start, end = source.line_span([statement])
                    if isinstance(statement, ast.FunctionDef):
                        start = len(text[:start].rstrip()) + 1  # and the blank line before
                    return without_checks(edited(text, [(start, end, "")]))
    return text


def with_summary(text: str) -> str:
    """Return a definition with docstrings of one line: a script is not where torch is taught."""
    source = Source(text)
    edits = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            first = source.of(node.body[0]).split("\n")[0]
            closed = first if first.endswith('"""') and len(first) > 3 else f'{first}"""'
            edits.append((*source.span(node.body[0]), closed))
    return edited(text, edits)


def _only_raises(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.If | ast.For | ast.FunctionDef):
        has_else = bool(getattr(statement, "orelse", []))
        return not has_else and all(_only_raises(each) for each in statement.body)
    return isinstance(statement, ast.Raise)


def maker(node: ast.AST) -> ast.FunctionDef | None:
    """Return the function that a call of a definition runs: itself, or a class's method."""
    if isinstance(node, ast.FunctionDef):
        return node
    assert isinstance(node, ast.ClassDef)
    methods = (child for child in node.body if isinstance(child, ast.FunctionDef))
    return next((method for method in methods if method.name in MAKERS), None)


def parameters_of(text: str) -> tuple[Parameter, ...]:
    """Return the parameters of a definition, `self` excepted."""
    node = Source(text).tree.body[0]
    function = maker(node)
    if function is None:
        return ()
    args = function.args
    plain = args.posonlyargs + args.args
    defaults = [None] * (len(plain) - len(args.defaults)) + list(args.defaults)
    both = [(arg, default, True) for arg, default in zip(plain, defaults, strict=True)]
    both += [(args.vararg, None, True)] if args.vararg else []
    both += [(arg, d, False) for arg, d in zip(args.kwonlyargs, args.kw_defaults, strict=True)]
    if isinstance(node, ast.ClassDef):
        both = both[1:]
    source = Source(text)
    return tuple(
        Parameter(arg.arg, None if default is None else source.of(default), by_position)
        for arg, default, by_position in both
    )


def find(name: str, modules: tuple[str, ...]) -> Definition | None:
    """Return the definition of that name in the first of some modules that has one."""
    for module in modules:
        if name in definitions(module):
            return definitions(module)[name]
    return None
