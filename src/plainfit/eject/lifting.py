"""Copying classes, functions and constants into a script, with everything that they need."""

import ast
import builtins
import importlib
import importlib.util
import inspect
import linecache
import sys
import sysconfig
import textwrap
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor

from plainfit.common.errors import EjectError
from plainfit.eject.source import (
    Edit,
    Imports,
    Source,
    bound,
    edited,
    free_name,
    place,
    renaming,
)
from plainfit.eject.values import expression

STANDARD = sysconfig.get_path("stdlib")


@dataclass
class ModuleText:
    """A module, or a cell of a notebook: its source, and what binds each of its names."""

    module: ModuleType
    home: str  # the name of the module, or that of a cell of a notebook
    code: Source
    bindings: dict[str, ast.stmt | None]

    @property
    def is_cell(self) -> bool:
        return self.home != self.module.__name__

    def has(self, name: str) -> bool:
        names = vars(self.module) if self.is_cell and name[:2] != "__" else self.bindings
        return name in names


parsed = cache(Source)


class Lifter:
    """Collects the definitions and imports of a script, each definition after those it needs."""

    def __init__(self, reserved: Mapping[str, str] | None = None) -> None:
        self.reserved = reserved or {}
        """The names that the script's own text has, each with where it is imported from."""
        self.imports = Imports()
        self.definitions: dict[str, str] = {}
        self.names: dict[tuple[str, Hashable], str] = {}
        """The names in the script, by those in the user's code and where they are from."""
        self.tensors: dict[str, Tensor] = {}
        """What is too large for the text of a script."""
        self.unused: set[str] = {"__repr__", "plot"}
        """Methods of our own classes that the script does not call."""
        self.modules: dict[str, ModuleText] = {}

    def source_of(self, name: str, thing: Any = None) -> ModuleText:
        module = sys.modules.get(name) or importlib.import_module(name)
        try:
            home, text = name, inspect.getsource(module)  # as it is now: it may be reloaded
        except (OSError, TypeError) as error:
            home = cell_of(thing)
            text = "".join(linecache.getlines(home))
            if not text:
                raise EjectError(
                    f"a script is made of source text, and the module {name!r} has none (exec, "
                    "standard input or a compiled extension); put the code into a file and import "
                    "it"
                ) from error
        if home not in self.modules:
            code = parsed(text)
            self.modules[home] = ModuleText(module, home, code, bindings(code.tree.body))
        return self.modules[home]

    def name_for(self, name: str, home: Hashable) -> str:
        """Return the name of a thing in the script: its own, if that stands for nothing else."""
        key = name, home
        if key not in self.names:
            ours = () if self.reserved.get(name) == home else self.reserved
            self.names[key] = free_name(name, {*self.names.values(), *ours})
        return self.names[key]

    def keep(self, tensor: Tensor) -> str:
        """Put a tensor into the file beside the script; return its name there."""
        same = (name for name, other in self.tensors.items() if other is tensor)
        name = next(same, f"tensor_{len(self.tensors)}")
        self.tensors[name] = tensor
        return name

    def lift(self, thing: Any) -> str:
        module, name = str(thing.__module__), str(thing.__qualname__)
        top, *inner = name.split(".")
        if not is_liftable(module):
            return ".".join([self.take_import(top, module, top), *inner])
        if "<" in name:
            return self.lift_nested(thing)
        source = self.source_of(module, thing)
        if (node := source.bindings.get(top)) is None:
            raise undefined(top, source)
        return ".".join([self.take_statement(top, node, source), *inner])

    def take(self, name: str, source: ModuleText) -> str:
        """Give the script what a name in a text stands for; return its name there."""
        is_table = isinstance(vars(source.module).get(name), Tensor | np.ndarray)
        node = None if source.is_cell or is_table else source.bindings.get(name)
        if node is None:  # drawn or read, bound in another cell, in a loop, or more than once
            if not hasattr(source.module, name):
                raise undefined(name, source)
            value = getattr(source.module, name)
            return self.take_value(name, value, f"{source.module.__name__}:{name}")
        return self.take_statement(name, node, source)

    def take_statement(self, name: str, node: ast.stmt, source: ModuleText) -> str:
        if isinstance(node, ast.Import | ast.ImportFrom):
            return self.take_imported(name, node, source)
        names = {each: self.name_for(each, f"{source.home}:{each}") for each in bindings([node])}
        if names[name] not in self.definitions:
            self.definitions |= dict.fromkeys(names.values(), "")
            text = statement_text(node, source.code)
            if source.module.__name__.split(".")[0] == "plainfit":
                text = shortened(text, frozenset(self.unused))
            self.define(names[name], text, source, names)
        return names[name]

    def take_value(self, name: str, value: Any, home: Hashable) -> str:
        """Give the script a name for a value that no text defines, or none that can be copied."""
        if isinstance(value, ModuleType):
            return self.take_import(name, value.__name__)
        given = expression(value, self)
        if given == name:
            return name
        called = self.name_for(name, home)
        self.definitions.setdefault(called, f"{called} = {given}")
        return called

    def define(self, name: str, text: str, source: ModuleText, names: dict[str, str]) -> None:
        """Add a definition, after all that its text looks up: `names` are those already known."""
        self.definitions[name] = ""  # stops the recursion of a definition that needs itself
        code, edits = Source(text), list[Edit]()
        for node in ast.walk(code.tree):  # `module.name` becomes `name` if the module is copied
            if isinstance(node, ast.Attribute) and (target := copied_attribute(node, source)):
                called = self.take(node.attr, self.source_of(target))
                if called in bound(code.tree):
                    called = self.take_again(called)
                edits.append((*code.span(node), called))
        starts = {start for start, *_ in edits}
        for needed in sorted({each for each, at, _ in code.global_names if at not in starts}):
            if needed not in names and (source.has(needed) or not hasattr(builtins, needed)):
                names[needed] = self.take(needed, source)
        if "annotations" in source.bindings:
            self.imports.add("from __future__ import annotations")
        del self.definitions[name]  # to the end, after what it needs
        edits += [edit for edit in renaming(code, names) if edit[0] not in starts]
        self.definitions[name] = edited(text, edits)

    def take_again(self, name: str) -> str:
        """Give something in the script a second name, where the first is that of a variable."""
        called = self.name_for(free_name(name, [name]), name)
        self.definitions.setdefault(called, f"{called} = {name}")
        return called

    def take_import(self, name: str, module: str, inner: str = "") -> str:
        if not inner and is_liftable(module):
            raise EjectError(
                f"a module that is copied can be used by the names in it only, such as "
                f"{name}.function, got {name} by itself"
            )
        top = module.split(".")[0]
        if name == top and not inner:  # which is what `import a.b` gives a name to
            called, own = self.name_for(name, top), top
            module = module if called == own else top
        else:
            called, own = self.name_for(name, f"{module}.{inner}".rstrip(".")), inner or module
        statement = f"from {module} import {inner}" if inner else f"import {module}"
        self.imports.add(statement if called == own else f"{statement} as {called}")
        return called

    def take_imported(
        self, name: str, node: ast.Import | ast.ImportFrom, source: ModuleText
    ) -> str:
        (alias,) = [a for a in node.names if (a.asname or a.name.split(".")[0]) == name]
        if isinstance(node, ast.Import):
            return self.take_import(name, alias.name)
        package = source.module.__package__ or ""
        module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
        if not is_liftable(module):
            return self.take_import(name, module, alias.name)
        return self.take(alias.name, self.source_of(module))

    def lift_nested(self, thing: Any) -> str:
        """Take a lambda, or a function that was defined in another one."""
        if not isinstance(thing, FunctionType):
            raise EjectError(
                f"{place(thing)}: a script needs classes with a name in a module, got "
                f"{thing.__qualname__}; define it with def or class at the top of a file"
            )
        source, name = self.source_of(thing.__module__, thing), thing.__name__
        text = textwrap.dedent(inspect.getsource(thing)).rstrip()
        if name == "<lambda>":
            name, text = lambda_as_function(thing, source)
        called = self.name_for(name, thing)
        if called not in self.definitions:
            self.definitions[called] = ""
            names = {name: called}
            cells = zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=True)
            for inner, cell in cells:
                names[inner] = self.take_value(inner, cell.cell_contents, id(cell))
            text = self.with_defaults(text, thing)
            self.define(called, text, source, names)
        return called

    def with_defaults(self, text: str, thing: FunctionType) -> str:
        """Return a nested function with its defaults as values: they may have been variables."""
        code = Source(text)
        arguments: ast.arguments = code.tree.body[0].args  # type: ignore[attr-defined]
        named = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        given = [*zip(arguments.defaults, thing.__defaults__ or (), strict=True)]
        given += [(node, (thing.__kwdefaults__ or {})[arg.arg]) for arg, node in named if node]
        return edited(text, [(*code.span(node), expression(v, self)) for node, v in given])


def cell_of(thing: Any) -> str:
    """Return the cell of a notebook that defines a class or function, by its name in linecache."""
    parts = [thing, *vars(thing).values()] if isinstance(thing, type) else [thing]
    for part in parts:
        code = getattr(inspect.unwrap(part) if callable(part) else part, "__code__", None)
        if code and code.co_qualname.startswith(thing.__qualname__):
            return str(code.co_filename)
    if isinstance(thing, type):  # without methods
        own = public([*vars(thing), *vars(thing).get("__annotations__", ())])
        for name, entry in reversed(linecache.cache.items()):
            text = "".join(entry[2]) if len(entry) > 1 and entry[1] is None else ""  # not a file's
            is_named = thing.__name__ in text
            node = bindings(parsed(text).tree.body).get(thing.__name__) if is_named else None
            if isinstance(node, ast.ClassDef) and public(bindings(node.body)) == own:
                return name
    return ""


def public(names: Iterable[str]) -> set[str]:
    return {name for name in names if not name.startswith("_")}


def undefined(name: str, source: ModuleText) -> EjectError:
    return EjectError(
        f"a script needs the definition of {name!r}, and the text of {source.module.__name__} "
        f"({getattr(source.module, '__file__', source.home)}) has none; define it there"
    )


def bindings(statements: Iterable[ast.stmt]) -> dict[str, ast.stmt | None]:
    """Return the statement that binds each name; None if several do, or change what it is."""
    found: dict[str, ast.stmt | None] = {}
    for name, node in binding_statements(statements):
        if node is None or isinstance(node, ast.Assign | ast.AnnAssign):
            node = None if name in found else node
        if node or not isinstance(found.get(name), ast.Import | ast.ImportFrom):
            found[name] = node
    return found


def binding_statements(statements: Iterable[ast.stmt]) -> Iterator[tuple[str, ast.stmt | None]]:
    for node in statements:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, node
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                for alias in names:
                    yield alias.asname or alias.name.split(".")[0], node
            case ast.If() | ast.Try():
                yield from binding_statements([*node.body, *node.orelse])
            case ast.Expr(ast.Call(ast.Attribute(ast.Name(name)))):  # such as `names.append(...)`
                yield name, None
            case _:  # what a loop or another statement binds is taken by its value
                whole = node if isinstance(node, ast.Assign | ast.AnnAssign) else None
                for inner in (
                    each for t in getattr(node, "targets", [node]) for each in ast.walk(t)
                ):
                    match inner:
                        case ast.Name(name, ast.Store()):
                            yield name, whole
                        case ast.Subscript(ast.Name(name), ctx=ast.Store()):
                            yield name, None


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


def statement_text(node: ast.stmt, source: Source) -> str:
    first = start = source.first_line(node) - 1
    while start > 0 and source.lines[start - 1].startswith("#"):
        start -= 1
    comments = "".join(f"{line}\n" for line in source.lines[start:first])
    return textwrap.dedent(comments + source.block([node])).rstrip("\n")


def copied_attribute(node: ast.Attribute, source: ModuleText) -> str | None:
    top, *parts = ast.unparse(node.value).split(".")
    found: Any = getattr(source.module, top, None)
    for part in parts:
        found = getattr(found, part, None)
    is_copied = isinstance(found, ModuleType) and is_liftable(found.__name__)
    return found.__name__ if is_copied else None


def lambda_as_function(thing: FunctionType, source: ModuleText) -> tuple[str, str]:
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


@lru_cache(1000)
def shortened(text: str, unused: frozenset[str] = frozenset()) -> str:
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
