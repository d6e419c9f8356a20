"""Batches augmented by plainfit, by kornia and image by image with Pillow; in turn, one process.

Prints JSON: the seconds of each way in each turn, by work and shape.
"""

import json
import random
import sys
from collections.abc import Callable
from functools import partial

import kornia.augmentation as K
import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from turns import take_turns

from plainfit import augment
from plainfit.memory import kept_memory

SHAPES = {"1x28x28": (1, 28, 28), "3x32x32": (3, 32, 32)}
BATCH, BATCHES = 128, 10  # in a turn
NAMES = "pad-and-crop=4,horizontal-flip,{affine},brightness=0.2,contrast=0.2,random-erasing=0.2"
AFFINE = "rotate=15,scale=0.2,shear=10,translate=0.1"


def by_kornia(size: int) -> dict[str, torch.nn.Module]:
    """Return kornia's modules for the same work."""
    affine = K.RandomAffine(15, (0.1, 0.1), (1 / 1.2, 1.2), 10, p=1.0)
    one = {
        "flip": K.RandomHorizontalFlip(),
        "crop": K.RandomCrop((size, size), padding=4),
        "affine": affine,
        "perspective": K.RandomPerspective(0.5, p=1.0),
        "erasing": K.RandomErasing(scale=(0.02, 0.2), p=0.5),
    }
    jitter = (K.RandomBrightness((0.8, 1.2), p=1.0), K.RandomContrast((0.8, 1.2), p=1.0))
    parts = (one["crop"], one["flip"], affine, *jitter, one["erasing"])
    return {"pipeline": K.ImageSequential(*parts), **one}


def by_pillow(xb: np.ndarray) -> Tensor:
    """Do the pipeline's work for each image by itself, and return the batch as floats."""
    done = []
    draw = random.uniform
    for pixels in xb:
        image = ImageOps.expand(Image.fromarray(pixels), 4)
        size = pixels.shape[0]
        left, top = random.randint(0, 8), random.randint(0, 8)
        image = image.crop((left, top, left + size, top + size))
        if random.random() < 0.5:
            image = ImageOps.mirror(image)
        angle, scale, lean = np.radians(draw(-15, 15)), 1.2 ** draw(-1, 1), draw(-0.176, 0.176)
        a, d = scale * np.cos(angle), scale * np.sin(angle)
        b, e = lean * a - d, lean * d + a
        middle = size / 2
        right, down = middle + draw(-0.1, 0.1) * size, middle + draw(-0.1, 0.1) * size
        numbers = (a, b, right - (a + b) * middle, d, e, down - (d + e) * middle)
        affine = Image.Transform.AFFINE
        image = image.transform((size, size), affine, numbers, Image.Resampling.BILINEAR)
        image = ImageEnhance.Brightness(image).enhance(draw(0.8, 1.2))
        image = ImageEnhance.Contrast(image).enhance(draw(0.8, 1.2))
        if random.random() < 0.5:
            area, shape = draw(0.02, 0.2) * size * size, np.exp(draw(-1.2, 1.2))
            high, wide = (
                int(min(size, side)) for side in ((area * shape) ** 0.5, (area / shape) ** 0.5)
            )
            left, top = random.randint(0, size - wide), random.randint(0, size - high)
            image.paste(0, (left, top, left + wide, top + high))
        done.append(np.asarray(image))
    batch = torch.from_numpy(np.stack(done)).float().div_(256)
    return batch.unsqueeze(1) if batch.dim() == 3 else batch.permute(0, 3, 1, 2).contiguous()


def ways(shape: tuple[int, int, int]) -> dict[str, dict[str, Callable[[], object]]]:
    """Return what is timed for a shape: by work, then by who does it."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (BATCH, *shape), generator=generator, dtype=torch.uint8)
    xb = pixels.float() / 256
    rows = pixels.permute(0, 2, 3, 1).numpy().squeeze(3) if shape[0] == 1 else pixels.permute(
        0, 2, 3, 1
    ).contiguous().numpy()  # fmt: skip
    ours = {
        "pipeline": NAMES.format(affine=AFFINE), "flip": "horizontal-flip",
        "crop": "pad-and-crop=4", "affine": AFFINE, "perspective": "perspective=0.12",
        "erasing": "random-erasing=0.2",
    }  # fmt: skip
    theirs = by_kornia(shape[1])
    work = {
        name: {
            "plainfit": partial(augment.Pipeline(ours[name]), xb, None, generator),
            "kornia": partial(theirs[name], xb),
        }
        for name in ours
    }
    work["pipeline"]["Pillow"] = lambda: by_pillow(rows)
    return work


def repeated(do: Callable[[], object]) -> Callable[[], None]:
    """Return what does something for some batches."""

    def batches() -> None:
        for _ in range(BATCHES):
            do()

    return batches


def main() -> None:
    """Time everything."""
    turns = int(sys.argv[1])
    torch.set_num_threads(1)
    with kept_memory(True):  # as `fit` has it; for all of them
        times = {
            f"{name}, {shape}": take_turns({k: repeated(do) for k, do in who.items()}, turns)
            for shape, size in SHAPES.items()
            for name, who in ways(size).items()
        }
    print(json.dumps(times))


if __name__ == "__main__":
    main()
