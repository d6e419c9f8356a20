"""What plainfit and its peers do in the same situations: the table in the README.

Each program, `peers/compare_NAME.py`, trains the same small model on the same data four times: to
its end, killed by SIGKILL within the second epoch, resumed from what that left, and with a NaN in
the data. A peer does it in its own standard way, with its own options for checkpoints and NaN.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import machine
from environments import python_of
from results import FOLDER, path_of, save_section

from report import markdown_table

PEERS = Path(__file__).resolve().parent / "peers"
STEPS, KILL_AT = 48, 25  # three epochs of 16 steps; in the second one
PROGRAM = """\
import runpy, sys, time
start = time.process_time()
{}
print(time.process_time() - start)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")"""
# The heading in the table: the program, its environment, what a program has to import.
CONTENDERS = {
    "plainfit": ("plainfit", "here", "import plainfit as pf; pf.get_data, pf.get_model, pf.fit"),
    "a loop by hand": (
        "by_hand", "torch", "from torch import nn, optim; from torch.utils.data import DataLoader",
    ),
    "fastai": ("fastai", "torch", "import fastai.basics"),
    "Lightning": ("lightning", "torch", "import lightning.pytorch"),
    "Keras": ("keras", "jax", "import keras"),
    "skorch": ("skorch", "torch", "import skorch"),
    "HF Trainer": ("transformers", "torch", "from transformers import Trainer, TrainingArguments"),
}  # fmt: skip
TEXT = """\
Made by `benchmarks/compare.py` with {versions}. The same two layers, dropout and data, each in its
own standard way; Keras runs on JAX, and fastai is `fastai.basics`.

- *Frames*: of Python, between the call that trains and the call of the model, without those of
  `nn.Module`; for Keras while it traces the step.
- *Import*: the processor's time, torch or JAX included, the least of three processes.
- *Killed and resumed*: SIGKILL in step {kill_at} of {steps}, 16 an epoch, with a checkpoint every 5
  steps, then the same program again. Are the final weights equal, bit for bit, to those of a
  training that never stopped? The callbacks of fastai and skorch save whole epochs only.
- *Script*: `plainfit eject --verify`; the others have no such command.
- *Validation loss*: what is reported of 250 samples in batches of 64, and the same loss of all
  of them at once. 64 labels are to be ignored.
- *NaN*: are the weights finite when the training has ended? With `detect_anomaly` (Lightning),
  `TerminateOnNaNCallback` (fastai) and `TerminateOnNaN` (Keras); the latter two stop after the
  update."""
LABELS = [
    "frames from your call to `model(xb)`",
    "import, seconds",
    "killed within an epoch and resumed: the same bits",
    "a run as one script without the library, verified",
    "ignored labels: validation loss off by",
    "NaN in the data: the weights stay finite",
]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="measure these, by comma; keep the others' rows")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    args = parser.parse_args(arguments)
    only = args.only.split(",") if args.only else list(CONTENDERS)
    path = path_of("compare", machine.describe(), args.folder)
    before = json.loads(path.read_text(encoding="utf-8"))["raw"] if path.exists() else {}
    for title in only:
        before[title] = measure(*CONTENDERS[title])
        seen = {title: before[title] for title in CONTENDERS if title in before}
        save(seen, args.folder)
    print(markdown_table(["", *seen], table(seen)))


def save(seen: dict[str, dict[str, Any]], folder: Path) -> None:
    """Write the section of those that have been measured."""
    versions = {name: v for one in seen.values() for name, v in one["versions"].items()}
    told = ", ".join(f"{name} {v}" for name, v in versions.items())
    text = TEXT.format(versions=told, kill_at=KILL_AT, steps=STEPS)
    title = "Beside other libraries"
    save_section("compare", title, text, ["", *seen], table(seen), raw=seen, folder=folder)


def table(seen: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Return the rows, of what was seen of each."""
    columns = [
        [
            str(one["frames"]),
            f"{one['import_seconds']:.1f}",
            {True: "yes", False: "no", None: "yours to write"}[one["resumed_same"]],
            {"plainfit": "yes", "a loop by hand": "it is one"}.get(title, "no"),
            f"{abs(one['reported'] / one['valid_loss'] - 1):.1%}",
            "yes" if one["finite_after_nan"] else "no",
        ]
        for title, one in seen.items()
    ]
    return [[label, *cells] for label, *cells in zip(LABELS, *columns, strict=True)]


def measure(name: str, environment: str, line: str) -> dict[str, Any]:
    """Return what a peer does in each situation."""
    command = [python_of(environment), "-c", PROGRAM.format(line), PEERS / f"compare_{name}.py"]
    with tempfile.TemporaryDirectory() as folder:
        whole = result(*command, f"{folder}/whole")
        nan = result(*command, f"{folder}/nan", "--nan")
        runs, same = [whole, nan], None
        if name != "by_hand":
            run(*command, f"{folder}/killed", f"--kill-at={KILL_AT}", code=-signal.SIGKILL)
            resumed = result(*command, f"{folder}/killed")
            assert resumed["steps"] < STEPS == whole["steps"], (name, resumed, whole)
            same = resumed["weights"] == whole["weights"]
            runs.append(resumed)
    seconds = min(one["import_seconds"] for one in runs)
    more = {"import_seconds": seconds, "resumed_same": same, "finite_after_nan": nan["finite"]}
    print(name, whole | more, flush=True)
    return whole | more


def result(*command: str | Path) -> dict[str, Any]:
    """Return what a program prints: seconds in its first line, JSON in its last."""
    first, *_, last = run(*command).splitlines()
    return json.loads(last) | {"import_seconds": float(first)}


def run(*command: str | Path, code: int = 0) -> str:
    """Run a program that is to end with this code; return what it prints."""
    env = os.environ | {
        "KERAS_BACKEND": "jax",
        "PYTHONPATH": f"{PEERS}{os.pathsep}{PEERS.parents[1] / 'src'}",
    }
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode != code:
        sys.exit(f"{command} must end with {code}, got {done.returncode}:\n{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main(sys.argv[1:])
