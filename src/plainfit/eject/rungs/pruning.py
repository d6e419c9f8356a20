"""Which methods of the classes that are written out a program calls; the others are left out."""

import ast
from collections.abc import Iterator

import torch

from plainfit.eject.source import Source, attributes, edited, strings

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
        dead = {name: list(_dead_methods(name, program, user, modules)) for name in texts}
        if not any(dead.values()):
            return texts
        texts = {name: _without(text, dead[name]) for name, text in texts.items()}


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


def _dead_methods(
    name: str, program: dict[str, ast.Module], user: ast.AST, modules: set[str]
) -> Iterator[str]:
    """Yield the names of methods of a class that nothing calls."""
    node = program[name].body[0]
    if not isinstance(node, ast.ClassDef):
        return
    others: list[ast.AST] = [user, *(each for other, each in program.items() if other != name)]
    said = {each: attributes(each) | strings(each) for each in [*others, *node.body]}
    if "save_model" in {_identifier(each) for each in ast.walk(user)}:
        said[user].add("state_dict")  # which safetensors calls
    for method in node.body:
        if not isinstance(method, ast.FunctionDef):
            continue
        if _only_passes_on(method):
            yield method.name
        if method.name in KEPT:
            continue
        rest = [each for each in said if each is not method]
        is_unclear = _is_layer(node) and (
            hasattr(torch.Tensor, method.name) or method.name == "zero_grad"
        )
        if is_unclear or method.name in (*NEEDS, "__getitem__"):
            is_used = any(_calls(method.name, tree, modules) for tree in rest)
        else:
            is_used = any(method.name in said[tree] for tree in rest)
        if not is_used:
            yield method.name


def _only_passes_on(method: ast.FunctionDef) -> bool:
    """Return whether a method only calls the one it overrides, with its own arguments."""
    names = [arg.arg for arg in method.args.args[1:]]
    body = ast.unparse(ast.Module(method.body, []))
    return body == f"super().{method.name}({', '.join(names)})"


def _calls(method: str, tree: ast.AST, modules: set[str]) -> bool:
    """Return whether a tree may call a method of a module that other things have too.

    Args:
        method: its name.
        tree: of a part of the program.
        modules: the names under which the program keeps modules.
    """
    nodes = list(ast.walk(tree))
    if method in NEEDS:
        return any(_identifier(node) == NEEDS[method] for node in nodes)
    if method == "__getitem__":
        items = [node for node in nodes if isinstance(node, ast.Subscript)]
        return any(_is_module(node.value, modules) for node in items)
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


def _without(text: str, methods: list[str]) -> str:
    """Return a class without some methods and the blank lines before them."""
    source = Source(text)
    node = source.tree.body[0]
    edits = []
    for found in node.body if isinstance(node, ast.ClassDef) else []:
        if getattr(found, "name", None) in methods:
            start, end = source.line_span([found])
            edits.append((len(text[:start].rstrip("\n")) + 1, end, ""))
    return edited(text, edits)
