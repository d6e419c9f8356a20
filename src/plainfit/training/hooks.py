"""The places where a training can be watched and changed: `Callback` and its `Context`."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from plainfit.common.errors import ConfigError, NonFiniteError, near_miss
from plainfit.data.batches import Size, batch_size, inputs_and_target
from plainfit.training.fit_call import optimizers_in
from plainfit.training.history import History, kept, read

LossFunction = Callable[[Any, Any], Any]


class Callback:
    """Base class of what runs beside a training. Every hook does nothing until you override it.

    `fit` calls each hook of its callbacks in the order of the list. Most callbacks only observe;
    the few that change the training (clipping, accumulation, averaging) say so.
    """

    observer: bool = False
    """True for a callback that changes nothing of the training; eject leaves it out."""

    reads_weights: bool = False
    """True for an observer of all weights: every process calls it where they have parts of them."""

    saved: tuple[str, ...] = ()
    """Names of the attributes that a resumed training needs: plain values and tensors."""

    in_program: str = ""
    """How its hooks of a step go together with `fit(compile="epoch")`.

    `before`: `on_batch_start` and `on_step_end` set options of the optimizer by the number of the
    step, and are called ahead for a range of steps. `within`: all but `on_batch_start` change the
    step by operations of torch, and become a part of the program. `after`: it only looks;
    `on_batch_start` is called for each step of a range once it is done, then `on_step_end` once.
    Empty: they have to be called in each step, so it is no program.
    """

    def on_fit_start(self, context: "Context") -> None:
        """Before the first epoch; in a resumed training, after `load_state_dict`."""

    def on_epoch_start(self, context: "Context") -> None:
        """Before the first step of an epoch."""

    def on_batch_start(self, context: "Context") -> None:
        """Before a batch is used. `context.xb` and `context.yb` may be replaced."""

    def on_loss(self, context: "Context") -> None:
        """After the loss, before its gradients. `context.loss` may be replaced."""

    def on_backward_end(self, context: "Context") -> None:
        """After the gradients. `context.take_step = False` keeps them for the next batch.

        LBFGS, which computes several gradients in a step, does not call this or `on_step_start`.
        """

    def on_step_start(self, context: "Context") -> None:
        """Before the optimizer's step, if one is taken; the gradients may be changed."""

    def on_step_end(self, context: "Context") -> None:
        """After a step: the parameters are updated, the gradients cleared."""

    def on_validate_end(self, context: "Context") -> None:
        """After validation; `context.result` holds its values."""

    def on_epoch_end(self, context: "Context") -> None:
        """At the end of an epoch; `context.history[-1]` is its row."""

    def on_stop(self, context: "Context") -> None:
        """When the training stops within an epoch (Ctrl-C, a time limit), after a whole step."""

    def on_fit_end(self, context: "Context") -> None:
        """When the training has ended or stopped, but not after an exception."""

    def on_exception(self, context: "Context") -> None:
        """When `context.exception` ends the training; it is raised again afterwards."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs: by default the attributes named in `saved`."""
        return {name: getattr(self, name) for name in self.saved}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, plain values and tensors."""
        for name in self.saved:
            setattr(self, name, state[name])


HOOKS = [name for name in vars(Callback) if name.startswith("on_")]


class Interrupted(BaseException):
    """A signal, where it may interrupt at once what would take long."""


@dataclass
class Context:
    """The argument of every hook: where the training is, and what it works on."""

    model: nn.Module
    opt: Any
    """The optimizer; where `fit` has a `step`, whatever it was called with."""
    train_dl: Any
    callbacks: Sequence[Callback]
    epochs: int
    """The number of epochs that `fit` was called with."""
    steps: int | None
    """Steps (batches) per epoch; None if the loader has no length."""
    loss_func: Any = None
    split: Callable[[Any], tuple[Any, Any]] = inputs_and_target
    """Returns `(xb, yb)` of a batch."""
    batch_size: Size = batch_size
    """The function `(xb, yb) -> number of samples`."""
    steps_per_epoch: int | None = None
    """Where an epoch has so many steps, of whatever passes over the loader."""
    max_steps: int | None = None
    """The number of steps after which the training ends."""
    history: History = field(default_factory=History)
    epoch: int = 0
    """The current epoch, from 0."""
    first_epoch: int = 0
    """The epoch in which this call of `fit` began; not 0 in a resumed training."""
    step: int = 0
    """Steps done in this epoch."""
    global_step: int = 0
    """Steps done in all epochs."""
    xb: Any = None
    yb: Any = None
    size: int = 0
    """The number of samples in this batch, once its loss is computed."""
    loss: Any = None
    """The loss of this batch; until the step is done, with its graph. None between two steps."""
    take_step: bool = True
    """Whether the optimizer takes a step after this batch."""
    train_metrics: Sequence[str] = ()
    """The names of metrics of training batches."""
    result: dict[str, float] = field(default_factory=dict)
    """The values of the last validation: `loss` and each metric."""
    others: dict[str, float] = field(default_factory=dict)
    """The values over further validation loaders, as columns of the history."""
    values: dict[str, Any] = field(default_factory=dict)
    """What the loss of this batch came with, by name."""
    epoch_values: dict[str, list[Any]] = field(default_factory=dict)
    """The same of each batch of this epoch."""
    stop: str = ""
    """Set it to the reason, and the training stops after the current step."""
    exception: BaseException | None = None
    valid_model: nn.Module = None  # type: ignore[assignment]  # set below
    """The model that is validated and saved as the best: the averaged one, if there is one."""
    pending: list[Any] = field(default_factory=list)
    """Losses that the history has not yet, on an accelerator as tensors."""
    sizes: list[int] = field(default_factory=list)
    """The number of samples of each batch of this epoch."""
    seconds: float = 0.0
    """The time that earlier processes spent on this epoch, if it was resumed."""
    began: float = 0.0
    """The start of this epoch, by `time.perf_counter`, less `seconds`."""
    batch: int = 0
    """Batches used in this pass over the loader; `step`, without `steps_per_epoch`."""
    pass_start: dict[str, Any] = field(default_factory=dict)
    """The state of the generators at the start of this pass."""
    batches: Iterator[Any] | None = None
    """The rest of this pass."""
    valid_program: Any = None
    """Takes the full batches of a validation, where they are one program."""
    interrupts: bool = False
    """Whether a signal interrupts at once."""
    sharding: Any = None
    """Computes the loss of batches in pieces, where a training has several."""
    restored: dict[str, Any] = field(default_factory=dict)
    """The state of a checkpoint, until the other processes have it."""
    wish: str = ""
    """Why this process wants to stop, before the others agree."""
    loader_epoch: int | None = field(init=False)
    """The epoch of the loader, whose order is a function of it; None for any other loader."""

    def __post_init__(self) -> None:
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                raise ConfigError(
                    f"callbacks must be objects of subclasses of Callback, got {callback!r}"
                )
            check_hooks(callback)
        self.history.steps = self.steps
        self.valid_model = self.model
        self.loader_epoch = self.train_dl.epoch if hasattr(self.train_dl, "seek") else None
        self._hooks = {name: list(overriding(self.callbacks, name)) for name in HOOKS}

    def call(self, name: str) -> None:
        """Call this hook of every callback that overrides it."""
        for hook in self._hooks[name]:
            hook(self)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let a signal that stops the training raise `Interrupted` in this block, or before it."""
        self.interrupts = True
        try:
            if self.stop:
                raise Interrupted
            yield
        finally:
            self.interrupts = False

    def must_be_finite(self, value: Tensor, what: str) -> None:
        """Stop the training before its update if a value is NaN or infinite."""
        if not torch.isfinite(value):
            raise NonFiniteError(
                f"{what} {float(value)} in epoch {self.epoch}, step {self.step}; lower the "
                "learning rate"
            )

    @property
    def has_others(self) -> bool:
        """Whether other processes take part in this training."""
        return self.sharding is not None and self.sharding.processes.world > 1

    @property
    def has_parts(self) -> bool:
        """Whether each process has a part of every parameter."""
        return self.sharding is not None and self.sharding.has_parts

    def ask_to_stop(self, reason: str) -> None:
        """Stop after the current step, or once the other processes know."""
        if self.has_others:
            self.wish = reason
        else:
            self.stop = reason

    def as_the_first(self, value: bool) -> bool:
        """Return the value of the first process, of the step before where all have to know it."""
        if not self.has_parts:
            return value
        is_due: bool = self.sharding.is_due
        self.sharding.asks = value and self.is_first and not is_due
        return is_due

    @property
    def is_first(self) -> bool:
        """Whether this process is the first or only one, which writes files."""
        return self.sharding is None or self.sharding.processes.rank == 0

    def agree(self, is_epoch_end: bool = False) -> None:
        """Stop where any process wants to, all after the same step."""
        if self.has_others:
            self.wish = self.wish or self.stop
            self.stop = self.sharding.agreed(self.wish, is_epoch_end)

    def goes_on(self) -> bool:
        """Return whether there are epochs left to train, and no reason to stop."""
        is_done = self.max_steps is not None and self.global_step >= self.max_steps
        return self.epoch < self.epochs and not self.stop and not is_done

    def ends_epoch(self) -> bool:
        """Return whether the epoch ends at this step, wherever its pass over the loader is."""
        return self.step == self.steps_per_epoch or self.global_step == self.max_steps

    def place(self) -> str:
        """Return the current place in words, for messages."""
        of = "" if self.steps is None else f" of {self.steps}"
        return f"epoch {self.epoch}, after {self.step}{of} steps"

    def rate(self) -> float:
        """Return the learning rate; the highest one, if groups of parameters differ."""
        return max(float(group["lr"]) for group in self.groups())

    def optimizers(self) -> list[Optimizer]:
        """Return the optimizers; more than one only where `fit` has a `step`."""
        return optimizers_in(self.opt)

    def groups(self) -> list[dict[str, Any]]:
        """Return the groups of parameters of all optimizers."""
        return [group for opt in self.optimizers() for group in opt.param_groups]

    def count(self, loss: Tensor, size: int) -> None:
        """Note a finished step: its loss, and the number of its samples."""
        self.pending.append(kept(loss))
        self.sizes.append(size)
        if self.values or self.epoch_values:
            if self.step and self.values.keys() != self.epoch_values.keys():
                raise ConfigError(
                    "the values beside a loss must have the same names in every batch, got "
                    f"{', '.join(self.values) or 'none'} after {', '.join(self.epoch_values)}"
                )
            if self.history.run is not None:
                self.history.run.has_values = self.values.keys() > {*self.train_metrics}
            for name, value in self.values.items():
                self.epoch_values.setdefault(name, []).append(kept(value))
        self.step += 1
        self.batch += 1
        self.global_step += 1

    def read_losses(self) -> None:
        """Move the losses so far to the history; waits for the device."""
        if self.pending:
            self.history.step_losses += read(self.pending)
            self.pending.clear()


class NoHooks:
    """In place of the context, outside of `fit`."""

    loss: Any
    take_step: bool
    size: int
    values: dict[str, Any]
    batch_size = staticmethod(batch_size)

    def call(self, name: str) -> None:
        pass


def warn(message: str) -> None:
    """Warn of what a training survives, at the line that called the caller."""
    warnings.warn(message, RuntimeWarning, stacklevel=3)


def check_hooks(callback: Callback) -> None:
    """Refuse a method whose name begins with `on_` and is not a hook's: it is never called."""
    for name in dir(type(callback)):
        if name.startswith("on_") and name not in HOOKS and callable(getattr(type(callback), name)):
            like_ours = name.replace("begin", "start")  # as other libraries call it
            raise ConfigError(
                f"a hook must be one of {', '.join(HOOKS)}, got "
                f"{type(callback).__name__}.{name}{near_miss(like_ours, HOOKS)}"
            )


def overriding(callbacks: Iterable[Callback], name: str) -> Iterable[Any]:
    for callback in callbacks:
        if getattr(type(callback), name, None) is not getattr(Callback, name):
            yield getattr(callback, name)
