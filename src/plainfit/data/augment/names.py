"""Augmentations by name: what `--augment` and `augment=` take."""

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from plainfit.common.errors import ConfigError, unknown_name
from plainfit.data.augment.colour import brightness, contrast, noise, saturation
from plainfit.data.augment.geometry import (
    affine,
    elastic,
    horizontal_flip,
    pad_and_crop,
    perspective,
    vertical_flip,
    warp,
)
from plainfit.data.augment.mixing import cutmix, mixup, random_erasing
from plainfit.data.augment.trivial import trivial_augment

Step = Callable[..., Any]
"""`(xb, generator) -> xb`, or with a parameter `yb`: `(xb, yb, generator) -> (xb, yb)`."""


class Named(NamedTuple):
    """An augmentation of one range."""

    function: Step
    parameter: str
    """What the range is called."""
    unit: str
    most: float
    default: float | None = None
    """The range, where the function's own default is another."""


NAMES = {
    "horizontal-flip": Named(horizontal_flip, "p", "a probability", 1),
    "vertical-flip": Named(vertical_flip, "p", "a probability", 1),
    "pad-and-crop": Named(pad_and_crop, "pixels", "a whole number of pixels", 1000),
    "rotate": Named(affine, "degrees", "degrees", 180, 15.0),
    "scale": Named(affine, "scale", "a fraction", 10, 0.2),
    "shear": Named(affine, "shear", "degrees", 80, 10.0),
    "translate": Named(affine, "translate", "a fraction of the side", 1, 0.1),
    "perspective": Named(perspective, "fraction", "a fraction of the side", 0.24),
    "elastic": Named(elastic, "fraction", "a fraction of the side", 1),
    "warp": Named(warp, "strength", "a strength", math.inf),
    "brightness": Named(brightness, "fraction", "a fraction", 1),
    "contrast": Named(contrast, "fraction", "a fraction", 1),
    "saturation": Named(saturation, "fraction", "a fraction", 1),
    "noise": Named(noise, "fraction", "a fraction of white", 1),
    "random-erasing": Named(random_erasing, "fraction", "a fraction of the area", 1),
    "trivial-augment": Named(trivial_augment, "strength", "a strength", 1),
    "mixup": Named(mixup, "alpha", "the alpha of Beta(alpha, alpha)", math.inf),
    "cutmix": Named(cutmix, "alpha", "the alpha of Beta(alpha, alpha)", math.inf),
}
# None of these mirrors images: whether a mirrored one is of the same class, only the user knows.
SETS = {
    "none": "",
    "light": "rotate=7,scale=0.1,translate=0.05",
    "standard": "rotate=12,scale=0.15,shear=8,translate=0.08,brightness=0.2,contrast=0.2",
    "strong": "warp,brightness=0.3,contrast=0.3,random-erasing=0.2",
}


def named_steps(text: str, classes: int | None = None) -> list[Step]:
    """Return the augmentations of a list such as `light`, or `rotate=10,mixup`, in its order.

    Neighbours among rotate, scale, shear and translate become one call of `affine`, which
    resamples once.

    Args:
        text: names, each perhaps with `=` and its range, with commas between.
        classes: their number, for those that mix labels.

    >>> named_steps("rotate=10,scale=0.1,horizontal-flip")[0].keywords
    {'degrees': 10.0, 'scale': 0.1}

    Raises:
        ConfigError: if there is no such augmentation, or its range is no number that it takes.
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
        keywords = {parameter: range_of(name, given)} if equals else {}
        if default is not None and not equals:
            keywords = {parameter: default}
        if function is affine and steps and is_open(steps[-1], parameter):
            steps[-1] = partial(steps[-1], **keywords)
            continue
        more = {"classes": classes} if mixes_labels(function) and classes is not None else {}
        steps.append(partial(function, **keywords, **more) if keywords or more else function)
    return steps


def mixes_labels(step: Step) -> bool:
    """Return whether an augmentation takes the labels too: whether it has a parameter `yb`."""
    return "yb" in inspect.signature(step).parameters


def is_open(step: Step, parameter: str) -> bool:
    """Return whether a step is a call of `affine` that does not say this parameter yet."""
    return isinstance(step, partial) and step.func is affine and parameter not in step.keywords


def range_of(name: str, given: str) -> float:
    """Return the number that is given as the range of an augmentation.

    Raises:
        ConfigError: if it is none, or out of bounds.
    """
    _, _, unit, most, _ = NAMES[name]
    try:
        value: float = int(given) if name == "pad-and-crop" else float(given)
    except ValueError:
        value = math.nan
    if not (0 < value <= most and value < math.inf):
        bound = "" if most == math.inf else f" and at most {most:g}"
        raise ConfigError(f"the range of {name} is {unit}, above 0{bound}, got {given!r}")
    return value
