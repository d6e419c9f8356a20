"""The full batches of a validation as one compiled program, beside that of the steps."""

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from plainfit.common.devices import device_of
from plainfit.data.batches import called
from plainfit.training.hooks import Context, Interrupted
from plainfit.training.metrics import Mean
from plainfit.training.program_batches import Resident, full_batches, resident_rows
from plainfit.training.ranges import SECONDS, EpochProgram, Program, in_words, layers_with_hooks
from plainfit.training.tracing import UntraceableError
from plainfit.training.validation import Evaluation

CPU = torch.device("cpu")
FEWEST = 16  # full batches for which a program is compiled, which takes seconds


class TracedEvaluation(Evaluation):
    """The evaluation of a batch as it is traced."""

    opt: Any = SimpleNamespace(param_groups=[], state={})  # it takes no step
    numbers = ()
    batch_size: Any

    def __call__(self, xb: Any, yb: Any) -> list[Tensor]:
        """Return the loss of a batch, its weight, and the two sums of each metric."""
        with torch.no_grad():
            out = self.model(xb) if isinstance(xb, Tensor) else called(self.model, xb)
            loss, values = self.loss_of(out, yb)
        if values:
            raise UntraceableError("the loss has values beside it")
        self.size = self.batch_size(xb, yb)
        sums = [each for metric in self.whole.metrics for each in metric.sums_of(out, yb)]
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

    def run(self, context: Context, evaluation: Evaluation, loader: Any) -> None:
        """Evaluate the full batches, if a program can; the loader goes on after them."""
        rows, call = resident_rows(loader), context.history.run
        if rows is None or self.steps.form != "epoch" or not fits(evaluation, loader):
            return
        source = Resident(loader, rows, CPU)
        found: list[list[float]] = []
        try:
            program = self.program(context, evaluation, (id(evaluation.model), id(loader)), source)
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
            return
        if len(found) == source.steps:  # it was not stopped
            evaluation.put(found, program.step.size, program.step.watch.is_sum)
            loader.seek(loader.epoch, source.steps)
            if call is not None:
                call.valid_program = True

    def program(
        self, context: Context, evaluation: Evaluation, key: tuple[int, int], source: Resident
    ) -> Program:
        if key not in self.programs:
            parts = evaluation.model, evaluation.loss_func, evaluation.whole.metrics
            step = TracedEvaluation(*parts)
            step.batch_size = context.batch_size
            program = Program(context, source, step)
            if any(program.steps.changed):
                raise UntraceableError("it changes tensors of the model")
            program.compile(context, source, lambda line: None)
            self.echo(f"note   the validation is one program, {program.how}")
            self.programs[key] = program
        elif self.steps.may_change:
            self.programs[key].check(context, source)
        return self.programs[key]


def fits(evaluation: Evaluation, loader: Any) -> bool:
    """Return whether a program may take the batches of a validation, as far as it shows before."""
    return (
        full_batches(loader) >= FEWEST
        and loader.first == 0
        and device_of(evaluation.model) == CPU
        and all(type(metric) is Mean for metric in evaluation.whole.metrics)
        and not any(map(layers_with_hooks, evaluation.modules()))
    )
