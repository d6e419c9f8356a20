"""Augmentations by name, as the setting `augment` takes them, and several in a row."""

import inspect
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from torch import Generator, Tensor

from plainfit.common.errors import ConfigError, unknown_name
from plainfit.data.augment import images, mixing
from plainfit.data.augment.images import affine

Step = Callable[..., Any]
"""`(xb, generator) -> xb`, or with a parameter `yb`: `(xb, yb, generator) -> (xb, yb)`."""


class Named(NamedTuple):
    """An augmentation with one parameter, its range."""

    function: Step
    parameter: str
    unit: str
    most: float
    default: float | None = None  # the range, where it differs from the function's own default


NAMES = {
    "horizontal-flip": Named(images.horizontal_flip, "p", "a probability", 1),
    "vertical-flip": Named(images.vertical_flip, "p", "a probability", 1),
    "pad-and-crop": Named(images.pad_and_crop, "pixels", "a whole number of pixels", 1000),
    "rotate": Named(affine, "degrees", "degrees", 180, 15.0),
    "scale": Named(affine, "scale", "a fraction", 10, 0.2),
    "shear": Named(affine, "shear", "degrees", 80, 10.0),
    "translate": Named(affine, "translate", "a fraction of the side", 1, 0.1),
    "perspective": Named(images.perspective, "fraction", "a fraction of the side", 0.24),
    "elastic": Named(images.elastic, "fraction", "a fraction of the side", 1),
    "warp": Named(images.warp, "strength", "a strength", 1000),
    "brightness": Named(images.brightness, "fraction", "a fraction", 1),
    "contrast": Named(images.contrast, "fraction", "a fraction", 1),
    "saturation": Named(images.saturation, "fraction", "a fraction", 1),
    "noise": Named(images.noise, "fraction", "a fraction of white", 1),
    "random-erasing": Named(mixing.random_erasing, "fraction", "a fraction of the area", 1),
    "trivial-augment": Named(images.trivial_augment, "strength", "a strength", 1),
    "mixup": Named(mixing.mixup, "alpha", "the alpha of Beta(alpha, alpha)", 1000),
    "cutmix": Named(mixing.cutmix, "alpha", "the alpha of Beta(alpha, alpha)", 1000),
}
# What moves pixels, and so the masks of images too.
MOVES = {"horizontal-flip", "vertical-flip", "pad-and-crop", "rotate", "scale", "shear",
         "translate", "perspective", "elastic", "warp"}  # fmt: skip
NO_MASKS = ("trivial-augment", "mixup", "cutmix")
# None of these flips images: only the user knows whether a flipped image keeps its class.
SETS = {
    "none": "",
    "light": "rotate=7,scale=0.1,translate=0.05",
    "standard": "rotate=12,scale=0.15,shear=8,translate=0.08,brightness=0.2,contrast=0.2",
    "strong": "warp,brightness=0.3,contrast=0.3,random-erasing=0.2",
}


def named_steps(text: str, classes: int | None = None) -> list[Step]:
    """Return the augmentations named in a list such as `light` or `rotate=10,mixup`, in order.

    Adjacent rotate, scale, shear and translate become one call of `affine`, which resamples once.

    Args:
        text: comma-separated names, each with or without `=RANGE`.
        classes: the number of classes, for augmentations that mix labels.

    >>> named_steps("rotate=10,scale=0.1,horizontal-flip")[0].keywords
    {'degrees': 10.0, 'scale': 0.1}

    Raises:
        ConfigError: if a name is unknown, or its range is not a number in bounds.
    """
    steps: list[Step] = []
    for item in text.split(","):
        name, equals, given = (part.strip() for part in item.partition("="))
        if name in SETS:
            if equals:
                raise ConfigError(f"{name} is a set of augmentations without a range, got {item!r}")
            steps += named_steps(SETS[name], classes) if SETS[name] else []
            continue
        if name not in NAMES:
            raise ConfigError(unknown_name("augmentation", name, [*SETS, *NAMES]))
        function, parameter, _, _, default = NAMES[name]
        value = range_of(name, given) if equals else default
        keywords: dict[str, Any] = {} if value is None else {parameter: value}
        last = steps[-1] if steps and isinstance(steps[-1], partial) else None
        if function is affine and last and last.func is affine and parameter not in last.keywords:
            steps[-1] = partial(last, **keywords)
            continue
        if mixes_labels(function) and classes is not None:
            keywords["classes"] = classes
        steps.append(partial(function, **keywords) if keywords else function)
    return steps


def masked_steps(text: str) -> list[Step]:
    """Return the augmentations of `named_steps` for images with masks, which are moved alike."""
    steps = named_steps(text)
    functions = [getattr(step, "func", step) for step in steps]
    if refused := [name for name in NO_MASKS if NAMES[name].function in functions]:
        others = ", ".join(name for name in NAMES if name not in NO_MASKS)
        raise ConfigError(
            f"augmentations of images with masks must move both or change colours, got "
            f"{refused[0]}; choose from {others}"
        )
    moving = [NAMES[name].function for name in MOVES]
    pairs = zip(steps, functions, strict=True)
    return [partial(with_mask, step=step) if func in moving else step for step, func in pairs]


def with_mask(xb: Tensor, yb: Tensor, generator: Generator, step: Step) -> tuple[Tensor, Tensor]:
    """Move images and the masks of their pixels alike; from outside comes -100, the ignored class.

    Args:
        xb: shape (batch, channels, height, width).
        yb: int64, shape (batch, height, width).
        generator: on the CPU.
        step: `(xb, generator) -> xb`, such as `affine`.
    """
    state = generator.get_state()
    xb = step(xb, generator)
    generator.set_state(state)
    masks = (yb.unsqueeze(1) + 100).short()  # since outside is 0
    return xb, step(masks, generator).squeeze(1).long() - 100


def mixes_labels(step: Step) -> bool:
    """Return whether an augmentation takes labels too: whether it has a parameter `yb`."""
    return "yb" in inspect.signature(step).parameters


def range_of(name: str, given: str) -> float:
    _, _, unit, most, _ = NAMES[name]
    try:
        value: float = int(given) if name == "pad-and-crop" else float(given)
    except ValueError:
        value = math.nan
    if not 0 < value <= most:
        raise ConfigError(
            f"the range of {name} must be {unit}, above 0 and at most {most:g}, got {given!r}"
        )
    return value


class Pipeline:
    """Augmentations applied in turn, all drawing from one generator.

    Args:
        augment: names such as `rotate=10,mixup`, a function, or several functions.
        classes: the number of classes, for names that mix labels.
    """

    def __init__(self, augment: str | Step | Sequence[Step], classes: int | None = None) -> None:
        if isinstance(augment, str):
            augment = named_steps(augment, classes)
        self.steps: list[Step] = [augment] if callable(augment) else list(augment)
        self.mixing = [mixes_labels(step) for step in self.steps]

    def __call__(self, xb: Any, yb: Any, generator: Generator) -> tuple[Any, Any]:
        for step, mixes in zip(self.steps, self.mixing, strict=True):
            if mixes:
                xb, yb = step(xb, yb, generator)
            else:
                xb = step(xb, generator)
        return xb, yb

    def without_mixing(self) -> "Pipeline":
        """Return the same without the augmentations that mix labels."""
        pairs = zip(self.steps, self.mixing, strict=True)
        return Pipeline([step for step, mixes in pairs if not mixes])
