"""The page about a study: one HTML file that needs no other file and no network."""

import math
from itertools import accumulate
from pathlib import Path
from typing import Any

import optuna
from markupsafe import Markup

from plainfit.report.charts import (
    Axis,
    Chart,
    Series,
    draw_chart,
    draw_parallel,
    number_text,
    spans_much,
)
from plainfit.report.rendering import Card, duration, facts, render_to, value_text
from plainfit.tuning.results import StudyResult, TrialResult, setting_text
from plainfit.tuning.space import Choices, Spec, StudyConfig

FILE = "study.html"
MIN_TRIALS = 10  # complete, to estimate the importance of settings


def write_page(study: StudyResult, optuna_study: optuna.Study, config: StudyConfig) -> Path:
    """Write `study.html` in the study's folder, and return its path."""
    ranked = study.ranked()
    others = [trial for trial in study.trials if trial.value is None]
    searched = {f"{name} (searched)": str(spec) for name, spec in config.space.items()}
    rest = {n: v for n, v in config.to_dict().items() if n not in ("space", "fixed")}
    shown = [
        trial for trial in study.trials if trial.last is not None and math.isfinite(trial.last)
    ]
    return render_to(
        study.folder / FILE,
        "study.html.jinja",
        title=study.folder.resolve().name,
        counts=study.counts(),
        cards=cards(study),
        history=history(study, shown),
        importance=importance(study, optuna_study, config.seed),
        parallel=parallel(study, config.space),
        slices=[chart for name, spec in config.space.items()
                if (chart := slice_of(study, shown, name, spec))],
        trials={
            "head": study.header(), "rows": [study.cells(trial) for trial in [*ranked, *others]],
        },
        notes=[f"Trial {t.number} {t.state}: {t.note}" for t in study.trials if t.note],
        about=facts(searched | rest | config.fixed),
    )  # fmt: skip


def cards(study: StudyResult) -> list[Card]:
    """Return the values at the top."""
    seconds = sum(trial.seconds or 0.0 for trial in study.trials)
    made = [Card("trials", str(len(study.trials))), Card("total time", duration(seconds))]
    if study.repeated:
        mean, deviation = (value_text(study.monitor, x) for x in study.mean_repeated())
        note = f"± {deviation}, {len(study.repeated)} seeds that the search had not seen"
        made.insert(0, Card(f"{study.monitor}, repeated", mean, note))
    if study.best is not None:
        value = value_text(study.monitor, study.best.value)
        note = f"trial {study.best.number}: {study.best.settings_text}"
        made.insert(0, Card(f"{study.monitor}, best", value, note))
    return made


def importance(study: StudyResult, optuna_study: optuna.Study, seed: int) -> list[dict[str, Any]]:
    """Return the share of the value's variance that each setting explains, the largest first.

    By fANOVA (Hutter et al. 2014, proceedings.mlr.press/v32/hutter14.html). Empty if there are
    too few trials, or all have the same value.
    """
    values = {trial.value for trial in study.ranked()}
    if study.count("complete") < MIN_TRIALS or len(values) == 1:
        return []
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed % 2**32)
    shares = optuna.importance.get_param_importances(optuna_study, evaluator=evaluator)
    return [{"name": name, "share": share} for name, share in shares.items()]


def history(study: StudyResult, shown: list[TrialResult]) -> Chart | None:
    """Draw the value of each trial, and the best so far; None before there is a value."""
    done = [(t.number, t.value) for t in shown if t.value is not None]
    better = min if study.lower_is_better else max
    best = list(accumulate((value for _, value in done), better))
    line = Series("best so far", [number for number, _ in done], best, 2, has_marks=False)
    points = points_of(study, [(float(trial.number), trial) for trial in shown])
    return draw_chart(study.monitor, Axis("trial", whole=True), [*points, line], log=True,
                      summary=summary_of(study, "trial", shown))  # fmt: skip


def slice_of(study: StudyResult, shown: list[TrialResult], name: str, spec: Spec) -> Chart | None:
    """Draw the value of each trial by one setting."""
    points = points_of(study, [(place_of(spec, trial.settings[name]), trial) for trial in shown])
    return draw_chart(study.monitor, axis_of(name, spec), points, log=True,
                      summary=summary_of(study, name, shown))  # fmt: skip


def parallel(study: StudyResult, space: dict[str, Spec]) -> Markup | None:
    """Draw the complete trials across an axis for each setting and one for the value."""
    ranked = [
        (t, t.value) for t in study.ranked() if t.value is not None and math.isfinite(t.value)
    ]
    if not ranked:
        return None
    values = [value for _, value in ranked]
    low, high = min(values), max(values)
    room = 0.0 if low < high else abs(low) / 10 or 1.0
    last = Axis(study.monitor, (low - room, high + room), log=spans_much(values))
    axes = [*(axis_of(name, spec) for name, spec in space.items()), last]
    rows = [
        [*(place_of(spec, trial.settings[name]) for name, spec in space.items()), value]
        for trial, value in reversed(ranked)
    ]
    texts = [tooltip(study, trial) for trial, _ in reversed(ranked)]
    summary = f"{len(ranked)} complete trials; {texts[-1]}"
    return draw_parallel(axes, rows, texts, summary)


def points_of(study: StudyResult, trials: list[tuple[float, TrialResult]]) -> list[Series]:
    """Return a point for each trial, complete ones apart from those that were stopped."""
    series = []
    for color, (name, complete) in enumerate([("complete", True), ("stopped early", False)]):
        group = [(x, t) for x, t in trials if (t.value is not None) == complete]
        if group:
            ys = [trial.last or 0.0 for _, trial in group]
            texts = [tooltip(study, trial) for _, trial in group]
            series.append(Series(name, [x for x, _ in group], ys, color, texts))
    return series


def tooltip(study: StudyResult, trial: TrialResult) -> str:
    value = number_text(trial.last) if trial.last is not None else "none"
    return f"trial {trial.number}: {study.monitor} {value} with {trial.settings_text}"


def summary_of(study: StudyResult, x_label: str, shown: list[TrialResult]) -> str:
    return f"{study.monitor} by {x_label}, {len(shown)} trials"


def axis_of(name: str, spec: Spec) -> Axis:
    """Return an axis for everything that is searched of a setting."""
    if isinstance(spec, Choices):
        return Axis(name, choices=[setting_text(value) for value in spec.values])
    return Axis(name, (spec.low, spec.high), spec.log, isinstance(spec.low, int))


def place_of(spec: Spec, value: Any) -> float:
    """Return the place of a value on the axis: a choice's place among the choices."""
    return float(spec.values.index(value) if isinstance(spec, Choices) else value)
