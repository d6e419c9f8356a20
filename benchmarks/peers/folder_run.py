"""What both programs on a folder of images share: the settings, and the line of JSON at the end."""

import argparse
import json
from itertools import pairwise
from pathlib import Path

from contender import STARTED, peak_rss

EPOCHS, BATCH_SIZE, WORKERS, LR, MOMENTUM = 2, 64, 2, 0.1, 0.9


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, help="train/CLASS/*.jpg and valid/CLASS/*.jpg")
    parser.add_argument("--memory-budget", type=int, default=2048, help="MiB, for plainfit")
    parser.add_argument("--threads", type=int, help="of torch; its own choice by default")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def report(began: float, epochs: list[dict[str, float]]) -> None:
    """Print the one line: seconds before training and in each epoch, what was learned, memory.

    Args:
        began: the time when training began.
        epochs: the time at the end of each (`at`), its validation `loss` and `accuracy`.
    """
    ends = [began, *(epoch["at"] for epoch in epochs)]
    line = {
        "start_up_seconds": began - STARTED,
        "epoch_seconds": [end - start for start, end in pairwise(ends)],
        "valid_loss": epochs[-1]["loss"],
        "accuracy": epochs[-1]["accuracy"],
        "peak_rss_mib": peak_rss(),
    }
    print(json.dumps(line))
