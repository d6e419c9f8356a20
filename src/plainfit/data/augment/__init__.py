"""Augmentation of whole batches: `(xb, generator) -> xb`, each image with numbers of its own.

`xb` has shape (batch, channels, height, width): uint8, or floats from 0 to 1 (as `plainfit.data`
has them, bytes over 256). A function gives back the dtype it was given, on the device of `xb`; the
generator is on the CPU. Functions that mix labels are `(xb, yb, generator) -> (xb, yb)`.
"""

from plainfit.data.augment.colour import brightness, contrast, noise, normalise, saturation
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
from plainfit.data.augment.names import Step, mixes_labels, named_steps
from plainfit.data.augment.pipeline import Pipeline
from plainfit.data.augment.trivial import trivial_augment

__all__ = [
    "Pipeline",
    "Step",
    "affine",
    "brightness",
    "contrast",
    "cutmix",
    "elastic",
    "horizontal_flip",
    "mixes_labels",
    "mixup",
    "named_steps",
    "noise",
    "normalise",
    "pad_and_crop",
    "perspective",
    "random_erasing",
    "saturation",
    "trivial_augment",
    "vertical_flip",
    "warp",
]
