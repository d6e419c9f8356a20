"""Where names come from: modules as text and as tree, and which of them are the user's."""

import ast
import dis
import importlib
import inspect
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NamedTuple

from plainfit.common.errors import EjectError

STANDARD = sysconfig.get_path("stdlib")


class Source(NamedTuple):
    """A module as it is written."""

    module: ModuleType
    text: str
    bindings: dict[str, ast.stmt]
    """The statement that binds each name of the module."""

    @property
    def is_ours(self) -> bool:
        """Whether it is a module of plainfit."""
        return self.module.__name__.split(".")[0] == "plainfit"


@cache
def source_of(name: str) -> Source:
    """Return a module's source.

    Raises:
        EjectError: if there is none.
    """
    module = sys.modules.get(name) or importlib.import_module(name)
    try:
        text = inspect.getsource(module)
    except (OSError, TypeError) as error:
        raise EjectError(
            f"a script is made of source text, and the module {name!r} has none (a prompt, exec or "
            "a compiled extension); put the code into a file and import it"
        ) from error
    return Source(module, text, dict(bindings(ast.parse(text).body)))


def bindings(statements: Iterable[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    """Yield the names that module-level statements bind."""
    for node in statements:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, node
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                for alias in names:
                    yield alias.asname or alias.name.split(".")[0], node
            case ast.Assign(targets=targets):
                for target in targets:
                    for inner in ast.walk(target):
                        if isinstance(inner, ast.Name):
                            yield inner.id, node
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name, node
            case ast.If() | ast.Try():
                yield from bindings([*node.body, *node.orelse])


def is_liftable(module: str) -> bool:
    """Return whether a module is the user's or ours: its code is copied, and not imported."""
    top = module.split(".")[0]
    if top == "plainfit" or module == "__main__":
        return True
    if top in sys.stdlib_module_names or top in sys.builtin_module_names:
        return False
    loaded = sys.modules.get(module) or sys.modules.get(top)
    file = getattr(loaded, "__file__", None)
    if file is None:
        return False
    path = Path(file).resolve()
    packages = {"site-packages", "dist-packages"} & {*path.parts}
    return not packages and not path.is_relative_to(STANDARD)


def module_names(code: CodeType) -> set[str]:
    """Return the names that some code looks up in its module."""
    found = {
        str(instruction.argval)
        for instruction in dis.get_instructions(code)
        if instruction.opname.startswith("LOAD_")
        and ("GLOBAL" in instruction.opname or instruction.opname == "LOAD_NAME")
    }
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= module_names(constant)
    return found


def place(thing: Any) -> str:
    """Return `file:line` of a class or function, as far as it can be seen."""
    try:
        file, line = inspect.getsourcefile(thing), inspect.getsourcelines(thing)[1]
    except (OSError, TypeError):
        return f"{getattr(thing, '__module__', '?')}"
    return f"{file}:{line}"
