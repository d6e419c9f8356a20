"""60,000 small JPEG files, from the start of a fresh process to the end of the second epoch.

    python benchmarks/folder.py [--rounds 5] [--data-dir MNIST] [--cache FOLDER] [--append]

The files are made once, from MNIST where it is found, and kept in `--cache`. Each run is a fresh
process; in a round all programs have a turn, and each round begins with another one.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import machine
import numpy as np
from PIL import Image
from results import path_of, save
from rounds import turned

from data import find_mnist, read_mnist, synthetic

HERE = Path(__file__).resolve().parent
SAMPLES = {"train": 50_000, "valid": 10_000}
QUALITY = 90  # of the JPEGs
LEARNED = 0.8  # accuracy; chance is 0.1
STOCK = "stock DataLoader, 2 workers"
TUNED = f"{STOCK}, 1 thread of torch"
OURS = "plainfit"
CONTENDERS = {
    STOCK: ("folder_stock",),
    TUNED: ("folder_stock", "--threads", "1"),
    OURS: ("folder_plainfit",),
    "plainfit, past the memory budget": ("folder_plainfit", "--memory-budget", "0"),
    "plainfit, past the memory budget, 1 thread of torch": (
        "folder_plainfit", "--memory-budget", "0", "--threads", "1",
    ),
}  # fmt: skip
TEXT = """\
{files:,} JPEG files ({data}, 28x28, gray, quality 90) in folders by class, in the page cache: from
the start of a fresh process, over imports, finding and decoding the files, to the end of epoch 2 of
the tutorial's CNN, 50,000 images of training in batches of 64 and 10,000 of validation an epoch.
The stock programs use a data set like torchvision's `ImageFolder` with persistent workers.
plainfit keeps the pixels in memory; past its memory budget, its workers read the files again in
each epoch. "1 thread": `torch.set_num_threads(1)`, so that training and workers share two cores
better. "Start" ends when training begins. Ratios are medians of those within a round: how many
times as long the stock program takes, and the same with 1 thread. Memory is that of the main
process, without its workers."""
COLUMNS = [
    "", "total, s", "start, s", "epoch 1, s", "epoch 2, s", "stock / this", "with 1 thread / this",
    "memory, MiB",
]  # fmt: skip


def main() -> None:
    """Make the files, run the rounds, write the result and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data-dir", type=Path, help="folder with MNIST's four .gz files")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir(), "plainfit-jpegs"))
    parser.add_argument("--append", action="store_true", help="add to the rounds there are")
    args = parser.parse_args()
    mnist = find_mnist(args.data_dir)
    data = "MNIST" if mnist else "synthetic images"
    images = args.cache / data.split()[0].lower()
    make_files(images, mnist)
    path = path_of("folder", machine.describe())
    runs = json.loads(path.read_text())["runs"] if args.append and path.is_file() else []
    first = 1 + max((run["round"] for run in runs), default=-1)
    for number in range(first, first + args.rounds):
        names = list(CONTENDERS)
        for name in turned(names, number):
            runs.append({"contender": name, "round": number, **run(name, images)})
            print(f"round {number}  {runs[-1]['seconds']:6.2f} s  {name}", flush=True)
    result = summary(runs, data)
    save(path, result)
    for row in [result["columns"], *result["rows"]]:
        print(
            f"{row[0]:<52}"
            + "".join(
                f"{cell:>{len(head) + 2}}" for head, cell in zip(COLUMNS[1:], row[1:], strict=True)
            )
        )


def make_files(folder: Path, mnist: Path | None) -> None:
    """Write train/CLASS/*.jpg and valid/CLASS/*.jpg, unless they are all there."""
    if (folder / "complete").is_file():
        return
    print(f"making {folder}, once ...", flush=True)
    parts = read_mnist(mnist) if mnist else synthetic(*SAMPLES.values())
    for part in SAMPLES:
        x, y = parts[part]
        for label in np.unique(y):
            (folder / part / str(label)).mkdir(parents=True, exist_ok=True)
        for row in range(SAMPLES[part]):
            path = folder / part / str(y[row]) / f"{row:05}.jpg"
            Image.fromarray(x[row]).save(path, quality=QUALITY)
    (folder / "complete").touch()


def run(name: str, images: Path) -> dict[str, Any]:
    """Run a program in a fresh process; return its figures and the seconds from start to end."""
    script, *more = CONTENDERS[name]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    start = time.time()
    done = subprocess.run(
        [sys.executable, f"{script}.py", str(images), *more],
        cwd=HERE / "peers", env=environment | {"BENCHMARK_STARTED": str(start)},
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    figures = json.loads(done.stdout.splitlines()[-1]) | {"seconds": time.time() - start}
    if figures["accuracy"] < LEARNED:
        raise SystemExit(f"{name} must learn (accuracy {LEARNED}), got {figures['accuracy']}")
    return figures


def summary(runs: list[dict[str, Any]], data: str) -> dict[str, Any]:
    """Return the figures by contender, the ratio, and the section of the page."""
    by_name = {name: [run for run in runs if run["contender"] == name] for name in CONTENDERS}
    seconds = {name: [run["seconds"] for run in found] for name, found in by_name.items()}

    def middle(name: str, figure: str) -> float:
        return statistics.median(run[figure] for run in by_name[name])

    def ratio(stock: str, name: str) -> float:
        return statistics.median(a / b for a, b in zip(seconds[stock], seconds[name], strict=True))

    contenders, rows = {}, []
    for name, found in by_name.items():
        ratios = (ratio(STOCK, name), ratio(TUNED, name))
        contenders[name] = {
            "seconds": seconds[name],
            "epoch_seconds": [run["epoch_seconds"] for run in found],
            "peak_rss_mib": middle(name, "peak_rss_mib"),
            "start_up_seconds": middle(name, "start_up_seconds"),
            "ratio": ratios[0],
            "ratio_to_one_thread": ratios[1],
        }
        first, second = (
            statistics.median(run["epoch_seconds"][i] for run in found) for i in range(2)
        )
        times = (middle(name, "seconds"), middle(name, "start_up_seconds"), first, second)
        rows.append(
            [name, *(f"{t:.2f}" for t in times + ratios), f"{middle(name, 'peak_rss_mib'):.0f}"]
        )
    files = sum(SAMPLES.values())
    return {
        "name": "folder", "title": "A folder of images", "machine": machine.describe(),
        "text": TEXT.format(files=files, data=data), "columns": COLUMNS, "rows": rows,
        "files": files, "ratio": contenders[OURS]["ratio"],
        "ratio_to_one_thread": contenders[OURS]["ratio_to_one_thread"],
        "contenders": contenders, "runs": runs,
    }  # fmt: skip


if __name__ == "__main__":
    main()
