"""How a script is laid out: literals, docstrings, imports, wrapped lines, blank lines.

Ruff may not be installed where a script is written, so this follows its format by itself. Text
that comes from a run (strings, paths, names) enters a script through `literal` or `docstring`.
"""

import ast
import math
import re
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from itertools import groupby, pairwise
from pathlib import PurePath
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

WIDTH = 100
SCALARS = (bool, int, float, str, bytes, type(None))
NO_CODE = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|#.*""")  # strings and comments
NOT_OURS = re.compile(r'"""(?s:.)*?"""|[{ ]#.*|(?m:^ *%.*)|{{.*?}}|{%.*?%}')  # of a template


def is_literal(value: Any) -> bool:
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
        return display(dict, [f"{literal(k)}: {literal(v)}" for k, v in value.items()])
    if isinstance(value, list | tuple | set) and value:
        return display(type(value), map(literal, value))
    return repr(value)


def display(kind: type, items: Iterable[str]) -> str:
    """Return a list, tuple, set or dict of items that are source.

    >>> display(tuple, ["x"]), display(dict, ["1: x", "2: y"])
    ('(x,)', '{1: x, 2: y}')
    """
    start, end = "[]" if kind is list else "()" if kind is tuple else "{}"
    items = [*items]
    return f"{start}{', '.join(items)}{',' * (kind is tuple and len(items) == 1)}{end}"


def docstring(summary: str, text: str) -> list[str]:
    """Return the lines of a module's docstring, in which nothing ends it early."""
    wrapped = textwrap.wrap(text, 98, break_on_hyphens=False, break_long_words=False)
    lines = [" ".join(summary.split()), "", *wrapped]
    safe = []
    for line in lines:
        line = line.replace("\\", r"\\").replace('"""', r"\"\"\"")
        safe.append("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line))
    return [f'"""{safe[0]}', *safe[1:], '"""']


def words() -> set[str]:
    """Return every word in the templates: the names that a script may have of its own."""
    loader = templates().loader
    assert loader is not None
    texts = [loader.get_source(templates(), name)[0] for name in loader.list_templates()]
    return {*re.findall(r"(?<![.\w])[^\W\d]\w*", NOT_OURS.sub("", "\n".join(texts)))}


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
        statements = [f"import {name}" for name in sorted(self.modules)]
        for module, names in sorted(self.names.items()):
            statements.append(f"from {module} import {', '.join(sorted(names, key=kind))}")
        sections = groupby(sorted(statements, key=section), section)
        return [line for _, lines in sections for line in ("", *lines)][1:]


def section(statement: str) -> int:
    top = statement.split()[1].split(".")[0]
    return 0 if top == "__future__" else 1 if top in sys.stdlib_module_names else 2


def kind(name: str) -> tuple[int, str]:
    """Return the key that a name is sorted by: CONSTANTS, then Classes, then functions."""
    if name.isupper() and len(name) > 1:
        return 0, name
    return (1 if name[:1].isupper() else 2), name


def spaced(blocks: Iterable[list[str]]) -> list[str]:
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
    indent = " " * (len(line) - len(text))
    if len(line) <= WIDTH:
        return [line]
    left, _, value = text.partition(" = ")
    names = left.split(", ")
    if len(left) > WIDTH // 2 and all(map(str.isidentifier, names)):
        return [f"{indent}(", *(f"{indent}    {name}," for name in names), f"{indent}) = {value}"]
    several = f"({text.removeprefix('return ')})"
    if text.startswith("return ") and last_brackets(several)[2:]:
        text = f"return {several}"
    marks = last_brackets(text)
    if not marks:
        return [line]
    inner = text[marks[0] + 1 : marks[-1]]
    rows = [f"{indent}    {inner}"]
    if len(rows[0]) > WIDTH or inner.endswith(","):  # a trailing comma keeps one item a line
        items = [item for start, end in pairwise(marks) if (item := text[start + 1 : end].strip())]
        comma = "" if len(items) == 1 and " for " in inner else ","  # not after a comprehension
        rows = [row for item in items for row in wrapped(f"{indent}    {item}{comma}")]
    return [f"{indent}{text[: marks[0] + 1]}", *rows, f"{indent}{text[marks[-1] :]}"]


def last_brackets(text: str) -> list[int]:
    """Return where the last outermost pair of brackets starts, has its commas, and ends."""
    code = NO_CODE.sub(lambda found: "_" * len(found[0]), text)
    depth, marks, last = 0, [0], list[int]()
    for at, char in enumerate(code):
        depth -= char in ")]}"
        if depth == 0 and char in ")]}" and at > marks[0] + 1:
            last = [*marks, at]
        elif depth == 0 and char in "([{":
            marks = [at]
        elif depth == 1 and char == ",":
            marks.append(at)
        depth += char in "([{"
    return last
