"""Run a script where plainfit cannot be imported.

`run_alone` writes this text to a file, together with that of `devices.fingerprint`.
"""

import json
import os
import re
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


def enough(*_: object) -> None:
    raise Enough


def main(script: str, report: str, steps: str) -> None:
    sys.meta_path.insert(0, NoPlainfit())
    sys.path[0] = str(Path(script).parent)
    sys.argv = [script]
    import torch

    text = Path(script).read_text(encoding="utf-8")
    if int(steps):
        line = r"^( {8}| {12}(?=.*take_step))losses\.append\(.*\.item\(\)\)$"
        stop = rf"\g<0>\n\g<1>if len(losses) >= {steps}: raise Enough"
        text = re.sub(line, stop, text, flags=re.MULTILINE)
    names: dict[str, Any] = {"__name__": "__main__", "__file__": script, "Enough": Enough}
    with suppress(Enough):
        exec(compile(text, script, "exec"), names)
    if int(steps) and "validate" in names:
        names["compiled"] = enough  # it takes long
        with suppress(Enough):
            names["validate"](names["model"])
    on = fingerprint(torch.device(names.get("DEVICE", "cpu")))  # type: ignore[name-defined]  # noqa: F821
    losses = names.get("losses", [])[: int(steps) or None]
    found = {"losses": losses, "fingerprint": on}
    if os.environ.get("RANK", "0") == "0":
        Path(report).write_text(json.dumps(found), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
