"""From the records of all rounds to one row for each contender."""

import statistics
from typing import Any

import machine
from contenders import CONTENDERS
from rounds import BATCH_SIZE

Record = dict[str, Any]


def later(record: Record, key: str) -> float:
    """Return the median over the epochs after the first, which has the warm-up in it."""
    epochs = record["epochs"][1:] or record["epochs"]
    return statistics.median(epoch[key] for epoch in epochs)


def rows(speed: dict[str, Any], model: str) -> list[dict[str, Any]]:
    """Return a row for each contender of a model, in the order of `CONTENDERS`.

    Args:
        speed: the result of the rounds.
        model: `logistic` or `cnn`.
    """
    by_name: dict[str, dict[int, Record]] = {}
    for record in speed["runs"]:
        if record["model"] == model and "failed" not in record:
            by_name.setdefault(record["contender"], {})[record["round"]] = record
    made = [
        row(name, by_name[name], by_name, speed, model) for name in CONTENDERS if name in by_name
    ]
    peers = [r for r in made if r["kind"] == "peer"]
    fastest = min(peers, key=lambda r: r["epoch_seconds"], default=None)
    for r in made:
        r["fastest_peer"] = fastest["title"] if fastest else None
        r["of_fastest_peer"] = fastest and fastest["epoch_seconds"] / r["epoch_seconds"]
    return made


def row(
    name: str,
    runs: dict[int, Record],
    everyone: dict[str, dict[int, Record]],
    speed: dict[str, Any],
    model: str,
) -> dict[str, Any]:
    """Return medians over the rounds, and the range of the ratio to the tutorial's loop."""
    steps = next(iter(runs.values()))["steps"]
    step = {number: later(record, "train_seconds") / steps for number, record in runs.items()}
    epoch = {number: later(record, "seconds") for number, record in runs.items()}

    def median(key: str) -> float:
        return statistics.median(record[key] for record in runs.values())

    ratios = [
        later(other, "seconds") / epoch[number]
        for number, other in everyone.get("tutorial", {}).items()
        if number in epoch
    ]
    over_hand = [
        step[number] - later(other, "train_seconds") / steps
        for number, other in everyone.get("hand_loop", {}).items()
        if number in step
    ]
    seconds, step_seconds = statistics.median(epoch.values()), statistics.median(step.values())
    return {
        "name": name,
        "title": CONTENDERS[name].title,
        "kind": CONTENDERS[name].kind,
        "rounds": len(runs),
        "epoch_seconds": seconds,
        "epoch_range": (min(epoch.values()), max(epoch.values())),
        "samples_per_second": speed["samples"] / seconds,
        "steps_per_second": 1 / step_seconds,
        "step_us": step_seconds * 1e6,
        "over_hand_us": statistics.median(over_hand) * 1e6 if over_hand else None,
        "of_tutorial": statistics.median(ratios) if ratios else None,
        "of_tutorial_range": (min(ratios), max(ratios)) if ratios else None,
        "of_limit": limit(speed, model) / step_seconds,
        "first_step_seconds": median("first_step_seconds"),
        "warm_up_seconds": median("warm_up_seconds"),
        "peak_rss_mib": median("peak_rss_mib"),
        "accuracy": median("accuracy"),
        "valid_loss": median("valid_loss"),
    }


def limit(speed: dict[str, Any], model: str) -> float:
    """Return the seconds that this machine needs for a step at the very least."""
    work, limits = machine.work_of(model), speed["limits"]
    return BATCH_SIZE * max(
        work["flops"] / limits["flops_per_second"], work["bytes"] / limits["bytes_per_second"]
    )


def failures(speed: dict[str, Any], model: str) -> dict[str, str]:
    """Return why a contender has no row."""
    return {
        CONTENDERS[record["contender"]].title: record["failed"]
        for record in speed["runs"]
        if record["model"] == model and "failed" in record
    }
