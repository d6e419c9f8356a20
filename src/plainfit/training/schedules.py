"""Learning rates by step: pure functions `step -> factor`, as small objects that draw themselves.

A schedule is given the number of steps done, from 0, and returns what the optimizer's own rate is
multiplied with. It remembers nothing, so a resumed training needs the number of the step alone.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING

from plainfit.common.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from plainfit.common.plots import Picture

Factor = Callable[[int], float]


def part_of(step: int, steps: int) -> float:
    """Return how much of `steps` is done at `step`, from 0 to 1; the last step counts from 0."""
    return min(step / max(1, steps - 1), 1.0)


class Schedule:
    """Base of the schedules; `steps` is how many the whole of it takes."""

    steps: int

    def __post_init__(self) -> None:
        check_steps(self.steps)

    def __call__(self, step: int) -> float:
        """Return the factor at a step, from 0."""
        raise NotImplementedError

    def __repr__(self) -> str:
        given = list[str]()
        for name, parameter in signature(type(self)).parameters.items():
            value = getattr(self, name)
            is_several = parameter.kind is parameter.VAR_POSITIONAL
            given += map(repr, value) if is_several else [f"{name}={value!r}"]
        return f"{type(self).__name__}({', '.join(given)})"

    def momentum(self, step: int) -> float | None:
        """Return the momentum at a step; None to leave the optimizer's own."""
        return None

    def plot(self) -> "Picture":
        """Draw the factor by step, and the momentum where the schedule moves it."""
        from plainfit.common.plots import schedule_curves

        steps = range(self.steps)
        momenta = [self.momentum(step) for step in steps]
        shown = [math.nan if momentum is None else momentum for momentum in momenta]
        has_momenta = any(momentum is not None for momentum in momenta)
        return schedule_curves(
            repr(self), [self(step) for step in steps], shown if has_momenta else []
        )


@dataclass(repr=False, eq=False)
class Constant(Schedule):
    """The same factor at every step."""

    steps: int
    factor: float = 1.0

    def __call__(self, step: int) -> float:
        return self.factor


@dataclass(repr=False, eq=False)
class Linear(Schedule):
    """A straight line from `start` to `end`."""

    steps: int
    start: float = 1.0
    end: float = 0.0

    def __call__(self, step: int) -> float:
        return self.start + (self.end - self.start) * part_of(step, self.steps)


@dataclass(repr=False, eq=False)
class Cosine(Schedule):
    """Half a cosine from `start` to `end` (Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5)."""

    steps: int
    start: float = 1.0
    end: float = 0.0

    def __call__(self, step: int) -> float:
        part = (1 + math.cos(math.pi * part_of(step, self.steps))) / 2
        return self.end + (self.start - self.end) * part


@dataclass(repr=False, eq=False)
class Polynomial(Schedule):
    """`(1 - part done) ** power`, from 1 to `end`."""

    steps: int
    power: float = 2.0
    end: float = 0.0

    def __call__(self, step: int) -> float:
        part = math.pow(1 - part_of(step, self.steps), self.power)
        return self.end + (1 - self.end) * part


@dataclass(repr=False, eq=False)
class Steps(Schedule):
    """Multiplied by `gamma` after every `every` steps."""

    steps: int
    every: int
    gamma: float = 0.1

    def __post_init__(self) -> None:
        check_steps(self.steps)
        check_steps(self.every)

    def __call__(self, step: int) -> float:
        factor: float = math.pow(self.gamma, step // self.every)
        return factor


class Chain(Schedule):
    """One schedule after another, each for its own number of steps."""

    def __init__(self, *parts: Schedule) -> None:
        if not parts:
            raise ConfigError("a chain must have at least one schedule, got none")
        if others := [part for part in parts if not isinstance(part, Schedule)]:
            raise ConfigError(
                "the parts of a chain must be schedules, which know their number of steps, got "
                f"{others[0]!r}"
            )
        self.parts = parts
        self.steps = sum(part.steps for part in parts)

    def at(self, step: int) -> tuple[Schedule, int]:
        """Return the schedule that a step belongs to, and the step within it."""
        for part in self.parts[:-1]:
            if step < part.steps:
                return part, step
            step -= part.steps
        return self.parts[-1], step

    def __call__(self, step: int) -> float:
        part, within = self.at(step)
        return part(within)

    def momentum(self, step: int) -> float | None:
        part, within = self.at(step)
        return part.momentum(within)


class WarmupCosine(Chain):
    """A linear rise over the first steps, then a cosine down to `end`.

    Args:
        steps: of both.
        warmup: the share of them that rises, 5 % by default: one step at least, unless it is 0
            or there is only one step.
        end: the last factor.
    """

    def __init__(self, steps: int, warmup: float = 0.05, end: float = 0.0) -> None:
        if not 0 <= warmup < 1:
            raise ConfigError(f"the share of a warm-up must be 0 to below 1, got {warmup}")
        rise = min(max(1, round(warmup * steps)) if warmup else 0, steps - 1)
        # The rise ends one step before its top, which is the first step of the cosine.
        up = [Linear(rise, 1 / (rise + 1), rise / (rise + 1))] if rise > 0 else []
        super().__init__(*up, Cosine(steps - max(0, rise), 1, end))
        self.warmup = warmup
        self.end = end


@dataclass(repr=False, eq=False)
class OneCycle(Schedule):
    """Up and down once, momentum the other way (Smith & Topin 2017, arXiv:1708.07120).

    Two half cosines, with the defaults of fastai and of torch's `OneCycleLR`: from 1/25 up to 1
    over the first 30 % of the steps, then down to 1/250,000; momentum from 0.95 to 0.85 and back.
    The optimizer's own rate is the highest one.
    """

    steps: int
    rise: float = 0.3
    start: float = 1 / 25
    end: float = 1 / 250_000
    high_momentum: float | None = 0.95
    low_momentum: float = 0.85

    def __post_init__(self) -> None:
        check_steps(self.steps)
        if not 0 <= self.rise <= 1:
            raise ConfigError(f"the share of steps that rise must be 0 to 1, got {self.rise}")

    def between(self, step: int, start: float, middle: float, end: float) -> float:
        """Return a value at a step that goes from start to middle to end by half cosines."""
        top = self.rise * self.steps - 1  # as OneCycleLR counts, which need not be a whole number
        if step < top:
            return half_cosine(start, middle, step / top)
        return half_cosine(middle, end, min((step - top) / max(self.steps - 1 - top, 1e-9), 1.0))

    def __call__(self, step: int) -> float:
        return self.between(step, self.start, 1.0, self.end)

    def momentum(self, step: int) -> float | None:
        """Return the momentum at a step; None where `high_momentum` is None."""
        high, low = self.high_momentum, self.low_momentum
        return None if high is None else self.between(step, high, low, high)


def half_cosine(start: float, end: float, part: float) -> float:
    """Return the value between two ends after a part (0 to 1) of half a cosine."""
    return end + (start - end) / 2.0 * (math.cos(math.pi * part) + 1)


def check_steps(steps: int) -> None:
    """Check a number of steps."""
    if steps < 1:
        raise ConfigError(f"a schedule must have at least 1 step, got {steps}")


BY_NAME: dict[str, Callable[[int], Schedule]] = {
    "constant": Constant,
    "linear": Linear,
    "cosine": Cosine,
    "warmup-cosine": WarmupCosine,
    "one-cycle": OneCycle,
    "polynomial": Polynomial,
}


def named_schedule(name: str, steps: int) -> Schedule:
    """Return the schedule of that name over so many steps, with its usual settings."""
    if name not in BY_NAME:
        raise ConfigError(unknown_name("schedule", name, BY_NAME))
    return BY_NAME[name](steps)
