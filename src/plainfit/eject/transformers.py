"""What changes a step: for each callback that does, what a script must know of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch.optim.lr_scheduler import ReduceLROnPlateau

from plainfit.common.errors import EjectError
from plainfit.eject.lifting import Lifter
from plainfit.eject.recipe import Recipe
from plainfit.eject.schedulers import made
from plainfit.eject.values import expression, named
from plainfit.training import callbacks as cb
from plainfit.training.callbacks.stopping import BestInMemory
from plainfit.training.schedules import Chain, OneCycle, Schedule

MOMENTUM = "getattr(self.schedule, 'momentum', lambda step: None)(context.global_step)"


@dataclass
class Part:
    """A callback whose hooks become statements of the script."""

    callback: Any
    settings: list[str] = field(default_factory=list)
    """Constants for the top of the script."""
    before: list[str] = field(default_factory=list)
    """Lines before the loop; those of `on_fit_start` follow."""
    first: list[str] = field(default_factory=list)
    """Lines before those of `on_batch_start`."""
    after: list[str] = field(default_factory=list)
    """Lines after the loop and `on_fit_end`."""
    values: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    statements: dict[str, list[str]] = field(default_factory=dict)
    uses_step: bool = False
    """Whether it asks for the number of steps so far."""
    valid_model: str = ""
    """What is validated, if not the model."""
    limit: EjectError | None = None
    """Why it stops above the lowest rung, if it does."""


def part_of(callback: Any, recipe: Recipe, lifter: Lifter) -> Part | None:
    """Return what a script must know of a callback; None, if it only looks."""
    make = KINDS.get(type(callback))
    return None if make is None else make(callback, recipe, lifter)


def clipping(callback: cb.GradientClipping, recipe: Recipe, lifter: Lifter) -> Part:
    """Write the largest norm as a constant."""
    return Part(
        callback,
        settings=[f"CLIP = {callback.max_norm!r}  # the largest norm of the gradients"],
        texts={"self.max_norm": "CLIP"},
    )


def accumulation(callback: cb.GradientAccumulation, recipe: Recipe, lifter: Lifter) -> Part:
    """Keep the sizes of the batches that are summed."""
    return Part(
        callback,
        settings=[f"ACCUMULATE = {callback.batches}  # batches whose gradients make one step"],
        before=["samples = []  # of the batches whose gradients are summed"],
        texts={"self.samples": "samples", "self.batches": "ACCUMULATE"},
        values={"context.global_step == 0": False},
        statements={"context.take_step = False": []},
    )


def averaging(callback: cb.Averaging, recipe: Recipe, lifter: Lifter) -> Part:
    """Keep an average of the weights, which is validated."""
    decay, always = callback.decay, callback.start == 0
    return Part(
        callback,
        settings=[] if decay is None else [f"AVERAGE = {decay!r}  # the decay of the average"],
        before=[] if always else ["valid_model = model  # later, its average"],
        values={
            "self.decay is None": decay is None,
            "self.decay is not None": decay is not None,
            "self.saved and context.global_step": False,
            "int(self.averaged.n_averaged)": False,
            **({"context.epoch >= self.start": True} if always else {}),
        },
        texts={
            "self.averaged": "averaged",
            "self.decay": "AVERAGE",
            "self.start": str(callback.start),
            **({} if always else {"context.valid_model": "valid_model"}),
        },
        statements={
            "context.model.eval()": [],
            **({"context.valid_model = self.averaged.module": []} if always else {}),
        },
        valid_model="averaged.module" if always else "valid_model",
    )


def rates(callback: Any, recipe: Recipe, lifter: Lifter) -> Part:
    """Write the schedule as a constant object."""
    schedule, groups = callback.schedule, recipe.groups
    is_function = not isinstance(schedule, Schedule)
    if not moves_momentum(schedule):
        lifter.unused.add("momentum")
    text = named(schedule, lifter) if is_function and hasattr(schedule, "__qualname__") else ""
    own = {group.get("initial_lr", group["lr"]) for group in groups}
    has_momentum = {bool(group.get("momentum")) for group in groups}
    values: dict[str, Any] = {"'betas' in group": "betas" in groups[0]}
    parts = schedule.parts if isinstance(schedule, Chain) else [schedule]
    if all(isinstance(part, OneCycle) and moves_momentum(part) for part in parts):
        values["momentum is None"] = False
    if not moves_momentum(schedule):
        values[MOMENTUM] = None
    if len(has_momentum) == 1:
        key = "group.setdefault('initial_momentum', group.get('momentum'))"
        values[key] = has_momentum.pop()
    before = [] if text else [f"schedule = {expression(schedule, lifter)}"]
    if recipe.schedules:  # a run that was resumed with more epochs
        first, *more = recipe.schedules.items()
        later = ", ".join(f"{at}: {expression(s, lifter)}" for at, s in more)
        before = [
            f"schedule = {expression(first[1], lifter)}",
            f"later = {{{later}}}  # by the step from which on it was trained with more epochs",
        ]
    return Part(
        callback,
        before=before,
        first=["schedule = later.get(step, schedule)"] if recipe.schedules else [],
        values=values,
        texts={
            MOMENTUM: "schedule.momentum(step)",
            "self.schedule": text or "schedule",
            **({"group.setdefault('initial_lr', group['lr'])": "LR"} if len(own) == 1 else {}),
        },
        uses_step=True,
    )


def moves_momentum(schedule: Any) -> bool:
    """Return whether a schedule moves the momentum too."""
    if isinstance(schedule, Chain):
        return any(map(moves_momentum, schedule.parts))
    method = getattr(type(schedule), "momentum", None)
    if method is Schedule.momentum or not hasattr(schedule, "momentum"):
        return False
    return getattr(schedule, "high_momentum", 1.0) is not None


def scaling(callback: cb.LossScaling, recipe: Recipe, lifter: Lifter) -> Part:
    """Keep the scale of the loss."""
    return Part(
        callback,
        before=["scale, good_steps = FIRST_SCALE, 0"],
        texts={"self.scale": "scale", "self.good_steps": "good_steps"},
    )


def one_batch(callback: cb.OverfitOneBatch, recipe: Recipe, lifter: Lifter) -> Part:
    """Keep the first batch."""
    return Part(
        callback,
        before=["batch = None"],
        texts={"self.batch": "batch"},
        values={"context.global_step == 0": False},
    )


def unfreezing(callback: cb.Unfreezing, recipe: Recipe, lifter: Lifter) -> Part:
    """Write the groups of layers as a constant."""
    groups = "".join(f"    {names!r},\n".replace("'", '"') for names in callback.groups)
    return Part(
        callback,
        settings=[
            "GROUPS = [  # of layers, from the input to the head",
            *groups.splitlines(),
            "]",
            f"HEAD_EPOCHS = {callback.epochs}  # how many train the head alone",
        ],
        values={"self.is_resumed": False, "self.gradual": callback.gradual},
        texts={
            "self.groups": "GROUPS",
            "len(self.groups)": "len(GROUPS)",
            "self.epochs": "HEAD_EPOCHS",
        },
        statements={"self.is_resumed = context.step > 0": []},
        limit=EjectError(
            "frozen layers need torch.nn's `eval` and `requires_grad_`, and rung tensors has "
            "modules of its own",
            "layers",
        ),
    )


def scheduler(callback: cb.TorchScheduler, recipe: Recipe, lifter: Lifter) -> Part:
    """Write the scheduler of torch as it was made."""
    loss = "train_loss" if recipe.valid_dl is None else "valid_loss"
    return Part(
        callback,
        before=[f"scheduler = {made(callback.scheduler, lifter)}"],
        values={
            "self.by == 'step'": callback.by == "step",
            "self.by == 'epoch'": callback.by == "epoch",
            "isinstance(self.scheduler, ReduceLROnPlateau)": isinstance(
                callback.scheduler, ReduceLROnPlateau
            ),
        },
        texts={
            "self.scheduler": "scheduler",
            "row.get('valid_loss', row['train_loss'])": loss,
        },
        statements={"row = context.history[-1]": []},
        limit=EjectError(
            "a scheduler of torch takes an optimizer of torch, and rung optim has its own", "data"
        ),
    )


def best_weights(callback: BestInMemory, recipe: Recipe, lifter: Lifter) -> Part:
    """Keep the weights of the best epoch, which an estimator goes back to."""
    return Part(
        callback,
        before=['best, best_loss = {}, float("inf")  # the weights of the best epoch'],
        texts={"self.best.improved(context)": "valid_loss < best_loss", "self.weights": "best"},
        statements={
            "state = context.valid_model.state_dict()": [
                "best_loss, state = valid_loss, model.state_dict()"
            ]
        },
        after=["model.load_state_dict(best)"],
    )


KINDS: dict[type, Callable[[Any, Recipe, Lifter], Part]] = {
    BestInMemory: best_weights,
    cb.GradientClipping: clipping,
    cb.GradientAccumulation: accumulation,
    cb.Averaging: averaging,
    cb.LearningRate: rates,
    cb.LossScaling: scaling,
    cb.OverfitOneBatch: one_batch,
    cb.TorchScheduler: scheduler,
    cb.Unfreezing: unfreezing,
}
