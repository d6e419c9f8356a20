"""What a level cannot have of a script: the first line, and the lowest level that has it."""

import ast
from collections.abc import Iterator
from operator import itemgetter

import torch

from plainfit.common.errors import EjectError
from plainfit.eject.replacements import (
    LEVELS,
    STEPS,
    Reference,
    definitions,
    is_replaced,
    references,
    same_kernel,
    unknown_option,
    written_out,
)
from plainfit.eject.source import Source, parsed

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
