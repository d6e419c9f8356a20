"""Build the notebooks from their source: `python notebooks/build.py`; `--check` only compares.

The code of the rungs comes from their programs.
"""

import argparse
import ast
import difflib
import re
import sys
from pathlib import Path

import jupytext
import nbformat

from plainfit.common.errors import PlainfitError
from plainfit.ladder.catalog import LESSON, find_rung
from plainfit.ladder.climb import NOTEBOOKS

FOLDER = Path(__file__).parent
SOURCE = FOLDER / "what_is_torch_nn.py"
READING = {"argparse", "Path", "torch"}  # imported to read the data
WIDE = "[\u2018-\u201d\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]"  # Chinese characters, their marks
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def main() -> int:
    """Write both notebooks, or with `--check` print which are out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 if one is out of date"
    )
    check = parser.parse_args().check
    old = []
    for language, name in NOTEBOOKS.items():
        text = build(SOURCE.read_text(encoding="utf-8"), language)
        path = FOLDER / name
        if check and (not path.exists() or path.read_text(encoding="utf-8") != text):
            old.append(name)
        elif not check:
            path.write_text(text, encoding="utf-8")
    if old:
        print(f"{', '.join(old)}: out of date; run python notebooks/build.py")
    return len(old) > 0


def build(source: str, language: str) -> str:
    """Return the content of the notebook file in a language."""
    cells = []
    for cell in jupytext.reads(source, fmt="py:percent").cells:
        if cell.cell_type == "raw" or cell.metadata.get("lang", language) != language:
            continue
        made = {"markdown": nbformat.v4.new_markdown_cell, "code": nbformat.v4.new_code_cell}
        text = text_of(cell.source) if cell.cell_type == "markdown" else code_of(cell.source)
        cells.append(made[cell.cell_type](text, id=f"cell-{len(cells):03}"))
    metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=metadata)
    return nbformat.writes(notebook) + "\n"


def text_of(text: str) -> str:
    """Return a text, or for `diff 04 05` what rung 05 changes.

    A line break between Chinese characters is removed: it would be shown as a space.
    """
    if not text.startswith("diff "):
        return re.sub(f"(?<={WIDE})\n(?={WIDE})", "", text)
    pair = ("".join(part for _, part in statements(name)) for name in text.split()[1:])
    old, new = (part.splitlines() for part in pair)
    lines = list(difflib.unified_diff(old, new, n=1, lineterm=""))[2:]
    shown = ["..." if line.startswith("@@") else line for line in lines]
    return "\n".join(["```diff", *shown[1:], "```"])


def code_of(text: str) -> str:
    """Return code, or for `# rung 05: optim, training` those statements of the rung.

    Raises:
        PlainfitError: if the rung has no such statement.
    """
    if not text.startswith("# rung "):
        return text
    name, _, wanted = text.removeprefix("# rung ").partition(": ")
    keys = wanted.split(", ")
    parts = statements(name)
    for key in keys:
        if not any(key in names for names, _ in parts):
            known = sorted({known for names, _ in parts for known in names})
            raise PlainfitError(f"rung {name} has no {key!r}: choose from {', '.join(known)}")
    code = "".join(part for names, part in parts if names & set(keys)).strip("\n")
    return re.sub(r"^((?:import|from) .+\n)(?!import|from|\n)", r"\1\n", code, flags=re.MULTILINE)


def statements(name: str) -> list[tuple[set[str], str]]:
    """Return the names and texts of a rung's statements, except of those that read the data."""
    lines = find_rung(name).source.splitlines()
    lesson = lines.index(LESSON) + 1
    found = []
    for node in ast.parse("\n".join(lines)).body:
        is_import = isinstance(node, ast.Import | ast.ImportFrom)
        if node.lineno > lesson or (is_import and not names_of(node) & READING):
            end = node.end_lineno or node.lineno
            blank = "\n" if end < len(lines) and not lines[end].strip() else ""
            found.append((names_of(node), "\n".join(lines[node.lineno - 1 : end]) + "\n" + blank))
    return found


def names_of(node: ast.stmt) -> set[str]:
    """Return the names that a statement binds, or else a word for what it does."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name for alias in node.names}
    if isinstance(node, ast.Assign):
        targets = ast.walk(ast.Tuple([*node.targets], ast.Store()))
        return {target.id for target in targets if isinstance(target, ast.Name)}
    text = ast.unparse(node)
    if isinstance(node, ast.If):
        return {"reading"}
    if isinstance(node, ast.For) and "epoch" not in text:
        return {"picture"}
    if isinstance(node, ast.For) or text.startswith(("fit(", "pf.fit(", "train(")):
        return {"training"}
    if printed := re.match(r"print\(f?'\W*(\w+)", text):
        return {printed[1]}  # its first word
    return {text.partition(".")[0]}  # weights.requires_grad_()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PlainfitError as error:
        sys.exit(f"{SOURCE.name}: {error}")
