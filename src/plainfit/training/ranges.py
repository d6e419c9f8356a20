"""The epochs of `fit` as a program: range by range, with what a step promises between them.

Between two ranges the training is as after any other step: its state is in the model and the
optimizer, callbacks are called, checkpoints can be written, and it can stop.
"""

import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, RMSprop
from torch.utils.data import default_collate

from plainfit.common.devices import device_of
from plainfit.common.errors import reason
from plainfit.data.batches import innermost
from plainfit.training.callbacks.optimization import GradientAccumulation
from plainfit.training.callbacks.stopping import NonFiniteGuard
from plainfit.training.hooks import Callback, Context, Interrupted, overriding
from plainfit.training.program import NoCompilerError, Steps, captured, compiled
from plainfit.training.program_batches import Resident, Stacked, full_batches, resident_rows
from plainfit.training.state import random_state, set_random_state
from plainfit.training.tracing import (
    TracedStep,
    UnreadyError,
    UntraceableError,
    contents_of,
    numbers_of,
    options_of,
    tensors_of,
    traced,
)

OPTIMIZERS = (SGD, Adam, AdamW, RMSprop, Adagrad, Adadelta, Adamax)
STEP_HOOKS = ("on_batch_start", "on_loss", "on_backward_end", "on_step_start", "on_step_end")
LAYER_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
WORDS = {  # for what errors of torch contain
    "DataDependent": "a step depends on the value of a tensor, as by `if` or `item()`",
    "CppCompileError": "the C++ compiler failed",
    "synchronizing CUDA operation": "a step waits for the device, or copies to it",
    "mutating a non-functional tensor": "a tensor that is no buffer changes in each step",
}
SECONDS = 0.2  # that a range takes: a stop and a checkpoint wait for no longer


class Program:
    """A compiled program of a training, and where its tensors and numbers come from.

    Args:
        context: of the training.
        source: of its batches, `Resident` or `Stacked`.
        step: what it repeats, a `TracedStep` or a `TracedEvaluation`.
    """

    def __init__(self, context: Context, source: Any, step: Any) -> None:
        self.step, self.modules, self.opt = step, step.modules(), step.opt
        self.slots = [*options_of(self.opt), *step.numbers]
        graph = self.graph(context, source)
        count = len(tensors_of(self.modules, self.opt))
        self.steps = Steps(graph, count, isinstance(source, Resident))
        device, shape = device_of(context.model), (source.steps, len(numbers_of(self.slots)))
        self.numbers = torch.zeros(shape, dtype=torch.float64, device=device)

    def compile(self, context: Context, source: Any, echo: Callable[[str], None]) -> None:
        """Compile it, which takes long; `echo` is called with a note before."""
        make = captured if device_of(context.model).type == "cuda" else compiled
        with context.interruptible():  # not while tracing, which takes the model apart
            self.call, self.how = make(self.steps, self.arguments(source, 0, 0), echo)

    def graph(self, context: Context, source: Any) -> Any:
        def of_columns(*columns: Tensor) -> list[Tensor]:
            values: list[Tensor] = self.step(*source.pair(context, *columns))
            return values

        return traced(of_columns, self.modules, self.opt, self.slots, source.example())

    def check(self, context: Context, source: Any) -> None:
        """Refuse a step that is no longer what was compiled."""
        if contents_of(self.graph(context, source)) != contents_of(self.steps.graph):
            raise UntraceableError(
                "what a step computes changes from one epoch to another (and a resumed training "
                "may differ in the last bits)"
            )

    def arguments(self, source: Any, first: int, last: int) -> tuple[Any, ...]:
        own = [tensor.detach() for tensor in tensors_of(self.modules, self.opt)]
        parts = self.steps.those(own, True), self.steps.those(own, False)
        ends = torch.tensor(first), torch.tensor(last)
        return *parts, source.columns, source.rows, self.numbers, *ends

    def run(self, source: Any, first: int, last: int) -> tuple[Tensor, list[Tensor]]:
        with torch.no_grad():
            found, tensors = self.call(*self.arguments(source, first, last))
        return found[first:last], tensors

    def put(self, tensors: Sequence[Tensor]) -> None:
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
        self.rows = resident_rows(context.train_dl)
        self.seconds = SECONDS / 8  # of a step, at first a guess
        self.before = [c for c in context.callbacks if c.in_program == "before"]
        self.after = [c for c in context.callbacks if c.in_program == "after"]
        sums = [c for c in context.callbacks if isinstance(c, GradientAccumulation)]
        # Only code of others can change what a step computes: a factor of the loss, for example.
        own = [c for c in context.callbacks if not type(c).__module__.startswith("plainfit.")]
        self.may_change = not all(callback.observer for callback in own)
        self.checked = -1
        self.moved = [*self.before, *sums]
        self.guards = [c for c in context.callbacks if isinstance(c, NonFiniteGuard)]
        self.form = "epoch"
        why = why_not(context)
        self.full = 0 if why else full_batches(context.train_dl)
        if why:
            self.give_up(context, why)

    def give_up(self, context: Context, why: str | Exception) -> None:
        self.form = "" if isinstance(why, NoCompilerError) else "step"
        if (call := context.history.run) is not None:
            call.compile = self.form
            if self.programs:
                call.unlike_a_script += ("a program for a part of its steps",)
        self.source, self.programs = None, {}  # memory of the device
        text = why if isinstance(why, str) else in_words(why)
        one = f"the steps of an epoch cannot be one program: {text}; each is compiled by itself"
        self.echo(f"note   {one if self.form else f'nothing is compiled: {text}'}")

    def run(self, context: Context) -> None:
        is_ready = 0 < context.batch < self.full and has_state(context.opt)
        if self.form != "epoch" or not is_ready:
            return
        for hook in overriding(self.before, "on_batch_start"):
            hook(context)
        try:
            program = self.program(context)
        except (Interrupted, UnreadyError):
            return
        except Exception as error:
            if not context.stop:  # else Ctrl-C has ended the C++ compiler as well
                self.give_up(context, error)
            return
        while not context.stop:
            try:
                first, last = self.source.take(context, self.most(context))
            except UntraceableError as error:
                self.give_up(context, error)
                return
            if first >= last or not self.take(context, program, first, last):
                return

    def program(self, context: Context) -> Program:
        is_other = self.rows is not None and self.pass_of_source != context.loader_epoch
        if is_other:
            context.train_dl.seek(context.loader_epoch, context.batch)
        if self.source is None and self.rows is not None:
            self.source = Resident(context.train_dl, self.rows, device_of(context.model))
        elif self.source is None:
            self.source = Stacked(context, self.full)
        elif is_other:
            self.source.begin()
        self.pass_of_source = context.loader_epoch
        parts = (context.model, self.loss_func)
        modules = [part for part in parts if isinstance(part, nn.Module)]
        taken = {"params", *(name for _, name in options_of(context.opt))}
        kept = [{k: v for k, v in g.items() if k not in taken} for g in context.opt.param_groups]
        trains = [part.training for module in modules for part in module.modules()]
        learns = [tensor.requires_grad for tensor in tensors_of(modules, context.opt)]
        state = repr((kept, trains, learns))
        if state not in self.programs:
            step = TracedStep(context, self.loss_func, self.compute_loss)
            program = Program(context, self.source, step)
            program.compile(context, self.source, self.echo)
            self.echo(f"note   the steps of an epoch are one program, {program.how}")
            self.programs[state] = program
        elif self.may_change and context.epoch != self.checked:
            self.programs[state].check(context, self.source)
        self.checked = context.epoch
        return self.programs[state]

    def most(self, context: Context) -> int:
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
        began, saved, step = time.perf_counter(), self.saved(context), program.step
        if step.sums is not None:
            step.sums.read()
        rows = self.numbers(context, program, first, last)
        try:
            found, tensors = program.run(self.source, first, last)
        except Exception as error:
            self.restore(context, saved)
            self.source.leave(context, first)
            self.give_up(context, error)
            return False
        bad = (~found[:, 0].isfinite()).nonzero()
        stops = len(bad) > 0 and bool(self.guards or step.are_finite)
        if stops:  # again, up to the step before
            self.restore(context, saved)
            for guard in self.guards:
                guard.every = 1  # else it would see the next step, which is taken without, later
            last = first + int(bad[0])
            rows = self.numbers(context, program, first, last)
            found, tensors = program.run(self.source, first, last)
        self.source.leave(context, last)
        if first < last:
            program.put(tensors)
            self.count(context, program, found, rows)
            self.seconds = (time.perf_counter() - began) / (last - first)
            for hook in overriding(self.after, "on_step_end"):
                hook(context)
            context.loss = None
        return not stops

    def numbers(self, context: Context, program: Program, first: int, last: int) -> list[Any]:
        """Write the numbers for each step of a range, and move what gives them to its end."""
        starts = list(overriding(self.before, "on_batch_start"))
        ends = list(overriding(self.before, "on_step_end"))
        averaging, accumulation = program.step.averaging, program.step.accumulation
        count = int(averaging.averaged.n_averaged) if averaging and averaging.averaged else 0
        options, place = options_of(context.opt), (context.step, context.global_step)
        rows: list[list[float]] = []
        if not (starts or ends or averaging or accumulation):
            rows = [numbers_of(options)] * (last - first)
        for _ in range(last - first - len(rows)):
            for hook in starts:
                hook(context)
            row, context.take_step = numbers_of(options), True
            if accumulation is not None:
                total = accumulation.total(context, program.step.size)
                accumulation.now["total"], context.take_step = float(total), total > 0
            context.step, context.global_step = context.step + 1, context.global_step + 1
            if averaging is not None:
                is_due = averaging.is_due(context)
                averaging.now["decay"] = averaging.decay_of(count) if is_due else 1.0
                count += is_due
            rows.append(row + numbers_of(program.step.numbers))
            for hook in ends:
                hook(context)
        context.step, context.global_step = place
        if rows:
            program.numbers[first:last] = torch.tensor(rows, dtype=torch.float64)
        return rows

    def count(self, context: Context, program: Program, found: Tensor, rows: list[Any]) -> None:
        if starts := list(overriding(self.after, "on_batch_start")):
            now = [group["lr"] for group in context.groups()]
            places = [
                i for i, (_, name) in enumerate(flat(options_of(context.opt))) if name == "lr"
            ]
            for row in rows:
                for group, place in zip(context.groups(), places, strict=True):
                    group["lr"] = row[place]
                for hook in starts:
                    hook(context)
            for group, rate in zip(context.groups(), now, strict=True):
                group["lr"] = rate
        losses, *values = found.T.tolist()
        steps, step = len(losses), program.step
        context.pending += losses
        context.sizes += [step.size] * steps
        for name, column in zip(step.names, values, strict=True):
            context.epoch_values.setdefault(name, []).extend(column)
        if step.averaging is not None:
            step.averaging.show(context)
        if step.sums is not None:
            step.sums.write(context.take_step)
        context.loss = found[-1, 0]
        context.step += steps
        context.batch += steps
        context.global_step += steps

    def saved(self, context: Context) -> Any:
        options = [dict(group) for group in context.opt.param_groups]
        return random_state(), options, [deepcopy(c.state_dict()) for c in self.moved]

    def restore(self, context: Context, saved: Any) -> None:
        random, options, states = saved
        set_random_state(random)
        for group, before in zip(context.opt.param_groups, options, strict=True):
            group.update(before)
        for callback, state in zip(self.moved, states, strict=True):
            callback.load_state_dict(state)


def in_words(error: BaseException) -> str:
    text = reason(error)
    return next((words for part, words in WORDS.items() if part in text), shorten(text, 200))


def has_state(opt: Any) -> bool:
    needs_none = isinstance(opt, SGD) and not any(group["momentum"] for group in opt.param_groups)
    return needs_none or bool(opt.state)


def flat(slots: Sequence[tuple[dict[str, Any], str]]) -> list[tuple[dict[str, Any], str]]:
    """Return one slot for each number: betas are two."""
    return [(group, name) for group, name in slots for _ in numbers_of([(group, name)])]


def covers(kind: type[Callback], hook: str) -> bool:
    """Return whether `in_program` was said of this hook, or the class has none of its own."""
    by_class = next(each for each in kind.__mro__ if hook in vars(each))
    said_by = next(each for each in kind.__mro__ if "in_program" in vars(each))
    return by_class is Callback or (bool(kind.in_program) and issubclass(said_by, by_class))


def why_not(context: Context) -> str:
    """Return why the steps of a training cannot be one program, as far as that shows before."""
    device, opt = device_of(context.model), context.opt
    if device.type not in ("cpu", "cuda"):
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
    if hooked := layers_with_hooks(context.model):
        return f"the layer {hooked[0]} has hooks"
    for name, part in context.model.named_modules():
        if device.type == "cuda" and isinstance(part, nn.RNNBase):
            return f"the layer {name or type(part).__name__} has random numbers of cuDNN's own"
    return ""


def layers_with_hooks(model: nn.Module) -> list[str]:
    return [
        name or type(part).__name__
        for name, part in model.named_modules()
        if any(getattr(part, kind) for kind in LAYER_HOOKS)
    ]
