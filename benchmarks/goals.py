"""The goals that were set before anything was measured, and what a machine gave."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import table
from contenders import MODELS
from turns import ratio

Row = list[str]
COLUMNS = ["", "goal", "measured", "reached"]
TEXT = """\
They were set before anything was measured; [the log](log.md) says what was tried for those that
are not reached. Ratios are of speed, unless they say memory or time.
"""


def rows(sections: Sequence[dict[str, Any]]) -> list[Row]:
    """Return a row for each goal whose figures are among the results of a machine."""
    by_name = {section["name"]: section for section in sections}
    return [row for name, of in GOALS.items() if name in by_name for row in of(by_name[name])]


def at_least(what: str, goal: float, value: float, shape: str = ".2f") -> Row:
    """Return the row of a goal that is reached from below."""
    reached = "yes" if value >= goal else "no"
    return [what, f"at least {goal:{shape}}", f"{value:{shape}}", reached]


def at_most(what: str, goal: float, value: float, shape: str = ".2f") -> Row:
    """Return the row of a goal that is reached from above."""
    reached = "yes" if value <= goal else "no"
    return [what, f"at most {goal:{shape}}", f"{value:{shape}}", reached]


def of_speed(speed: dict[str, Any]) -> Iterator[Row]:
    """Yield the goals beside the peers, for the models that were compared."""
    for model, goal in (("logistic", 2.0), ("cnn", 1.7)):
        by_name = {row["name"]: row for row in table.rows(speed, model)}
        ours, title = by_name.get("plainfit"), MODELS[model]
        if ours is None or ours["of_fastest_peer"] is None:
            continue
        beside = f"{title}, by the fastest peer's, {ours['fastest_peer']}"
        yield at_least(beside, goal, ours["of_fastest_peer"])
        compiled, small = by_name.get("plainfit-compile"), by_name.get("plainfit-bytes")
        if model == "cnn" and compiled:
            yield at_least(f"{beside}, with `compile`", 3.5, compiled["of_fastest_peer"])
        if model == "logistic" and ours["of_tutorial"]:
            yield at_least(f"{title}, by the tutorial's loop", 5.0, ours["of_tutorial"])
        if model == "logistic" and small and "tutorial" in by_name:
            memory = small["peak_rss_mib"] / by_name["tutorial"]["peak_rss_mib"]
            yield at_most("peak memory, images as bytes, by the tutorial's", 0.6, memory)


def of_overhead(section: dict[str, Any]) -> Iterator[Row]:
    """Yield the goal for what `fit` adds to the bare loop."""
    added = ratio(section["raw"]["fit"], section["raw"]["bare loop"])[0] - 1
    yield at_most("time that `fit` adds to the bare loop", 0.02, added, ".1%")


def of_progress_cost(section: dict[str, Any]) -> Iterator[Row]:
    """Yield the goal for the progress bar."""
    added = ratio(section["raw"]["bar"], section["raw"]["no bar"])[0] - 1
    yield at_most("time that the progress bar adds", 0.01, added, ".1%")


def of_import_time(section: dict[str, Any]) -> Iterator[Row]:
    """Yield the goal for the import of all that `fit` needs."""
    by_line = {line: value for line, _, value in section["rows"]}
    value = float(by_line["`import torch, plainfit; plainfit.fit`"])
    yield at_most("time to import `plainfit.fit`, by that of torch", 1.05, value)


def of_folder(section: dict[str, Any]) -> Iterator[Row]:
    """Yield the goal for a folder of images."""
    yield at_least("60,000 JPEG files, by the stock `DataLoader`", 2.0, section["ratio"])


def of_accuracy(section: dict[str, Any]) -> Iterator[Row]:
    """Yield the goals for the presets: a mean test accuracy, and the seconds it may take."""
    goals = {"fastest": (0.990, 5), "fast": (0.995, 30), "accurate": (0.997, 150)}
    for title, _, seconds, accuracy, *_ in section["rows"]:
        name = title.strip("`").removeprefix("--preset ")
        if name in goals:
            share, limit = goals[name]
            yield at_least(f"test accuracy of {title}", share, float(accuracy), ".4f")
            yield at_most(f"seconds of {title}", limit, float(seconds), ".1f")


GOALS: dict[str, Callable[[dict[str, Any]], Iterator[Row]]] = {
    "speed": of_speed,
    "overhead": of_overhead,
    "progress_cost": of_progress_cost,
    "import_time": of_import_time,
    "folder": of_folder,
    "accuracy": of_accuracy,
}
