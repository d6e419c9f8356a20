"""Classes, functions and constants as they are written, with all that they need."""

import ast
import builtins
import importlib.util
import inspect
import textwrap
from collections.abc import Collection, Iterator
from types import FunctionType, ModuleType
from typing import Any

from plainfit.common.errors import EjectError
from plainfit.eject.imports import Imports
from plainfit.eject.pruning import pruned
from plainfit.eject.sources import Source, is_liftable, module_names, place, source_of
from plainfit.eject.splicing import Edit, replaced

OWN = {"validate"}  # what a script has a definition of its own for
LITERALS = (bool, int, float, str, bytes, type(None))


class Lifter:
    """Collects what a script must define, each thing after those that it needs."""

    def __init__(self) -> None:
        self.imports = Imports()
        self.definitions: dict[str, str] = {}
        self.homes: dict[str, str] = {}
        self.unused: set[str] = {"__repr__", "plot"}
        """Methods of our own classes that the script has no use for."""

    def lift(self, thing: Any) -> str:
        """Make a class or function part of the script, or an import, and return its name.

        Raises:
            EjectError: if its source cannot be had or copied.
        """
        module, name = str(thing.__module__), str(thing.__qualname__)
        if not is_liftable(module):
            self.imports.add(f"from {module} import {name.split('.')[0]}")
            return name
        if "<" in name:
            return self.lift_nested(thing)
        return self.take(name, source_of(module))

    def take(self, name: str, source: Source) -> str:
        """Make a name of a module part of the script; return what it is called there."""
        node = source.bindings.get(name)
        if node is None:
            return self.take_unbound(name, source)
        if isinstance(node, ast.Import | ast.ImportFrom):
            return self.take_import(name, node, source)
        home = f"{source.module.__name__}:{name}"
        if self.is_new(name, home):
            self.define(name, node, source)
        return name

    def is_new(self, name: str, home: str) -> bool:
        """Note where a name comes from; return whether it was not there yet.

        Raises:
            EjectError: if another thing has the name.
        """
        if self.homes.setdefault(name, home) != home:
            raise EjectError(
                f"a name in a script must stand for one thing, and {name!r} is {self.homes[name]} "
                f"and {home}; rename one of them"
            )
        if name in self.definitions:
            return False
        self.definitions[name] = ""  # a thing that needs itself ends here
        return True

    def define(self, name: str, node: ast.stmt, source: Source) -> None:
        """Copy the statement that defines a name, and what it needs."""
        text = statement_text(node, source.text)
        if source.is_ours:
            text = pruned(text, self.unused)
        text, taken = self.with_attributes_lifted(text, source)
        self.require(text, source, {name, *taken})
        del self.definitions[name]  # what it needs comes first
        self.definitions[name] = text

    def require(self, text: str, source: Source, known: Collection[str]) -> None:
        """Make what a piece of code looks up in its module part of the script."""
        code = compile(text, source.module.__name__, "exec", dont_inherit=True)
        for needed in sorted(module_names(code) - {*known}):
            if needed in source.bindings or not hasattr(builtins, needed):
                self.take(needed, source)
        if "annotations" in source.bindings:
            self.imports.add("from __future__ import annotations")

    def put(self, thing: Any, text: str) -> None:
        """Define a function of ours by another text, which does the same."""
        name = str(thing.__qualname__)
        if self.is_new(name, f"{thing.__module__}:{name}"):
            self.require(text, source_of(thing.__module__), {name})
            del self.definitions[name]
            self.definitions[name] = text

    def take_used(self, text: str, module: str) -> None:
        """Make what some lines of one of our modules use of it part of the script."""
        source = source_of(module)
        body = textwrap.indent(text, "    ")
        code = compile(f"def lines():\n    ...\n{body}", module, "exec")
        for name in sorted(module_names(code) & source.bindings.keys()):
            if name not in OWN:
                self.take(name, source)

    def take_unbound(self, name: str, source: Source) -> str:
        """Take a name that a module's text does not bind: as our package's lazy ones."""
        thing = getattr(source.module, name, None)
        if isinstance(thing, type | FunctionType):
            return self.lift(thing)
        raise EjectError(
            f"what a script needs must be written down, and {name!r} is not defined in the text of "
            f"{source.module.__name__} ({source.module.__file__})"
        )

    def take_import(self, name: str, node: ast.Import | ast.ImportFrom, source: Source) -> str:
        """Take an imported name: an import stays one, if the module is neither ours nor theirs."""
        (alias,) = [a for a in node.names if (a.asname or a.name.split(".")[0]) == name]
        if isinstance(node, ast.Import):
            if is_liftable(alias.name):
                raise EjectError(
                    f"{source.module.__file__}:{node.lineno}: a module that is copied can be used "
                    f"by the names in it only, such as {name}.function, got {name} by itself"
                )
            self.imports.add(f"import {ast.unparse(alias)}")
            return name
        package = source.module.__package__ or ""
        module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
        if not is_liftable(module):
            self.imports.add(f"from {module} import {ast.unparse(alias)}")
            return name
        called = self.take(alias.name, source_of(module))
        if called != name and self.is_new(name, f"{module}:{alias.name}"):
            del self.definitions[name]
            self.definitions[name] = f"{name} = {called}"
        return name

    def with_attributes_lifted(self, text: str, source: Source) -> tuple[str, list[str]]:
        """Replace `module.name` by the name alone, where the module is one whose code is copied.

        Returns the text, and those names.
        """
        edits: list[Edit] = []
        for node in ast.walk(ast.parse(text)):
            target = copied_attribute(node, source)
            if target is not None:
                assert isinstance(node, ast.Attribute)
                edits.append(Edit.of(node, self.take(node.attr, source_of(target))))
        return replaced(text, edits), [edit.text for edit in edits]

    def lift_nested(self, thing: Any) -> str:
        """Take a function that was defined within another, or a lambda."""
        if not isinstance(thing, FunctionType):
            raise EjectError(
                f"{place(thing)}: what a script needs must have a name in a module, got "
                f"{thing.__qualname__}; define it with def or class at the top of a file"
            )
        source, name = source_of(thing.__module__), thing.__name__
        text = textwrap.dedent(inspect.getsource(thing))
        if name == "<lambda>":
            name, text = lambda_as_function(thing, source)
        if not self.is_new(name, f"{thing.__module__}:{thing.__qualname__}"):
            return name
        text, taken = self.with_attributes_lifted(text, source)
        closed = inspect.getclosurevars(thing).nonlocals
        for inner, value in closed.items():
            self.take_closed(inner, value, thing)
        self.require(text, source, {name, *taken, *closed})
        del self.definitions[name]
        self.definitions[name] = text.rstrip()
        return name

    def take_closed(self, name: str, value: Any, thing: FunctionType) -> None:
        """Make a variable that a function closes over part of the script."""
        if isinstance(value, type | FunctionType) and value.__name__ == name:
            self.lift(value)
        elif is_literal(value):
            if self.is_new(name, f"{thing.__qualname__}:{name}"):
                self.definitions[name] = f"{name} = {value!r}"
        else:
            raise EjectError(
                f"{place(thing)}: a script cannot write down {name}, a {type(value).__name__} that "
                f"{thing.__name__} closes over; pass it as an argument with a literal value"
            )


def lambda_as_function(thing: FunctionType, source: Source) -> tuple[str, str]:
    """Return a name for a lambda, and a function that does the same.

    Raises:
        EjectError: if its text cannot be told from that of another one on its line.
    """
    found = [
        (target, node)
        for target, node in lambdas(ast.parse(source.text))
        if node.lineno == thing.__code__.co_firstlineno
        and [arg.arg for arg in ast.walk(node.args) if isinstance(arg, ast.arg)]
        == list(thing.__code__.co_varnames)
    ]
    if len(found) != 1:
        raise EjectError(
            f"{place(thing)}: a script must know the text of a lambda, and its line has "
            f"{len(found)} that it may be; define it with def, or on a line of its own"
        )
    ((target, node),) = found
    code = ast.get_source_segment(source.text, node.body) or ""
    code = ast.unparse(node.body) if "\n" in code else code
    name = target or "function"
    return name, f"def {name}({ast.unparse(node.args)}):\n    return {code}"


def lambdas(tree: ast.AST) -> Iterator[tuple[str, ast.Lambda]]:
    """Yield the lambdas of a tree, with the name that each is assigned to, if it is."""
    names = {
        node.value: node.targets[0].id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Lambda):
            yield names.get(node, ""), node


def statement_text(node: ast.stmt, text: str) -> str:
    """Return a module-level statement with its decorators and the comments right above it."""
    lines = text.splitlines()
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(item.lineno for item in decorators)]) - 1
    start = first
    while start > 0 and lines[start - 1].startswith("#"):
        start -= 1
    assert node.end_lineno is not None
    return textwrap.dedent("\n".join(lines[start : node.end_lineno]))


def copied_attribute(node: ast.AST, source: Source) -> str | None:
    """Return the module that `a.b.name` takes `name` from, if its code is copied."""
    if not isinstance(node, ast.Attribute):
        return None
    names = [node.value]
    while isinstance(names[-1], ast.Attribute):
        names.append(names[-1].value)
    base = names[-1]
    if not isinstance(base, ast.Name) or base.id not in source.bindings:
        return None
    found: Any = getattr(source.module, base.id, None)
    for part in reversed(names[:-1]):
        found = getattr(found, part.attr, None) if isinstance(part, ast.Attribute) else None
    if isinstance(found, ModuleType) and is_liftable(found.__name__):
        return found.__name__
    return None


def is_literal(value: Any) -> bool:
    """Return whether `repr` gives the value back."""
    if isinstance(value, list | tuple | set):
        return all(map(is_literal, value))
    if isinstance(value, dict):
        return all(map(is_literal, [*value, *value.values()]))
    return isinstance(value, LITERALS) and value == value and abs_finite(value)


def abs_finite(value: Any) -> bool:
    """Return whether a value is no infinite number, whose `repr` is a name."""
    return not isinstance(value, float) or value not in (float("inf"), float("-inf"))
