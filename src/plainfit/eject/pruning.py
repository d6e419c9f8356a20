"""Our own definitions, shorter: without what a script that has run once has no use for."""

import ast
from collections.abc import Collection, Iterator

from plainfit.eject.splicing import Edit, replaced


def pruned(text: str, unused: Collection[str]) -> str:
    """Return a definition of ours without unused methods and checks, with short docstrings.

    Args:
        text: of a class, a function or another statement.
        unused: names of methods, and of functions that give back what they are given.
    """
    nodes = ast.walk(ast.parse(text))
    text = without(text, [inner for node in nodes for inner in removable(node, unused)])
    text = without(text, list(unread(ast.parse(text))))
    tree = ast.parse(text)
    return replaced(text, [*short_docstrings(tree), *lone_classes(tree, unused)])


def without(text: str, statements: list[ast.stmt]) -> str:
    """Return the text without the lines of some statements."""
    gone = {
        line
        for node in statements
        for line in range(
            min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]),
            (node.end_lineno or node.lineno) + 1,
        )
    }
    kept = [line for number, line in enumerate(text.splitlines(), 1) if number not in gone]
    return "\n".join(without_double_blanks(kept))


def unread(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield assignments of an argument to an attribute that no method of a model reads."""
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    read = {node.attr for node in attributes if isinstance(node.ctx, ast.Load)}
    for node in ast.walk(tree):
        match node:
            case ast.Assign([ast.Attribute(ast.Name("self"), name)], ast.Name(value)):
                if name == value and name not in read:
                    yield node


def removable(node: ast.AST, unused: Collection[str]) -> Iterator[ast.stmt]:
    """Yield the statements within a node that go."""
    for statement in getattr(node, "body", []) if isinstance(node, ast.ClassDef) else []:
        if isinstance(statement, ast.FunctionDef) and statement.name in unused:
            yield statement
    for statement in node.body if isinstance(node, ast.FunctionDef) else []:
        match statement:
            case ast.If(body=[ast.Raise()], orelse=[]):
                yield statement
            case ast.Assign([ast.Name(name)], ast.Call(ast.Name(function), [ast.Name(given), *_])):
                if name == given and function in unused:
                    yield statement
            case ast.Expr(ast.Call(func=ast.Name(name))) if name.startswith("check_"):
                yield statement


def short_docstrings(tree: ast.Module) -> Iterator[Edit]:
    """Yield the first paragraph of each docstring in place of the whole."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef | ast.FunctionDef):
            continue
        match node.body[0]:
            case ast.Expr(ast.Constant(str(doc)) as whole) if "\n" in doc:
                first = doc.split("\n\n")[0].rstrip()
                end = f"\n{' ' * whole.col_offset}" if "\n" in first else ""
                yield Edit.of(whole, f'"""{first}{end}"""')


def lone_classes(tree: ast.Module, unused: Collection[str]) -> Iterator[Edit]:
    """Yield the names of schedules that use nothing of their base class, in place of both."""
    for node in tree.body:
        match node:
            case ast.ClassDef(bases=[ast.Name("Schedule") as base], body=body):
                methods = {item.name for item in body if isinstance(item, ast.FunctionDef)}
                if "momentum" in {*methods, *unused}:
                    line, start = base.lineno, base.col_offset - 1  # with its brackets
                    yield Edit(line, start, line, base.col_offset + len("Schedule") + 1, "")


def without_double_blanks(lines: list[str]) -> Iterator[str]:
    """Yield lines, no two blank ones in a row, and none after a heading or at the end."""
    while lines and not lines[-1].strip():
        lines = lines[:-1]
    before = ":"
    for line in lines:
        if line.strip() or before.strip():
            yield line
        before = line
