"""Writes the scripts and diffs that docs/eject.md shows, from a run of the tutorial's CNN on MNIST.

    python docs/eject/write.py [--data-dir MNIST] [--into FOLDER]

`make test` compares them with new ones, the header apart, which has a hash and a fingerprint.
"""

import argparse
import difflib
import os
import tempfile
from itertools import pairwise
from pathlib import Path

import torch

from plainfit.eject import eject_run
from plainfit.runs.settings import RunConfig
from plainfit.runs.train import train

HERE = Path(__file__).resolve().parent
LEVELS = ["loop", "optim", "tensors"]
SETTINGS = {"data": "mnist", "model": "cnn", "epochs": 2}


def main() -> None:
    """Train, and write a script for each of the levels and the diff from each to the next."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, default=HERE.parents[2] / "shared/data/mnist")
    parser.add_argument("--into", type=Path, default=HERE)
    args = parser.parse_args()
    torch.set_num_threads(1)  # a script says how many
    data_dir, into, texts = args.data_dir.resolve(), args.into.resolve(), {}
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)
        run = Path("runs/cnn")
        train(RunConfig(**SETTINGS, data_dir=data_dir, out=run), echo=None)
        for level in LEVELS:
            path = Path(f"{level}.py")
            eject_run(run, path, level=level)
            # The path of the data differs between machines.
            texts[level] = path.read_text(encoding="utf-8").replace(str(data_dir), "mnist")
            (into / path.name).write_text(texts[level], encoding="utf-8")
        os.chdir(HERE)
    for before, after in pairwise(LEVELS):
        names = f"{before}.py", f"{after}.py"
        sides = (texts[before].splitlines(), texts[after].splitlines())
        lines = difflib.unified_diff(*sides, *names, lineterm="")
        text = "\n".join(lines) + "\n"
        (into / f"{before}_to_{after}.diff").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
