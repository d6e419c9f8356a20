"""Run a script in a process of its own, where plainfit cannot be imported.

This text is what that process runs, by `python -c`; it imports nothing of ours.
"""

import ast
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any


class NoPlainfit:
    """Refuses every import of plainfit."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Raise for plainfit, and leave all else to the usual finders."""
        if name.split(".")[0] == "plainfit":
            raise ImportError(f"a script that was ejected imports {name}")


class Enough(Exception):  # noqa: N818  # not an error
    """Raised when enough steps are done."""


class Stop(ast.NodeTransformer):
    """Stop after so many steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def visit_Expr(self, node: ast.Expr) -> ast.AST | list[ast.stmt]:  # ast's name
        """Put the stop behind `losses.append(...)`."""
        self.generic_visit(node)
        if not self.steps or ast.unparse(node) != "losses.append(loss.item())":
            return node
        test = ast.parse(f"if len(losses) == {self.steps}: raise Enough").body
        return [node, *test]


def main(script: str, report: str, steps: str) -> None:
    """Run the script; write what it found, and on what, as JSON."""
    sys.meta_path.insert(0, NoPlainfit())
    sys.path[0] = str(Path(script).parent)
    sys.argv = [script]
    import torch

    tree = Stop(int(steps)).visit(ast.parse(Path(script).read_text()))
    names: dict[str, Any] = {"__name__": "__main__", "__file__": script, "Enough": Enough}
    with suppress(Enough):
        exec(compile(ast.fix_missing_locations(tree), script, "exec"), names)
    found = {
        "losses": names.get("losses", []),
        "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
    Path(report).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
