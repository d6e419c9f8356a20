"""The places where a training can be watched and changed: `Callback`, and the `Context` it gets."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from plainfit.common.errors import ConfigError
from plainfit.training.history import History, read


class Callback:
    """Something to do beside the training. Every hook does nothing until you override it.

    `fit` calls the hooks of its callbacks in the order of the list. Most callbacks only look. The
    few that change the training (clipping, accumulation, averaging) say so.
    """

    observer: bool = False
    """True for a callback that changes nothing of the training: eject leaves it out."""

    def on_fit_start(self, context: "Context") -> None:
        """Before the first epoch; after `load_state_dict`, where a training is resumed."""

    def on_epoch_start(self, context: "Context") -> None:
        """Before the first step of an epoch."""

    def on_batch_start(self, context: "Context") -> None:
        """Before a batch is used. `context.xb` and `context.yb` may be replaced."""

    def on_loss(self, context: "Context") -> None:
        """After the loss, before its gradients. `context.loss` may be replaced."""

    def on_backward_end(self, context: "Context") -> None:
        """After the gradients. `context.take_step = False` keeps them for the next batch.

        LBFGS, which computes several in a step, does not come here, nor to `on_step_start`.
        """

    def on_step_start(self, context: "Context") -> None:
        """Before the optimizer's step, when one is taken: the gradients may be changed."""

    def on_step_end(self, context: "Context") -> None:
        """After a step: the parameters are updated, the gradients cleared."""

    def on_validate_end(self, context: "Context") -> None:
        """After validation: `context.result` has its figures."""

    def on_epoch_end(self, context: "Context") -> None:
        """At the end of an epoch: `context.history[-1]` is its row."""

    def on_stop(self, context: "Context") -> None:
        """When the training stops within an epoch (Ctrl-C, a time limit), after a whole step."""

    def on_fit_end(self, context: "Context") -> None:
        """When the training is over or stopped, but not after an exception."""

    def on_exception(self, context: "Context") -> None:
        """When `context.exception` ends the training; it is raised again afterwards."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs: plain values and tensors. Usually nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""


HOOKS = [name for name in vars(Callback) if name.startswith("on_")]


@dataclass
class Context:
    """What a callback is given: where the training is, and what it works on."""

    model: nn.Module
    opt: Optimizer
    train_dl: Any
    callbacks: Sequence[Callback]
    epochs: int
    """How many epochs this call of `fit` trains."""
    steps: int | None
    """Steps (batches) in an epoch; None where the loader has no length."""
    history: History = field(default_factory=History)
    epoch: int = 0
    """The current epoch, from 0."""
    first_epoch: int = 0
    """The epoch in which this call of `fit` began: not 0 where a training is resumed."""
    step: int = 0
    """Steps done in this epoch."""
    global_step: int = 0
    """Steps done in all epochs."""
    xb: Any = None
    yb: Any = None
    loss: Any = None
    """The loss of this batch, with its graph until the step is done."""
    take_step: bool = True
    """Whether the optimizer takes a step after this batch."""
    result: dict[str, float] = field(default_factory=dict)
    """The figures of the last validation."""
    stop: str = ""
    """Why to stop; set it, and the training stops after the current step."""
    exception: BaseException | None = None
    valid_model: nn.Module = None  # type: ignore[assignment]  # set below
    """The model that is validated and kept as the best: averaged weights, where there are some."""
    pending: list[Tensor] = field(default_factory=list)
    """Losses that are still on the device; `read_losses` moves them to the history."""
    sizes: list[int] = field(default_factory=list)
    """The number of samples of each batch of this epoch."""
    seconds: float = 0.0
    """What earlier processes spent on this epoch, where the training was resumed within it."""
    began: float = 0.0
    """When this epoch began, by `time.perf_counter`, less `seconds`."""
    epoch_start: dict[str, Any] = field(default_factory=dict)
    """The loader's and the generators' state at the beginning of this epoch."""

    def __post_init__(self) -> None:
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                raise ConfigError(
                    f"callbacks must be objects of subclasses of Callback, got {callback!r}"
                )
        self.history.steps = self.steps
        self.valid_model = self.model
        self._hooks = {name: list(overriding(self.callbacks, name)) for name in HOOKS}

    def call(self, name: str) -> None:
        """Call this hook of every callback that overrides it."""
        for hook in self._hooks[name]:
            hook(self)

    def goes_on(self) -> bool:
        """Return whether there are epochs left to train, and nobody wants to stop."""
        return self.epoch < self.epochs and not self.stop

    def rate(self) -> float:
        """Return the learning rate: the highest, where groups of parameters have their own."""
        return max(float(group["lr"]) for group in self.opt.param_groups)

    def count(self, loss: Tensor, size: int) -> None:
        """Note a step that is done."""
        self.pending.append(loss)
        self.sizes.append(size)
        self.step += 1
        self.global_step += 1

    def read_losses(self) -> None:
        """Move the losses so far to the history; this waits for the device."""
        if self.pending:
            self.history.step_losses += read(self.pending)
            self.pending.clear()


class NoHooks:
    """The context of a step outside of `fit`: nobody watches."""

    loss: Any
    take_step: bool

    def call(self, name: str) -> None:
        """Do nothing."""


def overriding(callbacks: Iterable[Callback], name: str) -> Iterable[Any]:
    """Yield the bound hooks of those callbacks that do something there."""
    for callback in callbacks:
        if getattr(type(callback), name, None) is not getattr(Callback, name):
            yield getattr(callback, name)
