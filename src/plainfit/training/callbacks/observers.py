"""Callbacks that only look: logs, a progress bar, statistics of layers and gradients."""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from plainfit.common.errors import ConfigError
from plainfit.common.files import append, write_whole
from plainfit.models.weights import whole
from plainfit.training.callbacks.optimization import refuse_lbfgs
from plainfit.training.hooks import Callback, Context, warn

if TYPE_CHECKING:
    from rich.console import Console

    from plainfit.common.plots import Picture

REFRESH = 0.5  # seconds between two drawings of the bar, each of which takes 0.4 to 2.5 ms
REPLOT = 5.0  # seconds between two drawings of the curves, each of which takes 0.1 s


class EpochLog(Callback):
    """Base class of the logs: after each epoch, appends what is new in the history.

    At the start of a training, and after a failed write, the whole file is written again, so that
    a resumed training leaves the same file as one that was never stopped.
    """

    observer = True
    header = ""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.written = 0
        self.is_whole = False

    def on_fit_start(self, context: Context) -> None:
        self.written = 0
        self.update(context)

    def on_fit_end(self, context: Context) -> None:
        if not self.is_whole:
            self.update(context)

    def update(self, context: Context) -> None:
        """Append the new rows to the file; the first call replaces it."""
        lines = self.lines(context, self.written)
        text = "".join(lines if self.written else [self.header, *lines])
        try:
            if self.written:
                append(self.path, text.encode())
            elif text or self.path.exists():  # perhaps of another training
                write_whole(self.path, text.encode())
            self.written, self.is_whole = self.written + len(lines), True
        except OSError as error:
            self.written, self.is_whole = 0, False
            warn(
                f"{self.path} could not be written ({error.strerror}); training goes on, and the "
                "log is written again later"
            )

    on_epoch_end = on_stop = update

    def lines(self, context: Context, written: int) -> list[str]:
        """Return the lines after the first `written` ones."""
        raise NotImplementedError


class JsonLinesLog(EpochLog):
    """Write each epoch's row of the history as a line of JSON."""

    def lines(self, context: Context, written: int) -> list[str]:
        return [json.dumps(row) + "\n" for row in context.history.epochs[written:]]


class StepLog(EpochLog):
    """Write each step's loss and (highest) learning rate as CSV: `step,epoch,loss,lr`, exactly."""

    header = "step,epoch,loss,lr\n"

    in_program = "after"

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.rates: list[float] = []
        self.epochs: list[int] = []

    def on_fit_start(self, context: Context) -> None:
        if context.global_step == 0:
            self.rates, self.epochs = [], []
        super().on_fit_start(context)

    def on_batch_start(self, context: Context) -> None:
        self.rates.append(context.rate())
        self.epochs.append(context.epoch)

    def lines(self, context: Context, written: int) -> list[str]:
        columns = (self.epochs, context.history.step_losses, self.rates)
        rows = zip(*(column[written:] for column in columns), strict=True)
        return [f"{step},{e},{loss!r},{lr!r}\n" for step, (e, loss, lr) in enumerate(rows, written)]

    def state_dict(self) -> dict[str, Any]:
        return {
            "rates": torch.tensor(self.rates, dtype=torch.float64),
            "epochs": torch.tensor(self.epochs, dtype=torch.int64),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rates, self.epochs = state["rates"].tolist(), state["epochs"].tolist()


class ProgressBar(Callback):
    """Show a bar for the current epoch, on a terminal only; by default on the standard error.

    `fit` adds one where it prints and the standard error is a terminal.
    """

    observer = True
    in_program = "after"

    def __init__(self, console: "Console | None" = None) -> None:
        from rich import console as terminal
        from rich import progress

        self.bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[speed]}"),
            console=console or terminal.Console(stderr=True),
            auto_refresh=False,  # a thread that redraws would take turns with the loop
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # lines that go to a file must get there
        )
        self.task = self.bar.add_task("", total=None, speed="")
        self.drawn = 0.0

    def on_fit_start(self, context: Context) -> None:
        self.drawn = time.perf_counter()

    def on_step_end(self, context: Context) -> None:
        now = time.perf_counter()
        if now - self.drawn > REFRESH:  # short epochs share a drawing
            self.drawn = now
            self.draw(context)

    def draw(self, context: Context) -> None:
        """Show the place in the current epoch."""
        if not self.bar.console.is_terminal:
            return
        self.bar.update(
            self.task,
            description=epoch_of(context),
            total=context.steps,
            completed=context.step,
            speed=speed(context),
        )
        self.bar.start()
        self.bar.refresh()

    def on_fit_end(self, context: Context) -> None:
        if self.bar.live.is_started:
            self.bar.stop()

    on_exception = on_fit_end


class NotebookProgress(ProgressBar):
    """Show a line for the current epoch in the output of a notebook's cell, and the curves."""

    def on_fit_start(self, context: Context) -> None:
        from IPython.display import display

        super().on_fit_start(context)
        self.plotted = self.drawn
        empty = {"text/plain": ""}
        self.line, self.curves = (display(empty, raw=True, display_id=True) for _ in range(2))

    def draw(self, context: Context) -> None:
        of = "" if context.steps is None else f" of {context.steps}"
        at = f"{epoch_of(context)}: step {context.step}{of}, {speed(context)}"
        self.line.update({"text/plain": at}, raw=True)

    def on_epoch_end(self, context: Context) -> None:
        if time.perf_counter() - self.plotted > REPLOT:
            self.curves.update(context.history.plot())
            self.plotted = time.perf_counter()

    def on_fit_end(self, context: Context) -> None:
        self.line.update({"text/plain": ""}, raw=True)
        if len(context.history):
            self.curves.update(context.history.plot())


def epoch_of(context: Context) -> str:
    of = "" if context.epochs == sys.maxsize else f" of {context.epochs}"
    return f"epoch {context.epoch + 1}{of}"


def speed(context: Context) -> str:
    return f"{sum(context.sizes) / (time.perf_counter() - context.began):,.0f} samples/s"


def progress(callbacks: Sequence[Callback]) -> list[Callback]:
    """Return what shows the progress in a notebook or on a terminal, if nothing does so yet."""
    if any(isinstance(callback, ProgressBar) for callback in callbacks):
        return []
    if "ipykernel" in sys.modules and sys.modules["IPython"].get_ipython() is not None:
        return [NotebookProgress()]
    return [ProgressBar()] if sys.stderr is not None and sys.stderr.isatty() else []


class Statistics(Callback):
    """Base class: values by name, of every `every` steps, kept on the device until read."""

    observer = True

    columns: tuple[str, ...]

    def __init__(self, every: int = 1) -> None:
        if every < 1:
            raise ConfigError(f"statistics are taken every 1 or more steps, got {every}")
        self.every = every
        self.values: dict[str, list[Tensor]] = {}
        self.steps: dict[str, list[int]] = {}

    def on_fit_start(self, context: Context) -> None:
        self.values, self.steps = {}, {}

    def note(self, name: str, value: Tensor, context: Context) -> None:
        """Keep a value of this step under a name."""
        self.values.setdefault(name, []).append(value)
        self.steps.setdefault(name, []).append(context.global_step)

    def to_dict(self) -> dict[str, list[list[float]]]:
        """Return, for each name, the values of each step at which they were taken."""
        return {name: torch.stack(rows).tolist() for name, rows in self.values.items()}

    def plot(self) -> "Picture":
        """Draw each column by step, one line per name."""
        from plainfit.common.plots import statistics_curves

        return statistics_curves(self.columns, self.to_dict(), self.steps)


class ActivationStatistics(Statistics):
    """Take mean, standard deviation and share of (almost) zeros of every layer's output.

    A layer whose outputs shrink to a standard deviation of 0, or are mostly zeros, has stopped
    learning. The training stays the same, bit for bit.
    """

    columns = ("mean", "standard deviation", "share of |x| < 1e-3")

    def __init__(self, every: int = 1) -> None:
        super().__init__(every)
        self.hooks: list[RemovableHandle] = []

    def on_fit_start(self, context: Context) -> None:
        super().on_fit_start(context)
        self.hooks = [
            module.register_forward_hook(self.watch(name, context))
            for name, module in context.model.named_modules()
            if not list(module.children())
        ]

    def watch(self, name: str, context: Context) -> Callable[[nn.Module, Any, Any], None]:
        """Return a forward hook for the module of this name."""

        def look(module: nn.Module, _: Any, out: Any) -> None:
            is_step = module.training and torch.is_grad_enabled()
            is_due = is_step and context.global_step % self.every == 0
            if is_due and isinstance(out, Tensor) and out.is_floating_point():
                x = out.detach().float()
                self.note(
                    name or type(module).__name__,
                    torch.stack([x.mean(), x.std(correction=0), (x.abs() < 1e-3).float().mean()]),
                    context,
                )

        return look

    def on_fit_end(self, context: Context) -> None:
        for hook in self.hooks:
            hook.remove()

    on_exception = on_fit_end


class GradientStatistics(Statistics):
    """Take norm and largest absolute value of every parameter's gradient before each step.

    Where gradients are summed over batches, the sums are taken; the next one is the first that is
    complete `every` batches after the last one taken. Clipping that comes earlier in the list of
    callbacks is included.
    """

    reads_weights = True
    columns = ("norm", "largest |g|")

    def on_fit_start(self, context: Context) -> None:
        refuse_lbfgs(self, context)
        super().on_fit_start(context)
        self.next = context.global_step

    def on_step_start(self, context: Context) -> None:
        if context.global_step < self.next:
            return
        self.next = context.global_step + self.every
        for name, parameter in context.model.named_parameters():
            if parameter.grad is not None:
                grad = whole(parameter.grad.detach())
                grad = (grad.coalesce().values() if grad.is_sparse else grad).float()
                self.note(name, torch.stack([grad.norm(), grad.abs().max()]), context)
