"""Python text with its tree, and edits by position."""

import ast
import dis
import inspect
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property, lru_cache
from types import CodeType
from typing import Any

Edit = tuple[int, int, str]  # start and end, as indices of the text, and the text to put there


class Source:
    """A text and the tree of its statements."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tree = ast.parse(text)
        self.lines = text.split("\n")
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line) + 1)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return [*ast.walk(self.tree)]

    @cached_property
    def calls(self) -> dict[ast.expr, ast.Call]:
        """The calls, by what they call."""
        return {node.func: node for node in self.nodes if isinstance(node, ast.Call)}

    def at(self, line: int, column: int) -> int:
        """Return the index of a position in the text; ast counts columns in bytes of UTF-8."""
        row = self.lines[line - 1]
        within = column if row.isascii() else len(row.encode()[:column].decode())
        return self.starts[line - 1] + within

    def span(self, node: ast.AST) -> tuple[int, int]:
        place = ast.fix_missing_locations(node)
        start = self.at(place.lineno, place.col_offset)  # type: ignore[attr-defined]
        return start, self.at(place.end_lineno, place.end_col_offset)  # type: ignore[attr-defined]

    def of(self, node: ast.AST) -> str:
        start, end = self.span(node)
        return self.text[start:end]

    def first_line(self, statement: ast.stmt) -> int:
        """Return the line on which a statement starts, its decorators included."""
        decorators: list[ast.expr] = getattr(statement, "decorator_list", [])
        return min([statement.lineno, *(decorator.lineno for decorator in decorators)])

    def line_span(self, statements: list[ast.stmt]) -> tuple[int, int]:
        last = statements[-1].end_lineno or 0
        end = min(self.starts[last], len(self.text))  # the last line may lack its newline
        return self.starts[self.first_line(statements[0]) - 1], end

    def block(self, statements: list[ast.stmt]) -> str:
        start, end = self.line_span(statements)
        return self.text[start:end]


@lru_cache(32)
def parsed(text: str) -> Source:
    return Source(text)


def edited(text: str, edits: Iterable[Edit]) -> str:
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def names_in(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def bound(tree: ast.AST) -> set[str]:
    """Return every name that a tree assigns, defines, imports or takes as an argument."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
    return names


def imports_in(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, str, str]]:
    """Yield each imported name, what it stands for, and a statement that imports it alone."""
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None)
            for alias in node.names:
                full = f"{module}.{alias.name}" if module else alias.name
                statement = f"from {module} " * bool(module) + f"import {ast.unparse(alias)}"
                yield alias.asname or alias.name, full, statement


def import_block(tree: ast.Module) -> list[ast.stmt]:
    """Return the first imports at the top of a module, up to another statement."""
    is_import = [isinstance(node, ast.Import | ast.ImportFrom) for node in tree.body]
    start = is_import.index(True) if any(is_import) else 0
    end = is_import.index(False, start) if False in is_import[start:] else len(is_import)
    return tree.body[start:end]


def global_names(source: Source, code: CodeType | None = None) -> Iterator[tuple[str, int, int]]:
    """Yield each name that a text looks up or binds in its module, and its span."""
    code = code or compile(source.text, "", "exec", dont_inherit=True)
    steps = [*dis.get_instructions(code)]
    is_class = code.co_name != "<module>"  # which has names of its own
    own = {step.argval for step in steps if step.opname == "STORE_NAME" and is_class}
    for step in steps:
        at, kind = step.positions, step.opname
        of_module = "GLOBAL" in kind or kind in ("LOAD_NAME", "STORE_NAME", "DELETE_NAME")
        if of_module and step.argval not in own and at and at.lineno and at.end_lineno:
            start = source.at(at.lineno, at.col_offset or 0)
            yield str(step.argval), start, source.at(at.end_lineno, at.end_col_offset or 0)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from global_names(source, constant)


def renaming(source: Source, names: Mapping[str, str]) -> list[Edit]:
    """Return the edits that give the names of a module others, and leave those of functions."""
    edits = {
        (start, end, names[name])
        for name, start, end in global_names(source)
        if names.get(name, name) != source.text[start:end] == name
    }
    for node in source.nodes:  # statements that have a name as a word
        words: list[str] = node.names if isinstance(node, ast.Global) else []
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node in source.tree.body:
            words = [node.name]
        for name in words:
            start, end = source.span(node)
            if found := re.compile(rf"\b{name}\b").search(source.text, start, end):
                edits.add((*found.span(), names.get(name, name)))
    return [*edits]


def free_name(name: str, taken: Collection[str]) -> str:
    """Return a name like this one that is not taken.

    >>> free_name("loss", ["loss"]), free_name("Net", ["Net"]), free_name("SEED", ["SEED"])
    ('own_loss', 'OwnNet', 'OWN_SEED')
    """
    while name in taken:
        first = "OWN_" if name.isupper() else "Own" if name[0].isupper() else "own_"
        name = first + name
    return name


def place(thing: Any) -> str:
    """Return where a class or function is defined, for a message."""
    try:
        file, line = inspect.getsourcefile(thing), inspect.getsourcelines(thing)[1]
    except (OSError, TypeError):
        return f"{getattr(thing, '__module__', '?')}"
    return f"{file}:{line}"
