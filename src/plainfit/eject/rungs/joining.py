"""Definitions joined: a base into the one class derived from it, a function into its one caller."""

import ast
import textwrap

from plainfit.eject.rungs.library import maker
from plainfit.eject.rungs.names import bound
from plainfit.eject.rungs.options import defaults_of
from plainfit.eject.source import Edit, Source, edited

PLAIN = (ast.Name, ast.Attribute, ast.Constant)


def joined(texts: dict[str, str], user: ast.AST, whole: bool) -> dict[str, str]:
    """Return definitions by name, those with one use inside another one joined to it.

    Args:
        texts: of the definitions.
        user: the tree of the rest of the script.
        whole: join functions of several statements too.
    """
    for name in reversed(texts):
        others = {other: text for other, text in texts.items() if other != name}
        if _count(name, user):
            continue
        callers = [other for other, text in others.items() if _count(name, ast.parse(text))]
        if len(callers) != 1 or _count(name, ast.parse(others[callers[0]])) != 1:
            continue
        inner, outer = texts[name], others[callers[0]]
        together = _together(inner, outer, name)
        if together is None and whole:
            together = with_statements(inner, Source(outer), name)
        if together is not None:
            return joined({**others, callers[0]: together}, user, whole)
    return texts


def _count(name: str, tree: ast.AST) -> int:
    return sum(isinstance(node, ast.Name) and node.id == name for node in ast.walk(tree))


def _together(inner: str, outer: str, name: str) -> str | None:
    source = Source(outer)
    node = source.tree.body[0]
    if isinstance(node, ast.ClassDef) and any(source.of(base) == name for base in node.bases):
        return with_base(inner, outer)
    return with_inlined(inner, source, name)


def with_base(base: str, derived: str) -> str | None:
    """Return a class with the methods of its base, and the base's `__init__` in its own.

    It is for optimizers, whose `__init__` passes its options on by name: `**options` of the base
    becomes a dict of those names.
    """
    below, above = Source(derived), Source(base)
    own, general = below.tree.body[0], above.tree.body[0]
    assert isinstance(own, ast.ClassDef)
    assert isinstance(general, ast.ClassDef)
    made, making = maker(own), maker(general)
    if made is None or making is None or making.args.kwarg is None or len(made.body) != 1:
        return None
    call = made.body[0]
    assert isinstance(call, ast.Expr)
    assert isinstance(call.value, ast.Call)
    items = [f'"{each.arg}": {below.of(each.value)}' for each in call.value.keywords]
    start, end = above.line_span(making.body)
    display = "{" + ", ".join(items) + "}"
    names: list[Edit] = [
        (begin - start, stop - start, display)
        for node in ast.walk(making)
        if isinstance(node, ast.Name) and node.id == making.args.kwarg.arg
        for begin, stop in [above.span(node)]
    ]
    body = edited(above.text[start:end], names)
    methods = [each for each in general.body if isinstance(each, ast.FunctionDef)]
    rest = "".join(f"\n{above.block([each])}" for each in methods if each is not making)
    bases = below.text.index("(", below.at(own.lineno, own.col_offset))
    header: Edit = (bases, below.text.index(")", bases) + 1, "")
    return edited(derived, [header, (*below.line_span([call]), f"{body}{rest}")])


def with_inlined(function: str, outer: Source, name: str) -> str | None:
    """Return a definition with a function of one expression in place of its call.

    Only where the call is all that a statement returns or assigns, so that nothing nests.
    """
    inner = Source(function)
    node, statements = _replaceable(inner)
    if node is None or len(statements) != 1:
        return None
    [last] = statements
    if not isinstance(last, ast.Return) or isinstance(last.value, ast.IfExp):
        return None
    calls = [
        each.value
        for each in ast.walk(outer.tree)
        if isinstance(each, ast.Return | ast.Assign)
        and isinstance(each.value, ast.Call)
        and outer.of(each.value.func) == name
    ]
    if not calls or last.value is None:
        return None
    text = _with_values(inner, last.value, _values(inner, node, calls[0], outer))
    return edited(outer.text, [(*outer.span(calls[0]), text)])


def with_statements(function: str, outer: Source, name: str) -> str | None:
    """Return a definition with the statements of a function in place of a last one that calls it.

    Only where the call passes what can stand anywhere, and no name would be that of two things.
    """
    inner = Source(function)
    node, statements = _replaceable(inner)
    if node is None:
        return None
    body = ast.Module(statements, [])
    for caller in ast.walk(outer.tree):
        last = caller.body[-1] if isinstance(caller, ast.FunctionDef) else None
        match last:
            case ast.Expr(ast.Call() as call) | ast.Return(ast.Call() as call) if (
                outer.of(call.func) == name
            ):
                values = _values(inner, node, call, outer)
                passed = [ast.parse(value, mode="eval").body for value in values.values()]
                taken = values.keys() | bound(caller) | _names(caller)
                if not all(isinstance(each, PLAIN) for each in passed) or bound(body) & taken:
                    return None
                lines = _with_values(inner, body, values)
                text = textwrap.indent(lines, " " * (last.col_offset - 4))
                return edited(outer.text, [(*outer.line_span([last]), text)])
    return None


def _replaceable(source: Source) -> tuple[ast.FunctionDef | None, list[ast.stmt]]:
    """Return a function whose body could stand in place of a call, and its statements; or None."""
    node = source.tree.body[0]
    if not isinstance(node, ast.FunctionDef) or node.decorator_list or node.args.vararg:
        return None, []
    return node, node.body[bool(ast.get_docstring(node)) :]


def _names(tree: ast.AST) -> set[str]:
    return {each.id for each in ast.walk(tree) if isinstance(each, ast.Name)}


def _values(inner: Source, node: ast.FunctionDef, call: ast.Call, outer: Source) -> dict[str, str]:
    """Return the text of what each parameter of a function is in a call."""
    values = {name: inner.of(value) for name, value in defaults_of(node).items()}
    names = [arg.arg for arg in node.args.args]
    values |= dict(zip(names, map(outer.of, call.args), strict=False))
    return values | {each.arg or "": outer.of(each.value) for each in call.keywords}


def _with_values(source: Source, tree: ast.expr | ast.Module, values: dict[str, str]) -> str:
    """Return the text of an expression, or the lines of statements, with values for parameters."""
    start, end = source.span(tree) if isinstance(tree, ast.expr) else source.line_span(tree.body)
    edits: list[Edit] = [
        (begin - start, stop - start, values[each.id])
        for each in ast.walk(tree)
        if isinstance(each, ast.Name) and each.id in values
        for begin, stop in [source.span(each)]
    ]
    return edited(source.text[start:end], edits)
