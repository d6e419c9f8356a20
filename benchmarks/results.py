"""Results as JSON files, `results/NAME.MACHINE.json`, and how a section of the page is added.

A section is whatever `save_section` writes: a title, a text, and a table. The page shows every one
that it finds, so a program of its own adds a section by one call.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import machine

FOLDER = Path(__file__).resolve().parent / "results"


def path_of(name: str, where: dict[str, Any], folder: Path = FOLDER) -> Path:
    """Return the file of a result from a machine."""
    return folder / f"{name}.{machine.slug(where)}.json"


def save(path: Path, result: dict[str, Any]) -> None:
    """Write a result; what is a list of records gets a line for each."""
    lines = [f"{json.dumps(key)}: {lay_out(value)}" for key, value in result.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def lay_out(value: Any) -> str:
    """Return JSON, with a line for each item of a list of records."""
    if isinstance(value, list) and value and isinstance(value[0], dict | list):
        return "[\n  " + ",\n  ".join(json.dumps(item) for item in value) + "\n]"
    return json.dumps(value)


def save_section(
    name: str,
    title: str,
    text: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str | float]],
    *,
    raw: Any = None,
    folder: Path = FOLDER,
) -> Path:
    """Write a section of the page for this machine.

    Args:
        name: of the file; a section is replaced by the next one of its name and machine.
        title: its heading.
        text: what was measured and how, in Markdown.
        columns: headings of the table.
        rows: its cells: text, or numbers, which are shown with three significant digits.
        raw: the figures behind it, to be kept beside it.
        folder: where the file goes.
    """
    where = machine.describe()
    path = path_of(name, where, folder)
    save(
        path,
        {
            "name": name,
            "title": title,
            "machine": where,
            "text": text,
            "columns": list(columns),
            "rows": [list(row) for row in rows],
            "raw": raw,
        },
    )
    return path


def load_all(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """Return all results, by the name of their file."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
