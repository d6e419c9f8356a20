"""A script whose definitions are written for the calls that it has of them: `--inline`.

What all calls of a definition pass alike becomes a part of it; a layer that computes one expression
stands where the model calls it, and only its weights are kept.
"""

import ast
import re
from collections.abc import Iterator

from plainfit.eject.rungs.fold import constant, simplified
from plainfit.eject.rungs.library import maker
from plainfit.eject.rungs.names import bound
from plainfit.eject.rungs.options import defaults_of, with_constants
from plainfit.eject.source import Edit, Source, attributes, edited, listed

Definition = ast.ClassDef | ast.FunctionDef
INPUT = "\0"
"""Stands for what a layer is called with, in what it computes."""
INPUT_ALONE = re.compile(f"[(,] ?{INPUT}[,)]")
"""Where it is an argument of a call, it needs no brackets."""
OPERATIONS = (ast.BinOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.Lambda, ast.UnaryOp, ast.Tuple)


def inlined(text: str) -> str:
    """Return a script that does the same, with fewer arguments, and layers where they are used."""
    while (shorter := next(_steps(Source(text)), None)) is not None:
        text = shorter
    return text


def _steps(source: Source) -> Iterator[str]:
    """Yield the script with one change, for every change that can be made."""
    bases = {source.of(base) for node in source.tree.body for base in getattr(node, "bases", [])}
    layers = {
        node.name: node
        for node in source.tree.body
        if isinstance(node, ast.ClassDef) and node.name not in bases and _method(node, "forward")
    }
    for node in source.tree.body:
        if isinstance(node, ast.FunctionDef) or getattr(node, "name", "") in layers:
            assert isinstance(node, Definition)
            yield from _with_fewer_arguments(source, node)
    for node in layers.values():
        yield from _with_layers(source, node, layers)
    for node in layers.values():
        yield from _without_unreached(source, node)


def _method(node: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    methods = (each for each in node.body if isinstance(each, ast.FunctionDef))
    return next((each for each in methods if each.name == name), None)


def _uses(source: Source, node: Definition) -> list[ast.Name]:
    """Return where a definition is named."""
    names = (each for each in ast.walk(source.tree) if isinstance(each, ast.Name))
    return [each for each in names if each.id == node.name]


def _foreign(source: Source, node: ast.AST) -> set[str]:
    """Return the attributes that the rest of the script names."""
    return set().union(*(attributes(each) for each in source.tree.body if each is not node))


def _with_fewer_arguments(source: Source, node: Definition) -> Iterator[str]:
    """Yield the script without the arguments that every call of a definition passes alike."""
    function, uses = maker(node), _uses(source, node)
    calls = [each for each in ast.walk(source.tree) if isinstance(each, ast.Call)]
    calls = [call for call in calls if call.func in uses]
    if function is None or not calls or len(calls) < len(uses):
        return
    passed = [_passed(source, node, call) for call in calls]
    first, *others = passed
    taken = bound(ast.Module(function.body, [])) | {
        each.id  # within an f-string of Python 3.11, whose positions are wrong
        for each in ast.walk(function)
        if isinstance(each, ast.Name) and source.of(each) != each.id
    }
    fixed = {
        name: text
        for name, text in (first or {}).items()
        if name not in taken and _is_fixed(text) and all(o and o.get(name) == text for o in others)
    }
    if fixed:
        edits = [_without(source, node, call, fixed) for call in calls]
        text = simplified(with_constants(source.of(node), fixed), _foreign(source, node))
        yield edited(source.text, [*edits, (*source.span(node), text)])


def _passed(source: Source, node: Definition, call: ast.Call) -> dict[str, str] | None:
    """Return the text of each parameter's value in a call, or None where that cannot be seen."""
    function = maker(node)
    if function is None or function.args.vararg or function.args.kwarg or "#" in source.of(call):
        return None
    if any(isinstance(each, ast.Starred) for each in call.args):
        return None
    values = defaults_of(function)
    values |= dict(zip(_names(node, function), call.args, strict=False))
    values |= {keyword.arg or "**": keyword.value for keyword in call.keywords}
    texts = {name: source.of(value) for name, value in values.items()}
    return texts if "**" not in texts else None


def _names(node: Definition, function: ast.FunctionDef) -> list[str]:
    """Return the parameters that a call of a definition may pass by position."""
    return [arg.arg for arg in function.args.args][isinstance(node, ast.ClassDef) :]


def _is_fixed(text: str) -> bool:
    """Return whether an expression is a constant, or the name of a setting."""
    return text.isupper() or constant(ast.parse(text, mode="eval").body) is not None


def _without(source: Source, node: Definition, call: ast.Call, fixed: dict[str, str]) -> Edit:
    """Return the edit that takes arguments out of a call."""
    function = maker(node)
    assert function is not None
    by_position = zip(_names(node, function), call.args, strict=False)
    parts = [source.of(value) for name, value in by_position if name not in fixed]
    parts += [source.of(each) for each in call.keywords if each.arg not in fixed]
    return (*source.span(call), listed(source.of(call.func), parts, "", call.col_offset))


def _with_layers(
    source: Source, model: ast.ClassDef, layers: dict[str, ast.ClassDef]
) -> Iterator[str]:
    """Yield the script with what a layer of a model computes in place of a call of it."""
    made = _method(model, "__init__")
    for statement in made.body if made else []:
        match statement:
            case ast.Assign([ast.Attribute(ast.Name("self"), name)], ast.Call(ast.Name(kind))):
                if kind in layers:
                    yield from _at_its_use(source, model, statement, name, layers[kind])


def _at_its_use(
    source: Source, model: ast.ClassDef, statement: ast.Assign, name: str, layer: ast.ClassDef
) -> Iterator[str]:
    """Yield the script with a call of a layer written out, or without a layer of no state."""
    assert isinstance(statement.value, ast.Call)
    text = _for_arguments(source, layer, statement.value)
    inner = [each for each in ast.walk(model) if isinstance(each, ast.Attribute)]
    stores = [each for each in inner if each.attr == name and isinstance(each.ctx, ast.Store)]
    expression = _expression(Source(text), f"self.{name}") if text and len(stores) == 1 else None
    if text is None or expression is None:
        return
    functions = [each for each in model.body if isinstance(each, ast.FunctionDef)]
    free = {each.id for each in ast.walk(ast.parse(expression.replace(INPUT, "self")))
            if isinstance(each, ast.Name)}  # fmt: skip
    for function in functions:
        for call in ast.walk(function):
            match call:
                case ast.Call(ast.Attribute(ast.Name("self"), attr), [arg], []) if attr == name:
                    given = source.of(arg)
                    is_whole = INPUT_ALONE.search(expression) and not isinstance(arg, ast.Tuple)
                    if isinstance(arg, OPERATIONS) and not is_whole:
                        given = f"({given})"
                    is_once = expression.count(INPUT) == 1 or isinstance(arg, ast.Name)
                    if is_once and not free - {"self"} & bound(function):
                        new = expression.replace(INPUT, given)
                        yield edited(source.text, [(*source.span(call), new)])
    reads = sum(each.attr == name for each in inner) - 1
    if not reads and name not in _foreign(source, model) and not _has_state(text):
        yield edited(source.text, [(*source.line_span([statement]), "")])


def _for_arguments(source: Source, layer: ast.ClassDef, made: ast.Call) -> str | None:
    """Return a layer's text for the arguments that it is made with."""
    if maker(layer) is None:
        return source.of(layer)
    passed = _passed(source, layer, made)
    if passed is None:
        return None
    fixed = {name: value for name, value in passed.items() if _is_fixed(value)}
    stored = {
        each.attr
        for statement in source.tree.body
        if statement is not layer
        for each in ast.walk(statement)
        if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store)
        and not (isinstance(each.value, ast.Name) and each.value.id == "self")
    }  # fmt: skip
    return simplified(with_constants(source.of(layer), fixed), stored)


def _expression(layer: Source, own: str) -> str | None:
    """Return what a layer computes, or None if that is no expression.

    Args:
        layer: its text.
        own: what the model calls it.
    """
    (node,) = layer.tree.body
    assert isinstance(node, ast.ClassDef)
    forward = _method(node, "forward")
    last = forward.body[-1] if forward else None
    if forward is None or not isinstance(last, ast.Return) or last.value is None:
        return None
    is_long = len(forward.body) > 1 + bool(ast.get_docstring(forward))
    if is_long or len(forward.args.args) != 2 or forward.args.defaults:
        return None
    start = layer.span(last.value)[0]
    edits: list[Edit] = []
    for each in ast.walk(last.value):
        if isinstance(each, ast.Lambda | ast.comprehension | ast.JoinedStr):
            return None
        if isinstance(each, ast.Name) and each.id == "super":
            return None
        if isinstance(each, ast.Name) and each.id in ("self", forward.args.args[1].arg):
            begin, end = layer.span(each)
            edits.append((begin - start, end - start, own if each.id == "self" else INPUT))
    text = edited(layer.of(last.value), edits).replace(f"{own}.training", "self.training")
    return f"({text})" if isinstance(last.value, OPERATIONS) else text


def _has_state(text: str) -> bool:
    """Return whether a layer keeps something."""
    layer = Source(text)
    (node,) = layer.tree.body
    made = maker(node)
    return made is not None and [layer.of(each) for each in made.body] != ["super().__init__()"]


def _without_unreached(source: Source, layer: ast.ClassDef) -> Iterator[str]:
    """Yield the script without a layer that nothing names, or its function that nothing calls."""
    uses, forward = _uses(source, layer), _method(layer, "forward")
    assert forward is not None
    if not uses:
        start, end = source.line_span([layer])
        yield edited(source.text, [(len(source.text[:start].rstrip()) + 1, end, "")])
    kept = []
    for node in ast.walk(source.tree):
        match node:
            case ast.Assign([ast.Attribute(ast.Name("self"), name)], ast.Call(ast.Name(made))):
                kept += [name] if made == layer.name else []
    nodes = [each for each in ast.walk(source.tree) if isinstance(each, ast.Attribute)]
    read_within = {each.value for each in nodes}
    loads = [each for each in nodes if each.attr in kept and isinstance(each.ctx, ast.Load)]
    if uses and len(kept) == len(uses) and all(each in read_within for each in loads):
        begin, stop = source.line_span([layer])
        start, end = source.line_span([forward])
        start = len(source.text[:start].rstrip()) + 1
        rest = source.text[begin:start] + source.text[end:stop]
        yield edited(source.text, [(begin, stop, simplified(rest, _foreign(source, layer)))])
