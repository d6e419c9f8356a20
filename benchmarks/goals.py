"""The goals that were set beforehand, and what a machine gave."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import import_time
import table
from accuracy import PRESETS
from contenders import MODELS
from turns import ratio

Row = list[str]
COLUMNS = ["", "goal", "measured", "reached"]
TEXT = """\
The goals were set before what they ask for was built; [the log](log.md) describes the attempts for
those that are not reached. Ratios are ratios of speed, unless they say memory or time.
"""


def rows(sections: Sequence[dict[str, Any]]) -> list[Row]:
    """Return a row for each goal whose figures are among the results of a machine."""
    by_name = {section["name"]: section for section in sections}
    return [row for name, of in GOALS.items() if name in by_name for row in of(by_name[name])]


def at_least(what: str, goal: float, value: float, shape: str = ".2f") -> Row:
    """Return the row of a goal that is reached from below."""
    return row("at least", value >= goal, what, goal, value, shape)


def at_most(what: str, goal: float, value: float, shape: str = ".2f") -> Row:
    """Return the row of a goal that is reached from above."""
    return row("at most", value <= goal, what, goal, value, shape)


def row(bound: str, reached: bool, what: str, goal: float, value: float, shape: str) -> Row:
    """Return the cells of a goal."""
    return [what, f"{bound} {goal:{shape}}", f"{value:{shape}}", "yes" if reached else "no"]


def of_speed(speed: dict[str, Any]) -> Iterator[Row]:
    """Yield the goals beside the peers and the tutorial's loop, for what was compared."""
    logistic, cnn = ({r["name"]: r for r in table.rows(speed, m)} for m in ("logistic", "cnn"))
    program = ", an epoch as one program"
    yield from of_peers("logistic", logistic, "plainfit", 2.0)
    yield from of_peers("logistic", logistic, "plainfit-epoch-bytes", 2.0, program)
    for name, goal, how in (("plainfit", 5.0, ""), ("plainfit-epoch-bytes", 4.0, program)):
        if by_tutorial := logistic.get(name, {}).get("of_tutorial"):
            yield at_least(f"{MODELS['logistic']}, by the tutorial's loop{how}", goal, by_tutorial)
    if {"plainfit-bytes", "tutorial"} <= logistic.keys():
        ours, theirs = (logistic[name]["peak_rss_mib"] for name in ("plainfit-bytes", "tutorial"))
        yield at_most("peak memory, images as bytes, by the tutorial's", 0.6, ours / theirs)
    yield from of_peers("cnn", cnn, "plainfit", 1.7)
    yield from of_peers("cnn", cnn, "plainfit-epoch-channels-last", 2.0, program)


def of_peers(
    model: str, by_name: dict[str, dict[str, Any]], name: str, goal: float, option: str = ""
) -> Iterator[Row]:
    """Yield the goal of one of ours beside the fastest peer, if both took part."""
    ours = by_name.get(name)
    if ours and ours["fastest_peer"]:
        what = f"{MODELS[model]}, by the fastest peer's, {ours['fastest_peer']}{option}"
        yield at_least(what, goal, ours["of_fastest_peer"])


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
    value = float(by_line[f"then `{import_time.FIT}`"])
    yield at_most("time to import `plainfit.fit`, by that of torch", 1.05, value)


def of_folder(section: dict[str, Any]) -> Iterator[Row]:
    """Yield the goal for a folder of images."""
    yield at_least("60,000 JPEG files, by the stock `DataLoader`", 2.0, section["ratio"])


def of_accuracy(section: dict[str, Any]) -> Iterator[Row]:
    """Yield the goals for the presets: a mean test accuracy, and the seconds it may take."""
    for title, _, seconds, accuracy, *_ in section["rows"]:
        name = title.strip("`").removeprefix("--preset ")
        if name in PRESETS:
            share, limit = PRESETS[name]
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
