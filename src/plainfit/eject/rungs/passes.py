"""One rung down: names of torch's parts out, definitions in."""

import ast
from dataclasses import replace

from plainfit.eject.rungs.catalog import concerns, renamed, written_out
from plainfit.eject.rungs.checks import is_usual
from plainfit.eject.rungs.fold import simplified
from plainfit.eject.rungs.joining import joined
from plainfit.eject.rungs.library import Definition, definitions
from plainfit.eject.rungs.names import Reference, bound, references
from plainfit.eject.rungs.options import of_methods, with_known_pairs, without_none, without_options
from plainfit.eject.rungs.placing import placed, with_imports, without_imports
from plainfit.eject.rungs.pruning import pruned
from plainfit.eject.rungs.source import Edit, Source, attributes, edited, strings
from plainfit.eject.rungs.uses import uses_of

Key = tuple[str, str]
"""The module of a definition, and its name there."""


Emitted = dict[str, Key]
"""What has been written into a script already, by its name there."""


def without(text: str, rung: str, emitted: Emitted, pools: bool = True) -> str:
    """Return a script without the names of torch that a rung no longer uses.

    Args:
        text: of the script, at the rung above.
        rung: one of `optim`, `layers`, `tensors`, `math`.
        emitted: the definitions in it that come from here; those of this rung are added.
        pools: whether every adaptive pool makes images of one pixel.
    """
    source = Source(text)
    refs = [ref for ref in references(source) if concerns(ref.name, rung)]
    if not refs:
        return without_imports(text, set())
    new_names: dict[Reference, str | Key] = {}
    wanted: dict[Key, str] = {}
    for ref in refs:
        same = renamed(ref.name, rung)
        if same is not None and _fits(source, ref, refs, same[1]):
            new_names[ref] = same[0]
            continue
        definition = written_out(ref.name, rung, pools)
        assert definition is not None, ref.name  # `check` has refused it
        key = definition.module, definition.name
        wanted.setdefault(key, ref.name.rpartition(".")[2])
        new_names[ref] = key
    needed = _closure([*wanted], _has_groups(source.tree))
    keys = {(each.module, each.name) for each in needed}
    present = {getattr(statement, "name", "") for statement in source.tree.body}
    again = {name for name, key in emitted.items() if key in keys and name in present}
    if again:  # with more uses than they were written for: write them anew
        return without(_without_statements(source, again), rung, emitted, pools)
    local = _local_names(source, needed, wanted, refs, emitted)
    final = {ref: new if isinstance(new, str) else local[new] for ref, new in new_names.items()}
    user = edited(text, _edits(source, final))
    texts = _specialized(user, needed, local)
    texts = pruned(texts, ast.parse(user))
    emitted |= {local[key]: key for key in keys if local[key] in texts}
    return _assembled(user, texts, needed, local, {ref.name for ref in refs})


def compact(text: str, emitted: Emitted, *, whole: bool = True) -> str:
    """Return a script in which definitions that have one use in another one are joined to it.

    Args:
        text: of the script.
        emitted: the definitions in it that come from here.
        whole: join functions of several statements too.
    """
    source = Source(text)
    texts = {
        statement.name: source.block([statement])
        for statement in source.tree.body
        if isinstance(statement, ast.ClassDef | ast.FunctionDef) and statement.name in emitted
    }
    user = _without_statements(source, set(texts))
    tree = ast.parse(user)
    texts = pruned(joined(texts, tree, whole), tree)
    outside = attributes(tree)
    read = {name: _read(emitted[name][0], ast.parse(each)) for name, each in texts.items()}
    texts = {
        name: simplified(each, outside.union(*(read[other] for other in read if other != name)))
        for name, each in texts.items()
    }
    return placed(user, texts, _needs(texts))


def _needs(texts: dict[str, str]) -> dict[str, set[str]]:
    """Return the names of definitions that each definition has in its text."""
    return {name: (_names(text) & set(texts)) - {name} for name, text in texts.items()}


def _names(text: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}


def _read(module: str, tree: ast.AST) -> set[str]:
    """Return the attributes of other definitions that one of a module may read.

    What a layer reads of `self` is its own; only optimizers and modules have heirs.
    """
    own = module == "layers"
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return {
        each.attr
        for each in nodes
        if not (own and isinstance(each.value, ast.Name) and each.value.id == "self")
    }


def _without_statements(source: Source, names: set[str]) -> str:
    """Return a script without some of its definitions, and the blank lines before them."""
    edits: list[Edit] = []
    for statement in source.tree.body:
        if getattr(statement, "name", None) in names:
            start, end = source.line_span([statement])
            edits.append((len(source.text[:start].rstrip()) + 1, end, ""))
    return edited(source.text, edits)


def _fits(source: Source, ref: Reference, refs: list[Reference], parameters: tuple) -> bool:  # type: ignore[type-arg]
    """Return whether every call of a name passes what the same kernel elsewhere takes too."""
    nodes: set[ast.AST] = {each.node for each in refs if each.name == ref.name}
    return uses_of(nodes, source.tree).beyond(parameters) is None


def _has_groups(tree: ast.AST) -> bool:
    """Return whether a script makes groups of parameters: dicts with the key `params`."""
    keys = [key for node in ast.walk(tree) if isinstance(node, ast.Dict) for key in node.keys]
    named = [node for node in ast.walk(tree) if isinstance(node, ast.keyword)]
    is_key = any(isinstance(key, ast.Constant) and key.value == "params" for key in keys)
    return is_key or any(keyword.arg == "params" for keyword in named)


def _closure(wanted: list[Key], has_groups: bool) -> list[Definition]:
    """Return definitions and all that they need, each after what it needs."""
    ordered: dict[Key, Definition] = {}

    def visit(key: Key) -> None:
        if key in ordered:
            return
        definition = definitions(key[0])[key[1]]
        if key == ("optimizers", "Optimizer") and not has_groups:
            simpler = definition.text.replace("in_groups(", "in_one_group(")
            needs = tuple((at, name.replace("in_groups", "in_one_group"))
                          for at, name in definition.needs)  # fmt: skip
            definition = replace(definition, text=simpler, needs=needs)
        for need in definition.needs:
            visit(need)
        ordered[key] = definition

    for key in wanted:
        visit(key)
    return list(ordered.values())


def _local_names(
    source: Source,
    needed: list[Definition],
    wanted: dict[Key, str],
    refs: list[Reference],
    emitted: Emitted,
) -> dict[Key, str]:
    """Return how the script will call each definition: as torch does, unless the name is taken."""
    taken = _taken(source, refs)
    names = {key: name for name, key in emitted.items()}
    for definition in needed:
        key = definition.module, definition.name
        if key in names:
            continue
        name = wanted.get(key, definition.name)
        while name in taken or name in names.values():
            name = f"Own{name}" if name[0].isupper() else f"own_{name}"
        names[key] = name
    return names


def _taken(source: Source, refs: list[Reference]) -> set[str]:
    """Return the names that the script has, at its top or in a function that uses torch's part."""
    nodes = {ref.node for ref in refs}
    taken: set[str] = set()
    for statement in source.tree.body:
        if isinstance(statement, ast.ClassDef | ast.FunctionDef):
            taken.add(statement.name)
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            module = getattr(statement, "module", None) or ""
            taken |= set() if module.startswith("torch.") else bound(statement)
        else:
            taken |= bound(statement)
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.Lambda) and nodes & set(ast.walk(node)):
            taken |= bound(node)
    return taken


def _edits(source: Source, new_names: dict[Reference, str]) -> list[Edit]:
    """Put the new names in place of torch's, and leave out options that change nothing."""
    edits: list[Edit] = [(*source.span(ref.node), name) for ref, name in new_names.items()]
    nodes = {ref.node for ref in new_names}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and node.func in nodes:
            edits += [_left_out(source, each) for each in node.keywords if is_usual(each)]
    return edits


def _left_out(source: Source, keyword: ast.keyword) -> Edit:
    """Return the edit that takes an argument out of a call, with the comma before it."""
    start, end = source.span(keyword)
    comma = source.text.rstrip().rfind(",", 0, start)
    is_next = comma >= 0 and not source.text[comma + 1 : start].strip()
    return (comma if is_next else start), end, ""


def _specialized(user: str, needed: list[Definition], local: dict[Key, str]) -> dict[str, str]:
    """Return the text of each definition that is used, for the uses that the program has of it."""
    texts: dict[str, str] = {}
    raw = {(d.module, d.name): _named_locally(d, local) for d in needed}
    trees = {key: ast.parse(text) for key, text in raw.items()}
    read = {key: _read(key[0], tree) for key, tree in trees.items()}
    said = {key: strings(tree) for key, tree in trees.items()}
    user_tree = ast.parse(user)
    for definition in reversed(needed):  # what calls it comes first
        key = definition.module, definition.name
        name = local[key]
        program = ast.parse("\n".join([user, *texts.values()]))
        nodes: set[ast.AST] = {
            node
            for node in ast.walk(program)
            if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load)
        }
        if not nodes:
            continue
        outside = attributes(user_tree).union(*(read[other] for other in read if other != key))
        named: set[str] = set()
        if key[0] == "optimizers":  # as keys of a group's options
            named = strings(user_tree).union(*(said[other] for other in said if other != key))
        passed = uses_of(nodes, program).passes(definition.parameters)
        fixed = without_options(raw[key], passed | named | {"lr"})
        fixed = without_none(with_known_pairs(fixed, nodes, program), nodes, program)
        texts[name] = simplified(of_methods(fixed, program), outside)
    return dict(reversed(texts.items()))


def _named_locally(definition: Definition, local: dict[Key, str]) -> str:
    """Return a definition's text, with the script's names for it and for what it needs."""
    names = {name: local[module, name] for module, name in definition.needs}
    names[definition.name] = local[definition.module, definition.name]
    source = Source(definition.text)
    edits: list[Edit] = [
        (*source.span(node), names[node.id])
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Name) and node.id in names and names[node.id] != node.id
    ]
    own = names[definition.name]
    if own != definition.name:
        start = definition.text.index(f" {definition.name}(" if f" {definition.name}(" in
                                      definition.text else f" {definition.name}:") + 1  # fmt: skip
        edits.append((start, start + len(definition.name), own))
    return edited(definition.text, edits)


def _assembled(
    user: str,
    texts: dict[str, str],
    needed: list[Definition],
    local: dict[Key, str],
    names: set[str],
) -> str:
    """Put the definitions into the script, and mend its imports."""
    text = placed(user, texts, _needs(texts))
    imports = {
        line
        for definition in needed
        if local[definition.module, definition.name] in texts
        for line in definition.imports
        if line.split()[-1] in _names(texts[local[definition.module, definition.name]])
    }
    if "torch." in text:
        imports.add("import torch")
    return with_imports(without_imports(text, names), imports)
