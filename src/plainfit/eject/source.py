"""Python text with its tree, and edits by position."""

import ast
from collections.abc import Iterable, Iterator

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


def edited(text: str, edits: Iterable[Edit]) -> str:
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def names_in(tree: ast.AST) -> set[str]:
    """Return the variables that a tree names."""
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
