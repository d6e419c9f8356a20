"""The step of `fit` as a graph of tensor operations, with the hooks that are a part of it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.functional_tensor import dispatch_functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves, tree_map, tree_structure, tree_unflatten

from plainfit.common.errors import PlainfitError
from plainfit.training.callbacks.optimization import (
    Averaging,
    GradientAccumulation,
    parameters_of,
)
from plainfit.training.hooks import Context, NoHooks, overriding
from plainfit.training.state import random_state, set_random_state
from plainfit.training.step import loss_batch

OPTIONS = ("lr", "momentum", "betas", "weight_decay")  # numbers that a graph takes, not contains


class UntraceableError(PlainfitError):
    """A step has a part that a graph would leave out, or keep as it was in the first step."""


class UnreadyError(UntraceableError):
    """The optimizer has not made its whole state yet, as after its first step."""


class InGraph(torch.overrides.TorchFunctionMode):
    """While a step is traced: takes other tensors for ours, and lets options be tensors."""

    def __init__(self, own: list[Tensor], inside: list[Tensor], options: Any) -> None:
        super().__init__()
        self.inside = dict(zip(map(id, own), inside, strict=True))
        self.own = dict(zip(map(id, inside), own, strict=True))
        self.options = {*map(id, options)}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map(lambda x: self.inside.get(id(x), x), (args, kwargs or {}))
        if func in (Tensor.ne, Tensor.gt) and id(args[0]) in self.options:
            return True  # an option that is not used is no tensor
        if func is Tensor.item and id(args[0]) in self.own:  # a count of steps
            return args[0].double()
        for name in [n for n in ("alpha", "value") if isinstance(kwargs.get(n), Tensor)]:
            args = (args[0], args[1] * apart(kwargs.pop(name)), *args[2:])
        if not torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.dim() for x in args):
            args = tuple(map(apart, args))
        result = func(*args, **kwargs)
        return self.own.get(id(result), result)  # as that of `buffer += 1`, which is kept


def apart(x: Any) -> Any:
    """Let torch's compiler compute a number once, and not for every few elements of a tensor.

    What `as_strided` is given has memory of its own. Of a view, it would be that of the whole.
    """
    is_number = isinstance(x, Tensor) and not x.dim() and x.dtype == torch.float64
    return -((-x).as_strided((), ())) if is_number else x


class NormsOfTorch(torch.overrides.TorchFunctionMode):
    """No norms of cuDNN, which change their running means in a way that no graph shows."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = torch.backends.cudnn.enabled
        torch.backends.cudnn.enabled = before and func not in (F.batch_norm, F.instance_norm)
        try:
            return func(*args, **(kwargs or {}))
        finally:
            torch.backends.cudnn.enabled = before


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
        batch: an example, which is not changed, as nothing is; its device is the graph's.

    Raises:
        UntraceableError: if the graph would not be the step; UnreadyError, if one will be after a
            step of the optimizer.
        Exception: of any class, where torch cannot trace it.
    """
    own, given = tensors_of(modules, opt), [group[name] for group, name in slots]
    groups = [dict(group) for group in opt.param_groups]

    def pure(tensors: list[Tensor], numbers: Tensor, *batch: Tensor) -> list[Tensor]:
        for tensor, ours in zip(tensors, own, strict=True):
            tensor.requires_grad_(ours.requires_grad)
        values = tree_unflatten(numbers.unbind(), tree_structure(given))
        for (group, name), value in zip(slots, values, strict=True):
            group[name] = value
        options = tree_leaves([[group.get(name) for name in OPTIONS] for group in opt.param_groups])
        for group in opt.param_groups:
            group.update({"foreach": False, "fused": False})
        with NormsOfTorch(), InGraph(own, tensors, options), torch.enable_grad():
            results = step(*batch)
        if len(tensors_of(modules, opt)) > len(own):
            raise UnreadyError("the optimizer has made a new state in the step")
        return [*tensors, *(result.detach() for result in results)]

    device = batch[0].device
    numbers = torch.zeros(len(numbers_of(slots)), dtype=torch.float64, device=device)
    trace = make_fx(dispatch_functionalize(pure), tracing_mode="fake", _allow_non_fake_inputs=True)
    try:
        with nothing_else_changed(modules, opt):
            graph = trace([tensor.detach().to(device) for tensor in own], numbers, *batch)
    finally:
        for (group, name), value in zip(slots, given, strict=True):
            group[name] = value
        for group, before in zip(opt.param_groups, groups, strict=True):
            group.clear()
            group.update(before)
    graph.graph.eliminate_dead_code(
        lambda node: node.is_impure() and getattr(node.target, "namespace", "") != "profiler"
    )
    graph.recompile()
    check_graph(graph, own)
    return graph


def numbers_of(slots: Sequence[tuple[dict[str, Any], str]]) -> list[float]:
    return [float(value) for group, name in slots for value in as_tuple(group[name])]


def as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


@contextmanager
def nothing_else_changed(modules: Sequence[nn.Module], opt: Any) -> Iterator[None]:
    """Refuse a step that changes attributes of a module, or draws numbers outside of torch."""
    places: list[tuple[str, dict[Any, Any]]] = [
        (type(part).__name__, own)
        for module in modules
        for part in module.modules()
        for own in (vars(part), part._parameters, part._buffers)
    ]
    places += [(f"{type(opt).__name__}.state", own) for own in (opt.state, *opt.state.values())]
    contents = [dict(own) for _, own in places]
    sizes = [{k: len(v) for k, v in each.items() if type(v) in (list, dict, set)}
             for each in contents]  # fmt: skip
    random = random_state()
    try:
        yield
    finally:
        now = [dict(own) for _, own in places]
        for (_, own), before in zip(places, contents, strict=True):
            own.clear()
            own.update(before)
        drawn = random_state()
        set_random_state(random)
    for (owner, _), before, after, size in zip(places, contents, now, sizes, strict=True):
        for name in before.keys() | after.keys():
            same = before.get(name) is after.get(name)
            if not same or (name in size and len(after[name]) != size[name]):
                raise UntraceableError(f"{owner}.{name} changes in each step")
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
    found = constants_of(graph).items()
    constants = (f"{name} {each.dtype} {each.stride()} {each.tolist()}" for name, each in found)
    return "\n".join([graph.code, *constants])


def outputs_of(graph: Any) -> list[Any]:
    output = next(node for node in graph.graph.nodes if node.op == "output")
    return list(output.args[0])


class Sums(nn.Module):
    """The sums of the gradients over the batches of a group, where these are accumulated."""

    def __init__(self, opt: Any) -> None:
        super().__init__()
        self.opt = opt
        for number, parameter in enumerate(parameters_of(opt)):
            self.register_buffer(f"sum{number}", torch.zeros_like(parameter))

    def pairs(self) -> list[tuple[Any, Tensor]]:
        return list(zip(parameters_of(self.opt), self.buffers(), strict=True))

    def read(self) -> None:
        for parameter, total in self.pairs():
            total.zero_() if parameter.grad is None else total.copy_(parameter.grad)

    def write(self, has_stepped: bool) -> None:
        for parameter, total in self.pairs():
            parameter.grad = None if has_stepped or not parameter.requires_grad else total.clone()


class TracedStep(NoHooks):
    """The step, and in place of the context and the optimizer in it.

    Args:
        context: of the training.
        loss_func: as for `loss_batch`, as is `compute_loss`.

    Attributes:
        numbers: the places of numbers that are not options of the optimizer, as (group, name).
        names: of the values beside the loss, after a first call.
        size: the number of samples in a batch, likewise.
    """

    def __init__(self, context: Context, loss_func: Any, compute_loss: Any) -> None:
        self.model, self.opt = context.model, context.opt
        self.loss_func, self.compute_loss = loss_func, compute_loss
        self.batch_size: Any = context.batch_size
        inside = [c for c in context.callbacks if c.in_program == "within"]
        own = (Averaging, GradientAccumulation)  # they have numbers, and are a part of this class
        self.callbacks = [c for c in inside if not isinstance(c, own)]
        self.averaging = next((c for c in inside if isinstance(c, Averaging)), None)
        self.accumulation = next((c for c in inside if isinstance(c, GradientAccumulation)), None)
        self.sums = None if self.accumulation is None else Sums(self.opt)
        used = [(self.averaging, "decay"), (self.accumulation, "total")]
        self.numbers = [(callback.now, name) for callback, name in used if callback is not None]
        self.are_finite: list[Tensor] = []
        self.names: list[str] = []

    def modules(self) -> list[nn.Module]:
        average = None if self.averaging is None else self.averaging.averaged
        parts = (self.model, self.loss_func, average, self.sums)
        return [part for part in parts if isinstance(part, nn.Module)]

    def __call__(self, xb: Any, yb: Any) -> list[Tensor]:
        """Take a step; return its loss, NaN if it stops the training, and the values beside it."""
        opt: Any = self
        context: Any = self
        self.are_finite = []
        loss, self.size = loss_batch(
            self.model, self.loss_func, xb, yb, opt, context, self.compute_loss
        )
        if self.averaging is not None:
            self.averaging.update(self.model)
        for is_finite in self.are_finite:
            loss = torch.where(is_finite, loss, torch.nan)
        self.names = list(self.values)
        values = (
            value if isinstance(value, Tensor) else loss.new_full((), value)
            for value in self.values.values()
        )
        return [loss, *(value.to(loss) for value in values)]

    def total(self) -> Tensor:
        """Return the samples of the group that this batch ends, 0 if it does not end one."""
        assert self.accumulation is not None
        total: Tensor = self.accumulation.now["total"]
        return total

    def call(self, name: str) -> None:
        if self.sums is not None and name == "on_loss":
            self.loss = self.loss * self.size
        if self.sums is not None and name == "on_backward_end":
            for parameter, total in self.sums.pairs():
                if parameter.grad is not None:
                    total.add_(parameter.grad)
                    parameter.grad = total / self.total().clamp(min=1)
        for hook in overriding(self.callbacks, name):
            hook(self)

    def must_be_finite(self, value: Tensor, what: str) -> None:
        """Note a value that must be finite for the training to go on."""
        is_finite = torch.isfinite(value)
        self.are_finite.append(is_finite if self.sums is None else is_finite | (self.total() == 0))

    def step(self) -> None:
        """Let the optimizer take its step; within a group, nothing is changed by it."""
        changed = tensors_of([], self.opt) if self.sums is not None else []
        before = [tensor.detach().clone() for tensor in changed]
        self.opt.step()
        with torch.no_grad():
            for tensor, old in zip(changed, before, strict=True):
                tensor.copy_(torch.where(self.total() > 0, tensor, old))

    def zero_grad(self) -> None:
        self.opt.zero_grad()
        if self.sums is not None:
            for total in self.sums.buffers():
                total.copy_(torch.where(self.total() > 0, 0, total))
