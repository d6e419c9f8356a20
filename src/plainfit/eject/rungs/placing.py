"""Where definitions stand in a script, and which imports it needs then."""

import ast
import sys

from plainfit.eject.rungs.names import short
from plainfit.eject.source import Edit, Source, edited


def placed(text: str, texts: dict[str, str], needs: dict[str, set[str]]) -> str:
    """Return a script with definitions, each before the first statement that needs it.

    Args:
        text: of the script.
        texts: of the definitions, by name, each after those that it needs.
        needs: the names that each definition needs.
    """
    source = Source(text)
    first: dict[str, int] = {}
    for at, statement in enumerate(source.tree.body):
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and node.id in texts:
                _need(node.id, at, first, needs)
    edits: dict[int, list[str]] = {}
    for name in texts:
        if name in first:
            edits.setdefault(_line_for(source, first[name]), []).append(texts[name])
    made = [_edit(source, line, parts) for line, parts in edits.items()]
    return edited(text, made)


def _need(name: str, at: int, first: dict[str, int], needs: dict[str, set[str]]) -> None:
    first[name] = min(at, first.get(name, at))
    for other in needs[name]:
        if first.get(other, at + 1) > at:
            _need(other, at, first, needs)


def _line_for(source: Source, at: int) -> int:
    """Return the number of the line before which definitions for a statement stand.

    They stand before a definition that needs them; else after the last definition before, or
    before the paragraph that needs them, but in any case after the imports.
    """
    body = source.tree.body
    defined = [n for n in range(at) if isinstance(body[n], ast.ClassDef | ast.FunctionDef)]
    if isinstance(body[at], ast.ClassDef | ast.FunctionDef):
        return _top(source, source.first_line(body[at]))
    if defined:
        return (body[defined[-1]].end_lineno or 0) + 1
    return _top(source, _paragraph(source, source.first_line(body[at])))


def _top(source: Source, line: int) -> int:
    """Return the first of the comments that stand directly above a line."""
    while line > 1 and source.lines[line - 2].startswith("#"):
        line -= 1
    return line


def _paragraph(source: Source, line: int) -> int:
    """Return the first line of the paragraph that a line is in."""
    starts = {
        source.first_line(each): each
        for each in source.tree.body
        if not isinstance(each, ast.Import | ast.ImportFrom)
    }
    while line > 1 and source.lines[line - 2].strip():
        line -= 1
    return line if line in starts else min(n for n in starts if n >= line)


def _edit(source: Source, line: int, parts: list[str]) -> Edit:
    """Put definitions before a line, two blank lines around each."""
    start = source.starts[line - 1] if line <= len(source.lines) else len(source.text)
    before = len(source.text[:start].rstrip("\n"))
    after = start + len(source.text[start:]) - len(source.text[start:].lstrip("\n"))
    block = "\n\n\n".join(part.strip("\n") for part in parts)
    lead = "\n\n\n" if before else ""
    return before, after, f"{lead}{block}\n\n\n"


def with_imports(text: str, lines: set[str]) -> str:
    """Return a script with imports, such as `import math`, in the order that isort has."""
    for line in sorted(lines):
        source = Source(text)
        if not _has(source, line):
            text = _with_import(source, line)
    return text


def _has(source: Source, line: str) -> bool:
    wanted = ast.unparse(ast.parse(line))
    module, name = _parts(wanted)
    for node in source.tree.body:
        if isinstance(node, ast.ImportFrom) and node.module == module:
            if any(alias.name == name and not alias.asname for alias in node.names):
                return True
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if ast.unparse(ast.Import([alias])) == wanted:
                    return True
    return False


def _parts(line: str) -> tuple[str, str]:
    """Return the module of an import, and the name that it takes from it, if any."""
    words = line.split()
    return words[1], words[3] if words[0] == "from" else ""


def _rank(line: str) -> tuple[bool, bool, str]:
    """Return what isort sorts by: the standard library first, `import` before `from`."""
    module, _ = _parts(line)
    is_other = module.split(".")[0] not in sys.stdlib_module_names
    return is_other, line.startswith("from"), module.lower()


def _with_import(source: Source, line: str) -> str:
    module, name = _parts(line)
    nodes = [
        node
        for node in source.tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        and getattr(node, "module", "") != "__future__"
    ]
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module == module and not node.level:
            names = sorted([*(ast.unparse(alias) for alias in node.names), name], key=_isort_key)
            new = f"from {module} import {', '.join(names)}"
            return edited(source.text, [(*source.span(node), new)])
    rank = _rank(line)
    later = [node for node in nodes if _rank(ast.unparse(node)) > rank]
    earlier = [node for node in nodes if _rank(ast.unparse(node)) < rank]
    if earlier and _rank(ast.unparse(earlier[-1]))[0] == rank[0]:
        end = source.starts[earlier[-1].end_lineno or 0]
        return edited(source.text, [(end, end, f"{line}\n")])
    anchor = later[0] if later else source.tree.body[0]
    start = source.starts[anchor.lineno - 1]
    gap = "\n" if not later or _rank(ast.unparse(anchor))[0] != rank[0] else ""
    return edited(source.text, [(start, start, f"{line}\n{gap}")])


def _isort_key(name: str) -> tuple[int, str]:
    """Constants, classes, then functions, as ruff sorts the names of an import."""
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2
    return kind, name


def without_imports(text: str, replaced: set[str]) -> str:
    """Return a script without the imports of what definitions have replaced.

    Args:
        text: of the script.
        replaced: names of torch, such as `nn.Linear`; modules of torch go where nothing uses them.
    """
    source = Source(text)
    used = {node.id for node in ast.walk(source.tree) if isinstance(node, ast.Name)}

    def is_kept(full: str, local: str) -> bool:
        is_module = short(full) in ("nn", "F", "optim") or short(full).startswith("optim.")
        return short(full) not in replaced and (local in used or not is_module)

    edits: list[Edit] = []
    for node in source.tree.body:
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        module = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
        kept = [
            alias
            for alias in node.names
            if is_kept(module + alias.name, alias.asname or alias.name.split(".")[0])
        ]
        if not kept:
            edits.append((*source.line_span([node]), ""))
        elif len(kept) < len(node.names):
            new = f"from {node.module} import " if isinstance(node, ast.ImportFrom) else "import "
            edits.append((*source.span(node), new + ", ".join(map(ast.unparse, kept))))
    return edited(text, edits)
