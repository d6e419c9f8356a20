"""The imports of a script, merged and sorted as ruff sorts them."""

import ast
import sys
from collections import defaultdict


class Imports:
    """What a script imports."""

    def __init__(self) -> None:
        self.modules: set[str] = set()
        self.names: dict[str, set[str]] = defaultdict(set)

    def add(self, statement: str) -> None:
        """Take in an import statement."""
        (node,) = ast.parse(statement).body
        if isinstance(node, ast.Import):
            self.modules |= {ast.unparse(alias) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            self.names[node.module] |= {ast.unparse(alias) for alias in node.names}

    def lines(self) -> list[str]:
        """Return the statements: the standard library's, a blank line, then the others."""
        return [
            line
            for section in ("__future__", "standard", "other")
            if (group := self.section(section))
            for line in ["", *group]
        ][1:]

    def section(self, section: str) -> list[str]:
        """Return the statements of one section."""
        whole = sorted(name for name in self.modules if section_of(name) == section)
        parts = sorted(name for name in self.names if section_of(name) == section)
        return [
            *(f"import {name}" for name in whole),
            *(f"from {m} import {', '.join(sorted(self.names[m], key=kind))}" for m in parts),
        ]


def section_of(module: str) -> str:
    """Return the section that a module's import stands in."""
    top = module.split(".")[0].split(" ")[0]
    if top == "__future__":
        return top
    return "standard" if top in sys.stdlib_module_names else "other"


def kind(name: str) -> tuple[int, str]:
    """Return where a name is sorted: CONSTANTS, then Classes, then functions."""
    if name.isupper() and len(name) > 1:
        return 0, name
    return (1 if name[:1].isupper() else 2), name
