"""Augmentation of whole batches: `(xb, generator) -> xb`, with random numbers for each image.

`xb` has shape (batch, channels, height, width): uint8, or floats from 0 to 1 (bytes over 256, as
`plainfit.data` serves them). A function returns the dtype it was given, on the device of `xb`; the
generator is on the CPU. Functions that mix labels are `(xb, yb, generator) -> (xb, yb)`.
"""

from plainfit.data.augment.images import (
    affine,
    brightness,
    contrast,
    elastic,
    horizontal_flip,
    noise,
    normalise,
    pad_and_crop,
    perspective,
    saturation,
    trivial_augment,
    vertical_flip,
    warp,
)
from plainfit.data.augment.mixing import cutmix, mixup, random_erasing
from plainfit.data.augment.names import Pipeline, Step, masked_steps, mixes_labels, named_steps

__all__ = [
    "Pipeline",
    "Step",
    "affine",
    "brightness",
    "contrast",
    "cutmix",
    "elastic",
    "horizontal_flip",
    "masked_steps",
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
