"""Running one rung: its program as it stands, watched from outside.

A rung knows nothing of this. Its statements run one after the other up to the one that trains;
there the initial values and the order can be set, so that two rungs can be compared.
`Tensor.backward`, which every rung calls once a step, is where its losses are read.
"""

import ast
import contextlib
import io
import math
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Sampler

from plainfit.common.seeding import epoch_order
from plainfit.data.batches import to_device
from plainfit.ladder.catalog import Rung

Parameters = dict[str, Tensor]
SCRATCH = "plainfit.ladder.scratch"
FIRST_ROWS = 64


@dataclass(frozen=True)
class Setting:
    """What two runs must share to be compared."""

    data: Path  # the .npz file
    epochs: int
    seed: int = 0
    dtype: torch.dtype = torch.float32
    most_steps: int | None = None  # stop after this number of steps
    # For someone who watches: called with the program's names and loss before each `backward`,
    # and with what it prints.
    on_step: Callable[[Rung, Mapping[str, Any], Tensor], None] | None = None
    on_print: Callable[[Rung, str], None] | None = None

    @property
    def unwatched(self) -> "Setting":
        return replace(self, on_step=None, on_print=None)


@dataclass
class Trace:
    """What a rung did; its loss, accuracy and outputs are on all validation samples."""

    rung: Rung
    batch: tuple[Tensor, ...] = ()  # the first rows of x_train and y_train
    losses: list[Tensor] = field(default_factory=list)  # of each step, before the update
    parameters: list[Parameters] = field(default_factory=list)  # before each step, and at the end
    seconds: float = 0.0  # of the training, with the program's own validation
    loss_before: float = math.nan  # before the training
    loss: float = math.nan
    accuracy: float = math.nan
    outputs: tuple[int, ...] = ()  # their shape
    error: str = ""  # the program's own traceback, if it failed


class EnoughStepsError(SystemExit):
    """Raised within a rung to stop it, and each process of it."""


class Printed(io.StringIO):
    """Passes on what is written to it."""

    def __init__(self, passed_to: Callable[[str], None]) -> None:
        super().__init__()
        self.passed_to = passed_to

    def write(self, text: str) -> int:
        self.passed_to(text)
        return len(text)


class ShuffledByEpoch(Sampler[int]):
    """plainfit's order for a stock `DataLoader`: each iteration is the next epoch's."""

    def __init__(self, n: int, seed: int) -> None:
        self.n, self.seed, self.epochs = n, seed, count()

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[int]:
        yield from epoch_order(self.n, self.seed, next(self.epochs), shuffle=True).tolist()


def run_rung(
    rung: Rung, setting: Setting, start: Parameters | None = None, *, on_scratch: bool = False
) -> Trace:
    """Run a rung's program, from given initial values (by position) or else from its own."""
    trace = Trace(rung)
    path = str(rung.path)
    namespace: dict[str, Any] = {"__name__": "__main__", "__file__": path}
    arguments = [path, f"--data={setting.data}"]
    if rung.number:  # rung 00 trains nothing
        arguments += [f"--epochs={setting.epochs}", f"--seed={setting.seed}"]

    def watch(loss: Tensor) -> None:
        if len(trace.losses) == setting.most_steps:
            raise EnoughStepsError
        trace.losses.append(loss.detach().clone())
        trace.parameters.append(copies(namespace))
        if setting.on_step:
            setting.on_step(rung, namespace, loss)

    output = Printed(partial(setting.on_print, rung)) if setting.on_print else io.StringIO()
    try:
        with program_settings(arguments, setting.dtype, output):
            tree = ast.parse(rung.source, path)
            before, training = in_two(use_scratch(tree) if on_scratch else tree)
            exec(compile(before, path, "exec"), namespace)
            trace.batch = tuple(namespace[n][:FIRST_ROWS].clone() for n in ("x_train", "y_train"))
            if "model" in namespace:
                trace.loss_before, _, _ = evaluate(namespace)
                give_the_same(namespace, setting.seed, start)
                with watched_backward(watch), contextlib.suppress(EnoughStepsError):
                    started = time.perf_counter()
                    exec(compile(training, path, "exec"), namespace)
                    trace.seconds = time.perf_counter() - started
                trace.parameters.append(copies(namespace))
                trace.loss, trace.accuracy, trace.outputs = evaluate(namespace)
    except (Exception, SystemExit) as error:
        trace.error = own_traceback(error, path)
    namespace.clear()  # its functions hold it, and it holds the data: a cycle, and a large one
    return trace


def in_two(tree: ast.Module) -> tuple[ast.Module, ast.Module]:
    """Split a program before the statement that trains: a loop over epochs, or a call."""
    starts = ("for epoch ", "fit(", "pf.fit(", "train(")
    training = (at for at, node in enumerate(tree.body) if ast.unparse(node).startswith(starts))
    at = next(training, len(tree.body))
    return ast.Module(tree.body[:at], []), ast.Module(tree.body[at:], [])


def give_the_same(namespace: dict[str, Any], seed: int, start: Parameters | None) -> None:
    """Set the initial values, the state of the global generator and the order of the samples."""
    own = named_parameters(namespace)
    if start is not None and [v.shape for v in start.values()] == [v.shape for v in own.values()]:
        with torch.no_grad():
            for parameter, value in zip(own.values(), start.values(), strict=True):
                parameter.copy_(value)
    torch.manual_seed(seed)
    loader: Any = namespace.get("train_dl")
    batches: Any = getattr(getattr(loader, "dl", loader), "batch_sampler", None)  # dl: wrapped
    sampler: Any = getattr(batches, "sampler", None)
    if type(sampler).__name__ == "RandomSampler":  # torch's, or that of `scratch`
        batches.sampler = ShuffledByEpoch(len(sampler), seed)


def own_parameters(namespace: Mapping[str, Any]) -> Parameters:
    model = namespace["model"]
    if hasattr(model, "named_parameters"):
        return dict(model.named_parameters())
    return {name: namespace[name] for name in ("weights", "bias")}


def named_parameters(namespace: Mapping[str, Any]) -> Parameters:
    """Return the parameters by name; a matrix made by hand is transposed to (outputs, inputs)."""
    found = own_parameters(namespace)
    return {name: p.t() if name == "weights" else p for name, p in found.items()}


def copies(namespace: Mapping[str, Any]) -> Parameters:
    return {name: p.detach().cpu().clone() for name, p in named_parameters(namespace).items()}


def evaluate(namespace: Mapping[str, Any]) -> tuple[float, float, tuple[int, ...]]:
    """Return the model's loss, accuracy and shape of outputs over all validation samples."""
    model = namespace["model"]
    device = next(iter(named_parameters(namespace).values())).device
    batches = namespace.get("valid_dl") or [(namespace["x_valid"], namespace["y_valid"])]
    if hasattr(model, "eval"):
        model.eval()
    with torch.no_grad():
        pairs = [to_device((xb, yb), device) for xb, yb in batches]
        outputs = torch.cat([model(xb) for xb, _ in pairs])
        targets = torch.cat([yb for _, yb in pairs])
        loss = F.cross_entropy(outputs, targets).item()
        accuracy = (outputs.argmax(dim=1) == targets).double().mean().item()
    return loss, accuracy, tuple(outputs.shape)


@contextlib.contextmanager
def program_settings(argv: list[str], dtype: torch.dtype, output: io.StringIO) -> Iterator[None]:
    old_argv, old_dtype, threads = sys.argv, torch.get_default_dtype(), torch.get_num_threads()
    sys.argv = argv
    torch.set_default_dtype(dtype)
    try:
        with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(output):
            yield
    finally:
        sys.argv = old_argv
        torch.set_num_threads(threads)
        torch.set_default_dtype(old_dtype)


@contextlib.contextmanager
def watched_backward(watch: Callable[[Tensor], None]) -> Iterator[None]:
    """Call `watch(loss)` before every `loss.backward()`."""
    original = torch.Tensor.backward

    def backward(self: Tensor, *args: Any, **kwargs: Any) -> None:
        watch(self)
        original(self, *args, **kwargs)  # type: ignore[no-untyped-call]

    torch.Tensor.backward = backward  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.Tensor.backward = original  # type: ignore[method-assign]


def own_traceback(error: BaseException, path: str) -> str:
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename != path:
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames)).rstrip()


def use_scratch(tree: ast.Module) -> ast.Module:
    """Import from `plainfit.ladder.scratch` what a program imports from torch's parts."""
    for at, statement in enumerate(tree.body):
        if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("torch"):
            statement.module = SCRATCH
        elif isinstance(statement, ast.Import) and statement.names[0].asname == "F":
            swapped = ast.ImportFrom(SCRATCH, [ast.alias("F")], 0)
            tree.body[at] = ast.copy_location(swapped, statement)
    return ast.fix_missing_locations(tree)
