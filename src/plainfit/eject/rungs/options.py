"""Options that no call passes, made constants: a definition is as general as its uses."""

import ast

from plainfit.eject.rungs.library import maker
from plainfit.eject.source import Edit, Source, attributes, edited, listed, strings


def without_options(text: str, passed: set[str]) -> str:
    """Return a definition in which the options that no call passes are constants.

    Args:
        text: of the definition.
        passed: the parameters that some call passes.
    """
    return _without_options(text, maker(Source(text).tree.body[0]), passed)


def with_constants(text: str, fixed: dict[str, str]) -> str:
    """Return a definition in which some parameters are constants, given by their texts."""
    return _with_constants(text, maker(Source(text).tree.body[0]), fixed)


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
            text = _without_options(text, method, passed)
    return text


def without_none(text: str, nodes: set[ast.AST], program: ast.AST) -> str:
    """Drop the default None of a parameter for which every call passes what a function returned.

    It may be kept in `self`, if nothing else is ever kept there by its name.

    Args:
        text: of the definition.
        nodes: where the program names it.
        program: the tree of all that may call it.
    """
    source = Source(text)
    function = maker(source.tree.body[0])
    calls = [each for each in ast.walk(program) if isinstance(each, ast.Call)]
    calls = [each for each in calls if each.func in nodes]
    if function is None or not calls:
        return text
    names = [arg.arg for arg in function.args.args][isinstance(source.tree.body[0], ast.ClassDef) :]
    edits: list[Edit] = []
    defaults = defaults_of(function).items()
    absent = {name: value for name, value in defaults if source.of(value) == "None"}
    made = _made(program) if absent else set()
    for name, default in absent.items():
        given = [_given(names, call).get(name) for call in calls]
        is_made = [isinstance(each, ast.Call) or each in made for each in given]
        if all(is_made):
            start, end = source.span(default)
            edits.append((start - len("="), end, ""))
            edits += [
                (*source.span(each), "False")
                for each in ast.walk(function)
                if isinstance(each, ast.Compare) and source.of(each) == f"{name} is None"
            ]
    return edited(text, edits)


def _given(names: list[str], call: ast.Call) -> dict[str | None, ast.expr]:
    """Return what a call passes by the names of the parameters."""
    by_keyword = {keyword.arg: keyword.value for keyword in call.keywords}
    return {**dict(zip(names, call.args, strict=False)), **by_keyword}


def _made(program: ast.AST) -> set[ast.Attribute]:
    """Return the reads of `self.name` in classes that only assign it what a call returned."""
    nodes = list(ast.walk(program))
    assigned = [each for each in nodes if isinstance(each, ast.Assign)]
    made = {each.targets[0] for each in assigned if isinstance(each.value, ast.Call)}
    own: set[ast.AST] = set()
    reads: set[ast.Attribute] = set()
    for kind in (each for each in nodes if isinstance(each, ast.ClassDef)):
        inner = [each for each in ast.walk(kind) if isinstance(each, ast.Attribute)]
        inner = [each for each in inner if getattr(each.value, "id", "") == "self"]
        stores = {each for each in inner if not isinstance(each.ctx, ast.Load)}
        names = {each.attr for each in stores} - {each.attr for each in stores - made}
        reads |= {each for each in inner if each.attr in names and each not in stores}
        is_heir = any(not ast.unparse(base).endswith("Module") for base in kind.bases)
        own |= set() if is_heir else stores  # an heir changes what its base reads
    others = [each for each in nodes if isinstance(each, ast.Attribute) and each not in own]
    changed = {each.attr for each in others if not isinstance(each.ctx, ast.Load)}
    changed |= strings(program)
    return {each for each in reads if each.attr not in changed}


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


def defaults_of(function: ast.FunctionDef) -> dict[str, ast.expr]:
    """Return the defaults of a function's parameters."""
    args = function.args
    plain = [arg.arg for arg in args.posonlyargs + args.args]
    by_position = zip(reversed(plain), reversed(args.defaults), strict=False)
    by_keyword = zip((arg.arg for arg in args.kwonlyargs), args.kw_defaults, strict=True)
    return {name: value for name, value in (*by_position, *by_keyword) if value is not None}


def _without_options(text: str, function: ast.FunctionDef | None, passed: set[str]) -> str:
    """Return a definition in which the options of a function are constants, but for some."""
    source = Source(text)
    options = defaults_of(function).items() if function else ()
    fixed = {name: source.of(value) for name, value in options if name not in passed}
    return _with_constants(text, function, fixed)


def _with_constants(text: str, function: ast.FunctionDef | None, fixed: dict[str, str]) -> str:
    """Return a definition in which some parameters of a function are constants."""
    source = Source(text)
    if function is None or not fixed:
        return text
    args, defaults = function.args, defaults_of(function)
    by_position = [(arg, defaults.get(arg.arg)) for arg in args.posonlyargs + args.args]
    by_keyword = [(arg, defaults.get(arg.arg)) for arg in args.kwonlyargs]
    parts = [_part(source, *each) for each in by_position if each[0].arg not in fixed]
    keywords = [_part(source, *each) for each in by_keyword if each[0].arg not in fixed]
    if args.vararg or keywords:
        parts.append(f"*{args.vararg.arg if args.vararg else ''}")
    parts += keywords + ([f"**{args.kwarg.arg}"] if args.kwarg else [])
    start = text.index("(", source.at(function.lineno, function.col_offset))
    inner = [*args.posonlyargs, *args.args, *args.kwonlyargs, *defaults.values()]
    end = text.index(")", max(source.span(each)[1] for each in inner)) + 1
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
    is_optimizer = "param_groups" in attributes(source.tree) or "Optimizer" in source.lines[0]
    for each in ast.walk(source.tree) if is_optimizer else ():
        is_item = isinstance(each, ast.Subscript) and isinstance(each.slice, ast.Constant)
        if is_item and source.of(each.value) == "group" and each.slice.value in fixed:  # type: ignore[attr-defined]
            edits.append((*source.span(each), fixed[each.slice.value]))  # type: ignore[attr-defined]
    return edits


def _part(source: Source, arg: ast.arg, default: ast.expr | None) -> str:
    equals = " = " if arg.annotation else "="
    return source.of(arg) + (f"{equals}{source.of(default)}" if default else "")
