"""Which of torch's names a script uses, whatever it calls them."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from plainfit.eject.source import Source

SHORT = {  # the beginnings by which we know torch's names, the longest first
    "torch.nn.functional.": "F.",
    "torch.nn.parameter.": "nn.",
    "torch.nn.utils.clip_grad.": "nn.utils.",
    "torch.nn.": "nn.",
    "torch.optim.optimizer.": "optim.",
    "torch.optim.": "optim.",
}


@dataclass(frozen=True)
class Reference:
    """A place where a script names a part of torch."""

    node: ast.expr
    name: str
    """Such as `nn.Linear`, `F.relu`, `optim.SGD`, `torch.compile`; `nn` for the module itself."""


def imported(tree: ast.AST) -> dict[str, str]:
    """Return what the names that a script imports from torch stand for, in full."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "torch":
                    names[alias.asname or "torch"] = alias.name if alias.asname else "torch"
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def short(name: str) -> str:
    """Return the name by which we know a part of torch.

    >>> short("torch.nn.functional.relu"), short("torch.nn.Linear"), short("torch.nn")
    ('F.relu', 'nn.Linear', 'nn')
    """
    for start, ours in SHORT.items():
        if f"{name}." == start:
            return ours[:-1]
        if name.startswith(start):
            return ours + name[len(start) :]
    return name


def references(source: Source) -> list[Reference]:
    """Return the longest names of torch's parts in a script, in the order of the text."""
    known = imported(source.tree)
    found = list(_chains(source.tree, known))
    return sorted(found, key=lambda ref: (ref.node.lineno, ref.node.col_offset))


def _chains(node: ast.AST, known: dict[str, str]) -> Iterator[Reference]:
    dotted = _dotted(node)
    if dotted is not None:
        root, *rest = dotted.split(".")
        if root in known:
            assert isinstance(node, ast.expr)
            yield Reference(node, short(".".join([known[root], *rest])))
        return
    for child in ast.iter_child_nodes(node):
        yield from _chains(child, known)


def _dotted(node: ast.AST) -> str | None:
    """Return `a.b.c` for a chain of attributes of a name that is read, else None."""
    if isinstance(node, ast.Name):
        return node.id if isinstance(node.ctx, ast.Load) else None
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value)
        return None if before is None else f"{before}.{node.attr}"
    return None


def bound(tree: ast.AST) -> set[str]:
    """Return every name that a tree assigns, defines, imports or takes as an argument."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
    return names
