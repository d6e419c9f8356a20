"""Run a script in a process of its own, where plainfit cannot be imported.

`run_alone` hands this text to `python -c`, together with that of `devices.fingerprint`, since the
process may not import it.
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
        if name.split(".")[0] == "plainfit":
            raise ImportError(f"a script that was ejected imports {name}")


class Enough(Exception):  # noqa: N818  # not an error
    """Raised after the last step that is asked for."""


class Stop(ast.NodeTransformer):
    """Stops a script after N steps, at the statement that keeps a step's loss."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def visit_Expr(self, node: ast.Expr) -> ast.AST | list[ast.stmt]:  # ast's name
        self.generic_visit(node)
        if not self.steps or ast.unparse(node) != "losses.append(loss.item())":
            return node
        test = ast.parse(f"if len(losses) == {self.steps}: raise Enough").body
        return [node, *test]


def main(script: str, report: str, steps: str) -> None:
    """Run the script, and write its losses and the fingerprint of this process as JSON."""
    sys.meta_path.insert(0, NoPlainfit())
    sys.path[0] = str(Path(script).parent)
    sys.argv = [script]
    import torch

    tree = Stop(int(steps)).visit(ast.parse(Path(script).read_text()))
    names: dict[str, Any] = {"__name__": "__main__", "__file__": script, "Enough": Enough}
    with suppress(Enough):
        exec(compile(ast.fix_missing_locations(tree), script, "exec"), names)
    on = fingerprint(torch.device(names.get("DEVICE", "cpu")))  # type: ignore[name-defined]  # noqa: F821
    found = {"losses": names.get("losses", []), "fingerprint": on}
    Path(report).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
