"""What changes a step: its rate, its gradients, which weights are trained, which are validated."""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from torch.optim.lr_scheduler import (
    CyclicLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
)
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn

from plainfit.common.errors import ConfigError, NonFiniteError
from plainfit.models.weights import Uncompiled, whole
from plainfit.training.hooks import Callback, Context
from plainfit.training.schedules import Factor, named_schedule

MOVED = ("lr", "momentum", "betas")  # what a schedule changes in a group of the optimizer
FIRST_SCALE = 2.0**16  # torch.amp.GradScaler's defaults, as is the next one
LEAST_SCALE = 1e-4  # fairseq's `min_loss_scale`: 30 skipped steps in a row from the first scale
GROWTH_STEPS = 2000  # steps without overflow, after which the scale doubles


class LearningRate(Callback):
    """Set the rate of every step to the optimizer's own rate times `schedule(step)`.

    A schedule with a `momentum` also sets the momentum of optimizers that have one (Adam's first
    beta likewise). Each group of parameters starts from its own rate. When the training ends, the
    optimizer has its own rate and momentum again.
    """

    in_program = "before"

    def __init__(self, schedule: Factor) -> None:
        self.schedule = schedule

    def on_fit_start(self, context: Context) -> None:
        if context.global_step == 0:  # in a resumed training, the checkpoint has them
            for group in context.groups():
                group.update({f"initial_{name}": group[name] for name in MOVED if name in group})

    def on_batch_start(self, context: Context) -> None:
        factor = self.schedule(context.global_step)
        momentum = getattr(self.schedule, "momentum", lambda step: None)(context.global_step)
        for group in context.groups():
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
            if momentum is None:
                continue
            if "betas" in group:
                group["betas"] = (momentum, *group["betas"][1:])
            elif group.get("initial_momentum"):
                group["momentum"] = momentum  # plain SGD stays plain

    def on_fit_end(self, context: Context) -> None:
        for group in context.groups():
            initial = {name: f"initial_{name}" for name in MOVED if f"initial_{name}" in group}
            group.update({name: group.pop(key) for name, key in initial.items()})

    on_exception = on_fit_end


class TorchScheduler(Callback):
    """Step a scheduler of `torch.optim.lr_scheduler`.

    Args:
        scheduler: made with the optimizer of this training.
        by: `step` or `epoch`; by default as in torch's documentation: OneCycleLR and CyclicLR by
            step (of the optimizer, where gradients are summed over batches), all others by epoch,
            ReduceLROnPlateau with the validation loss.

    Raises:
        ConfigError: where a whole epoch would have a rate of 0, as by a scheduler that is made for
            steps and stepped by epoch.
    """

    in_program = "before"

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
        if self.scheduler.optimizer not in context.optimizers():
            raise ConfigError(
                "the scheduler must be made with the optimizer that is passed to fit, got another's"
            )

    def on_epoch_start(self, context: Context) -> None:
        if self.by == "epoch" and context.rate() == 0:
            name = type(self.scheduler).__name__
            raise ConfigError(
                f"the learning rate must not be 0 for a whole epoch, and {name}, which is stepped "
                f"once an epoch, gives 0 for epoch {context.epoch}; if it is made for steps, as "
                "those of transformers are, pass schedule_by='step'"
            )

    def on_step_end(self, context: Context) -> None:
        if self.by == "step" and context.take_step:
            self.scheduler.step()

    def on_epoch_end(self, context: Context) -> None:
        if isinstance(self.scheduler, ReduceLROnPlateau):
            row = context.history[-1]
            self.scheduler.step(row.get("valid_loss", row["train_loss"]))
        elif self.by == "epoch":
            self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        return dict(self.scheduler.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scheduler.load_state_dict(state)
        mend_milestones(self.scheduler)


def mend_milestones(scheduler: LRScheduler) -> None:
    if isinstance(scheduler, MultiStepLR):  # a checkpoint keeps a Counter as a dict
        scheduler.milestones = Counter(scheduler.milestones)
    for part in getattr(scheduler, "_schedulers", ()):  # SequentialLR, ChainedScheduler
        mend_milestones(part)


def rates_by(
    schedule: Factor | LRScheduler | str | None,
    steps: int | None,
    by: str | None = None,
) -> list[Callback]:
    if isinstance(schedule, LRScheduler):
        return [TorchScheduler(schedule, by)]
    if by is not None:
        raise ConfigError(
            f"applies to a scheduler of torch, and schedule is {schedule!r}: schedules of plainfit "
            "go by step; leave it out", "schedule_by"
        )  # fmt: skip
    if schedule is None:
        return []
    if isinstance(schedule, str):
        if steps is None:
            raise ConfigError(
                f"the schedule {schedule!r} is over all steps, and the training loader has no "
                "length; pass steps_per_epoch or max_steps, or a schedule with its number of "
                "steps, such as Cosine(steps=1000)"
            )
        schedule = named_schedule(schedule, max(1, steps))
    if not callable(schedule) or isinstance(schedule, type):
        raise ConfigError(
            "a schedule must be a function step -> factor, a name or a torch scheduler, got "
            f"{schedule!r}"
        )
    return [LearningRate(schedule)]


class GradientClipping(Callback):
    """Scale the gradients down to a norm of at most `max_norm`. It changes the training's result.

    The norm is that of all gradients as one vector (Pascanu et al. 2013, arXiv:1211.5063), as in
    `torch.nn.utils.clip_grad_norm_`, of the optimizer's parameters alone: others are not cleared.

    Raises:
        NonFiniteError: before the step, if the norm is NaN or infinite.
    """

    in_program = "within"

    def __init__(self, max_norm: float) -> None:
        if not max_norm > 0:
            raise ConfigError(f"the largest norm of gradients must be positive, got {max_norm}")
        self.max_norm = max_norm

    def on_fit_start(self, context: Context) -> None:
        refuse_lbfgs(self, context)

    def on_step_start(self, context: Context) -> None:
        norm = torch.nn.utils.clip_grad_norm_(parameters_of(context.opt), self.max_norm)
        context.must_be_finite(whole(norm), "the gradients must be finite, and their norm is")


class GradientAccumulation(Callback):
    """Take a step every `batches` batches, on the gradient of the mean over all their samples.

    Apart from batch norm, that is the step of one batch of that many samples. The last group of an
    epoch may have fewer batches; if the loader has no length, the group continues in the next
    epoch. It changes the training's result.
    """

    saved = ("samples",)
    in_program = "within"

    def __init__(self, batches: int) -> None:
        if not isinstance(batches, int) or batches < 1:
            raise ConfigError(
                f"gradients are summed over a whole number of batches, 1 or more, got {batches}"
            )
        self.batches = batches
        self.samples: list[int] = []
        self.now: dict[str, Any] = {"total": 0.0}  # in a step of a program

    def on_fit_start(self, context: Context) -> None:
        refuse_lbfgs(self, context)
        if context.global_step == 0:  # an earlier training may have stopped within a group
            self.samples.clear()
            context.opt.zero_grad()

    def on_loss(self, context: Context) -> None:
        # A sum over the samples, as only sums add up over batches of different sizes.
        context.loss = context.loss * context.size

    def on_backward_end(self, context: Context) -> None:
        total = self.total(context, context.size)
        if not total:
            context.take_step = False
            return
        for parameter in parameters_of(context.opt):
            if parameter.grad is not None:
                parameter.grad.div_(total)

    def total(self, context: Context, size: int) -> int:
        """Note the samples of a batch; return those of the group if this one ends it, else 0."""
        self.samples.append(size)
        if len(self.samples) < self.batches and context.step + 1 != context.steps:
            return 0
        total = sum(self.samples)
        self.samples.clear()
        return total


def parameters_of(opt: Optimizer) -> list[Tensor]:
    return [parameter for group in opt.param_groups for parameter in group["params"]]


def refuse_lbfgs(callback: Callback, context: Context) -> None:
    if isinstance(context.opt, LBFGS):
        raise ConfigError(
            f"{type(callback).__name__} needs an optimizer that takes one gradient per step, and "
            "LBFGS takes several; leave it out, or choose another optimizer"
        )


class LossScaling(Callback):
    """Multiply the loss and divide the gradients, so that small ones survive float16.

    Dynamic scaling (Micikevicius 2018, arXiv:1710.03740, section 3.2), with the rules and numbers
    of `torch.amp.GradScaler`: a step whose gradients overflow is skipped and halves the scale;
    2,000 steps without overflow double it. All scales are powers of two, so that nothing is
    rounded. It changes the training's result. `fit(precision="fp16")` adds one.

    Raises:
        NonFiniteError: after 30 skipped steps in a row from the first scale, when it falls below
            0.0001, and at the end of a training whose every step was skipped.
    """

    saved = ("scale", "good_steps")

    def __init__(self) -> None:
        self.scale = FIRST_SCALE
        self.good_steps = 0
        self.has_stepped = False

    def on_fit_start(self, context: Context) -> None:
        refuse_lbfgs(self, context)
        self.has_stepped = context.global_step > 0

    def on_loss(self, context: Context) -> None:
        context.loss = context.loss * self.scale

    def on_step_start(self, context: Context) -> None:
        gradients = [p.grad for p in parameters_of(context.opt) if p.grad is not None]
        if not gradients:
            self.has_stepped = True  # nothing has overflowed
            return
        if not torch.stack([whole(torch.isfinite(g).all()) for g in gradients]).all():
            self.scale, self.good_steps = self.scale / 2, 0
            if self.scale < LEAST_SCALE:
                raise skipped_too_often(self.scale, context)
            context.opt.zero_grad()  # the optimizer skips parameters without gradients
            return
        for gradient in gradients:
            gradient.mul_(1 / self.scale)
        self.good_steps += 1
        if self.good_steps == GROWTH_STEPS:
            self.scale, self.good_steps = self.scale * 2, 0
        self.has_stepped = True

    def on_fit_end(self, context: Context) -> None:
        if context.history.step_losses and not (self.has_stepped or context.stop):
            raise skipped_too_often(self.scale, context)


def skipped_too_often(scale: float, context: Context) -> NonFiniteError:
    return NonFiniteError(
        f"the gradients must be finite, and were not in one step after another until epoch "
        f"{context.epoch}, step {context.step}, down to a loss scale of {2 * scale:g}; train in "
        "fp32 to find the cause"
    )


class Averaging(Callback):
    """Validate, keep as the best, and end with averaged weights. It changes the training's result.

    Args:
        decay: of the exponential moving average (Polyak & Juditsky 1992) over steps, at most; after
            step t it is (1 + t) / (10 + t), so that a short training does not end near its first
            weights. None for the plain mean of the weights at the ends of epochs (SWA, Izmailov
            2018, arXiv:1803.05407).
        start: the first epoch that is averaged.

    Buffers, such as the means of batch norm, are averaged like the parameters; a plain mean keeps
    the last value of integer buffers, such as batch norm's count of batches.
    """

    in_program = "within"

    def __init__(self, decay: float | None = 0.999, start: int = 0) -> None:
        if decay is not None and not 0 <= decay < 1:
            raise ConfigError(f"the decay of an average must be 0 to below 1, got {decay}")
        self.decay = decay
        self.start = start
        self.averaged: AveragedModel | None = None
        self.now: dict[str, Any] = {"decay": 1.0}  # in a step of a program
        self.resumed: dict[str, Any] = {}

    def on_fit_start(self, context: Context) -> None:
        by_rule = plain_mean if self.decay is None else warmed_up_mean(self.decay)
        self.averaged = AveragedModel(context.model, multi_avg_fn=by_rule, use_buffers=True)
        if self.resumed and context.global_step:
            Uncompiled(self.averaged).load_state_dict(self.resumed)
        self.show(context)
        if self.decay is None and context.steps is None:
            raise ConfigError(
                "a mean over epochs needs a training loader with a length, and this one has none; "
                "use a moving average: Averaging(decay=0.999)"
            )

    def show(self, context: Context) -> None:
        """Let the average be validated, once there is one."""
        assert self.averaged is not None
        if int(self.averaged.n_averaged):
            context.valid_model = self.averaged.module

    def is_due(self, context: Context) -> bool:
        """Return whether the weights after this step are averaged."""
        is_due = context.take_step if self.decay is not None else context.step == context.steps
        return is_due and context.epoch >= self.start

    def on_step_end(self, context: Context) -> None:
        if self.is_due(context):
            assert self.averaged is not None
            self.averaged.update_parameters(context.model)
            context.valid_model = self.averaged.module

    def decay_of(self, count: int) -> float:
        """Return how much of an average of `count` weights is kept in the next one."""
        if self.decay is None or not count:
            return count / (count + 1)
        return warmed_up(self.decay, count)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Do as `on_step_end` by operations of torch alone; nothing where the decay is 1."""
        assert self.averaged is not None
        decay = self.now["decay"]
        means = chain(self.averaged.module.parameters(), self.averaged.module.buffers())
        for mean, value in zip(means, chain(model.parameters(), model.buffers()), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value.detach(), (1 - decay).to(mean.dtype))
            elif self.decay is None:
                mean.copy_(torch.where(decay < 1, value, mean))
            else:
                mean.copy_(mean * decay + value * (1 - decay))
        self.averaged.n_averaged += decay < 1

    def on_validate_end(self, context: Context) -> None:
        context.model.eval()  # as after a validation of its own

    def on_fit_end(self, context: Context) -> None:
        if context.valid_model is not context.model:
            context.model.load_state_dict(context.valid_model.state_dict())

    def state_dict(self) -> dict[str, Any]:
        return self.resumed if self.averaged is None else Uncompiled(self.averaged).state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.averaged, self.resumed = None, state


Tensors = tuple[Tensor, ...] | list[Tensor]


def plain_mean(averaged: Tensors, current: Tensors, count: Tensor | int) -> None:
    """Update means of `count` earlier values; the rule of torch fails for integers."""
    if averaged[0].is_floating_point() or averaged[0].is_complex():
        get_swa_multi_avg_fn()(averaged, current, count)
        return
    for mean, value in zip(averaged, current, strict=True):
        mean.copy_(value)


def warmed_up_mean(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """Return the rule of a moving average whose decay rises to `decay`.

    The rise is that of TensorFlow's `tf.train.ExponentialMovingAverage(num_updates=...)`.
    """

    def update(averaged: Tensors, current: Tensors, count: Tensor | int) -> None:
        get_ema_multi_avg_fn(warmed_up(decay, int(count)))(averaged, current, count)

    return update


def warmed_up(decay: float, count: int) -> float:
    """Return the decay of a moving average of `count` weights."""
    return min(decay, (1 + count) / (10 + count))


class Unfreezing(Callback):
    """Train the last group of layers alone at first, then all. It changes the training's result.

    A frozen layer is a fixed function: its parameters get no gradients, and it is in `eval()`
    mode, so that batch norm neither updates its means nor uses those of the batch, and dropout
    does nothing.

    Args:
        groups: names of layers or parameters, from the input to the head.
        epochs: how many epochs train the last group alone.
        gradual: then unfreeze one more group in each epoch (Howard & Ruder 2018, arXiv:1801.06146,
            section 3.3), instead of all at once.
    """

    in_program = "before"

    def __init__(
        self, groups: Sequence[Sequence[str]], epochs: int = 1, gradual: bool = False
    ) -> None:
        self.groups = groups
        self.epochs = epochs
        self.gradual = gradual
        self.is_resumed = False

    def on_fit_start(self, context: Context) -> None:
        self.is_resumed = context.step > 0

    def on_epoch_start(self, context: Context) -> None:
        frozen = frozen_groups(context.epoch, len(self.groups), self.epochs, self.gradual)
        freeze(context.model, self.groups, frozen)

    def on_batch_start(self, context: Context) -> None:
        if self.is_resumed:  # within an epoch, whose start was in another process
            self.is_resumed = False
            self.on_epoch_start(context)


def frozen_groups(epoch: int, groups: int, epochs: int, gradual: bool) -> int:
    """Return the number of groups, from the input on, that are frozen in an epoch.

    >>> [frozen_groups(epoch, 4, 2, gradual=True) for epoch in range(6)]
    [3, 3, 2, 1, 0, 0]
    """
    if epoch < epochs:
        return groups - 1
    return max(0, groups - 2 - (epoch - epochs)) if gradual else 0


def freeze(model: nn.Module, groups: Sequence[Sequence[str]], frozen: int) -> None:
    for number, names in enumerate(groups):
        for name in names:
            part = attrgetter(name)(model)
            part.requires_grad_(number >= frozen)
            if number < frozen and isinstance(part, nn.Module):
                part.eval()
