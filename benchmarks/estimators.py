"""scikit-learn's estimators: plainfit's beside skorch's."""

import json
import statistics
import subprocess
from pathlib import Path
from typing import Any

from environments import python_of
from results import save_section
from rounds import turned

PEERS = Path(__file__).resolve().parent / "peers"
ROUNDS = 3
CONTENDERS = {  # name: program, environment
    "plainfit": ("estimator_plainfit.py", "here"),
    "skorch, rows": ("estimator_skorch_rows.py", "torch"),
    "skorch, stock": ("estimator_skorch.py", "torch"),
}
TITLES = {
    "digits": "digits",
    "table": "100,000 rows of 30",
    "regression": "100,000 rows, regression",
}
TEXT = """\
Seconds of one call of `fit` on scaled float32 arrays with the same model, batch size, epochs (10 on
the digits, 1 on a table), optimizer and rate; everything is trained on and nothing held out. Each
with its own number of threads, in a process of its own, in turn, rounds: {rounds}; a short fit goes
before each that counts. skorch as its documentation has it ("stock"), and with a loader that
gathers batches by rows. Ratios are taken within a round: their median, lowest and highest. The
goal is 3 times skorch's speed."""


def measure(data: Path, quick: bool, folder: Path) -> Path:
    """Measure, and write the section after each round."""
    rounds: list[dict[str, Any]] = []
    names = list(CONTENDERS)
    for number in range(1 if quick else ROUNDS):
        rounds.append({name: fits(name, quick) for name in turned(names, number)})
        path = save_section(
            "estimators",
            "Estimators for scikit-learn",
            TEXT.format(rounds=len(rounds)),
            ["", *(f"times {name}" for name in names[1:]), *(f"{name}, s" for name in names)],
            [row(rounds, index) for index in range(len(rounds[0][names[0]]))],
            raw=rounds,
            folder=folder,
        )
    return path


def row(rounds: list[dict[str, Any]], index: int) -> list[str]:
    """Return a setting's row: ratios with their range, and median seconds."""
    what = rounds[0]["plainfit"][index]
    seconds = {name: [turn[name][index]["seconds"] for turn in rounds] for name in CONTENDERS}
    ratios = [
        [other / mine for mine, other in zip(seconds["plainfit"], seconds[name], strict=True)]
        for name in list(CONTENDERS)[1:]
    ]
    title = f"{TITLES[what['data']]}, {what['model']}, {what['optimizer']}, {what['batch_size']}"
    return [
        title,
        *(f"{statistics.median(r):.1f} ({min(r):.1f} to {max(r):.1f})" for r in ratios),
        *(f"{statistics.median(times):.3f}" for times in seconds.values()),
    ]


def fits(name: str, quick: bool) -> list[dict[str, Any]]:
    """Run a contender; return the setting, seconds and score of each of its fits."""
    program, environment = CONTENDERS[name]
    command = [python_of(environment), program, *(["--quick"] if quick else [])]
    done = subprocess.run(command, cwd=PEERS, stdout=subprocess.PIPE, text=True, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found
