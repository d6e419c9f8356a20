"""A script that computes in float64, where two ways to round agree to the 12th decimal."""

import ast

from plainfit.eject.rungs.names import references
from plainfit.eject.source import Edit, Source, edited

SWITCH = """
torch.set_default_dtype(torch.float64)  # sums in another order round differently, by 1e-16 here
"""
LOADERS = ("torch.load", "torch.from_numpy")
"""Functions that give tensors as they were saved, whatever the default is; so does load_file."""

AS_DOUBLE = '''
def as_double(read):
    """Return a tensor, or a dict of them, with floating-point numbers in float64."""
    if isinstance(read, dict):
        return {name: as_double(value) for name, value in read.items()}
    return read.double() if torch.is_tensor(read) and read.is_floating_point() else read
'''


def in_float64(text: str) -> str:
    """Return a script that computes in float64: its own numbers, and the data that it reads."""
    source = Source(text)
    refs = references(source)
    edits: list[Edit] = [
        (*source.span(ref.node), "torch.float64")
        for ref in refs
        if ref.name in ("torch.float32", "torch.float")
    ]
    loaders = {ref.node for ref in refs if ref.name in LOADERS}
    loads = False
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name == "float" and isinstance(node.func, ast.Attribute) and not node.args:
            end = source.span(node.func)[1]
            edits.append((end - len(name), end, "double"))
        if node.func in loaders or name == "load_file":
            start, end = source.span(node)
            edits += [(start, start, "as_double("), (end, end, ")")]
            loads = True
    at = source.starts[_last_import(source.tree).end_lineno or 0]
    definition = f"\n{AS_DOUBLE}\n" if loads else ""
    return edited(text, [*edits, (at, at, f"{SWITCH}{definition}")])


def _last_import(tree: ast.Module) -> ast.stmt:
    """Return the last of the imports at the top."""
    last = tree.body[0]
    for statement in tree.body[1:]:
        if not isinstance(statement, ast.Import | ast.ImportFrom):
            break
        last = statement
    return last
