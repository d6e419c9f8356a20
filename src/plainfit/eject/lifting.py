"""Copying classes, functions and constants into a script, with everything that they need."""

import ast
import builtins
import dis
import importlib
import importlib.util
import inspect
import sys
import sysconfig
import textwrap
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from plainfit.common.errors import EjectError
from plainfit.eject.layout import Imports, is_literal, literal
from plainfit.eject.source import Edit, Source, edited

STANDARD = sysconfig.get_path("stdlib")


@dataclass
class ModuleText:
    """A module with its source and the statement that binds each of its names."""

    module: ModuleType
    code: Source
    bindings: dict[str, ast.stmt]


parsed = cache(Source)


class Lifter:
    """Collects the definitions and imports of a script, each definition after those it needs."""

    def __init__(self) -> None:
        self.imports = Imports()
        self.definitions: dict[str, str] = {}
        self.homes: dict[str, str] = {}
        self.unused: set[str] = {"__repr__", "plot"}
        """Methods of our own classes that the script does not call."""
        self.modules: dict[str, ModuleText] = {}

    def source_of(self, name: str) -> ModuleText:
        """Return a module with its source as it is now: it may have been reloaded."""
        if name not in self.modules:
            module = sys.modules.get(name) or importlib.import_module(name)
            try:
                code = parsed(inspect.getsource(module))
            except (OSError, TypeError) as error:
                raise EjectError(
                    f"a script is made of source text, and the module {name!r} has none (a prompt, "
                    "exec or a compiled extension); put the code into a file and import it"
                ) from error
            self.modules[name] = ModuleText(module, code, dict(bindings(code.tree.body)))
        return self.modules[name]

    def lift(self, thing: Any) -> str:
        module, name = str(thing.__module__), str(thing.__qualname__)
        if not is_liftable(module):
            self.imports.add(f"from {module} import {name.split('.')[0]}")
            return name
        if "<" in name:
            return self.lift_nested(thing)
        return self.take(name, self.source_of(module))

    def take(self, name: str, source: ModuleText) -> str:
        node = source.bindings.get(name)
        if node is None:  # it may be a lazy name, such as those of our package
            thing = getattr(source.module, name, None)
            if isinstance(thing, type | FunctionType):
                return self.lift(thing)
            module = source.module
            raise EjectError(
                f"a script needs the definition of {name!r}, and the text of {module.__name__} "
                f"({module.__file__}) has none; define it there"
            )
        if isinstance(node, ast.Import | ast.ImportFrom):
            return self.take_import(name, node, source)
        if self.is_new(name, f"{source.module.__name__}:{name}"):
            text = statement_text(node, source.code)
            if source.module.__name__.split(".")[0] == "plainfit":
                text = shortened(text, self.unused)
            self.define(name, text, source)
        return name

    def is_new(self, name: str, home: str) -> bool:
        """Note where a name comes from; return whether it was not there yet."""
        if self.homes.setdefault(name, home) != home:
            raise EjectError(
                f"a name in a script must stand for one thing, and {name!r} is {self.homes[name]} "
                f"and {home}; rename one of them"
            )
        if name in self.definitions:
            return False
        self.definitions[name] = ""  # stops the recursion of a definition that needs itself
        return True

    def define(
        self, name: str, text: str, source: ModuleText, closed: Collection[str] = ()
    ) -> None:
        """Add a definition, after everything that its text looks up in its module."""
        tree = Source(text)
        edits: list[Edit] = []  # `module.name` becomes `name` where the module is copied
        for node in ast.walk(tree.tree):
            if isinstance(node, ast.Attribute) and (target := copied_attribute(node, source)):
                edits.append((*tree.span(node), self.take(node.attr, self.source_of(target))))
        text, taken = edited(text, edits), {called for *_, called in edits}
        code = compile(text, source.module.__name__, "exec", dont_inherit=True)
        for needed in sorted(module_names(code) - {name, *taken, *closed}):
            if needed in source.bindings or not hasattr(builtins, needed):
                self.take(needed, source)
        if "annotations" in source.bindings:
            self.imports.add("from __future__ import annotations")
        del self.definitions[name]  # to the end, after what it needs
        self.definitions[name] = text

    def take_import(self, name: str, node: ast.Import | ast.ImportFrom, source: ModuleText) -> str:
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
        called = self.take(alias.name, self.source_of(module))
        if called != name and self.is_new(name, f"{module}:{alias.name}"):
            self.definitions[name] = f"{name} = {called}"
        return name

    def lift_nested(self, thing: Any) -> str:
        """Take a lambda, or a function that was defined in another one."""
        if not isinstance(thing, FunctionType):
            raise EjectError(
                f"{place(thing)}: a script needs classes with a name in a module, got "
                f"{thing.__qualname__}; define it with def or class at the top of a file"
            )
        source, name = self.source_of(thing.__module__), thing.__name__
        text = textwrap.dedent(inspect.getsource(thing)).rstrip()
        if name == "<lambda>":
            name, text = lambda_as_function(thing, source)
        if not self.is_new(name, f"{thing.__module__}:{thing.__qualname__}"):
            return name
        closed = inspect.getclosurevars(thing).nonlocals
        for inner, value in closed.items():
            if isinstance(value, type | FunctionType) and value.__name__ == inner:
                self.lift(value)
            elif not is_literal(value):
                raise EjectError(
                    f"{place(thing)}: a script cannot write down {inner}, a {type(value).__name__} "
                    f"that {name} closes over; pass it as an argument with a literal value"
                )
            elif self.is_new(inner, f"{thing.__qualname__}:{inner}"):
                self.definitions[inner] = f"{inner} = {literal(value)}"
        self.define(name, text, source, closed)
        return name


def bindings(statements: Iterable[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
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
    """Return whether a module is the user's or ours: its code is copied instead of imported."""
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
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return found.union(*map(module_names, inner))


def place(thing: Any) -> str:
    try:
        file, line = inspect.getsourcefile(thing), inspect.getsourcelines(thing)[1]
    except (OSError, TypeError):
        return f"{getattr(thing, '__module__', '?')}"
    return f"{file}:{line}"


def statement_text(node: ast.stmt, source: Source) -> str:
    """Return a module-level statement with its decorators and the comments right above it."""
    first = start = source.first_line(node) - 1
    while start > 0 and source.lines[start - 1].startswith("#"):
        start -= 1
    comments = "".join(f"{line}\n" for line in source.lines[start:first])
    return textwrap.dedent(comments + source.block([node])).rstrip("\n")


def copied_attribute(node: ast.Attribute, source: ModuleText) -> str | None:
    """Return the module that `a.b.name` takes `name` from, if its code is copied."""
    top, *parts = ast.unparse(node.value).split(".")
    if top not in source.bindings:
        return None
    found: Any = getattr(source.module, top, None)
    for part in parts:
        found = getattr(found, part, None)
    is_copied = isinstance(found, ModuleType) and is_liftable(found.__name__)
    return found.__name__ if is_copied else None


def lambda_as_function(thing: FunctionType, source: ModuleText) -> tuple[str, str]:
    """Return a name for a lambda, and a function that does the same."""
    tree = source.code.tree
    assigned = {
        node.value: node.targets[0].id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    found = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Lambda)
        and node.lineno == thing.__code__.co_firstlineno
        and [arg.arg for arg in ast.walk(node.args) if isinstance(arg, ast.arg)]
        == list(thing.__code__.co_varnames)
    ]
    if len(found) != 1:
        raise EjectError(
            f"{place(thing)}: a script needs the text of a lambda, and this line has "
            f"{len(found)} that match; define it with def, or on a line of its own"
        )
    (node,) = found
    code = source.code.of(node.body)
    code = ast.unparse(node.body) if "\n" in code else code
    name = assigned.get(node, "function")
    return name, f"def {name}({ast.unparse(node.args)}):\n    return {code}"


def shortened(text: str, unused: Collection[str]) -> str:
    """Return a definition of ours without unused methods and checks, with short docstrings."""
    source = Source(text)
    edits: list[Edit] = []
    for node in ast.walk(source.tree):
        for statement in removable(node, unused):
            start, end = source.line_span([statement])
            edits.append((len(text[:start].rstrip("\n")) + 1, end, ""))
        match getattr(node, "body", None):
            case [ast.Expr(ast.Constant(str(doc)) as whole), *_] if "\n" in doc:
                first = doc.split("\n\n")[0].rstrip()
                last = f"\n{' ' * whole.col_offset}" if "\n" in first else ""
                edits.append((*source.span(whole), f'"""{first}{last}"""'))
    outermost = [
        edit
        for edit in edits
        if not any(other[0] <= edit[0] and edit[1] <= other[1] for other in edits if other != edit)
    ]
    return edited(text, outermost).rstrip("\n")


def removable(node: ast.AST, unused: Collection[str]) -> Iterator[ast.stmt]:
    """Yield the statements in a class or function that a script does not need."""
    for statement in node.body if isinstance(node, ast.ClassDef | ast.FunctionDef) else []:
        match statement:
            case ast.FunctionDef(name=name, body=body) if isinstance(node, ast.ClassDef):
                if name in unused or body == [*removable(statement, unused)]:
                    yield statement
            case ast.If(body=[ast.Raise()], orelse=[]):
                yield statement
            case ast.Assign([ast.Name(name)], ast.Call(ast.Name(function), [ast.Name(given), *_])):
                if name == given and function in unused:
                    yield statement
            case ast.Expr(ast.Call(func=ast.Name(name))) if name.startswith("check_"):
                yield statement
