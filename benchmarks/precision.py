"""Speed and accuracy by the numbers' format: plainfit in float32, bfloat16 and float16."""

import statistics
from pathlib import Path

import table
from contenders import MODELS, Contender
from results import save_section
from rounds import play

FORMATS = ["fp32", "bf16", "fp16"]
ROUNDS, EPOCHS = 3, {"logistic": 4, "cnn": 3}
TEXT = """\
`fit(..., precision=...)`, each in a process of its own, {rounds} rounds with a seed for each. The
median epoch after the first, against that in fp32 of the same round; the accuracy of each seed on
the validation samples after {logistic} epochs of the logistic regression and {cnn} of the CNN. The
tutorial's CNN has a ReLU after its last layer: a class that it silences stays lost, in any format,
which is what accuracies of 0.7 and 0.8 are."""


def measure(data: Path, quick: bool, folder: Path) -> Path:
    """Measure, and write the section."""
    rounds = 1 if quick else ROUNDS
    epochs = dict.fromkeys(EPOCHS, 2) if quick else EPOCHS
    contenders = {
        name: Contender(name, "plainfit_", arguments=("--precision", name)) for name in FORMATS
    }
    runs = list(play(contenders, MODELS, data, range(rounds), epochs))
    rows = [row(runs, model, name) for model in MODELS for name in FORMATS]
    return save_section(
        "precision",
        "Precision",
        TEXT.format(rounds=rounds, **epochs),
        ["", "speed, fp32 = 1", "epoch, s", "accuracy", "validation loss (median)"],
        rows,
        raw=[{key: run[key] for key in run if key != "versions"} for run in runs],
        folder=folder,
    )


def row(runs: list[table.Record], model: str, name: str) -> list[str]:
    """Return the cells of a model in a format."""
    title = f"{MODELS[model]}, {name}"
    mine, base = (
        {r["round"]: r for r in runs if r["model"] == model and r["contender"] == wanted}
        for wanted in (name, FORMATS[0])
    )
    failed = [record["failed"] for record in mine.values() if "failed" in record]
    if failed or any("failed" in record for record in base.values()):
        return [title, *failed[:1], *[""] * (4 - len(failed[:1]))]
    seconds = {number: table.later(record, "seconds") for number, record in mine.items()}
    ratios = [table.later(base[number], "seconds") / own for number, own in seconds.items()]
    return [
        title,
        f"{statistics.median(ratios):.2f}",
        f"{statistics.median(seconds.values()):.3f}",
        ", ".join(f"{record['accuracy']:.4f}" for record in mine.values()),
        f"{statistics.median(r['valid_loss'] for r in mine.values()):.4f}",
    ]
