"""Options that no call passes, made constants: a definition is as general as its uses."""

import ast

from plainfit.eject.rungs.library import maker
from plainfit.eject.rungs.source import Edit, Source, edited, listed


def without_options(text: str, passed: set[str]) -> str:
    """Return a definition in which the options that no call passes are constants.

    Args:
        text: of the definition.
        passed: the parameters that some call passes.
    """
    return _with_constants(text, maker(Source(text).tree.body[0]), passed)


def of_methods(text: str, program: ast.AST) -> str:
    """Return a class in which the options of methods that no call passes are constants."""
    node = Source(text).tree.body[0]
    if not isinstance(node, ast.ClassDef):
        return text
    names = [each.name for each in node.body if isinstance(each, ast.FunctionDef)]
    for name in names:
        node = Source(text).tree.body[0]
        assert isinstance(node, ast.ClassDef)
        method = next(each for each in node.body if getattr(each, "name", "") == name)
        assert isinstance(method, ast.FunctionDef)
        if method.args.defaults and not name.startswith("__"):
            calls = [
                each
                for tree in (program, node)
                for each in ast.walk(tree)
                if isinstance(each, ast.Call)
                and isinstance(each.func, ast.Attribute)
                and each.func.attr == name
            ]
            positions = max((len(call.args) for call in calls), default=0)
            passed = {keyword.arg or "" for call in calls for keyword in call.keywords}
            passed |= {arg.arg for arg in method.args.args[1 : 1 + positions]}
            text = _with_constants(text, method, passed)
    return text


def with_known_pairs(text: str, nodes: set[ast.AST], program: ast.AST) -> str:
    """Write `pair(size)` as `(size, size)` for a parameter that every call passes as a number.

    Args:
        text: of the definition.
        nodes: where the program names it.
        program: the tree of all that may call it.
    """
    node = Source(text).tree.body[0]
    calls = [
        each for each in ast.walk(program) if isinstance(each, ast.Call) and each.func in nodes
    ]
    if not isinstance(node, ast.ClassDef) or len(calls) != len(nodes):
        return text
    function = maker(node)
    names = [arg.arg for arg in function.args.args[1:]] if function else []
    source = Source(text)
    edits: list[Edit] = []
    for each in ast.walk(source.tree):
        if isinstance(each, ast.Call) and source.of(each.func) == "pair":
            name = source.of(each.args[0])
            if name in names and all(_is_number(call, name, names.index(name)) for call in calls):
                edits.append((*source.span(each), f"({name}, {name})"))
    return edited(text, edits)


def _is_number(call: ast.Call, name: str, place: int) -> bool:
    """Return whether a call passes a number for a parameter."""
    passed = [keyword.value for keyword in call.keywords if keyword.arg == name]
    passed += call.args[place : place + 1]
    return bool(passed) and isinstance(passed[0], ast.Constant) and isinstance(passed[0].value, int)


def _with_constants(text: str, function: ast.FunctionDef | None, passed: set[str]) -> str:
    """Return a definition in which the options of a function are constants, but for some."""
    source = Source(text)
    if function is None:
        return text
    args = function.args
    plain = args.posonlyargs + args.args
    defaults = [None] * (len(plain) - len(args.defaults)) + list(args.defaults)
    by_position = list(zip(plain, defaults, strict=True))
    by_keyword = list(zip(args.kwonlyargs, args.kw_defaults, strict=True))
    fixed = {
        arg.arg: source.of(default)
        for arg, default in by_position + by_keyword
        if default is not None and arg.arg not in passed
    }
    if not fixed:
        return text
    parts = [_part(source, *each) for each in by_position if each[0].arg not in fixed]
    keywords = [_part(source, *each) for each in by_keyword if each[0].arg not in fixed]
    if args.vararg or keywords:
        parts.append(f"*{args.vararg.arg if args.vararg else ''}")
    parts += keywords + ([f"**{args.kwarg.arg}"] if args.kwarg else [])
    start = text.index("(", source.at(function.lineno, function.col_offset))
    end = text.rindex(":", 0, source.span(function.body[0])[0])
    opening = f"{' ' * function.col_offset}def {function.name}"
    signature = listed(opening, parts, ":", function.col_offset)[len(opening) : -1]
    edits = [(start, end, signature), *_constants(source, function, fixed)]
    return edited(text, edits)


def _constants(source: Source, function: ast.FunctionDef, fixed: dict[str, str]) -> list[Edit]:
    """Put constants in place of a function's options, and of a group's with the same names."""
    edits = [
        (*source.span(each), fixed[each.id])
        for each in ast.walk(function)
        if isinstance(each, ast.Name) and each.id in fixed
    ]
    for each in ast.walk(source.tree):
        is_item = isinstance(each, ast.Subscript) and isinstance(each.slice, ast.Constant)
        if is_item and source.of(each.value) == "group" and each.slice.value in fixed:  # type: ignore[attr-defined]
            edits.append((*source.span(each), fixed[each.slice.value]))  # type: ignore[attr-defined]
    return edits


def _part(source: Source, arg: ast.arg, default: ast.expr | None) -> str:
    return arg.arg if default is None else f"{arg.arg}={source.of(default)}"
