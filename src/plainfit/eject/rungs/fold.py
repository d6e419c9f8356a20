"""A definition without what its constants make superfluous.

Text is edited at the positions of its tree, one edit at a time, until no rule applies.
"""

import ast
from collections.abc import Callable, Iterator
from itertools import pairwise

from plainfit.eject.rungs.library import definitions, maker
from plainfit.eject.rungs.source import Edit, Source, blocks, edited, listed


def simplified(text: str, outside: set[str]) -> str:
    """Return a definition without what its constants make superfluous.

    Args:
        text: of the definition.
        outside: the attributes that are used elsewhere in the program.
    """
    while (edit := next(_edits(Source(text), outside), None)) is not None:
        text = edited(text, [edit])
    return text


def _edits(source: Source, outside: set[str]) -> Iterator[Edit]:
    for rule in RULES:
        for node in ast.walk(source.tree):
            edit = rule(source, node)
            if edit is not None:
                yield edit
    yield from _attributes(source, outside)


def branches(source: Source, node: ast.AST) -> Edit | None:
    """Choose the branch of an `if` whose condition is constant."""
    if isinstance(node, ast.IfExp) and (known := constant(node.test)):
        return (*source.span(node), source.of(node.body if known[0] else node.orelse))
    if not isinstance(node, ast.If) or (known := constant(node.test)) is None:
        return None
    chosen = node.body if known[0] else node.orelse
    kept = source.block(chosen) if chosen else ""
    dedented = "".join(line[4:] + "\n" for line in kept.splitlines())
    return (*source.line_span([node]), dedented)


def operators(source: Source, node: ast.AST) -> Edit | None:
    """Shorten `and` and `or` with a constant in front, a quotient by 1, a difference of numbers."""
    if isinstance(node, ast.BoolOp) and (known := constant(node.values[0])):
        is_decided = bool(known[0]) == isinstance(node.op, ast.Or)
        rest = node.values[0] if is_decided else node.values[1]
        return (*source.span(node), source.of(rest))
    if isinstance(node, ast.BinOp) and isinstance(node.right, ast.Constant):
        if isinstance(node.op, ast.FloorDiv) and node.right.value == 1:
            return (*source.span(node), source.of(node.left))
        if isinstance(node.op, ast.Sub) and isinstance(node.left, ast.Constant):
            return (*source.span(node), repr(node.left.value - node.right.value))  # type: ignore[operator]
    return None


def sizes(source: Source, node: ast.AST) -> Edit | None:
    """Write `pair(1)` as `(1, 1)`, `len((1, 2))` as 2, and an image without padding as it is."""
    if not isinstance(node, ast.Call):
        return None
    func, known = source.of(node.func), constant(node.args[-1]) if node.args else None
    if func == "pair" and known:
        return (*source.span(node), repr((known[0], known[0])))
    if func == "len" and known and isinstance(known[0], tuple):
        return (*source.span(node), str(len(known[0])))
    if func == "pad" and known == (0,):
        return (*source.span(node), source.of(node.args[0]))
    return None


def defaults(source: Source, node: ast.AST) -> Edit | None:
    """Drop what a call passes if it is the default of what it calls."""
    if not isinstance(node, ast.Call):
        return None
    usual = _defaults_of(source.of(node.func))
    parts = [source.of(arg) for arg in node.args]
    names = [*usual][: len(parts)]
    count = len(parts)
    while count and count <= len(names) and usual[names[count - 1]] == parts[count - 1]:
        count -= 1  # what follows is passed by keyword
    is_super = source.of(node.func) == "super().__init__" and "Optimizer" in source.lines[0]
    keywords = [
        keyword
        for keyword in node.keywords
        if not (keyword.arg and usual.get(keyword.arg, ...) == source.of(keyword.value))
        and not (is_super and constant(keyword.value))
    ]
    if count == len(parts) and len(keywords) == len(node.keywords):
        return None
    parts = parts[:count] + [source.of(keyword) for keyword in keywords]
    start, end = source.span(node)
    line_start = source.starts[node.lineno - 1]
    indent = len(source.lines[node.lineno - 1]) - len(source.lines[node.lineno - 1].lstrip())
    opening = source.text[line_start : source.span(node.func)[1]]
    return start, end, listed(opening, parts, "", indent)[start - line_start :]


def _defaults_of(func: str) -> dict[str, str | None]:
    """Return the parameters of a function that we know, and the text of their defaults."""
    if func.endswith((".add_", ".sub_")):
        return {"other": None, "alpha": "1"}
    if func.endswith(".flatten"):
        return {"start_dim": None, "end_dim": "-1"}
    if func == "torch.conv2d":
        return {"input": None, "weight": None, "bias": "None", "stride": "1", "padding": "0"}
    name = func.rsplit(".", 1)[-1]
    if func not in (name, f"F.{name}"):
        return {}
    for module in ("sums", "functions", "modules"):
        if name in definitions(module):
            return {each.name: each.default for each in definitions(module)[name].parameters}
    return {"approximate": '"none"'} if name == "gelu" else {}


def returned(source: Source, node: ast.AST) -> Edit | None:
    """Write `x = ...; return x` as one statement."""
    for block in blocks(node):
        for before, last in pairwise(block):
            if not isinstance(before, ast.Assign) or not isinstance(last, ast.Return):
                continue
            if last.value is not None and source.of(before.targets[0]) == source.of(last.value):
                start, end = source.span(before)[0], source.span(last)[1]
                if "#" in source.text[start:end]:
                    continue
                return start, end, f"return {source.of(before.value)}"
    return None


def after_return(source: Source, node: ast.AST) -> Edit | None:
    """Drop statements that follow a `return`."""
    for block in blocks(node):
        for at, statement in enumerate(block[:-1]):
            if isinstance(statement, ast.Return):
                return (*source.line_span(block[at + 1 :]), "")
    return None


def unpacked(source: Source, node: ast.AST) -> Edit | None:
    """Write `(a, *(b, c))` as `(a, b, c)`, and a dict within a dict likewise."""
    if isinstance(node, ast.Starred) and isinstance(node.value, ast.Tuple):
        return (*source.span(node), source.of(node.value)[1:-1])
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None and isinstance(value, ast.Dict):
                start, end = source.span(value)
                return source.text.rindex("**", 0, start), end, source.of(value)[1:-1]
    return None


def unpacked_constants(source: Source, node: ast.AST) -> Edit | None:
    """Put the numbers of `a, b = (1, 1)` in place of its names, which nothing else assigns."""
    if not isinstance(node, ast.FunctionDef):
        return None
    names = [each for each in ast.walk(node) if isinstance(each, ast.Name)]
    for statement in node.body:
        match statement:
            case ast.Assign([ast.Tuple(targets)], ast.Tuple(values)) if all(
                isinstance(each, ast.Name) for each in targets
            ):
                known = {source.of(t): source.of(v) for t, v in zip(targets, values, strict=True)}
                same = [each for each in names if each.id in known]
                reads = [each for each in same if isinstance(each.ctx, ast.Load)]
                if len(same) - len(reads) > len(targets) or not all(map(constant, values)):
                    continue
                if reads:
                    return (*source.span(reads[0]), known[reads[0].id])
                return (*source.line_span([statement]), "")
    return None


RULES: tuple[Callable[[Source, ast.AST], Edit | None], ...] = (
    branches, operators, sizes, defaults, returned, after_return, unpacked, unpacked_constants,
)  # fmt: skip


def _attributes(source: Source, outside: set[str]) -> Iterator[Edit]:
    """Put constants in place of `self.name`, and drop what is kept but never read."""
    node = source.tree.body[0]
    if not isinstance(node, ast.ClassDef):
        return
    own = [
        each
        for each in ast.walk(node)
        if isinstance(each, ast.Attribute)
        and isinstance(each.value, ast.Name)
        and each.value.id == "self"
    ]
    others = {
        each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute) and each not in own
    }
    function = maker(node)
    for statement in function.body if function else []:
        if not isinstance(statement, ast.Assign) or statement.targets[0] not in own:
            continue
        target = statement.targets[0]
        assert isinstance(target, ast.Attribute)
        if target.attr in others | outside:
            continue
        same = [each for each in own if each.attr == target.attr]
        reads = [each for each in same if isinstance(each.ctx, ast.Load)]
        if len(same) - len(reads) > 1:
            continue
        if constant(statement.value) and reads:
            yield (*source.span(reads[0]), source.of(statement.value))
        elif not reads and _makes_no_state(statement.value):
            yield (*source.line_span([statement]), "")


def _makes_no_state(value: ast.expr) -> bool:
    """Return whether a value is only kept: a parameter or module would belong to the state."""
    is_pair = isinstance(value, ast.Call) and getattr(value.func, "id", "") == "pair"
    if isinstance(value, ast.Tuple):
        return all(map(_makes_no_state, value.elts))
    is_empty = isinstance(value, ast.List) and not value.elts
    return isinstance(value, ast.Name) or is_pair or is_empty or constant(value) is not None


def constant(node: ast.AST) -> tuple[object] | None:
    """Return the value of a constant expression, in a tuple, or None if it is none."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        left, right = constant(node.left), constant(node.comparators[0])
        if left is None or right is None or not isinstance(node.ops[0], COMPARED):
            return None
        is_equal = left == right and type(left[0]) is type(right[0])
        return (is_equal == isinstance(node.ops[0], ast.Is | ast.Eq),)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        known = constant(node.operand)
        return None if known is None else (not known[0],)
    if not isinstance(node, ast.Constant | ast.Tuple | ast.UnaryOp):
        return None  # a list or dict can change
    try:
        return (ast.literal_eval(node),)
    except ValueError:
        return None


COMPARED = (ast.Is, ast.IsNot, ast.Eq, ast.NotEq)
