"""A training's state, and its best weights, on disk; what may differ when it is resumed.

Other data, batches, models and optimizers cannot continue a training: its place in the data and its
state would mean something else. Other rates, schedules and lengths can: a branch, which is said and
noted (docs/decisions/0026-resume-branches.md).
"""

import re
import time
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from plainfit.common.errors import CheckpointError, ConfigError, RunError, raised_as
from plainfit.common.files import one_writer, remove_temporary, write_whole, writing
from plainfit.data.batches import innermost, order_of
from plainfit.models.weights import weights_to_bytes
from plainfit.training import checkpoints
from plainfit.training.callbacks.optimization import TorchScheduler
from plainfit.training.callbacks.stopping import Best, broken_parameter
from plainfit.training.fit_call import INTEGERS
from plainfit.training.hooks import Callback, Context, warn
from plainfit.training.schedules import Schedule
from plainfit.training.state import capture, restore

OF_THIS = "the checkpoint must be of this training"
# Values of a tensor whose bits are summed: all of most labels, some of large images.
SAMPLED = 2**20
STEPS = re.compile(r"steps=\d+")  # in a schedule, which follow from the number of epochs


class Checkpointing(Callback):
    """Write the training's whole state after each epoch, at intervals within it, and on a stop.

    `fit(..., checkpoint=FOLDER)` makes one. To set its options, pass one as `checkpoint`.

    If a write fails (a full disk), a warning says so and it is tried again later; the last valid
    checkpoint stays.

    Args:
        folder: for the checkpoints; created if it does not exist.
        every_steps: also write every `every_steps` steps; None for never.
        every_seconds: write within an epoch when this much time has passed since the last one.
        keep: how many of the newest to keep, at least 2; the best epoch's is also kept.
        monitor: the column of the history that decides the best epoch, as for `EarlyStopping`.
        mode: `min` or `max`, which of its values are better, likewise.
    """

    observer = reads_weights = True
    in_program = "after"
    saved = ("best_step",)

    def __init__(
        self,
        folder: str | Path,
        *,
        every_steps: int | None = None,
        every_seconds: float = 60.0,
        keep: int = 2,
        monitor: str | None = None,
        mode: str | None = None,
    ) -> None:
        if keep < 2:
            raise ConfigError(f"at least 2 checkpoints are kept, got keep={keep}")
        if every_steps is not None and every_steps < 1:
            raise ConfigError(f"a checkpoint is written every 1 or more steps, got {every_steps}")
        if not every_seconds >= 0:  # nor NaN, which no time exceeds
            raise ConfigError(
                f"a checkpoint is written every 0 or more seconds, got {every_seconds}"
            )
        self.folder = Path(folder)
        self.every_steps = every_steps
        self.every_seconds = every_seconds
        self.keep = keep
        self.best = Best(monitor, mode)
        self.best_step = -1
        self.last = 0.0
        self.setup: dict[str, Any] = {}
        self.saved_step = self.last_step = 0

    @staticmethod
    def at(given: "str | Path | Checkpointing | None", resume: bool) -> "Checkpointing | None":
        """Return the callback for the arguments `checkpoint` and `resume` of `fit`."""
        if resume and given is None:
            raise ConfigError(
                "continues from the newest checkpoint in the folder checkpoint, got none; pass "
                "checkpoint=FOLDER",
                field="resume",
            )
        return Checkpointing(given) if isinstance(given, str | Path) else given

    @contextmanager
    def begun(
        self, context: Context, resume: bool, echo: Callable[[str], None] | None
    ) -> Iterator[None]:
        """Create the folder, and be the only one to write to it until the block ends."""
        if not context.is_first:
            self.setup = setup_of(context)
            yield
            return
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with one_writer(self.folder):
            self.begin(context, resume, echo)
            yield

    def begin(self, context: Context, resume: bool, echo: Callable[[str], None] | None) -> None:
        """Continue from the folder's newest valid checkpoint if `resume` is set."""
        there = checkpoints.listed(self.folder)
        if there and not resume:
            raise RunError(
                f"the checkpoint folder must have none yet, and {self.folder} has {len(there)}; "
                "pass resume=True to continue from the newest, or choose another folder"
            )
        remove_temporary(self.folder)
        found = checkpoints.newest(self.folder, warn)
        self.setup = setup_of(context)
        if found is not None:
            with raised_as(CheckpointError, OF_THIS):
                before = found[1].get("setup")  # an older checkpoint has none
                if before is not None:
                    check_same(before, self.setup)
                restore(context, found[1])
                check_epochs(context.epochs, found[1]["position"], self.folder)
                if before is not None:
                    self.branch(context, before, echo)
        elif there:
            raise CheckpointError(
                f"{self.folder} must hold a valid checkpoint, and all {len(there)} are damaged; "
                "choose another folder to start again"
            )
        self.last = time.perf_counter()
        self.saved_step = self.last_step = context.global_step
        if echo is not None and context.global_step:
            echo(f"resumed in epoch {context.epoch}, after {context.step} of its steps")

    def branch(
        self, context: Context, before: dict[str, Any], echo: Callable[[str], None] | None
    ) -> None:
        """Say what goes on differently and note it; the optimizer gets the options it was given."""
        call = context.history.run
        assert call is not None
        call.branches += before.get("branches", [])
        self.setup["branches"] = call.branches
        found = changes(before["open"], self.setup["open"])
        if not found:
            return
        text = f"from step {context.global_step} on, {'; '.join(found.values())}"
        call.branches.append(text)
        if is_longer_only(before["open"], self.setup["open"]):
            if echo is not None:
                echo(f"note   {text}")
        else:
            warn(f"the training goes on as a branch: {text}")
        for place, group in enumerate(context.groups()):
            for name, value in call.groups[place].items():
                if f"{name} of group {place}" in found:
                    group.update(dict.fromkeys({name, f"initial_{name}"} & group.keys(), value))

    def on_fit_start(self, context: Context) -> None:
        if not self.setup:
            raise ConfigError("Checkpointing must be passed as checkpoint, and is in callbacks")
        with suppress(AttributeError):  # which a callback has later
            state = capture(context)
            parts = [[name, state[name]] for name in ("model", "optimizer")]
            for name, part in [*parts, *state["callbacks"]]:
                checkpoints.check_state(part, name)
        self.best.start(context)
        if context.global_step == 0:
            self.best_step = -1

    def on_step_end(self, context: Context) -> None:
        by_step = self.every_steps is not None and context.global_step % self.every_steps == 0
        by_time = time.perf_counter() - self.last > self.every_seconds
        if by_step or context.as_the_first(by_time):
            self.save(context)

    def on_epoch_end(self, context: Context) -> None:
        if self.best.improved(context):
            self.best_step = context.global_step
        self.save(context, at_end_of_epoch=True)

    def on_stop(self, context: Context) -> None:
        self.save(context)

    def on_fit_end(self, context: Context) -> None:
        self.last_step = context.global_step

    on_exception = on_fit_end

    def save(self, context: Context, *, at_end_of_epoch: bool = False) -> None:
        """Write a checkpoint; warn if that fails."""
        self.last = time.perf_counter()
        if broken_parameter(context):
            return  # the next step's loss will raise an error; the last valid one must stay
        parted = context.sharding.processes if context.has_parts else None
        if not (context.is_first or parted):
            return
        state = capture(context, at_end_of_epoch=at_end_of_epoch) | {"setup": self.setup}
        try:
            checkpoints.save(self.folder, context.global_step, state, parted)
        except (OSError, CheckpointError) as error:
            if context.is_first:
                warn(
                    f"no checkpoint could be written to {self.folder} ({error}); training goes on, "
                    f"tries again after {self.every_seconds:g} s, and the last good one stays"
                )
            return
        self.saved_step = context.global_step
        if context.is_first:
            checkpoints.prune(self.folder, self.keep, self.best_step)


def check_epochs(epochs: int, position: dict[str, Any], folder: Path) -> None:
    begun = position["epoch"] + (position["step"] > 0)
    if epochs < begun:
        raise ConfigError(
            f"must be at least {begun}, as many as the checkpoint in {folder} has begun, got "
            f"{epochs}",
            field="epochs",
        )


class BestWeights(Callback):
    """Write the weights of the best epoch to a safetensors file.

    A resumed training has the same `monitor`, or another file.

    Args:
        path: of the file.
        monitor: the column of the history that decides the best epoch, as for `EarlyStopping`.
        mode: `min` or `max`, which of its values are better, likewise.
    """

    observer = reads_weights = True

    def __init__(
        self, path: str | Path, monitor: str | None = None, mode: str | None = None
    ) -> None:
        self.path = Path(path)
        self.best = Best(monitor, mode)

    def on_fit_start(self, context: Context) -> None:
        self.best.start(context)
        found = epoch_in(self.path)
        # A resumed training does a later epoch again, which may have been written before a kill.
        if self.best.epoch not in (None, found) and 0 <= found < len(context.history):
            raise CheckpointError(
                f"{self.path} must have the weights of epoch {self.best.epoch}, the best so far, "
                f"and has those of epoch {found}; resume with the monitor that it was written "
                "with, or remove it"
            )

    def on_epoch_end(self, context: Context) -> None:
        if not self.best.improved(context):
            return
        epoch = {"epoch": str(context.epoch)}
        weights = weights_to_bytes(context.valid_model, epoch, context.is_first)
        try:
            if context.is_first:
                write_whole(self.path, weights)
        except OSError as error:
            what = f"the best weights could not be written to {self.path} ({error})"
            warn(f"{what}; training goes on")


def epoch_in(path: Path) -> int:
    """Return the epoch that `BestWeights` wrote with the weights; -1 without one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return int((file.metadata() or {})["epoch"])
    except (OSError, SafetensorError, KeyError, ValueError):
        return -1


def setup_of(context: Context) -> dict[str, dict[str, Any]]:
    """Return what must stay (`same`) and what may change (`open`), as texts and numbers."""
    call: Any = context.history.run
    dl, shards = innermost(context.train_dl), context.sharding
    order = order_of(dl) if hasattr(dl, "seek") else dl
    data = getattr(order, "dataset", None)
    same = {
        "batch size": getattr(order, "batch_size", None),
        "seed of the order": getattr(order, "seed", None),
        "steps in an epoch": context.steps,
        "samples": len(data) if isinstance(data, Sized) else None,
        "sums over the data": [bits_of(tensor) for tensor in getattr(data, "tensors", ())],
        "first tensors of the loss": call.loss_sums or None,
        "layers": " ".join(
            type(module).__qualname__.removeprefix("FSDP" * hasattr(module, "unshard"))
            for module in context.model.modules()
            if "_orig_mod" not in module._modules  # a wrapper of torch.compile
        ),
        "optimizer": " ".join(type(opt).__qualname__ for opt in context.optimizers()),
        "steps_per_epoch": context.steps_per_epoch,
        "shards": shards.shards.count if shards is not None and not shards.fast else None,
    }
    opened = {
        "epochs": context.epochs,
        "loss": text_of(call.loss_func),
        "precision": call.precision,
        "max_steps": context.max_steps,
    }
    opened |= {
        f"{type(callback).__name__}.{name}": text
        for callback in context.callbacks
        if type(callback).__module__ == TorchScheduler.__module__
        for name, value in vars(callback).items()
        if name not in callback.saved and (text := text_of(value))
    }
    if not any(isinstance(callback, TorchScheduler) for callback in context.callbacks):
        for place, group in enumerate(call.groups):  # a scheduler of torch has its own rates
            options = {n: repr(v) for n, v in group.items() if not n.startswith("initial_")}
            opened |= {f"{n} of group {place}": text for n, text in options.items()}
    return {"same": same, "open": opened}


def text_of(value: Any) -> str:
    if value is None or isinstance(value, bool | int | float | str | Schedule):
        return repr(value)
    return getattr(value, "__qualname__", "")


def bits_of(tensor: Tensor) -> int:
    flat = tensor.detach().reshape(-1)[:: max(1, tensor.numel() // SAMPLED)]
    return int(flat.view(INTEGERS[flat.element_size()]).sum())


def changes(before: dict[str, Any], now: dict[str, Any]) -> dict[str, str]:
    names = dict.fromkeys([*before, *now])
    return {
        name: f"{name} was {before.get(name)}, is {now.get(name)}"
        for name in names
        if before.get(name) != now.get(name)
    }


def is_longer_only(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Return whether only the number of epochs differs, and the steps of a schedule with it."""
    pairs = [{n: STEPS.sub("", str(v)) for n, v in opened.items()} for opened in (before, now)]
    return changes(*pairs).keys() <= {"epochs", "max_steps"}


def check_same(before: dict[str, Any], now: dict[str, Any]) -> None:
    if differing := changes(before["same"], now["same"]):
        raise CheckpointError(
            f"the training must be the checkpoint's, and differs: {'; '.join(differing.values())}; "
            "resume with what it was, or choose another checkpoint folder"
        )
