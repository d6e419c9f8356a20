"""The parts of torch that each level no longer uses, and what of `ladder.scratch` replaces them."""

import ast
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from inspect import Parameter, Signature, getsource, signature

import torch

from plainfit.eject.lifting import shortened
from plainfit.eject.source import Source, imports_in, names_in

LEVELS = ("loop", "data", "optim", "layers", "tensors", "math")
STEPS = LEVELS[2:]  # made from a script's text; `loop` and `data` are made from a run

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


PACKAGE = "plainfit.ladder.scratch"
HOMES = {  # which modules have the definitions for what of torch
    "optim": ("optimizers",),
    "layers": ("layers",),
    "nn": ("modules",),
    "init": ("modules",),
    "utils": ("optimizers",),
    "tensors": ("functions",),
    "math": ("sums", "functions"),
}
ON_TORCH = {"F": "import torch.nn.functional as F", "nn": "from torch import nn"}
"""What a pasted definition imports in place of our own `functional` and `modules`."""
Key = tuple[str, str]  # the module of a definition, and its name there


@dataclass(frozen=True)
class Reference:
    """A place where a text names a part of torch."""

    node: ast.expr
    name: str  # such as `nn.Linear`, `F.relu` or `torch.compile`; `nn` for the module itself


@dataclass(frozen=True)
class Definition:
    """A function or class of `plainfit.ladder.scratch`."""

    module: str
    name: str
    text: str
    needs: dict[str, Key]  # the definitions that its text names, by their names there
    imports: frozenset[str]  # the import statements that its text needs

    @property
    def signature(self) -> Signature:
        return signature(getattr(import_module(f"{PACKAGE}.{self.module}"), self.name))


def imported(source: Source) -> dict[str, str]:
    """Return the full name of everything that a text imports from torch, by its name there."""
    names: dict[str, str] = {}
    for name, full, _ in imports_in(source.nodes):
        top = name.split(".")[0]
        if full.split(".")[0] == "torch":
            names[top] = full if top == name else top
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
    """Return the parts of torch that a text names, in its order."""
    known = imported(source) if known is None else known
    chains = [node for node in source.nodes if isinstance(node, ast.Attribute | ast.Name)]
    within = {node.value for node in chains if isinstance(node, ast.Attribute)}
    found = []
    for node in chains:
        root: ast.expr = node
        while isinstance(root, ast.Attribute):
            root = root.value
        if isinstance(root, ast.Name) and root.id in known and node not in within:
            name = known[root.id] + ast.unparse(node)[len(root.id) :]
            found += [Reference(node, short(name))] * isinstance(root.ctx, ast.Load)
    return sorted(found, key=lambda ref: (ref.node.lineno, ref.node.col_offset))


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
    if step != "math" or family != "torch" or rest in ELEMENTARY:
        return False
    function = getattr(torch, rest, None)  # a kernel, if `F` has it, too
    is_function = callable(function) and not isinstance(function, type)
    return is_function and hasattr(torch.nn.functional, rest)


def same_kernel(name: str, step: str) -> Signature | None:
    """Return the parameters of the function of torch that one of `F` calls, if a level has it."""
    family, _, rest = name.partition(".")
    if family != "F" or rest not in SAME_KERNEL or (step == "math" and rest not in ELEMENTARY):
        return None
    names = SAME_KERNEL[rest].split()
    return Signature([Parameter(each, Parameter.POSITIONAL_OR_KEYWORD) for each in names])


def unknown_option(signature: Signature, call: ast.Call) -> ast.expr | ast.keyword | None:
    """Return the first argument of a call that a function does not take."""
    parameters = signature.parameters.values()
    if any(each.kind is each.VAR_POSITIONAL for each in parameters):
        return None
    for keyword in call.keywords:
        if keyword.arg and keyword.arg not in signature.parameters:
            return keyword
    if any(isinstance(each, ast.Starred) for each in call.args):
        return None
    most = sum(each.kind is each.POSITIONAL_OR_KEYWORD for each in parameters)
    return next(iter(call.args[most:]), None)


def written_out(name: str, step: str, pools_to_one: bool = True) -> Definition | None:
    """Return the definition that takes the place of a name of torch, if there is one."""
    family, _, rest = name.partition(".")
    if family == "optim":
        return find("optim", rest.removeprefix("swa_utils."))
    if family == "nn" and step == "layers":
        return find("layers", rest)
    if family == "nn":
        module, _, inner = rest.rpartition(".")
        return find(module, inner) if module in ("init", "utils") else find("nn", rest)
    if family == "torch" and rest in OTHER_ORDER:
        return None
    if rest == "adaptive_avg_pool2d":
        return find("tensors", "mean_pool2d") if pools_to_one else None
    return find(step, rest)


@cache
def definitions(module: str) -> dict[str, Definition]:
    source = Source(shortened(getsource(import_module(f"{PACKAGE}.{module}"))))
    nodes = [node for node in source.tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    needs = {node.name: (module, node.name) for node in nodes}
    imports: dict[str, str] = {}
    for name, full, statement in imports_in(source.tree.body):
        home, _, inner = full.rpartition(".")
        if home == PACKAGE:
            imports[name] = ON_TORCH[name]
        elif home.startswith(PACKAGE):
            needs[name] = home.rsplit(".", 1)[1], inner
        else:
            imports[name] = statement
    return {
        node.name: Definition(
            module,
            node.name,
            source.block([node]),
            {name: needs[name] for name in sorted(names_in(node)) if name in needs},
            frozenset(imports[name] for name in names_in(node) if name in imports),
        )
        for node in nodes
    }


def find(home: str, name: str) -> Definition | None:
    found = (definitions(module).get(name) for module in HOMES[home])
    return next((definition for definition in found if definition), None)
