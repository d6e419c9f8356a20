"""The page about a study: one HTML file that needs no other and no network."""

from pathlib import Path
from typing import Any

import optuna

from plainfit.report.page import Card, facts
from plainfit.report.reading import duration, figure_text
from plainfit.report.rendering import render_to
from plainfit.tuning.pictures import history, parallel, slices
from plainfit.tuning.plan import Plan
from plainfit.tuning.results import StudyResult, spread
from plainfit.tuning.table import cells, counts, headings, settings_text

FILE = "study.html"
FEWEST = 10  # complete trials, from which the importance of settings is estimated


def write_page(study: StudyResult, optuna_study: optuna.Study, plan: Plan) -> Path:
    """Write `study.html` in the study's folder, and return its path.

    Raises:
        RunError: if it cannot be written.
    """
    ranked = study.ranked()
    others = [trial for trial in study.trials if trial.value is None]
    searched = {f"{name} (searched)": str(spec) for name, spec in plan.space.items()}
    rest = {n: v for n, v in plan.to_dict().items() if n not in ("space", "fixed")}
    return render_to(
        study.folder / FILE,
        "study.html.jinja",
        title=study.folder.resolve().name,
        counts=counts(study),
        cards=cards(study),
        history=history(study),
        importance=importance(study, optuna_study, plan.seed),
        parallel=parallel(study, plan.space),
        slices=slices(study, plan.space),
        trials={"head": headings(study), "rows": [cells(study, t) for t in [*ranked, *others]]},
        notes=[f"Trial {t.number} {t.state}: {t.note}" for t in study.trials if t.note],
        about=facts(searched | rest | plan.fixed),
    )


def cards(study: StudyResult) -> list[Card]:
    """Return the figures to see first."""
    seconds = sum(trial.seconds or 0.0 for trial in study.trials)
    made = [Card("trials", str(len(study.trials))), Card("time of all", duration(seconds))]
    if study.repeated:
        mean, deviation = (figure_text(study.monitor, x) for x in spread(study.repeated))
        note = f"± {deviation}, {len(study.repeated)} seeds that the search had not seen"
        made.insert(0, Card(f"{study.monitor}, repeated", mean, note))
    if study.best is not None:
        figure = figure_text(study.monitor, study.best.value)
        note = f"trial {study.best.number}: {settings_text(study.best)}"
        made.insert(0, Card(f"{study.monitor}, best", figure, note))
    return made


def importance(study: StudyResult, optuna_study: optuna.Study, seed: int) -> list[dict[str, Any]]:
    """Return how much of the figure's variance each setting explains, the most first.

    By fANOVA (Hutter et al. 2014, proceedings.mlr.press/v32/hutter14.html). Empty where there are
    too few trials, or all came to the same.
    """
    values = {trial.value for trial in study.ranked()}
    if study.count("complete") < FEWEST or len(values) == 1:
        return []
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed % 2**32)
    shares = optuna.importance.get_param_importances(optuna_study, evaluator=evaluator)
    return [{"name": name, "share": share} for name, share in shares.items()]
