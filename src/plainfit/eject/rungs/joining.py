"""Definitions joined: a base into the one class derived from it, a function into its one caller."""

import ast

from plainfit.eject.rungs.library import maker
from plainfit.eject.rungs.source import Edit, Source, edited


def joined(texts: dict[str, str], user: ast.AST) -> dict[str, str]:
    """Return definitions by name, those with one use inside another one joined to it."""
    for name in reversed(texts):
        others = {other: text for other, text in texts.items() if other != name}
        if _count(name, user):
            continue
        callers = [other for other, text in others.items() if _count(name, ast.parse(text))]
        if len(callers) != 1 or _count(name, ast.parse(others[callers[0]])) != 1:
            continue
        together = _together(texts[name], others[callers[0]], name)
        if together is not None:
            return joined({**others, callers[0]: together}, user)
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
    node = inner.tree.body[0]
    if not isinstance(node, ast.FunctionDef) or node.decorator_list:
        return None
    last = node.body[-1]
    length = len(node.body) - bool(ast.get_docstring(node))
    if length != 1 or not isinstance(last, ast.Return) or isinstance(last.value, ast.IfExp):
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
    names = [arg.arg for arg in node.args.args]
    values = dict(zip(names, (outer.of(arg) for arg in calls[0].args), strict=False))
    values |= {each.arg or "": outer.of(each.value) for each in calls[0].keywords}
    start, _ = inner.span(last.value)
    edits: list[Edit] = []
    for each in ast.walk(last.value):
        if isinstance(each, ast.Name) and each.id in names:
            if each.id not in values:
                return None
            begin, end = inner.span(each)
            edits.append((begin - start, end - start, values[each.id]))
    return edited(outer.text, [(*outer.span(calls[0]), edited(inner.of(last.value), edits))])
