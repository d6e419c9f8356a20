"""The full batches of a validation as one compiled program, beside that of the steps."""

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from plainfit.common.devices import device_of
from plainfit.data.batches import called
from plainfit.training.hooks import Context, Interrupted
from plainfit.training.metrics import LossWeights, Mean, WholeSet
from plainfit.training.program_batches import Resident, full_batches, resident_rows
from plainfit.training.ranges import SECONDS, EpochProgram, Program, in_words, layers_with_hooks
from plainfit.training.tracing import UntraceableError

CPU = torch.device("cpu")
FEWEST = 64  # full batches: a program saves some 0.3 ms of each, and takes 20 s to compile


class TracedEvaluation:
    opt: Any = SimpleNamespace(param_groups=[], state={})  # it takes no step
    numbers = ()

    def __init__(self, context: Context, metrics: list[Mean]) -> None:
        self.model, self.loss_func = context.valid_model, context.loss_func
        self.batch_size, self.metrics = context.batch_size, metrics
        self.watch = LossWeights()

    def modules(self) -> list[nn.Module]:
        return [part for part in (self.model, self.loss_func) if isinstance(part, nn.Module)]

    def __call__(self, xb: Any, yb: Any) -> list[Tensor]:
        """Return the loss of a batch, its weight, and the two sums of each metric."""
        with torch.no_grad():
            out = called(self.model, xb)
            with self.watch:
                loss = self.loss_func(out, yb)
        if not isinstance(loss, Tensor):
            raise UntraceableError("the loss has values beside it")
        self.size = self.batch_size(xb, yb)
        sums = [each for metric in self.metrics for each in metric.sums_of(out, yb)]
        found = (loss, self.watch.weight(loss, self.size), *sums)
        return [torch.as_tensor(value).double() for value in found]


class ValidationProgram:
    """Takes the full batches of validations by programs, one for each model and loader.

    Args:
        steps: the program of the training; without it, there is none here.
        echo: called with notes.
    """

    def __init__(self, steps: EpochProgram, echo: Callable[[str], None]) -> None:
        self.steps, self.echo = steps, echo
        self.programs: dict[tuple[int, int], Program] = {}
        self.seconds = SECONDS / 8  # of a batch, at first a guess

    def run(
        self, context: Context, loader: Any, whole: WholeSet, watch: LossWeights
    ) -> list[float]:
        """Return the losses of the full batches, if a program can; the loader goes on after them.

        Their weights and the sums of the metrics are added to `watch` and `whole`.
        """
        rows, call = resident_rows(loader), context.history.run
        if rows is None or self.steps.form != "epoch" or not fits(context, loader, whole):
            return []
        source = Resident(loader, rows, CPU)
        found: list[list[float]] = []
        try:
            program = self.program(context, loader, whole, source)
            while len(found) < source.steps and not context.stop:
                first, began = len(found), time.perf_counter()
                last = min(first + max(1, int(SECONDS / self.seconds)), source.steps)
                found += program.run(source, first, last)[0].tolist()
                self.seconds = (time.perf_counter() - began) / (last - first)
        except (Interrupted, Exception) as error:
            if not context.stop:  # else Ctrl-C has ended the C++ compiler as well
                context.valid_program = None
                if call is not None and call.valid_program:
                    call.unlike_a_script += ("a program for a part of its validations",)
                self.echo(f"note   the validation cannot be one program: {in_words(error)}")
            return []
        if len(found) < source.steps:  # it was stopped
            return []
        for _, weight, *sums in found:
            watch.weights.append(weight)
            watch.sizes.append(program.step.size)
            for at, metric in enumerate(whole.metrics):
                metric.add(*sums[2 * at : 2 * at + 2])
        watch.is_sum |= program.step.watch.is_sum
        loader.seek(loader.epoch, source.steps)
        if call is not None:
            call.valid_program = True
        return [loss for loss, *_ in found]

    def program(self, context: Context, loader: Any, whole: WholeSet, source: Resident) -> Program:
        key = id(context.valid_model), id(loader)
        if key not in self.programs:
            program = Program(context, source, TracedEvaluation(context, whole.metrics))
            if any(program.steps.changed):
                raise UntraceableError("it changes tensors of the model")
            program.compile(context, source, lambda line: None)
            self.echo(f"note   the validation is one program, {program.how}")
            self.programs[key] = program
        elif self.steps.may_change:
            self.programs[key].check(context, source)
        return self.programs[key]


def fits(context: Context, loader: Any, whole: WholeSet) -> bool:
    """Return whether a program may take the batches of a validation, as far as it shows before."""
    parts = (context.valid_model, context.loss_func)
    return (
        full_batches(loader) >= FEWEST
        and loader.first == 0
        and device_of(context.valid_model) == CPU
        and all(type(metric) is Mean for metric in whole.metrics)
        and not any(layers_with_hooks(part) for part in parts if isinstance(part, nn.Module))
    )
