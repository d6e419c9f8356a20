"""The speed of augmentation: plainfit's, kornia's, and an image at a time with Pillow."""

import json
import os
import statistics
import subprocess
from pathlib import Path

from environments import HERE, python_of
from results import save_section
from turns import ratio

TURNS = 5
TEXT = """\
Batches of 128 images, floats in memory, in one process with freed memory kept, as `fit` has it; in
turn, {turns} times ten batches each: the median, and the medians of the ratios within a turn. One
thread, or where the row says so one for each core, which is torch's default. The pipeline is
pad-and-crop by 4 pixels, horizontal flip, affine (15 degrees, scale 1.2, shear 10 degrees, a tenth
of the side), brightness and contrast 0.2, erasing of up to a fifth. kornia does the same with its
modules, parameters by sample; Pillow does it image by image, from bytes to floats, in the data set
of a `DataLoader`: in the main process, its default, or with a worker for each core, which are kept
from turn to turn. The goals are 2 times the speed of kornia's pipeline and 10 times Pillow's."""


def measure(data: Path, quick: bool, folder: Path) -> Path:
    """Measure, and write the section."""
    turns = 3 if quick else TURNS
    command = [python_of("torch"), str(HERE / "peers/augmentations.py"), str(turns)]
    paths = [str(HERE), str(HERE.parent / "src")]
    around = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=around)
    return save(json.loads(done.stdout), turns, folder)


def save(times: dict[str, dict[str, list[float]]], turns: int, folder: Path) -> Path:
    """Write the section."""
    rows = []
    for name, by in times.items():
        cells = [f"{statistics.median(by['plainfit']) * 1e5:,.0f}"]
        for other in ("kornia", "Pillow", "workers"):
            cells.append(f"{ratio(by[other], by['plainfit'])[0]:.1f}" if other in by else "")
        rows.append([name, *cells])
    return save_section(
        "augmentation",
        "Augmentation",
        TEXT.format(turns=turns),
        [
            "",
            "plainfit, µs a batch",
            "kornia / plainfit",
            "Pillow / plainfit",
            "Pillow with workers / plainfit",
        ],
        rows,
        raw=times,
        folder=folder,
    )
