"""Which parts of torch a text names, and which of them each level no longer uses."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from plainfit.eject.levels.definitions import Definition, Signature, find
from plainfit.eject.source import Source

LEVELS = ("loop", "data", "optim", "layers", "tensors", "math")
STEPS = LEVELS[2:]
"""The levels that are made from a script's text; `loop` and `data` are made from a run."""

SHORT = {  # the prefixes that we abbreviate, the longest first
    "torch.nn.functional.": "F.",
    "torch.nn.parameter.": "nn.",
    "torch.nn.utils.clip_grad.": "nn.utils.",
    "torch.nn.": "nn.",
    "torch.optim.optimizer.": "optim.",
    "torch.optim.": "optim.",
}
KEPT_AT_LAYERS = {"Module", "Sequential", "ModuleList", "ModuleDict", "Parameter", "ParameterList"}
SAME_KERNEL = {  # F.name is torch.name, called with these arguments in this order
    "relu": "input",
    "tanh": "input",
    "sigmoid": "input",
    "softmax": "input dim",
    "log_softmax": "input dim",
    "conv1d": "input weight bias stride padding dilation groups",
    "conv2d": "input weight bias stride padding dilation groups",
    "layer_norm": "input normalized_shape weight bias eps",
    "max_pool2d": "input kernel_size stride padding",
}
ELEMENTARY = {"tanh", "sigmoid", "softmax", "log_softmax"}
"""Functions of single numbers, which level `math` leaves to torch, as it does exp and sqrt."""
OTHER_ORDER = {"batch_norm", "dropout", "embedding", "binary_cross_entropy_with_logits"}
"""Functions of torch that take other arguments than those of `F` with the same name."""


@dataclass(frozen=True)
class Reference:
    """A place where a text names a part of torch."""

    node: ast.expr
    name: str
    """Such as `nn.Linear`, `F.relu`, `optim.SGD`, `torch.compile`; `nn` for the module itself."""


@dataclass(frozen=True)
class Replacement:
    """A function of torch outside of `F` that has the same kernel."""

    name: str
    signature: Signature


def imported(tree: ast.AST) -> dict[str, str]:
    """Return the full name of everything that a text imports from torch, by its name there."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "torch":
                    names[alias.asname or "torch"] = alias.name if alias.asname else "torch"
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def short(name: str) -> str:
    """Abbreviate the full name of a part of torch.

    >>> short("torch.nn.functional.relu"), short("torch.nn.Linear"), short("torch.nn")
    ('F.relu', 'nn.Linear', 'nn')
    """
    for prefix, ours in SHORT.items():
        if f"{name}." == prefix:
            return ours[:-1]
        if name.startswith(prefix):
            return ours + name[len(prefix) :]
    return name


def references(source: Source, known: dict[str, str] | None = None) -> list[Reference]:
    """Return the parts of torch that a text names, in its order.

    Args:
        source: the text.
        known: what its names stand for; by default what it imports.
    """
    known = imported(source.tree) if known is None else known
    found = list(_chains(source.tree, known))
    return sorted(found, key=lambda ref: (ref.node.lineno, ref.node.col_offset))


def _chains(node: ast.AST, known: dict[str, str]) -> Iterator[Reference]:
    dotted = _dotted(node)
    if dotted is not None:
        root, *rest = dotted.split(".")
        if root in known:
            assert isinstance(node, ast.expr)
            yield Reference(node, short(".".join([known[root], *rest])))
        return
    for child in ast.iter_child_nodes(node):
        yield from _chains(child, known)


def _dotted(node: ast.AST) -> str | None:
    """Return `a.b.c` for a chain of attributes of a variable that is read."""
    if isinstance(node, ast.Name):
        return node.id if isinstance(node.ctx, ast.Load) else None
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value)
        return None if before is None else f"{before}.{node.attr}"
    return None


def is_replaced(name: str, step: str) -> bool:
    """Return whether a level no longer uses a name of torch.

    >>> is_replaced("nn.Linear", "layers"), is_replaced("nn.Module", "layers")
    (True, False)
    """
    family, _, rest = name.partition(".")
    if step == "optim":
        return family == "optim"
    if step == "layers":
        is_kept = rest in KEPT_AT_LAYERS or rest.startswith(("init.", "utils."))
        return family == "nn" and not is_kept
    if family in ("nn", "F"):
        return True
    return step == "math" and family == "torch" and _is_kernel(rest)


def _is_kernel(name: str) -> bool:
    import torch

    function = getattr(torch, name, None)
    is_function = callable(function) and not isinstance(function, type)
    return is_function and hasattr(torch.nn.functional, name) and name not in ELEMENTARY


def same_kernel(name: str, step: str) -> Replacement | None:
    """Return the function of torch that `F`'s function of that name calls, if a level has it."""
    family, _, rest = name.partition(".")
    if family != "F" or rest not in SAME_KERNEL or (step == "math" and rest not in ELEMENTARY):
        return None
    parameters = tuple(SAME_KERNEL[rest].split())
    return Replacement(f"torch.{rest}", Signature(parameters, frozenset(parameters)))


def written_out(name: str, step: str, pools_to_one: bool = True) -> Definition | None:
    """Return the definition that takes the place of a name of torch, if there is one.

    Args:
        name: such as `nn.Linear`.
        step: the level that no longer uses it.
        pools_to_one: whether all adaptive pools make images of one pixel; written out, others
            round differently.
    """
    family, _, rest = name.partition(".")
    if family == "optim":
        return find("optim", rest.removeprefix("swa_utils."))
    if family == "nn" and step == "layers":
        return find("layers", rest)
    if family == "nn":
        module, _, inner = rest.rpartition(".")
        if module == "init":
            return find("init", inner)
        if module == "utils":
            return find("utils", inner)
        return find("nn", rest)
    if family == "torch" and rest in OTHER_ORDER:
        return None
    if rest == "adaptive_avg_pool2d":
        return find("tensors", "mean_pool2d") if pools_to_one else None
    return find(step, rest)
