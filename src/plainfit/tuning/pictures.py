"""The pictures of a study as numbers for inline SVG, on the axes of the other pages' charts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from plainfit.report.charts import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    Axis,
    Chart,
    DrawnLine,
    Mark,
    Tick,
    number_text,
    padded,
    vertical_axis,
)
from plainfit.tuning.results import StudyResult, TrialResult
from plainfit.tuning.space import Choices, Spec
from plainfit.tuning.table import setting_text

COMPLETE, STOPPED, BEST = "c0 d0", "c1 d0", "c2 d0"  # styles
INSET = 12  # of the first and the last value of an axis, so that marks are whole
WIDTH, SIDE = 720, 60  # of the parallel coordinates
LONGEST = 10  # characters of a choice on an axis


@dataclass(frozen=True)
class Upright:
    """One of the parallel axes."""

    name: str
    x: float
    ticks: list[Tick]


@dataclass(frozen=True)
class Thread:
    """A trial across the parallel axes."""

    points: str
    percent: int
    """How good it is among the others: 100 is the best."""
    text: str


@dataclass(frozen=True)
class Parallel:
    """Parallel coordinates."""

    axes: list[Upright]
    threads: list[Thread]
    """The best last, so that it is on top."""
    summary: str


def history(study: StudyResult) -> Chart | None:
    """Return the figure of each trial, and the best so far; None before there is one."""
    shown = [t for t in study.trials if is_shown(t)]
    if not shown:
        return None
    x_axis = Axis(*padded(t.number for t in study.trials), LEFT + INSET, RIGHT - INSET)
    y_axis = vertical_axis([t.last for t in shown if t.last is not None], log=True)
    places = {t.number: x_axis.place(t.number) for t in shown}
    done = [t for t in shown if t.value is not None]
    best_of = min if study.lower_is_better else max
    best = accumulate((t.value for t in done if t.value is not None), best_of)
    path = " ".join(
        f"{places[t.number]},{y_axis.place(y)}" for t, y in zip(done, best, strict=True)
    )
    lines = [*marked(study, shown, places, y_axis), DrawnLine("the best so far", BEST, [path], [])]
    return chart(study, "trial", lines, x_axis.ticks(whole=True), y_axis)


def slices(study: StudyResult, space: dict[str, Spec]) -> list[Chart]:
    """Return the figure by each setting."""
    shown = [t for t in study.trials if is_shown(t)]
    if not shown:
        return []
    y_axis = vertical_axis([t.last for t in shown if t.last is not None], log=True)
    drawn = []
    for name, spec in space.items():
        axis = axis_of(spec, LEFT + INSET, RIGHT - INSET)
        places = {t.number: place(spec, axis, t.settings[name]) for t in shown}
        lines = marked(study, shown, places, y_axis)
        drawn.append(chart(study, name, lines, ticks_of(spec, axis), y_axis))
    return drawn


def parallel(study: StudyResult, space: dict[str, Spec]) -> Parallel | None:
    """Return the complete trials as threads across an axis for each setting and the figure."""
    ranked = [t for t in study.ranked() if is_shown(t)]
    if not ranked:
        return None
    y_axis = vertical_axis([t.value for t in ranked if t.value is not None], log=True)
    axes = {name: axis_of(spec, BOTTOM, TOP) for name, spec in space.items()}
    step = (WIDTH - 2 * SIDE) / len(space)
    xs = [SIDE + step * number for number in range(len(space) + 1)]
    uprights = [
        *(Upright(name, x, ticks_of(space[name], axis))
          for x, (name, axis) in zip(xs, axes.items(), strict=False)),
        Upright(study.monitor, xs[-1], y_axis.ticks()),
    ]  # fmt: skip
    threads = []
    for number, trial in enumerate(reversed(ranked), 1):
        ys = [place(space[name], axis, trial.settings[name]) for name, axis in axes.items()]
        ys.append(y_axis.place(trial.value or 0.0))
        points = " ".join(f"{x:.1f},{y}" for x, y in zip(xs, ys, strict=True))
        threads.append(Thread(points, round(100 * number / len(ranked)), told(study, trial)))
    return Parallel(uprights, threads, f"{len(ranked)} complete trials; {told(study, ranked[0])}")


def is_shown(trial: TrialResult) -> bool:
    """Return whether a trial has a figure that is a number."""
    return trial.last is not None and math.isfinite(trial.last)


def marked(
    study: StudyResult, trials: Sequence[TrialResult], places: dict[int, float], y_axis: Axis
) -> list[DrawnLine]:
    """Return a mark for each trial, those that are complete apart from the others."""
    groups = {
        ("complete", COMPLETE): [t for t in trials if t.value is not None],
        ("stopped early", STOPPED): [t for t in trials if t.value is None],
    }
    return [
        DrawnLine(name, style, [],
                  [Mark(places[t.number], y_axis.place(t.last or 0.0), told(study, t))
                   for t in group])
        for (name, style), group in groups.items()
        if group
    ]  # fmt: skip


def told(study: StudyResult, trial: TrialResult) -> str:
    """Say what a trial was and came to."""
    settings = ", ".join(f"{name} {setting_text(v)}" for name, v in trial.settings.items())
    figure = number_text(trial.last) if trial.last is not None else "none"
    return f"trial {trial.number}: {study.monitor} {figure} with {settings}"


def chart(
    study: StudyResult,
    x_label: str,
    lines: list[DrawnLine],
    ticks: list[Tick],
    y_axis: Axis,
) -> Chart:
    """Return a chart of the figure."""
    note = "logarithmic scale" if y_axis.log else ""
    summary = f"{study.monitor} by {x_label}, {sum(len(line.marks) for line in lines)} trials"
    return Chart(study.monitor, x_label, note, summary, lines, ticks, y_axis.ticks())


def axis_of(spec: Spec, start: float, end: float) -> Axis:
    """Return an axis for all that is searched of a setting; choices stand side by side."""
    if isinstance(spec, Choices):
        return Axis(*padded(range(len(spec.values))), start, end)
    return Axis(spec.low, spec.high, start, end, spec.log)


def place(spec: Spec, axis: Axis, value: float) -> float:
    """Return where a setting's value is."""
    return axis.place(spec.values.index(value) if isinstance(spec, Choices) else value)


def ticks_of(spec: Spec, axis: Axis) -> list[Tick]:
    """Return the marks of a setting's axis: round numbers, or the choices."""
    if not isinstance(spec, Choices):
        return axis.ticks(whole=isinstance(spec.low, int))
    texts = [setting_text(value) for value in spec.values]
    short = [text if len(text) <= LONGEST else text[: LONGEST - 1] + "…" for text in texts]
    return [Tick(axis.place(number), text) for number, text in enumerate(short)]
