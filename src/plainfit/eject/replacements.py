"""The parts of torch that each level replaces by definitions of `ladder.scratch`, or refuses."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from inspect import Parameter, Signature, getsource, signature
from operator import itemgetter

import torch

from plainfit.common.errors import EjectError
from plainfit.eject.lifting import shortened
from plainfit.eject.source import Source, imports_in, names_in, parsed

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


# What has no definition, and so limits how far down a script can go.
ONLY_AT_LAYERS = {"GELU", "SiLU", "gelu", "silu"}
"""Written out on tensors they round differently (measured: 60 of 60 batches)."""
ONLY_AT_LOOP = ("torch.autocast", "torch.amp", "torch.cuda.amp", "torch.compile", "optim.LBFGS")
"""They replace parts of the step itself."""
MODULES = {"optim": "data", "nn": "optim", "F": "layers"}
"""The modules of torch, and the lowest level that has them (as in `getattr(nn, name)`)."""

FALSE = (
    "maximize amsgrad capturable differentiable ceil_mode return_indices sparse error_if_nonfinite"
)
NONE = "device dtype weight divisor_override padding_idx max_norm"
DEFAULTS = {
    **dict.fromkeys(FALSE.split(), (False,)),
    **dict.fromkeys(NONE.split(), (None,)),
    "foreach": (None, False, True),  # the same bits (measured), except that CUDA has no for-loop
    "fused": (None, False),
    "padding_mode": ("zeros",),
    "reduction": ("mean",),
    "ignore_index": (-100,),
    "track_running_stats": (True,),
    "count_include_pad": (True,),
    "norm_type": (2, 2.0),
}
"""Options of torch that our definitions lack, and the values that change nothing."""

Obstacle = tuple[int, str, str]  # a line, what it has, and the lowest level that can have it
OWN_METHODS = {
    node.name
    for node in ast.walk(ast.parse(definitions("modules")["Module"].text))
    if isinstance(node, ast.FunctionDef)
} | {"training"}


def check(text: str, level: str) -> None:
    try:
        source = parsed(text)
    except SyntaxError as error:
        raise EjectError(
            f"line {error.lineno}: a script must be valid Python, got {error.msg}; correct it"
        ) from error
    higher = LEVELS[: LEVELS.index(level)]
    found = [(line, what, lowest) for line, what, lowest in obstacles(source) if lowest in higher]
    if found:
        line, what, _ = min(found, key=itemgetter(0))
        lowest = min((lowest for *_, lowest in found), key=LEVELS.index)
        raise EjectError(
            f"line {line}: {what} cannot be written out at level {level!r}; "
            f"the lowest level that works for this script is {lowest!r}"
        )


def obstacles(source: Source) -> Iterator[Obstacle]:
    pools = pools_to_one(source)
    for ref in references(source):
        line = ref.node.lineno
        if "".join(source.of(ref.node).split()) != ast.unparse(ref.node):
            # Python 3.11 gives wrong positions within f-strings.
            yield line, f"`{ref.name}` within an f-string", "data"
        yield line, f"`{source.of(ref.node)}`", lowest_of(ref.name, pools)
        if ref.node in source.calls:
            yield from _in_call(source, ref, source.calls[ref.node])
    yield from _of_modules(source)


def pools_to_one(source: Source) -> bool:
    """Return whether every adaptive pool of a script makes images of one pixel."""
    pools = ("adaptiveavgpool2d", "adaptive_avg_pool2d")
    calls = [call for func, call in source.calls.items() if source.of(func).lower().endswith(pools)]
    sizes = [[*call.args, *(keyword.value for keyword in call.keywords)][-1:] for call in calls]
    return all(size and ast.unparse(size[0]) in ("1", "(1, 1)") for size in sizes)


def lowest_of(name: str, pools: bool) -> str:
    if name.startswith(ONLY_AT_LOOP):
        return "loop"
    if name in MODULES:
        return MODULES[name]
    if name.rpartition(".")[2] in ONLY_AT_LAYERS:
        return "layers"
    for step in STEPS:
        if not is_replaced(name, step):
            continue
        if written_out(name, step, pools) is None and same_kernel(name, step) is None:
            return LEVELS[LEVELS.index(step) - 1]
        if step == "layers" and name == "nn.AdaptiveAvgPool2d" and not pools:
            return "layers"
        if step in ("optim", "layers"):
            break
    return "math"


def _in_call(source: Source, ref: Reference, call: ast.Call) -> Iterator[Obstacle]:
    """Yield what a call passes to a part of torch that the definition in its place lacks."""
    step = next((step for step in STEPS if is_replaced(ref.name, step)), None)
    if step is None:
        return
    before = LEVELS[LEVELS.index(step) - 1]
    definition = written_out(ref.name, step)
    signature = definition.signature if definition else same_kernel(ref.name, step)
    if signature is not None:
        given = [each for each in call.keywords if not is_default(each)]
        option = unknown_option(signature, ast.Call(call.func, call.args, given))
        if option is not None:
            name = option.arg if isinstance(option, ast.keyword) else source.of(option)
            lowest = "loop" if name == "fused" else before
            yield call.lineno, f"the option `{name}` of `{ref.name}`", lowest
    if ref.name == "nn.Sequential" and call.args:
        first = source.of(call.args[0])
        if isinstance(call.args[0], ast.Dict) or "OrderedDict" in first[:25]:
            yield call.lineno, "a Sequential made of a dict", "layers"


def is_default(keyword: ast.keyword) -> bool:
    """Return whether a call passes an option that our definitions lack at its default."""
    try:
        return ast.literal_eval(keyword.value) in DEFAULTS.get(keyword.arg or "", ())
    except (ValueError, TypeError):
        return False


def _of_modules(source: Source) -> Iterator[Obstacle]:
    """Yield the uses of methods that torch's modules have and ours do not."""
    above = {child: node for node in source.nodes for child in ast.iter_child_nodes(node)}
    for node in source.nodes:
        if not isinstance(node, ast.Attribute):
            continue
        name, call = node.attr, above[node]
        is_only_of_modules = hasattr(torch.nn.Module, name) and not (
            hasattr(torch.Tensor, name) or hasattr(dict, name)
        )
        if is_only_of_modules and name not in OWN_METHODS:
            yield node.lineno, f"the method `{name}` of a module", "layers"
        if name == "register_buffer" and isinstance(call, ast.Call):
            is_given = any(keyword.arg == "persistent" for keyword in call.keywords)
            if is_given or len(call.args) > 2:
                yield node.lineno, "a buffer with `persistent=False`", "layers"
