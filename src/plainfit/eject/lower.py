"""From a script to a lower level: names of torch out, definitions of `ladder.scratch` in."""

import ast
from collections.abc import Iterator
from functools import lru_cache

import torch

from plainfit.common.errors import ConfigError, EjectError, unknown_name
from plainfit.eject.lifting import shortened
from plainfit.eject.replacements import (
    LEVELS,
    OWN_METHODS,
    STEPS,
    Definition,
    Key,
    Reference,
    check,
    definitions,
    imported,
    is_default,
    is_replaced,
    pools_to_one,
    references,
    same_kernel,
    short,
    unknown_option,
    written_out,
)
from plainfit.eject.source import (
    Edit,
    Imports,
    Source,
    bound,
    edited,
    free_name,
    import_block,
    imports_in,
    names_in,
    parsed,
    renaming,
)

IN_DEFINITIONS = {"torch": "torch", "nn": "torch.nn", "F": "torch.nn.functional"}
"""What these names stand for in a pasted definition."""
CALLED_BY = {"save_model": "state_dict", "load_model": "load_state_dict"}
"""The methods of a module that functions of safetensors call."""

Part = tuple[set[str], set[str]]  # the names in a part of a definition, and what it may call

SWITCH = """
torch.set_default_dtype(torch.float64)  # sums in another order differ by rounding: 1e-16 here
"""
LOADERS = ("torch.load", "torch.from_numpy")
"""Like `load_file`, these return tensors as they were saved, whatever the default dtype is."""

AS_DOUBLE = '''

def as_double(loaded):
    """Convert a tensor, or a dict of them, to float64 where it has floating-point numbers."""
    if isinstance(loaded, dict):
        return {name: as_double(value) for name, value in loaded.items()}
    is_real = torch.is_tensor(loaded) and loaded.is_floating_point()
    return loaded.double() if is_real else loaded

'''


def lower(text: str, level: str) -> str:
    """Return a script of level `data` at a level; `loop` and `data` change nothing.

    At `optim`, the update rules are written out; at `layers`, so are the layers, which call `F`; at
    `tensors`, nothing is of `torch.nn`; at `math`, convolutions and the like are products and sums,
    in float64. Each includes the ones before.
    """
    if level not in LEVELS:
        raise ConfigError(unknown_name("level", level, LEVELS))
    if level not in STEPS:
        return text
    check(text, level)
    program = Program(text)
    for step in STEPS[: STEPS.index(level) + 1]:
        if (step, level) != ("tensors", "math"):  # `math` has other functions in their place
            program.replace(step)
    lowered = program.text()
    return in_float64(lowered) if level == "math" else lowered


class Program:
    """A script, and the definitions that take the place of parts of torch in it."""

    def __init__(self, text: str) -> None:
        self.user = text
        self.pasted: dict[str, str] = {}  # the text of each definition, by its name in the script
        self.names: dict[Key, str] = {}  # the names of the definitions in the script
        self.imports: set[str] = set()
        self.replaced: set[str] = set()  # the names of torch that the script no longer uses
        self.taken: set[str] = set()  # names in functions that use these
        source = parsed(text)
        self.bound = bound_at_top(source.tree)
        self.pools_to_one = pools_to_one(source)

    def replace(self, step: str) -> None:
        source = parsed(self.user)
        names = imported(source).items()
        known = {name: full for name, full in names if short(full) not in self.replaced}
        refs = [ref for ref in references(source, known) if is_replaced(ref.name, step)]
        self.replaced |= {ref.name for ref in refs}
        nodes = {ref.node for ref in refs}
        functions = (ast.FunctionDef, ast.Lambda)
        scopes = [each for each in source.nodes if isinstance(each, functions)]
        self.taken = set().union(*(bound(each) for each in scopes if nodes & {*ast.walk(each)}))
        self.user = self.without(source, refs, step)
        done: set[str] = set()
        while new := self.pasted.keys() - done:  # a definition may bring others
            for name in sorted(new):
                self.pasted[name] = self.without(*in_definition(self.pasted[name]), step)
            done |= new

    def without(self, source: Source, refs: list[Reference], step: str) -> str:
        refs = [ref for ref in refs if is_replaced(ref.name, step)]
        if not refs:
            return source.text
        edits: list[Edit] = []
        for ref in refs:
            call = source.calls.get(ref.node)
            edits.append((*source.span(ref.node), self.name_for(ref, call, step)))
            keywords = call.keywords if call else []
            edits += [left_out(source, each) for each in keywords if is_default(each)]
        return edited(source.text, edits)

    def name_for(self, ref: Reference, call: ast.Call | None, step: str) -> str:
        same = same_kernel(ref.name, step)
        definition = written_out(ref.name, step, self.pools_to_one)
        if same and (not definition or (call and not unknown_option(same, call))):
            return ref.name.replace("F.", "torch.")
        assert definition is not None, ref.name  # `check` has refused it
        return self.paste(definition, ref.name.rpartition(".")[2])

    def paste(self, definition: Definition, name: str) -> str:
        key = definition.module, definition.name
        if key in self.names:
            return self.names[key]
        name = free_name(name, {*self.taken, *self.bound, *self.names.values()})
        self.names[key] = name
        needs = {
            each: self.paste(definitions(module)[inner], each)
            for each, (module, inner) in definition.needs.items()
        }
        names = {**needs, definition.name: name}
        self.pasted[name] = renamed(definition.text, tuple(names.items()))
        self.imports |= definition.imports
        return name

    def text(self) -> str:
        if not self.replaced:
            return self.user
        pasted = used(self.pasted, self.user)
        source, text = parsed(self.user), self.user
        needing = (at for at, node in enumerate(source.tree.body) if names_in(node) & pasted.keys())
        if (first := next(needing, None)) is not None:
            at = source.starts[paragraph(source, first) - 1]
            block = "\n\n\n".join(pasted[name].strip("\n") for name in pasted)
            text = f"{text[:at].rstrip()}\n\n\n{block}\n\n\n{text[at:]}"
        return self.with_imports(text)

    def with_imports(self, text: str) -> str:
        source, imports = parsed(text), Imports()
        old, used_names = import_block(source.tree), names_in(source.tree)
        kept: dict[str, str] = {}
        for name, full, statement in imports_in(old):
            is_modular = short(full).split(".")[0] in ("nn", "F", "optim")
            is_used = name.split(".")[0] in used_names or not is_modular
            if short(full) not in self.replaced and is_used:
                imports.add(statement)
                kept[name] = full
        for name, full, statement in imports_in(ast.parse("\n".join(sorted(self.imports))).body):
            if name not in used_names:
                continue
            if kept.get(name, full) != full or name in self.bound - kept.keys():
                raise EjectError(
                    f"below level data a script needs the name {name!r} for {full}, and it has "
                    "another thing by that name; rename it"
                )
            imports.add(statement)
        return edited(text, [(*source.line_span(old), "\n".join([*imports.lines(), ""]))])


@lru_cache(1000)
def in_definition(text: str) -> tuple[Source, list[Reference]]:
    source = Source(text)
    return source, references(source, IN_DEFINITIONS)


@lru_cache(1000)
def renamed(text: str, names: tuple[tuple[str, str], ...]) -> str:
    return edited(text, renaming(Source(text), dict(names)))


def bound_at_top(tree: ast.Module) -> set[str]:
    """Return the names that a script has at its top, but for those from modules of torch."""
    names: set[str] = set()
    for statement in tree.body:
        if isinstance(statement, ast.ClassDef | ast.FunctionDef):
            names.add(statement.name)
        elif not (getattr(statement, "module", None) or "").startswith("torch."):
            names |= bound(statement)
    return names


def left_out(source: Source, keyword: ast.keyword) -> Edit:
    start, end = source.span(keyword)
    comma = source.text.rstrip().rfind(",", 0, start)
    is_next = comma >= 0 and not source.text[comma + 1 : start].strip()
    return (comma if is_next else start), end, ""


def used(texts: dict[str, str], user: str) -> dict[str, str]:
    """Return the definitions that a program uses, without the methods that it does not call."""
    unused, parts = dict[str, frozenset[str]](), dict[tuple[str, str], Part]()
    for name, text in texts.items():
        unused[name], found = parts_of(text)
        parts |= {(name, method): part for method, part in found.items()}
    tree = parsed(user).tree
    named, called = names_in(tree), {"", "forward", *words(tree)}  # torch itself calls `forward`
    needs: dict[str, set[str]] = {}
    while new := [
        (name, method)
        for name, method in parts
        if name in named and (method in called or method.startswith("__"))
    ]:
        for name, method in new:
            own, calls = parts.pop((name, method))
            needs.setdefault(name, set()).update(own)
            named |= own
            called |= calls
            unused[name] -= {method}
    return {name: shortened(texts[name], unused[name]) for name in ordered(needs)}


@lru_cache(1000)
def parts_of(text: str) -> tuple[frozenset[str], dict[str, Part]]:
    """Return the methods of a definition; and its parts, which are those that do more, and ""."""
    node = in_definition(text)[0].tree.body[0]
    parts: dict[str, list[ast.stmt]] = {"": [node]}
    methods = []
    if isinstance(node, ast.ClassDef):
        methods = [each for each in node.body if isinstance(each, ast.FunctionDef)]
        rest = [each for each in node.body if each not in methods]
        parts = {"": [*map(ast.Expr, node.bases), *rest]}
        parts |= {each.name: [each] for each in methods if not only_passes_on(each)}
    trees = {name: ast.Module(part, []) for name, part in parts.items()}
    found = {name: (names_in(tree), {*words(tree)}) for name, tree in trees.items()}
    return frozenset(each.name for each in methods), found


def only_passes_on(method: ast.FunctionDef) -> bool:
    """Return whether a method only calls the one it overrides, with its own arguments."""
    arguments = ", ".join(arg.arg for arg in method.args.args[1:])
    return ast.unparse(method.body) == f"super().{method.name}({arguments})"  # type: ignore[arg-type]


def words(tree: ast.AST) -> Iterator[str]:
    """Yield what may be the name of a called method: attributes, strings, those of safetensors."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not is_tensor(node.value):
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.Name) and node.id in CALLED_BY:
            yield CALLED_BY[node.id]


def is_tensor(node: ast.expr) -> bool:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return hasattr(torch.Tensor, node.func.attr) and node.func.attr not in OWN_METHODS
    return isinstance(node, ast.BinOp | ast.Compare)


def ordered(needs: dict[str, set[str]]) -> list[str]:
    """Return the names, each after those that it needs."""
    order = []

    def visit(name: str) -> None:
        if (inner := needs.pop(name, None)) is not None:
            for need in sorted(inner):
                visit(need)
            order.append(name)

    for name in [*needs]:
        visit(name)
    return order


def paragraph(source: Source, at: int) -> int:
    """Return the first line of the statements that stand together with one, comments included."""
    body = source.tree.body
    while True:
        end = (body[at - 1].end_lineno or 0) if at else 0
        line = source.first_line(body[at])
        while line - 1 > end and source.lines[line - 2].startswith("#"):
            line -= 1
        if line - 1 > end or isinstance(body[at - 1], ast.Import | ast.ImportFrom):
            return line
        at -= 1


def in_float64(text: str) -> str:
    """Return a script that computes in float64: its own numbers, and the data that it reads."""
    source = parsed(text)
    refs = references(source)
    edits: list[Edit] = [
        (*source.span(ref.node), "torch.float64")
        for ref in refs
        if ref.name in ("torch.float32", "torch.float")
    ]
    loaders = {ref.node for ref in refs if ref.name in LOADERS}
    definition = ""
    for node in source.calls.values():
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name == "float" and isinstance(node.func, ast.Attribute) and not node.args:
            end = source.span(node.func)[1]
            edits.append((end - len(name), end, "double"))
        if node.func in loaders or name == "load_file":
            start, end = source.span(node)
            edits += [(start, start, "as_double("), (end, end, ")")]
            definition = AS_DOUBLE
    at = source.line_span(import_block(source.tree))[1]
    return edited(text, [*edits, (at, at, SWITCH + definition)])
