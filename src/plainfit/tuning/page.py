"""The page about a study: one HTML file that needs no other file and no network."""

import math
from itertools import accumulate
from pathlib import Path
from typing import Any

import optuna
from markupsafe import Markup

from plainfit.common.errors import plural
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
    others = [trial for trial in study.trials if trial.value is None]
    head, *rows = study.table([*study.ranked(), *others])
    searched = {f"{name} (searched)": str(spec) for name, spec in config.space.items()}
    rest = {n: v for n, v in config.to_dict().items() if n not in ("space", "fixed")}
    drawn = [t for t in study.trials if t.last is not None and math.isfinite(t.last)]
    slices = [
        draw_trials(
            study, axis_of(name, spec), [(place_of(spec, t.settings[name]), t) for t in drawn]
        )
        for name, spec in config.space.items()
    ]
    return render_to(
        study.folder / FILE,
        "study.html.jinja",
        title=study.folder.resolve().name,
        counts=study.counts(),
        cards=cards(study),
        history=history(study, drawn),
        importance=importance(study, optuna_study, config.seed),
        parallel=parallel(study, config.space),
        slices=[chart for chart in slices if chart],
        trials={"head": head, "rows": rows},
        notes=[f"Trial {t.number} {t.state}: {t.note}" for t in study.trials if t.note],
        about=facts(searched | rest | config.fixed),
    )


def cards(study: StudyResult) -> list[Card]:
    made = []
    if study.best is not None:
        value = value_text(study.monitor, study.best.value)
        note = f"trial {study.best.number}: {study.best.settings_text}"
        made.append(Card(f"{study.monitor}, best", value, note))
    if study.repeated:
        mean, deviation = (value_text(study.monitor, x) for x in study.mean_repeated())
        note = f"± {deviation}, {plural(len(study.repeated), 'seed')} that the search had not seen"
        made.append(Card(f"{study.monitor}, repeated", mean, note))
    seconds = sum(trial.seconds or 0.0 for trial in study.trials)
    return [*made, Card("trials", str(len(study.trials))), Card("total time", duration(seconds))]


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


def history(study: StudyResult, trials: list[TrialResult]) -> Chart | None:
    """Draw the value of each trial, and the best so far."""
    done = [(t.number, t.value) for t in trials if t.value is not None]
    better = min if study.mode == "min" else max
    best = list(accumulate((value for _, value in done), better))
    line = Series("best so far", [number for number, _ in done], best, 2, has_marks=False)
    numbered = [(float(trial.number), trial) for trial in trials]
    return draw_trials(study, Axis("trial", whole=True), numbered, line)


def draw_trials(
    study: StudyResult, axis: Axis, trials: list[tuple[float, TrialResult]], *lines: Series
) -> Chart | None:
    """Draw a point for each trial, by its place; complete ones apart from those stopped early."""
    points = []
    for color, (name, complete) in enumerate([("complete", True), ("stopped early", False)]):
        group = [
            (x, trial.last or 0.0, tooltip(study, trial))
            for x, trial in trials
            if (trial.value is not None) == complete
        ]
        if group:
            xs, ys, texts = zip(*group, strict=True)
            points.append(Series(name, xs, ys, color, texts))
    summary = f"{study.monitor} by {axis.label}, {plural(len(trials), 'trial')}"
    return draw_chart(study.monitor, axis, [*points, *lines], log=True, summary=summary)


def parallel(study: StudyResult, space: dict[str, Spec]) -> Markup | None:
    """Draw the complete trials across an axis for each setting and one for the value."""
    rows, values, texts = [], [], []
    for trial in reversed(study.ranked()):
        values.append(trial.value or 0.0)
        rows.append(
            [*(place_of(spec, trial.settings[name]) for name, spec in space.items()), values[-1]]
        )
        texts.append(tooltip(study, trial))
    if not rows:
        return None
    low, high = min(values), max(values)
    room = 0.0 if low < high else abs(low) / 10 or 1.0
    last = Axis(study.monitor, (low - room, high + room), log=spans_much(values))
    axes = [*(axis_of(name, spec) for name, spec in space.items()), last]
    return draw_parallel(axes, rows, texts, f"{len(rows)} complete trials; {texts[-1]}")


def tooltip(study: StudyResult, trial: TrialResult) -> str:
    value = number_text(trial.last or 0.0)
    return f"trial {trial.number}: {study.monitor} {value} with {trial.settings_text}"


def axis_of(name: str, spec: Spec) -> Axis:
    if isinstance(spec, Choices):
        return Axis(name, choices=[setting_text(value) for value in spec.values])
    return Axis(name, (spec.low, spec.high), spec.log, isinstance(spec.low, int))


def place_of(spec: Spec, value: Any) -> float:
    return float(spec.values.index(value) if isinstance(spec, Choices) else value)
