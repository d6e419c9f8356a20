"""Replacing parts of a source text at the places that its syntax tree names."""

import ast
from collections.abc import Iterable
from typing import NamedTuple, Self


class Edit(NamedTuple):
    """A stretch of the text, and what takes its place."""

    line: int
    column: int
    end_line: int
    end_column: int
    text: str

    @classmethod
    def of(cls, node: ast.expr | ast.stmt, text: str) -> Self:
        """Return the replacement of a node; columns count bytes, as `ast` does."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return cls(node.lineno, node.col_offset, node.end_lineno, node.end_col_offset, text)


def replaced(text: str, edits: Iterable[Edit], within: ast.AST | None = None) -> str:
    """Return the text, or the part of it that is a node, with the edits made."""
    raw = text.encode()
    starts = [0]
    for line in raw.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    begin, end = 0, len(raw)
    if isinstance(within, ast.expr | ast.stmt):
        whole = Edit.of(within, "")
        begin = starts[whole.line - 1] + whole.column
        end = starts[whole.end_line - 1] + whole.end_column
    parts, at = [], begin
    for edit in sorted(edits):
        parts.append(raw[at : starts[edit.line - 1] + edit.column])
        parts.append(edit.text.encode())
        at = starts[edit.end_line - 1] + edit.end_column
    return b"".join([*parts, raw[at:end]]).decode()
