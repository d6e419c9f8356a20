"""The learning rate of each step."""

from collections import Counter
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CyclicLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
)

from plainfit.common.errors import ConfigError
from plainfit.training.hooks import Callback, Context
from plainfit.training.schedules import Factor, named_schedule


class LearningRate(Callback):
    """Set the rate of every step to the optimizer's own times `schedule(step)`.

    A schedule with a `momentum` sets that too, in the optimizers that have one (Adam's first beta
    likewise). Every group of parameters keeps its own rate to start from.
    """

    def __init__(self, schedule: Factor) -> None:
        self.schedule = schedule

    def on_batch_start(self, context: Context) -> None:
        """Set rate and momentum for the step to come."""
        factor = self.schedule(context.global_step)
        momentum = getattr(self.schedule, "momentum", lambda step: None)(context.global_step)
        for group in context.opt.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
            if momentum is None:
                continue
            if "betas" in group:
                group["betas"] = (momentum, *group["betas"][1:])
            elif group.setdefault("initial_momentum", group.get("momentum")):
                group["momentum"] = momentum  # plain SGD stays plain


class TorchScheduler(Callback):
    """Step a scheduler of `torch.optim.lr_scheduler`.

    Args:
        scheduler: made with the optimizer of this training.
        by: `step` or `epoch`; as torch's own documentation has it by default: OneCycleLR and
            CyclicLR by step (of the optimizer, where gradients are summed over batches), all
            others by epoch, ReduceLROnPlateau with the validation loss.
    """

    def __init__(self, scheduler: LRScheduler, by: str | None = None) -> None:
        self.scheduler = scheduler
        self.by = by or ("step" if isinstance(scheduler, OneCycleLR | CyclicLR) else "epoch")
        if self.by not in ("step", "epoch"):
            raise ConfigError(f"a scheduler is stepped by step or by epoch, got by={by!r}")
        if self.by == "step" and isinstance(scheduler, ReduceLROnPlateau):
            raise ConfigError(
                "ReduceLROnPlateau is stepped by epoch, with that epoch's loss, got by='step'"
            )

    def on_fit_start(self, context: Context) -> None:
        """Check that it is this optimizer's."""
        if self.scheduler.optimizer is not context.opt:
            raise ConfigError(
                "the scheduler must be made with the optimizer that is passed to fit, got another's"
            )

    def on_step_end(self, context: Context) -> None:
        """Move on, by step."""
        if self.by == "step" and context.take_step:
            self.scheduler.step()

    def on_epoch_end(self, context: Context) -> None:
        """Move on, by epoch."""
        if self.by == "epoch":
            if isinstance(self.scheduler, ReduceLROnPlateau):
                row = context.history[-1]
                self.scheduler.step(row.get("valid_loss", row["train_loss"]))
            else:
                self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the scheduler's state."""
        return dict(self.scheduler.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self.scheduler.load_state_dict(state)
        mend_milestones(self.scheduler)


def mend_milestones(scheduler: LRScheduler) -> None:
    """Make the milestones of MultiStepLR, which a checkpoint keeps as a dict, a Counter again."""
    if isinstance(scheduler, MultiStepLR):
        scheduler.milestones = Counter(scheduler.milestones)
    for part in getattr(scheduler, "_schedulers", ()):  # SequentialLR, ChainedScheduler
        mend_milestones(part)


def rates_by(
    schedule: Factor | LRScheduler | str | None, opt: Optimizer, epochs: int, steps: int | None
) -> list[Callback]:
    """Return the callback for what `fit` was given as `schedule`, if anything."""
    if schedule is None:
        return []
    if isinstance(schedule, LRScheduler):
        return [TorchScheduler(schedule)]
    if isinstance(schedule, str):
        if steps is None:
            raise ConfigError(
                f"the schedule {schedule!r} is over all steps, and the training loader has no "
                "length; give a schedule with its number of steps, such as Cosine(steps=1000)"
            )
        schedule = named_schedule(schedule, max(1, epochs * steps))
    if not callable(schedule) or isinstance(schedule, type):
        raise ConfigError(
            "a schedule must be a function step -> factor, a name or a scheduler of torch, got "
            f"{schedule!r}"
        )
    return [LearningRate(schedule)]
