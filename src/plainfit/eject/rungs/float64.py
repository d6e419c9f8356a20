"""A script that computes in float64, where two ways to round agree to the 12th decimal."""

import ast

from plainfit.eject.rungs.names import references
from plainfit.eject.rungs.source import Edit, Source, edited

SWITCH = """
torch.set_default_dtype(torch.float64)  # sums in another order round differently, by 1e-16 here
"""
LOADERS = ("load_file", "from_numpy", "load")
"""Functions that read tensors as they were saved, whatever the default is."""

AS_DOUBLE = '''
def as_double(read):
    """Return a tensor, or a dict of them, with floating-point numbers in float64."""
    if isinstance(read, dict):
        return {name: as_double(tensor) for name, tensor in read.items()}
    return read.double() if read.is_floating_point() else read
'''


def in_float64(text: str) -> str:
    """Return a script that computes in float64: its own numbers, and the data that it reads."""
    source = Source(text)
    edits: list[Edit] = []
    for ref in references(source):
        if ref.name in ("torch.float32", "torch.float"):
            edits.append((*source.span(ref.node), "torch.float64"))
    loads = False
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Attribute) and node.func.attr == "float" and not node.args:
            end = source.span(node.func)[1]
            edits.append((end - len("float"), end, "double"))
        if _loads(node):
            start, end = source.span(node)
            edits += [(start, start, "as_double("), (end, end, ")")]
            loads = True
    imports = [n for n in source.tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    at = source.starts[imports[-1].end_lineno or 0]
    definition = f"\n{AS_DOUBLE}\n" if loads else ""
    edits.append((at, at, f"{SWITCH}{definition}"))
    return edited(text, edits)


def _loads(node: ast.Call) -> bool:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return name in LOADERS
