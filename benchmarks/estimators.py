"""scikit-learn's estimators: `PlainfitClassifier` beside skorch's `NeuralNetClassifier`."""

import json
import statistics
import subprocess
from itertools import product
from pathlib import Path
from typing import Any

from environments import python_of
from results import save_section

PEERS = Path(__file__).resolve().parent / "peers"
DATA = {"digits": ("digits", 10), "table": ("100,000 rows of 30", 1)}  # title, epochs
TRAININGS = [("logistic", "sgd"), ("mlp", "sgd"), ("mlp", "adam")]
BATCHES = (64, 256)
CONTENDERS = {"plainfit": "here", "skorch": "torch"}
TEXT = """\
Seconds of `fit` on scaled float32 arrays with the same model, batch size, epochs ({digits} on the
digits, {table} on the table), optimizer and rate; everything is trained on and nothing held out.
Each with its own loader and number of threads, in a process of its own, in turn, {rounds} times;
the median of {fits} calls after a first one. The goal is 3 times skorch's speed."""


def measure(data: Path, quick: bool, folder: Path) -> Path:
    """Measure, and write the section."""
    rounds, fits = (1, 1) if quick else (3, 2)
    rows, raw = [], []
    for source, (model, optimizer), size in product(DATA, TRAININGS, BATCHES):
        options = {
            "data": source, "model": model, "optimizer": optimizer, "batch-size": size,
            "epochs": DATA[source][1], "fits": fits,
        }  # fmt: skip
        turns = [{name: fit_seconds(name, options) for name in CONTENDERS} for _ in range(rounds)]
        ours, theirs = ([turn[name] for turn in turns] for name in CONTENDERS)
        ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
        title = f"{DATA[source][0]}, {model}, {optimizer}, batches of {size}"
        seconds = [f"{statistics.median(times):.3f}" for times in (ours, theirs)]
        rows.append([title, f"{ratio:.1f}", *seconds])
        raw += [options | turn for turn in turns]
    return save_section(
        "estimators",
        "Estimators for scikit-learn",
        TEXT.format(
            rounds=rounds, fits=fits, **{name: epochs for name, (_, epochs) in DATA.items()}
        ),
        ["", "speed, skorch = 1", "plainfit, s", "skorch, s"],
        rows,
        raw=raw,
        folder=folder,
    )


def fit_seconds(contender: str, options: dict[str, Any]) -> float:
    """Run a contender; return the median seconds of its fits."""
    given = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    done = subprocess.run(
        [python_of(CONTENDERS[contender]), f"estimator_{contender}.py", *given],
        cwd=PEERS, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(statistics.median(json.loads(done.stdout.splitlines()[-1])["seconds"]))
