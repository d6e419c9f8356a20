"""What the programs of `compare.py` share: the arguments, the data, how frames are counted."""

import argparse
import sys

import numpy as np

EPOCHS, BATCH_SIZE, EVERY = 3, 64, 5  # a checkpoint every 5 steps, where that can be had
IGNORED = -100


def arguments() -> argparse.Namespace:
    """Read the command line: a folder for checkpoints, and what is to go wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--kill-at", type=int, default=0, help="the step that ends by SIGKILL")
    parser.add_argument("--nan", action="store_true", help="a value of the data is not a number")
    return parser.parse_args()


def arrays(has_nan: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return training and validation data; the first half of the latter has labels to ignore."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1250, 20), dtype=np.float32)
    y = (x @ rng.standard_normal((20, 5), dtype=np.float32)).argmax(1)
    y[1000:1128:2] = IGNORED
    if has_nan:
        x[500, 7] = np.nan
    return x[:1000], y[:1000], x[1000:], y[1000:]


def frames_of_library() -> int:
    """Count the frames between the program and its model that are neither's, nor a module's call.

    To be called by the model's `forward`.
    """
    count, frame = 0, sys._getframe(2)
    while frame.f_code.co_name != "<module>" or frame.f_globals["__name__"] != "__main__":
        name = frame.f_code.co_filename
        is_call = name.endswith(("torch/nn/modules/module.py", "keras/src/layers/layer.py"))
        count += not (is_call or frame.f_globals["__name__"] == "__main__")
        frame = frame.f_back
    return count
