"""The epochs of `fit` as a program: range by range, with what a step promises between them.

Between two ranges the training is as after any other step: its state is in the model and the
optimizer, callbacks are called, checkpoints can be written, and it can stop.
"""

import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import chain, islice
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, RMSprop
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.data import default_collate

from plainfit.common.devices import device_of
from plainfit.common.errors import reason
from plainfit.data.batches import innermost
from plainfit.data.datasets import Columns, ImageDataset, Rows, bytes_to_floats
from plainfit.data.loaders import TensorLoader
from plainfit.training.callbacks.stopping import NonFiniteGuard
from plainfit.training.hooks import Callback, Context, Interrupted, NoHooks, overriding
from plainfit.training.program import NoCompilerError, Steps, compiled
from plainfit.training.state import rest_of_pass
from plainfit.training.step import loss_batch
from plainfit.training.tracing import (
    Numbers,
    UntraceableError,
    numbers_of,
    options_of,
    tensors_of,
    traced,
)

OPTIMIZERS = (SGD, Adam, AdamW, RMSprop, Adagrad, Adadelta, Adamax)
STEP_HOOKS = ("on_batch_start", "on_loss", "on_backward_end", "on_step_start", "on_step_end")
SECONDS = 0.2  # that a range takes: a stop and a checkpoint wait for no longer
WORDS = {  # for what errors of torch contain
    "DataDependent": "a step depends on the value of a tensor, as by `if` or `item()`",
    "CppCompileError": "the C++ compiler failed",
    "mutating a non-functional tensor": "a tensor that is no buffer changes in each step",
}
STACK = 64 * 2**20  # bytes of batches that are stacked for a range


class Within(NoHooks):
    """In place of the context, in a step that is traced: calls the hooks that belong to it."""

    def __init__(self, context: Context) -> None:
        self.model, self.opt = context.model, context.opt
        self.batch_size: Any = context.batch_size
        self.callbacks = [c for c in context.callbacks if c.in_program == "within"]
        self.are_finite: list[Tensor] = []

    def call(self, name: str) -> None:
        for hook in overriding(self.callbacks, name):
            hook(self)

    def must_be_finite(self, value: Tensor, what: str) -> None:
        """Note a value that must be finite for the training to go on."""
        self.are_finite.append(torch.isfinite(value))


class WithNumbers:
    """An optimizer whose options are tensors."""

    def __init__(self, opt: Any) -> None:
        self.opt, self.zero_grad = opt, opt.zero_grad

    def step(self) -> None:
        with Numbers():
            self.opt.step()


class Resident:
    """The batches of tensors in memory, by their rows: the program gathers them itself."""

    def __init__(self, context: Context, rows: Rows) -> None:
        loader, self.part = context.train_dl, rows.parts[0]
        loader.seek(context.loader_epoch, context.batch)
        order = rows.at[loader.order()]
        full = len(order) // loader.batch_size
        self.rows = order[: full * loader.batch_size].view(full, -1)
        self.columns = list(self.part.tensors)
        self.steps = full

    def example(self) -> list[Tensor]:
        return [column.index_select(0, self.rows[0]) for column in self.columns]

    def pair(self, context: Context, *columns: Tensor) -> tuple[Any, Any]:
        """Return inputs and target of a batch, whose rows of the columns these are."""
        xb, *rest = columns
        batch: Any = (bytes_to_floats(xb) if isinstance(self.part, ImageDataset) else xb, *rest)
        if isinstance(self.part, Columns):
            batch = dict(zip(self.part.names, batch, strict=True))
        return context.split(batch)

    def take(self, context: Context, most: int) -> tuple[int, int]:
        """Return the first step of a range of at most so many, and the one after its last."""
        return context.batch, min(context.batch + most, len(self.rows))

    def leave(self, context: Context, step: int) -> None:
        """Let the loader go on at a step of the pass."""
        context.batches = None


class Stacked:
    """The batches of any other loader of ours, stacked by the range."""

    rows = torch.empty(0, dtype=torch.int64)

    def __init__(self, context: Context, full: int) -> None:
        self.full = full
        context.batches = context.batches or rest_of_pass(context, device_of(context.model))
        pair = next(context.batches)
        context.batches = chain([pair], context.batches)
        example, self.form = tree_flatten(pair)
        if not all(isinstance(leaf, Tensor) for leaf in example):
            raise UntraceableError("a batch has other parts than tensors")
        self.steps = max(1, min(256, STACK // max(1, sum(leaf.nbytes for leaf in example))))
        self.columns = [torch.zeros(self.steps, *t.shape, dtype=t.dtype) for t in example]
        self.last = 0

    def example(self) -> list[Tensor]:
        return [column[0] for column in self.columns]

    def pair(self, context: Context, *columns: Tensor) -> tuple[Any, Any]:
        """Return inputs and target of a batch."""
        pair: tuple[Any, Any] = tree_unflatten(list(columns), self.form)
        return pair

    def take(self, context: Context, most: int) -> tuple[int, int]:
        """Read the batches of a range of at most so many steps; return its ends, from 0."""
        context.batches = context.batches or rest_of_pass(context, device_of(context.model))
        self.last = 0
        for pair in islice(context.batches, min(most, self.steps, self.full - context.batch)):
            leaves, form = tree_flatten(pair)
            if form != self.form or any(
                not isinstance(leaf, Tensor) or (leaf.shape, leaf.dtype) != (c.shape[1:], c.dtype)
                for leaf, c in zip(leaves, self.columns, strict=True)
            ):
                self.leave(context, 0, pair)
                raise UntraceableError(
                    "not all batches have the same shape (and a resumed training may differ in the "
                    "last bits)"
                )
            for leaf, column in zip(leaves, self.columns, strict=True):
                column[self.last] = leaf
            self.last += 1
        return 0, self.last

    def leave(self, context: Context, step: int, *others: Any) -> None:
        """Give back the batches from a step on, and others."""
        rest = range(step, self.last)
        pairs = [self.pair(context, *(c[i].clone() for c in self.columns)) for i in rest]
        context.batches = chain(pairs, others, context.batches or ())


class Program:
    """A compiled program of a training, and where its tensors and numbers come from.

    Args:
        context: of the training.
        source: of its batches, `Resident` or `Stacked`.
        loss_func: as for `loss_batch`, as is `compute_loss`.
        echo: called with a note before compiling, which takes long.
    """

    def __init__(
        self,
        context: Context,
        source: Any,
        loss_func: Any,
        compute_loss: Any,
        echo: Callable[[str], None],
    ) -> None:
        self.modules, self.opt = modules_of(context), context.opt
        self.slots = options_of(self.opt)
        self.names: list[str] = []
        self.size = 0
        within = Within(context)

        def step(*columns: Tensor) -> list[Tensor]:
            opt: Any = WithNumbers(self.opt)
            on: Any = within
            xb, yb = source.pair(context, *columns)
            loss, self.size = loss_batch(context.model, loss_func, xb, yb, opt, on, compute_loss)
            self.names = list(within.values)
            for is_finite in within.are_finite:
                loss = torch.where(is_finite, loss, torch.nan)
            return [loss, *(torch.as_tensor(v).to(loss.dtype) for v in within.values.values())]

        graph = traced(step, self.modules, self.opt, source.example())
        self.steps = Steps(
            graph, len(tensors_of(self.modules, self.opt)), isinstance(source, Resident)
        )
        self.may_stop = bool(within.are_finite)
        width = len(numbers_of(self.slots))
        self.numbers = torch.zeros(source.steps, width, dtype=torch.float64)
        arguments = self.arguments(source, 0, 0)
        with context.interruptible():  # not while tracing, which takes the model apart
            self.call, self.how = compiled(self.steps, arguments, echo)

    def arguments(self, source: Any, first: int, last: int) -> tuple[Any, ...]:
        own = [tensor.detach() for tensor in tensors_of(self.modules, self.opt)]
        parts = self.steps.those(own, True), self.steps.those(own, False)
        ends = torch.tensor(first), torch.tensor(last)
        return *parts, source.columns, source.rows, self.numbers, *ends

    def run(self, source: Any, first: int, last: int) -> tuple[Tensor, list[Tensor]]:
        """Return the values of the steps of a range, and the tensors after it."""
        with torch.no_grad():
            found, tensors = self.call(*self.arguments(source, first, last))
        return found[first:last], tensors

    def put(self, tensors: Sequence[Tensor]) -> None:
        """Give the training the tensors after a range."""
        own = self.steps.those(tensors_of(self.modules, self.opt), True)
        with torch.no_grad():
            for tensor, value in zip(own, tensors, strict=True):
                tensor.copy_(value)


class EpochProgram:
    """Takes the steps of `fit` by programs, as far as it can.

    The first step of each pass over the data, and batches of another size, are taken without: in
    the first, the optimizer makes its state, and a second program would take long to compile.

    Args:
        context: of the training.
        loss_func: `(model(xb), yb) -> loss`.
        echo: called with notes.

    Attributes:
        compute_loss: as for `loss_batch`.
        form: what is compiled as one, as in `form_of`: `epoch` until a reason is known against it.
    """

    def __init__(self, context: Context, loss_func: Any, echo: Callable[[str], None]) -> None:
        self.loss_func, self.echo = loss_func, echo
        self.compute_loss: Any = None
        self.programs: dict[str, Program] = {}
        self.source: Any = None
        self.pass_of_source: int | None = None
        self.rows = resident_rows(context)
        self.seconds = SECONDS / 8  # of a step, at first a guess
        self.before = [c for c in context.callbacks if c.in_program == "before"]
        self.after = [c for c in context.callbacks if c.in_program == "after"]
        self.is_guarded = any(isinstance(c, NonFiniteGuard) for c in context.callbacks)
        self.form = "epoch"
        why = why_not(context)
        self.full = 0 if why else full_batches(context.train_dl)
        if why:
            self.give_up(context, why)

    def give_up(self, context: Context, why: str, form: str = "step") -> None:
        self.form = form
        if context.history.run is not None:
            context.history.run.compile = form
        self.echo(
            f"note   the steps of an epoch cannot be one program: {why}; each is compiled by itself"
            if form
            else f"note   nothing is compiled: {why}"
        )

    def run(self, context: Context) -> None:
        """Take the steps of this pass that are left, as far as the program can take them."""
        if self.form != "epoch" or not (0 < context.batch < self.full):
            return
        for hook in overriding(self.before, "on_batch_start"):
            hook(context)
        try:
            program = self.program(context)
            while not context.stop:
                first, last = self.source.take(context, self.most(context))
                if first >= last or not self.take(context, program, first, last):
                    return
        except Interrupted:
            return
        except Exception as error:
            if not context.stop:  # else Ctrl-C has ended the C++ compiler
                text = reason(error)
                known = (why for part, why in WORDS.items() if part in text)
                form = "" if isinstance(error, NoCompilerError) else "step"
                self.give_up(context, next(known, shorten(text, 200)), form)

    def program(self, context: Context) -> Program:
        """Return the program for the training as it is now: for what is frozen, for its options."""
        if self.source is None or (self.rows and self.pass_of_source != context.loader_epoch):
            self.source = Resident(context, self.rows) if self.rows else Stacked(context, self.full)
            self.pass_of_source = context.loader_epoch
        modules = modules_of(context)
        taken = {"params", *(name for _, name in options_of(context.opt))}
        kept = [{k: v for k, v in g.items() if k not in taken} for g in context.opt.param_groups]
        trains = [part.training for module in modules for part in module.modules()]
        learns = [tensor.requires_grad for tensor in tensors_of(modules, context.opt)]
        state = repr((kept, trains, learns))
        if state not in self.programs:
            program = Program(context, self.source, self.loss_func, self.compute_loss, self.echo)
            self.echo(f"note   the steps of an epoch are one program, {program.how}")
            self.programs[state] = program
        return self.programs[state]

    def most(self, context: Context) -> int:
        """Return the largest number of steps of a range from here."""
        limits = [max(1, int(SECONDS / self.seconds))]
        if context.steps_per_epoch is not None:
            limits.append(context.steps_per_epoch - context.step)
        if context.max_steps is not None:
            limits.append(context.max_steps - context.global_step)
        for callback in context.callbacks:
            if every := getattr(callback, "every_steps", None):
                limits.append(every - context.global_step % every)
        return min(limits)

    def take(self, context: Context, program: Program, first: int, last: int) -> bool:
        """Take the steps of a range; return False where the next one must be taken without."""
        began, saved = time.perf_counter(), self.saved(context)
        numbers = self.numbers(context, program, first, last)
        found, tensors = program.run(self.source, first, last)
        bad = (~found[:, 0].isfinite()).nonzero()
        stops = len(bad) > 0 and (self.is_guarded or program.may_stop)
        if stops:
            self.restore(context, saved)
            last = first + int(bad[0])
            numbers = self.numbers(context, program, first, last)
            found, tensors = program.run(self.source, first, last)
        program.put(tensors)
        self.source.leave(context, last)
        if first < last:
            self.count(context, program, found, numbers)
            self.seconds = (time.perf_counter() - began) / (last - first)
            for hook in overriding(self.after, "on_step_end"):
                hook(context)
        return not stops

    def numbers(self, context: Context, program: Program, first: int, last: int) -> list[Any]:
        """Write the options of the optimizer for each step of a range, as its callbacks set them.

        These go on to the end of the range.
        """
        starts = list(overriding(self.before, "on_batch_start"))
        ends = list(overriding(self.before, "on_step_end"))
        place = context.step, context.global_step
        rows = []
        for _ in range(last - first):
            for hook in starts:
                hook(context)
            rows.append(numbers_of(program.slots))
            context.step, context.global_step = context.step + 1, context.global_step + 1
            for hook in ends:
                hook(context)
        context.step, context.global_step = place
        if rows:
            program.numbers[first:last] = torch.tensor(rows, dtype=torch.float64)
        return rows

    def count(self, context: Context, program: Program, found: Tensor, rows: list[Any]) -> None:
        """Note the steps of a range in the history, and call what looks at each."""
        if starts := list(overriding(self.after, "on_batch_start")):
            now = [group["lr"] for group in context.groups()]
            places = [i for i, (_, name) in enumerate(flat(program.slots)) if name == "lr"]
            for row in rows:
                for group, place in zip(context.groups(), places, strict=True):
                    group["lr"] = row[place]
                for hook in starts:
                    hook(context)
            for group, rate in zip(context.groups(), now, strict=True):
                group["lr"] = rate
        losses, *values = found.T.tolist()
        steps = len(losses)
        context.pending += losses
        context.sizes += [program.size] * steps
        for name, column in zip(program.names, values, strict=True):
            context.epoch_values.setdefault(name, []).extend(column)
        context.loss = found[-1, 0]
        context.step += steps
        context.batch += steps
        context.global_step += steps

    def saved(self, context: Context) -> Any:
        """Return what a range changes besides tensors."""
        options = [dict(group) for group in context.opt.param_groups]
        return torch.get_rng_state(), options, [deepcopy(c.state_dict()) for c in self.before]

    def restore(self, context: Context, saved: Any) -> None:
        random, options, states = saved
        torch.set_rng_state(random)
        for group, before in zip(context.opt.param_groups, options, strict=True):
            group.update(before)
        for callback, state in zip(self.before, states, strict=True):
            callback.load_state_dict(state)


def flat(slots: Sequence[tuple[dict[str, Any], str]]) -> list[tuple[dict[str, Any], str]]:
    """Return one slot for each number: betas are two."""
    return [(group, name) for group, name in slots for _ in numbers_of([(group, name)])]


def covers(kind: type[Callback], hook: str) -> bool:
    """Return whether `in_program` was said of this hook, or the class has none of its own."""
    by_class = next(each for each in kind.__mro__ if hook in vars(each))
    said_by = next(each for each in kind.__mro__ if "in_program" in vars(each))
    return by_class is Callback or (bool(kind.in_program) and issubclass(said_by, by_class))


def modules_of(context: Context) -> list[nn.Module]:
    parts = (context.model, context.loss_func)
    return [part for part in parts if isinstance(part, nn.Module)]


def resident_rows(context: Context) -> Rows | None:
    """Return the rows that a program can gather from memory itself."""
    rows = Rows.of(context.train_dl.dataset) if type(context.train_dl) is TensorLoader else None
    is_one = rows is not None and len(rows.parts) == 1 and hasattr(rows.parts[0], "tensors")
    return rows if is_one else None


def full_batches(loader: Any) -> int:
    inner = innermost(loader)
    order = getattr(inner, "sampler", inner)
    count: int = order.samples // order.batch_size
    return count


def why_not(context: Context) -> str:
    """Return why the steps of a training cannot be one program, as far as that shows before."""
    device, opt = device_of(context.model), context.opt
    if device.type != "cpu":
        return f"the device is {device}"
    if type(opt) not in OPTIMIZERS:
        return f"the optimizer is {type(opt).__name__}"
    for callback in context.callbacks:
        if not all(covers(type(callback), hook) for hook in STEP_HOOKS):
            return f"{type(callback).__name__} is called in each step"
    if context.loader_epoch is None:
        return "the order of the batches is not known before (plainfit.get_data makes one that is)"
    read = getattr(innermost(context.train_dl), "dataset", None)
    if getattr(read, "collate_fn", default_collate) is not default_collate:
        return "a collate_fn may make batches of several shapes"
    for name, part in context.model.named_modules():
        if any(value for key, value in vars(part).items() if key.endswith("_hooks")):
            return f"the layer {name or type(part).__name__} has hooks"
    return ""
