"""What of a script cannot be lowered: the first line, why, and the lowest rung that works."""

import ast
from dataclasses import dataclass

import torch

from plainfit.common.errors import EjectError
from plainfit.eject.rungs.catalog import (
    BEFORE_OPTIM,
    ONLY_AT_LAYERS,
    OURS,
    RUNGS,
    concerns,
    renamed,
    written_out,
)
from plainfit.eject.rungs.library import Parameter, definitions
from plainfit.eject.rungs.names import Reference, references
from plainfit.eject.source import Source, parents


@dataclass(frozen=True)
class Obstacle:
    """A place that some rung cannot have."""

    line: int
    what: str
    lowest: str
    """The lowest rung that can."""


def check(text: str, rung: str) -> None:
    """Raise an error if a script cannot be lowered to a rung."""
    try:
        source = Source(text)
    except SyntaxError as error:
        raise EjectError(
            f"line {error.lineno}: a script must be Python that parses, and {error.msg}; mend it"
        ) from error
    found = [
        obstacle
        for obstacle in obstacles(source)
        if RUNGS.index(obstacle.lowest) < RUNGS.index(rung)
    ]
    if not found:
        return
    first = min(found, key=lambda obstacle: obstacle.line)
    lowest = min((obstacle.lowest for obstacle in found), key=RUNGS.index)
    raise EjectError(
        f"line {first.line}: {first.what} cannot be written out at rung {rung!r}; the lowest rung "
        f"that works for this script is {lowest!r}"
    )


def obstacles(source: Source) -> list[Obstacle]:
    """Return every place that some rung cannot have."""
    found = []
    by_name: dict[str, list[Reference]] = {}
    for ref in references(source):
        by_name.setdefault(ref.name, []).append(ref)
    pools = pools_to_one(source)
    for name, refs in by_name.items():
        lowest = lowest_of(name, pools)
        found += [_at(source, ref, f"`{source.of(ref.node)}`", lowest) for ref in refs]
        found += _options(source, name, refs)
        found += _misplaced(source, refs)
        found += _dicts(source, refs)
    return [*found, *_methods(source)]


def _at(source: Source, ref: Reference, what: str, lowest: str) -> Obstacle:
    return Obstacle(ref.node.lineno, what, lowest)


MODULES = {"optim": "data", "nn": "optim", "F": "layers"}
"""The modules that a rung no longer uses, and the rung before it."""


def lowest_of(name: str, pools: bool) -> str:
    """Return the lowest rung that a script with a name of torch can have."""
    if name.startswith(BEFORE_OPTIM):
        return "loop"
    if name in MODULES:  # a module of torch itself, as in getattr(nn, name)
        return MODULES[name]
    if name.rpartition(".")[2] in ONLY_AT_LAYERS:
        return "layers"
    for step in OURS:
        if not concerns(name, step):
            continue
        if written_out(name, step, pools) is None and renamed(name, step) is None:
            return RUNGS[RUNGS.index(step) - 1]
        if step == "layers" and name == "nn.AdaptiveAvgPool2d" and not pools:
            return "layers"
        if step in ("optim", "layers"):
            break
    return "math"


def pools_to_one(source: Source) -> bool:
    """Return whether every adaptive pool of a script makes images of one pixel."""
    sizes = [
        [*node.args, *(keyword.value for keyword in node.keywords)][-1:]
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and source.of(node.func).lower().endswith(
            ("adaptiveavgpool2d", "adaptive_avg_pool2d")
        )
    ]  # fmt: skip
    return all(size and source.of(size[0]).replace(" ", "") in ("1", "(1,1)") for size in sizes)


def _options(source: Source, name: str, refs: list[Reference]) -> list[Obstacle]:
    """Return the options that calls pass and we do not have."""
    step = next((step for step in OURS if concerns(name, step)), None)
    if step is None:
        return []
    definition, same = written_out(name, step), renamed(name, step)
    parameters = definition.parameters if definition else same[1] if same else None
    if parameters is None:
        return []
    beyond = extra_option(parameters, refs, source)
    if beyond is None:
        return []
    node, option = beyond
    before = "loop" if option == "fused" else RUNGS[RUNGS.index(step) - 1]
    return [Obstacle(node.lineno, f"the option `{option}` of `{name}`", before)]


def extra_option(
    parameters: tuple[Parameter, ...], refs: list[Reference], source: Source
) -> tuple[ast.expr, str] | None:
    """Return the first call that passes an option we do not have, unless it is torch's default."""
    names = {parameter.name for parameter in parameters}
    if any(parameter.name == "args" for parameter in parameters):
        return None
    nodes = {ref.node for ref in refs}
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call) or node.func not in nodes:
            continue
        for keyword in node.keywords:
            if keyword.arg and keyword.arg not in names and not is_usual(keyword):
                return node, keyword.arg
        by_position = [parameter for parameter in parameters if parameter.by_position]
        if len(node.args) > len(by_position) and not any(
            isinstance(arg, ast.Starred) for arg in node.args
        ):
            return node, source.of(node.args[len(by_position)])
    return None


USUAL = {
    "foreach": (None, False, True),  # the same bits (measured), except that CUDA has no for-loop
    "fused": (None, False),
    "maximize": (False,),
    "amsgrad": (False,),
    "capturable": (False,),
    "differentiable": (False,),
    "padding_mode": ("zeros",),
    "device": (None,),
    "dtype": (None,),
    "reduction": ("mean",),
    "weight": (None,),
    "ignore_index": (-100,),
    "track_running_stats": (True,),
    "ceil_mode": (False,),
    "return_indices": (False,),
    "count_include_pad": (True,),
    "divisor_override": (None,),
    "padding_idx": (None,),
    "max_norm": (None,),
    "sparse": (False,),
    "norm_type": (2, 2.0),
    "error_if_nonfinite": (False,),
}
"""Options that we leave out, and the values that change nothing."""


def is_usual(keyword: ast.keyword) -> bool:
    """Return whether a call passes an option that we leave out at a value that changes nothing."""
    if keyword.arg not in USUAL:
        return False
    try:
        return ast.literal_eval(keyword.value) in USUAL[keyword.arg]
    except ValueError:
        return False


def _misplaced(source: Source, refs: list[Reference]) -> list[Obstacle]:
    """Return the names whose position in the text is not known, as in f-strings of Python 3.11."""
    return [
        Obstacle(ref.node.lineno, f"`{ref.name}` within an f-string", "data")
        for ref in refs
        if "".join(source.of(ref.node).split()) != ast.unparse(ref.node)
    ]


def _dicts(source: Source, refs: list[Reference]) -> list[Obstacle]:
    """Return the Sequentials that are made of a dict, which ours are not."""
    nodes = {ref.node for ref in refs if ref.name == "nn.Sequential"}
    return [
        Obstacle(node.lineno, "a Sequential made of a dict", "layers")
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call)
        and node.func in nodes
        and node.args
        and (isinstance(node.args[0], ast.Dict) or "OrderedDict" in source.of(node.args[0])[:25])
    ]


OURS_OF_MODULE = {
    node.name
    for node in ast.parse(definitions("modules")["Module"].text).body[0].body  # type: ignore[attr-defined]
    if isinstance(node, ast.FunctionDef)
} | {"forward", "training"}


def _methods(source: Source) -> list[Obstacle]:
    """Return the uses of methods that torch's modules have and ours do not."""
    above = parents(source.tree)
    found = []
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Attribute):
            continue
        name = node.attr
        is_module_only = hasattr(torch.nn.Module, name) and not hasattr(torch.Tensor, name)
        if is_module_only and name not in OURS_OF_MODULE and not hasattr(dict, name):
            found.append(Obstacle(node.lineno, f"the method `{name}` of a module", "layers"))
        call = above[node]
        if name == "register_buffer" and isinstance(call, ast.Call) and _is_transient(call):
            found.append(Obstacle(node.lineno, "a buffer with `persistent=False`", "layers"))
    return found


def _is_transient(call: ast.Call) -> bool:
    return len(call.args) > 2 or any(keyword.arg == "persistent" for keyword in call.keywords)
