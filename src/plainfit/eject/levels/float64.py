"""A script that computes in float64, where two orders of a sum agree to the 12th decimal."""

import ast

from plainfit.eject.levels.torch_names import references
from plainfit.eject.source import Edit, Source, edited, import_block

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
    definition = ""
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
            definition = AS_DOUBLE
    at = source.line_span(import_block(source.tree))[1]
    return edited(text, [*edits, (at, at, SWITCH + definition)])
