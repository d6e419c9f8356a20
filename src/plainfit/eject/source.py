"""The text of a script: parsed with its tree, edited by position, laid out.

Ruff may not be installed where a script is written, so the layout follows its format by itself.
Text that comes from a run (strings, paths, names) enters through `literal` or `docstring`.
"""

import ast
import dis
import inspect
import math
import re
import sys
import textwrap
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache, cached_property, lru_cache
from itertools import groupby, pairwise
from pathlib import PurePath
from types import CodeType
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

WIDTH = 100
SCALARS = (bool, int, float, str, bytes, type(None))
NO_CODE = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|#.*""")  # strings and comments
NOT_OURS = re.compile(r'"""(?s:.)*?"""|[{ ]#.*|(?m:^ *%.*)|{{.*?}}|{%.*?%}')  # of a template
Edit = tuple[int, int, str]  # start and end, as indices of the text, and the text to put there


class Source:
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

    @cached_property
    def global_names(self) -> list[tuple[str, int, int]]:
        """Each name that the text looks up or binds in its module, and its span."""
        return [*global_names(self, compile(self.text, "", "exec", dont_inherit=True))]

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


def global_names(source: Source, code: CodeType) -> Iterator[tuple[str, int, int]]:
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
    edits = {
        (start, end, names[name])
        for name, start, end in source.global_names
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
    try:
        file, line = inspect.getsourcefile(thing), inspect.getsourcelines(thing)[1]
    except (OSError, TypeError):
        return f"{getattr(thing, '__module__', '?')}"
    return f"{file}:{line}"


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
