"""Code that ran, with what is known of the run put in: a partial evaluator for a few statements.

It starts from the source of a function and knows some of its expressions: their values, or what
stands for them in the script. A test that is known goes, with the branch that was not taken;
checks of ours, which the run has passed, go too. All else stays as it is written, comments
included, so that what is new in the function is new in the script, and never lost.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from plainfit.eject.layout import indented, one_line
from plainfit.eject.splicing import Edit, replaced

UNKNOWN = object()


@dataclass
class Facts:
    """What is known of the expressions in a function, each by its text as `ast.unparse` has it."""

    values: dict[str, Any] = field(default_factory=dict)
    """What an expression is."""
    texts: dict[str, str] = field(default_factory=dict)
    """What an expression becomes in the script."""
    statements: dict[str, list[str]] = field(default_factory=dict)
    """The lines that a simple statement becomes."""
    headings: dict[str, list[str]] = field(default_factory=dict)
    """The lines that begin a loop, by what it runs over; what is in the loop follows, indented."""
    inline: Callable[[ast.Call], list[str] | None] = lambda call: None
    """The lines that a call becomes, where that is not the call itself."""

    def with_(self, **more: Any) -> "Facts":
        """Return these facts and more."""
        merged = {name: {**getattr(self, name), **extra} for name, extra in more.items()}
        return Facts(**{**vars(self), **merged})


class Specialiser:
    """One function and what is known of it."""

    def __init__(self, function: Callable[..., Any], facts: Facts) -> None:
        self.text = textwrap.dedent(inspect.getsource(function))
        self.lines = self.text.splitlines()
        self.tree = ast.parse(self.text).body[0]
        self.facts = facts
        self.values = dict(facts.values)
        self.texts = dict(facts.texts)

    def arguments(self) -> ast.arguments:
        """Return the function's parameters."""
        assert isinstance(self.tree, ast.FunctionDef)
        return self.tree.args

    def body(self) -> list[str]:
        """Return the lines of the function's body."""
        assert isinstance(self.tree, ast.FunctionDef)
        return self.block(self.tree.body)

    def loop(self) -> list[str]:
        """Return the lines of the function's `while` loop, with its heading."""
        (loop,) = [node for node in ast.walk(self.tree) if isinstance(node, ast.While)]
        return self.loop_lines(loop, ast.unparse(loop.test))

    def assigned(self, target: str) -> str:
        """Return the expression that the function assigns to a target."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == target:
                return self.spliced(node.value)
        raise LookupError(target)

    def returned(self) -> str:
        """Return the expression at the function's end."""
        assert isinstance(self.tree, ast.FunctionDef)
        last = self.tree.body[-1]
        assert isinstance(last, ast.Return)
        assert last.value is not None
        return self.spliced(last.value)

    def block(self, statements: list[ast.stmt]) -> list[str]:
        """Return the lines of some statements, one after another."""
        lines: list[str] = []
        for number, node in enumerate(statements):
            rest = statements[number + 1 :]
            if isinstance(node, ast.If) and rest and ends_in_return(node):
                early = ast.If(node.test, node.body[:-1], rest)  # the rest is its other branch
                return lines + self.branches(ast.copy_location(early, node))
            if isinstance(node, ast.If) and skips(node) and self.value(node.test) is True:
                return lines  # the rest of the loop is never reached
            lines += self.statement(node)
        return without_unused(joined(lines))

    def statement(self, node: ast.stmt) -> list[str]:
        """Return the lines of a statement; none, if it has nothing to do in the script."""
        key = ast.unparse(node)
        if key in self.facts.statements:
            return self.facts.statements[key]
        match node:
            case ast.If():
                return self.branches(node)
            case ast.With():
                return self.with_block(node)
            case ast.For():
                return self.loop_lines(node, ast.unparse(node.iter))
            case ast.Try():
                return self.block(node.body)
            case ast.Assert() | ast.Return() | ast.Pass():
                return []
            case ast.Expr(ast.Constant()):
                return []
            case ast.Expr(ast.Call() as call) | ast.Assign(value=ast.Call() as call) if (
                lines := self.facts.inline(call)
            ) is not None:
                return lines
            case ast.Assign([ast.Name(name)], value) if is_plain(known := self.value(value)):
                self.values[name] = known
                return []
            case ast.Assign([ast.Name(name)], ast.IfExp() as value) if (
                alias := self.spliced(value)
            ).isidentifier():
                self.texts[name] = alias
                return []
        return [*self.comments(node), self.spliced(node)]

    def branches(self, node: ast.If) -> list[str]:
        """Return an `if`, or only the branch that is taken, where that is known."""
        if node.body and all(isinstance(inner, ast.Raise) for inner in node.body):
            return self.block(node.orelse)  # a check, which the run has passed
        known = self.value(node.test)
        if known is not UNKNOWN:
            return self.block(node.body if known else node.orelse)
        body, other = self.block(node.body), self.block(node.orelse)
        if not body and not other:
            return []
        if not body:
            return [*self.comments(node), f"if {self.negated(node.test)}:", *indented(other)]
        ending = ["else:", *indented(other)] if other else []
        return [*self.comments(node), f"if {self.spliced(node.test)}:", *indented(body), *ending]

    def negated(self, test: ast.expr) -> str:
        """Return a test that holds where this one does not."""
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            return self.spliced(test.operand)
        text = self.spliced(test)
        binds_less = isinstance(ast.parse(text, mode="eval").body, ast.BoolOp | ast.IfExp)
        return f"not ({text})" if binds_less else f"not {text}"

    def with_block(self, node: ast.With) -> list[str]:
        """Return a `with` block, or what is in it, where the context does nothing."""
        items = [self.spliced(item.context_expr) for item in node.items]
        items = [item for item in items if item]
        body = self.block(node.body)
        return [f"with {', '.join(items)}:", *indented(body)] if items else body

    def loop_lines(self, node: ast.For | ast.While, over: str) -> list[str]:
        """Return a loop."""
        body = self.block(node.body)
        if over in self.facts.headings:
            *before, last = self.facts.headings[over]
            extra = len(last) - len(last.lstrip())
            return [*before, last, *indented(body, extra + 4 * last.endswith(":"))]
        assert isinstance(node, ast.For)
        heading = f"for {self.spliced(node.target)} in {self.spliced(node.iter)}:"
        return [heading, *indented(body)] if body else []

    def spliced(self, node: ast.AST) -> str:
        """Return the source of a node, on one line, with what is known put in."""
        return one_line(replaced(self.text, self.edits(node), node))

    def edits(self, node: ast.AST) -> Iterator[Edit]:
        """Yield what is to be replaced in a node."""
        if isinstance(node, ast.expr):
            key = ast.unparse(node)
            if key in self.texts:
                yield Edit.of(node, self.texts[key])
                return
            if isinstance(node, ast.BoolOp) and (parts := self.open_parts(node)) != node.values:
                word = " or " if isinstance(node.op, ast.Or) else " and "
                yield Edit.of(node, word.join(map(self.spliced, parts)))
                return
            if isinstance(node, ast.IfExp) and (known := self.value(node.test)) is not UNKNOWN:
                yield Edit.of(node, self.spliced(node.body if known else node.orelse))
                return
            if key in self.values and isinstance(self.values[key], int | float | str | bool):
                yield Edit.of(node, repr(self.values[key]))
                return
        for child in ast.iter_child_nodes(node):
            yield from self.edits(child)

    def open_parts(self, node: ast.BoolOp) -> list[ast.expr]:
        """Return the parts of an `and` or `or` that are not known."""
        return [part for part in node.values if self.value(part) is UNKNOWN]

    def value(self, node: ast.expr) -> Any:
        """Return what an expression is known to be, or UNKNOWN."""
        key = ast.unparse(node)
        if key in self.values:
            return self.values[key]
        match node:
            case ast.Constant(value):
                return value
            case ast.UnaryOp(ast.Not(), operand):
                known = self.value(operand)
                return UNKNOWN if known is UNKNOWN else not known
            case ast.BoolOp(op, parts):
                decisive = isinstance(op, ast.Or)
                known = [self.value(part) for part in parts]
                if any(value is not UNKNOWN and bool(value) is decisive for value in known):
                    return decisive
                return UNKNOWN if any(value is UNKNOWN for value in known) else not decisive
            case ast.IfExp(test, body, orelse):
                known = self.value(test)
                return UNKNOWN if known is UNKNOWN else self.value(body if known else orelse)
            case ast.Compare(left, [op], [right]):
                return compared(self.value(left), op, self.value(right))
        return UNKNOWN

    def comments(self, node: ast.stmt) -> list[str]:
        """Return the comment lines right above a statement."""
        first = node.lineno - 1
        start = first
        while start > 0 and self.lines[start - 1].strip().startswith("#"):
            start -= 1
        return [line.strip() for line in self.lines[start:first]]


def is_plain(value: Any) -> bool:
    """Return whether a known value decides tests by itself."""
    return value is None or isinstance(value, bool)


def compared(left: Any, op: ast.cmpop, right: Any) -> Any:
    """Return whether a comparison of two known values holds, or UNKNOWN."""
    if left is UNKNOWN or right is UNKNOWN:
        return UNKNOWN
    match op:
        case ast.Is():
            return left is right
        case ast.IsNot():
            return left is not right
        case ast.In():
            return left in right
        case ast.Eq():
            return left == right
        case ast.Gt() if isinstance(left, int | float) and isinstance(right, int | float):
            return left > right
    return UNKNOWN


def ends_in_return(node: ast.If) -> bool:
    """Return whether a function without a result is left at the end of this branch."""
    last = node.body[-1]
    return not node.orelse and isinstance(last, ast.Return) and last.value is None


def skips(node: ast.If) -> bool:
    """Return whether a branch does nothing but go on with the next round of a loop."""
    return isinstance(node.body[0], ast.Continue)


def without_unused(lines: list[str]) -> list[str]:
    """Return the lines with calls alone where their results were used in checks only."""
    text = "\n".join(lines)
    result = []
    for line in lines:
        found = re.fullmatch(r"norm = (.+\))", line)
        used = found and len(re.findall(r"\bnorm\b", text)) > 1
        result.append(found[1] if found and not used else line)
    return result


def joined(lines: list[str]) -> list[str]:
    """Return the lines with neighbouring `if` blocks of one test made one."""
    result: list[str] = []
    test = ""
    for line in lines:
        if line.startswith("if ") and line == test:
            continue
        if not line.startswith(" "):
            test = line if line.startswith("if ") else ""
        result.append(line)
    return result
