"""Batches augmented by plainfit, by kornia and image by image with Pillow; in turn, one process.

Prints JSON: the seconds of each way in each turn, by work and shape.
"""

import json
import math
import os
import random
import sys
from collections import deque
from collections.abc import Callable
from functools import partial

import kornia.augmentation as K
import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from turns import take_turns

from plainfit.data import augment
from plainfit.training.session import kept_memory

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


class ByPillow(Dataset[Tensor]):
    """The pipeline's work as a data set does it that is written for one image at a time."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return BATCH * BATCHES

    def __getitem__(self, index: int) -> Tensor:
        image = varied(Image.fromarray(self.pixels[index % BATCH]))
        pixels = torch.from_numpy(np.array(image)).float().div_(256)
        return pixels.unsqueeze(0) if pixels.dim() == 2 else pixels.permute(2, 0, 1)


def varied(image: Image.Image) -> Image.Image:
    """Do the pipeline's work for an image."""
    draw, size = random.uniform, image.width
    left, top = random.randint(0, 8), random.randint(0, 8)
    image = ImageOps.expand(image, 4).crop((left, top, left + size, top + size))
    if random.random() < 0.5:
        image = ImageOps.mirror(image)
    angle, scale, lean = math.radians(draw(-15, 15)), 1.2 ** draw(-1, 1), draw(-0.176, 0.176)
    a, d = scale * math.cos(angle), scale * math.sin(angle)
    b, e = lean * a - d, lean * d + a
    middle = size / 2
    right, down = middle + draw(-0.1, 0.1) * size, middle + draw(-0.1, 0.1) * size
    numbers = (a, b, right - (a + b) * middle, d, e, down - (d + e) * middle)
    image = image.transform(
        (size, size), Image.Transform.AFFINE, numbers, Image.Resampling.BILINEAR
    )
    image = ImageEnhance.Brightness(image).enhance(draw(0.8, 1.2))
    image = ImageEnhance.Contrast(image).enhance(draw(0.8, 1.2))
    if random.random() < 0.5:
        area, shape = draw(0.02, 0.2) * size * size, math.exp(draw(-1.2, 1.2))
        high, wide = (int(min(size, x**0.5)) for x in (area * shape, area / shape))
        left, top = random.randint(0, size - wide), random.randint(0, size - high)
        image.paste(0, (left, top, left + wide, top + high))
    return image


def ways(shape: tuple[int, int, int], threads: int) -> dict[str, dict[str, Callable[[], object]]]:
    """Return what is timed for a shape and so many threads: by work, then by who does it."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (BATCH, *shape), generator=generator, dtype=torch.uint8)
    xb = pixels.float() / 256
    rows = pixels.permute(0, 2, 3, 1).contiguous().numpy()
    images = ByPillow(rows.squeeze(3) if shape[0] == 1 else rows)
    ours = {
        "pipeline": NAMES.format(affine=AFFINE), "flip": "horizontal-flip",
        "crop": "pad-and-crop=4", "affine": AFFINE, "perspective": "perspective=0.12",
        "erasing": "random-erasing=0.2",
    }  # fmt: skip
    theirs = by_kornia(shape[1])
    work = {
        name: {
            "plainfit": repeated(partial(augment.Pipeline(ours[name]), xb, None, generator)),
            "kornia": repeated(partial(theirs[name], xb)),
        }
        for name in ours
    }
    work["pipeline"]["Pillow"] = partial(deque, DataLoader(images, BATCH), 0)
    if threads > 1:
        workers = DataLoader(images, BATCH, num_workers=threads, persistent_workers=True)
        work = {"pipeline": work["pipeline"] | {"workers": partial(deque, workers, 0)}}
    return work


def repeated(do: Callable[[], object]) -> Callable[[], None]:
    """Return what does something for some batches."""

    def batches() -> None:
        for _ in range(BATCHES):
            do()

    return batches


def main() -> None:
    """Time everything with one thread, and the pipeline with one for each core."""
    turns, times = int(sys.argv[1]), {}
    with kept_memory(True):  # as `fit` has it; for all of them
        for threads in sorted({1, os.cpu_count() or 1}):
            torch.set_num_threads(threads)
            for shape, size in SHAPES.items():
                for name, who in ways(size, threads).items():
                    row = f"{name}, {shape}" + (f", {threads} threads" if threads > 1 else "")
                    times[row] = take_turns(who, turns)
    print(json.dumps(times))


if __name__ == "__main__":
    main()
