"""A program's text and its tree: where each node stands, and edits by position."""

import ast
from collections.abc import Iterable, Iterator

Edit = tuple[int, int, str]
"""Start and end, as indices of the text, and what takes their place."""

WIDTH = 100
"""The longest line, as in the layout of ruff that we use."""


class Source:
    """A text with the tree of its statements."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tree = ast.parse(text)
        self.lines = text.split("\n")
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line) + 1)

    def at(self, line: int, column: int) -> int:
        """Return the index in the text of a position; ast counts columns in bytes of UTF-8."""
        row = self.lines[line - 1]
        within = column if row.isascii() else len(row.encode()[:column].decode())
        return self.starts[line - 1] + within

    def span(self, node: ast.AST) -> tuple[int, int]:
        """Return where a node starts and ends."""
        place = ast.fix_missing_locations(node)
        start = self.at(place.lineno, place.col_offset)  # type: ignore[attr-defined]
        return start, self.at(place.end_lineno, place.end_col_offset)  # type: ignore[attr-defined]

    def of(self, node: ast.AST) -> str:
        """Return the text of a node."""
        start, end = self.span(node)
        return self.text[start:end]

    def first_line(self, statement: ast.stmt) -> int:
        """Return the line on which a statement starts, its decorators included."""
        decorators: list[ast.expr] = getattr(statement, "decorator_list", [])
        return min([statement.lineno, *(decorator.lineno for decorator in decorators)])

    def block(self, statements: list[ast.stmt]) -> str:
        """Return whole lines: those of neighbouring statements."""
        first, last = self.first_line(statements[0]), statements[-1].end_lineno
        return "\n".join(self.lines[first - 1 : last]) + "\n"

    def line_span(self, statements: list[ast.stmt]) -> tuple[int, int]:
        """Return where the lines of neighbouring statements start and end."""
        last = statements[-1].end_lineno or 0
        return self.starts[self.first_line(statements[0]) - 1], self.starts[last]


def edited(text: str, edits: Iterable[Edit]) -> str:
    """Return the text after edits that do not overlap."""
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def parents(tree: ast.AST) -> dict[ast.AST, ast.AST]:
    """Return the parent of every node."""
    return {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}


def attributes(tree: ast.AST) -> set[str]:
    """Return the names of all attributes in a tree."""
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def strings(tree: ast.AST) -> set[str]:
    """Return what a tree says in strings, and the names of keywords in calls of `dict`."""
    said = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    of_dict = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "dict"]
    keywords = {keyword.arg for call in of_dict for keyword in call.keywords}
    return {each for each in said | keywords if isinstance(each, str)}


def blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    """Yield the lists of statements that a node consists of."""
    for name in ("body", "orelse"):
        block = getattr(node, name, None)
        if isinstance(block, list) and block and isinstance(block[0], ast.stmt):
            yield block


def listed(opening: str, parts: list[str], closing: str, column: int) -> str:
    """Return `opening(parts)closing` on a line, or with each part on its own where it is long."""
    line = f"{opening}({', '.join(parts)}){closing}"
    if len(line) <= WIDTH:
        return line
    lines = "".join(f"{' ' * (column + 4)}{part},\n" for part in parts)
    return f"{opening}(\n{lines}{' ' * column}){closing}"
