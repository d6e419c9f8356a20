"""Which methods of the classes that are written out a program calls; the others are left out."""

import ast

import torch

from plainfit.eject.rungs.source import Source, attributes, edited, strings

KEPT = {"forward", "__init__", "__new__", "__setattr__", "__call__", "__iter__"}
NEEDS = {"__len__": "len", "__deepcopy__": "deepcopy"}
"""Methods that python calls for the functions of these names."""


def pruned(texts: dict[str, str], user: ast.AST) -> dict[str, str]:
    """Return definitions by name without the methods that nothing in the program calls."""
    if not any("register_buffer" in attributes(tree) for tree in trees_of(texts, user)):
        texts = {name: without_buffers(text) for name, text in texts.items()}
    while True:
        program = {name: ast.parse(text) for name, text in texts.items()}
        modules = module_names([user, *program.values()])
        for name, text in texts.items():
            dead = _dead_method(name, program, user, modules)
            if dead is not None:
                texts = {**texts, name: _without(text, dead)}
                break
        else:
            return texts


def trees_of(texts: dict[str, str], user: ast.AST) -> list[ast.AST]:
    """Return the trees of a program's definitions and of the rest."""
    return [user, *(ast.parse(text) for text in texts.values())]


def without_buffers(text: str) -> str:
    """Return our Module for a program that registers no buffers."""
    source = Source(text)
    loops = [
        node
        for node in ast.walk(source.tree)
        if isinstance(node, ast.For) and source.of(node.iter) == "self.own_buffers()"
    ]
    return edited(text, [(*source.line_span([loop]), "") for loop in loops])


def _dead_method(
    name: str, program: dict[str, ast.Module], user: ast.AST, modules: set[str]
) -> str | None:
    node = program[name].body[0]
    if not isinstance(node, ast.ClassDef):
        return None
    for method in node.body:
        if not isinstance(method, ast.FunctionDef):
            continue
        if _only_passes_on(method):
            return method.name
        if method.name in KEPT:
            continue
        rest = [each for other, each in program.items() if other != name]
        rest += [user, *(each for each in node.body if each is not method)]  # type: ignore[list-item]
        is_unclear = _is_layer(node) and (
            hasattr(torch.Tensor, method.name) or method.name == "zero_grad"
        )
        if not any(_calls(method.name, tree, modules, is_unclear) for tree in rest):
            return method.name
    return None


def _only_passes_on(method: ast.FunctionDef) -> bool:
    """Return whether a method only calls the one it overrides, with its own arguments."""
    names = ", ".join(arg.arg for arg in method.args.args[1:])
    return ast.unparse(ast.Module(method.body, [])) == f"super().{method.name}({names})" and bool(
        names
    )


def _calls(method: str, tree: ast.AST, modules: set[str], is_unclear: bool) -> bool:
    """Return whether a tree may call a method.

    Args:
        method: its name.
        tree: of a part of the program.
        modules: the names under which the program keeps modules.
        is_unclear: whether tensors or optimizers have a method of that name too.
    """
    nodes = list(ast.walk(tree))
    if method in NEEDS:
        return any(_identifier(node) == NEEDS[method] for node in nodes)
    if method == "__getitem__":
        return any(isinstance(node, ast.Subscript) and _is_module(node.value, modules)
                   for node in nodes)  # fmt: skip
    if not is_unclear:
        return method in attributes(tree) | strings(tree)
    return any(
        isinstance(node, ast.Attribute) and node.attr == method and _is_module(node.value, modules)
        for node in nodes
    )


def _is_module(node: ast.expr, modules: set[str]) -> bool:
    if isinstance(node, ast.Call):
        node = node.func
    return _identifier(node) in modules | {"self"}


def _identifier(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def module_names(trees: list[ast.AST]) -> set[str]:
    """Return the names under which a program keeps what its classes and functions make."""
    nodes = [node for tree in trees for node in ast.walk(tree)]
    defined = [node for tree in trees for node in tree.body]  # type: ignore[attr-defined]
    names = {node.name for node in defined if isinstance(node, ast.FunctionDef)}
    names |= {node.name for node in defined if isinstance(node, ast.ClassDef) and _is_layer(node)}
    names |= {"Sequential", "ModuleList", "model", "module"}
    made: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Assign):
            calls = [each for each in ast.walk(node.value) if isinstance(each, ast.Call)]
            if any(_identifier(call.func) in names for call in calls):
                made |= {_identifier(each) for target in node.targets for each in ast.walk(target)}
    return (names | made) - {""}


def _is_layer(node: ast.ClassDef) -> bool:
    """Return whether a class may be that of modules, and not of optimizers, which have steps."""
    return "step" not in {getattr(method, "name", "") for method in node.body}


def _without(text: str, method: str) -> str:
    """Return a class without a method and the blank line before it."""
    source = Source(text)
    node = source.tree.body[0]
    assert isinstance(node, ast.ClassDef)
    found = next(each for each in node.body if getattr(each, "name", None) == method)
    start, end = source.line_span([found])
    before = len(text[:start].rstrip("\n"))
    return edited(text, [(before + 1, end, "")])
