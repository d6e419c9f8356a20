"""Trainings by default on seven tables beside scikit-learn: prints the table of docs/data.md.

python benchmarks/tabular.py [--seeds 3]
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from tables_like import TABLES, scores_of


def main() -> None:
    """Print a row for each table: the means over splits, each with its own seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(parser.parse_args().seeds)
    print("| table | rows | score | `plainfit train` | linear | boosting |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, table in TABLES.items():
        frame, target = table()
        with tempfile.TemporaryDirectory() as folder:
            scores = [[*scores_of(name, seed, Path(folder)).values()] for seed in seeds]
        score = "R2" if frame[target].nunique() > 3 else "accuracy"
        cells = [f"{mean:.3f}" for mean in np.mean(scores, axis=0)]
        print("|", " | ".join([name, f"{len(frame):,}", score, *cells]), "|", flush=True)


if __name__ == "__main__":
    main()
