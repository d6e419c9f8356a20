"""A step as a graph of tensor operations: what it makes of the tensors that it changes."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.functional_tensor import FunctionalTensor, FunctionalTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

from plainfit.common.errors import PlainfitError
from plainfit.training.state import random_state, set_random_state

OPTIONS = ("lr", "momentum", "betas", "weight_decay")  # numbers that a graph takes, not contains


class UntraceableError(PlainfitError):
    """A step has a part that a graph would leave out, or keep as it was in the first step."""


class UnreadyError(UntraceableError):
    """The optimizer has not made its whole state yet, as after its first step."""


class Numbers(TorchFunctionMode):
    """Lets an optimizer compute with tensors of one value where it has numbers of Python."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.item:
            return args[0].double()
        if func in (Tensor.ne, Tensor.gt) and args[1] == 0:
            return True  # whether an option is used: one that is not is no tensor
        for name in ("alpha", "value"):
            if isinstance(kwargs.get(name), Tensor):
                first, second, *rest = args
                return func(first, second * kwargs.pop(name), *rest, **kwargs)
        return func(*args, **kwargs)


def options_of(opt: Any) -> list[tuple[dict[str, Any], str]]:
    """Return the groups' options that are numbers of a graph, as (group, name)."""
    return [
        (group, name)
        for group in opt.param_groups
        for name in OPTIONS
        if name == "lr" or (group.get(name) and group[name] != (0, 0))
    ]


def tensors_of(modules: Sequence[nn.Module], opt: Any) -> list[Tensor]:
    """Return what a step may change: parameters and buffers, and the optimizer's own tensors."""
    own = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    trained = [parameter for group in opt.param_groups for parameter in group["params"]]
    beside = [value for state in opt.state.values() for value in state.values()]
    found = {id(each): each for each in (*own, *trained, *beside) if isinstance(each, Tensor)}
    return list(found.values())


@contextmanager
def replaced(modules: Sequence[nn.Module], opt: Any, tensors: Sequence[Tensor]) -> Iterator[None]:
    """Put other tensors in the places of those of `tensors_of`, until the block ends."""
    old = tensors_of(modules, opt)
    new = {id(before): tensor for before, tensor in zip(old, tensors, strict=True)}
    places: list[tuple[dict[str, Any], str, Tensor]] = [
        (own, name, tensor)
        for module in modules
        for part in module.modules()
        for own in (part._parameters, part._buffers)
        for name, tensor in own.items()
        if tensor is not None
    ]
    groups, state = [dict(group) for group in opt.param_groups], opt.state
    for place, name, tensor in places:
        place[name] = new[id(tensor)]
    for group in opt.param_groups:
        group["params"] = [new[id(parameter)] for parameter in group["params"]]
    opt.state = defaultdict(dict)
    for parameter, values in state.items():
        opt.state[new[id(parameter)]] = {k: new.get(id(v), v) for k, v in values.items()}
    try:
        yield
    finally:
        opt.state = state
        for group, before in zip(opt.param_groups, groups, strict=True):
            group.clear()
            group.update(before)
        for place, name, tensor in places:
            place[name] = tensor


def traced(
    step: Callable[..., Sequence[Tensor]],
    modules: Sequence[nn.Module],
    opt: Any,
    slots: Sequence[tuple[dict[str, Any], str]],
    batch: Sequence[Tensor],
) -> Any:
    """Return a step as a graph `(tensors, numbers, *batch) -> [*tensors, *values]`.

    Args:
        step: `(*batch) -> values`, changes the tensors of `tensors_of(modules, opt)` in place.
        modules: the model, and what else has tensors that the step uses or changes.
        opt: the optimizer; its state is complete, as after a first step.
        slots: the places of the graph's numbers, as (group, name): `options_of(opt)` and others.
        batch: an example, which is not changed, as nothing is.

    Raises:
        UntraceableError: if the graph would not be the step; UnreadyError, if one will be after a
            step of the optimizer.
        Exception: of any class, where torch cannot trace it.
    """
    own, given = tensors_of(modules, opt), [group[name] for group, name in slots]
    learns = [tensor.requires_grad for tensor in own]

    def pure(tensors: list[Tensor], numbers: Tensor, *batch: Tensor) -> Any:
        with FunctionalTensorMode(), torch.enable_grad():
            wrap = FunctionalTensor.to_functional
            inside = [wrap(t).requires_grad_(g) for t, g in zip(tensors, learns, strict=True)]
            values = iter(wrap(numbers).unbind())
            with replaced(modules, opt, inside):
                for (group, name), value in zip(slots, given, strict=True):
                    several = tuple(next(values) for _ in as_tuple(value))
                    group[name] = several if isinstance(value, tuple) else several[0]
                for group in opt.param_groups:
                    group.update({"foreach": False, "fused": False})
                results = [result.detach() for result in step(*map(wrap, batch))]
                if len(tensors_of(modules, opt)) > len(own):
                    raise UnreadyError("the optimizer has made a new state in the step")
            return [unwrapped(tensor) for tensor in (*inside, *results)]

    width = len(numbers_of(slots))
    example = ([t.detach() for t in own], torch.zeros(width, dtype=torch.float64), *batch)
    try:
        with nothing_else_changed(modules):
            graph = make_fx(pure, tracing_mode="fake", _allow_non_fake_inputs=True)(*example)
    finally:
        for (group, name), value in zip(slots, given, strict=True):
            group[name] = value
    for node in reversed(graph.graph.nodes):
        if getattr(node.target, "namespace", "") == "profiler":
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    check_graph(graph, own)
    return graph


def numbers_of(slots: Sequence[tuple[dict[str, Any], str]]) -> list[float]:
    """Return the numbers for a graph, as the optimizer has them now."""
    return [float(value) for group, name in slots for value in as_tuple(group[name])]


def as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def unwrapped(tensor: Any) -> Tensor:
    torch._sync(tensor)  # type: ignore[attr-defined,no-untyped-call]
    inner: Tensor = torch._from_functional_tensor(tensor.elem)
    return inner


@contextmanager
def nothing_else_changed(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Refuse a step that changes attributes of a module, or draws numbers outside of torch."""
    parts = [part for module in modules for part in module.modules()]
    attributes = [dict(vars(part)) for part in parts]
    sizes = [{k: len(v) for k, v in each.items() if type(v) in (list, dict, set)}
             for each in attributes]  # fmt: skip
    random = random_state()
    try:
        yield
    finally:
        now = [dict(vars(part)) for part in parts]
        for part, before in zip(parts, attributes, strict=True):
            vars(part).clear()
            vars(part).update(before)
        drawn = random_state()
        set_random_state(random)
    for part, before, after, size in zip(parts, attributes, now, sizes, strict=True):
        for name in before.keys() | after.keys():
            same = before.get(name) is after.get(name)
            if not same or (name in size and len(after[name]) != size[name]):
                raise UntraceableError(f"{type(part).__name__}.{name} changes in each step")
    if repr((random["python"], random["numpy"])) != repr((drawn["python"], drawn["numpy"])):
        raise UntraceableError("a step draws random numbers of Python or NumPy")


def check_graph(graph: Any, own: Sequence[Tensor]) -> None:
    """Refuse a graph that contains a tensor of the training, or changes one in place."""
    storages = {tensor.untyped_storage().data_ptr() for tensor in own if tensor.numel()}
    for tensor in constants_of(graph).values():
        if tensor.numel() and tensor.untyped_storage().data_ptr() in storages:
            raise UntraceableError(
                f"a tensor of shape {tuple(tensor.shape)} that is trained is used by another name"
            )
    for node in graph.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if schema is not None and schema.is_mutable:
            raise UntraceableError(f"a tensor that is no buffer changes in each step ({node.name})")


def constants_of(graph: Any) -> dict[str, Tensor]:
    names = [node.target for node in graph.graph.nodes if node.op == "get_attr"]
    return {name: getattr(graph, name) for name in names}


def contents_of(graph: Any) -> str:
    """Return a graph as text, its constants included."""
    found = constants_of(graph).items()
    constants = (f"{name} {each.dtype} {each.stride()} {each.tolist()}" for name, each in found)
    return "\n".join([graph.code, *constants])


def outputs_of(graph: Any) -> list[Any]:
    """Return the nodes whose values a graph returns."""
    output = next(node for node in graph.graph.nodes if node.op == "output")
    return list(output.args[0])
