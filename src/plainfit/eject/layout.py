"""How a script is laid out: literals, docstrings, imports, wrapped lines, blank lines.

Ruff may not be installed where a script is written, so this follows its format by itself. Text
that comes from a run (strings, paths, names) enters a script through `literal` or `docstring`.
"""

import ast
import math
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import PurePath
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

WIDTH = 100
SCALARS = (bool, int, float, str, bytes, type(None))
OPENING, CLOSING = "([{", ")]}"


def is_literal(value: Any) -> bool:
    """Return whether `literal` can write the value down."""
    if type(value) in (list, tuple, set):
        return all(map(is_literal, value))
    if type(value) is dict:
        return all(map(is_literal, [*value, *value.values()]))
    return type(value) in SCALARS or isinstance(value, float)  # NumPy's float64 is one


def literal(value: Any) -> str:
    """Return a value of built-in types as source: strings in double quotes, all else escaped."""
    if isinstance(value, PurePath):
        return f"Path({literal(value.as_posix())})"
    if isinstance(value, str):
        return repr(value) if '"' in value else repr(f"{value}'")[:-2] + '"'
    if isinstance(value, float):
        return repr(float(value)) if math.isfinite(value) else f'float("{float(value)}")'
    if isinstance(value, dict):
        return f"{{{', '.join(f'{literal(k)}: {literal(v)}' for k, v in value.items())}}}"
    if isinstance(value, list | tuple | set) and value:
        start, end = {list: ("[", "]"), tuple: ("(", ")"), set: ("{", "}")}[type(value)]
        comma = "," if len(value) == 1 and isinstance(value, tuple) else ""
        return f"{start}{', '.join(map(literal, value))}{comma}{end}"
    return repr(value)


def docstring(summary: str, text: str) -> list[str]:
    """Return the lines of a module's docstring, in which nothing ends it early."""
    wrapped = textwrap.wrap(text, 98, break_on_hyphens=False, break_long_words=False)
    lines = [" ".join(summary.split()), "", *wrapped]
    safe = [escaped(line) for line in lines]
    return [f'"""{safe[0]}', *safe[1:], '"""']


def escaped(line: str) -> str:
    line = line.replace("\\", r"\\").replace('"""', r"\"\"\"")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


@cache
def templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("plainfit.eject"),
        autoescape=False,  # the text is Python; strings go through `literal`
        undefined=StrictUndefined,
        line_statement_prefix="%",
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["literal"] = literal
    return environment


def rendered(template: str, facts: dict[str, Any]) -> list[str]:
    return templates().get_template(template).render(facts).strip().splitlines()


class Imports:
    """The imports of a script, merged and sorted as ruff sorts them."""

    def __init__(self) -> None:
        self.modules: set[str] = set()
        self.names: dict[str, set[str]] = defaultdict(set)

    def add(self, statement: str) -> None:
        (node,) = ast.parse(statement).body
        if isinstance(node, ast.Import):
            self.modules |= {ast.unparse(alias) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            self.names[node.module] |= {ast.unparse(alias) for alias in node.names}

    def lines(self) -> list[str]:
        """Return the statements: the standard library's, a blank line, then the others."""
        sections = (self.section(name) for name in ("__future__", "standard", "other"))
        return [line for group in sections if group for line in ["", *group]][1:]

    def section(self, section: str) -> list[str]:
        whole = sorted(name for name in self.modules if section_of(name) == section)
        parts = sorted(name for name in self.names if section_of(name) == section)
        return [
            *(f"import {name}" for name in whole),
            *(f"from {m} import {', '.join(sorted(self.names[m], key=kind))}" for m in parts),
        ]


def section_of(module: str) -> str:
    top = module.split(".")[0].split(" ")[0]
    if top == "__future__":
        return top
    return "standard" if top in sys.stdlib_module_names else "other"


def kind(name: str) -> tuple[int, str]:
    """Return the key that a name is sorted by: CONSTANTS, then Classes, then functions."""
    if name.isupper() and len(name) > 1:
        return 0, name
    return (1 if name[:1].isupper() else 2), name


def spaced(blocks: Iterable[list[str]]) -> list[str]:
    """Return the lines of the blocks with one or two blank lines between them."""
    lines: list[str] = []
    previous_defines = False
    for block in filter(None, blocks):
        has_definition = any(line.startswith(("def ", "class ")) for line in block)
        defines = has_definition and block[0].startswith(("def ", "class ", "@", "#"))
        if lines:
            lines += [""] * (2 if defines or previous_defines else 1)
        lines += block
        previous_defines = has_definition and block[-1].startswith(" ")
    return lines


def wrapped(line: str) -> list[str]:
    """Return a line, broken at its last outermost brackets where it is too long."""
    text = line.lstrip()
    indent = len(line) - len(text)
    split = None if len(line) <= WIDTH or text.startswith("#") else last_bracket(text)
    if split is None:
        return [line]
    start, end = split
    head, inner, tail = text[: start + 1], text[start + 1 : end], text[end:]
    rows = [" " * (indent + 4) + inner]
    if len(rows[0]) > WIDTH or inner.endswith(","):  # a trailing comma keeps one item a line
        items = at_commas(inner)
        comma = "" if len(items) == 1 and " for " in inner else ","  # not after a comprehension
        rows = [row for item in items for row in wrapped(" " * (indent + 4) + item + comma)]
    return [" " * indent + head, *rows, " " * indent + tail]


def code_only(text: str) -> Iterator[tuple[int, str]]:
    """Yield the characters of a line that are in no string and no comment, with their index."""
    quote = ""
    for at, char in enumerate(text):
        if quote:
            quote = "" if char == quote and text[at - 1] != "\\" else quote
        elif char in "\"'":
            quote = char
        elif char == "#":
            return
        else:
            yield at, char


def last_bracket(text: str) -> tuple[int, int] | None:
    """Return where the last outermost pair of brackets with something in it begins and ends."""
    found, stack = None, []
    for at, char in code_only(text):
        if char in OPENING:
            stack.append(at)
        elif char in CLOSING and stack:
            start = stack.pop()
            if not stack and at > start + 1:
                found = start, at
    return found


def at_commas(text: str) -> list[str]:
    items, depth, start = [], 0, 0
    for at, char in code_only(text):
        depth += (char in OPENING) - (char in CLOSING)
        if char == "," and depth == 0:
            items.append(text[start:at].strip())
            start = at + 1
    return [item for item in [*items, text[start:].strip()] if item]
