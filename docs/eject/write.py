"""Writes the scripts and diffs that docs/eject.md shows, from a run of the tutorial's CNN on MNIST.

    python docs/eject/write.py [--data-dir MNIST] [--into FOLDER]

`make test` writes them anew and compares them with these, the header apart, whose hash and
fingerprint are this machine's.
"""

import argparse
import difflib
import os
import tempfile
from itertools import pairwise
from pathlib import Path

from plainfit.eject import eject_run
from plainfit.runs.settings import RunConfig
from plainfit.runs.train import train

HERE = Path(__file__).resolve().parent
LEVELS = ["loop", "optim", "tensors"]


def main() -> None:
    """Train, and write a script for each of the levels and the diff from each to the next."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, default=HERE.parents[2] / "shared/data/mnist")
    parser.add_argument("--into", type=Path, default=HERE)
    args = parser.parse_args()
    data_dir, into, texts = args.data_dir.resolve(), args.into.resolve(), {}
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        run = Path("runs/cnn")
        settings = {"data": "mnist", "data_dir": data_dir, "model": "cnn", "epochs": 2}
        train(RunConfig(**settings, out=run), echo=None)
        for level in LEVELS:
            path = Path(f"{level}.py")
            eject_run(run, path, level=level)
            # Where the data is is this machine's own.
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
