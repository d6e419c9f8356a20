"""The results of a study so far: as a table, as single lines, as one HTML page."""

import math
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from plainfit.report.rendering import (
    NOTHING,
    Card,
    duration,
    facts,
    plain_text,
    render_to,
    value_text,
)
from plainfit.tuning.space import Choices, Spec, StudyConfig

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial
    from rich.console import Console

NOTE, VALUES = "note", "values"  # attributes of a trial
MAX_ROWS = 10  # trials in a table
REFRESH = 0.2  # seconds between two drawings
FILE = "study.html"
MIN_TRIALS = 10  # complete, to estimate the importance of settings


@dataclass(frozen=True)
class TrialResult:
    """A combination of settings and its results so far."""

    number: int
    state: str
    """complete, pruned, diverged, failed, running, or waiting for a process to resume it."""
    settings: dict[str, Any]
    value: float | None
    """The mean over the seeds of the monitored value after the last epoch; None before."""
    values: list[float]
    """The value of each seed."""
    intermediate_values: list[float]
    """The value after each epoch of the first seed."""
    seconds: float | None
    """From when a process last took it to its end; None before."""
    folder: Path
    note: str
    """Why it diverged or failed."""

    @property
    def last(self) -> float | None:
        return next(reversed(self.intermediate_values), None) if self.value is None else self.value

    @property
    def settings_text(self) -> str:
        return ", ".join(f"{name} {setting_text(value)}" for name, value in self.settings.items())


@dataclass(frozen=True)
class StudyResult:
    """The results of a study so far; it prints as a table.

    Attributes:
        folder: with the journal, the page `study.html`, and a folder for each trial.
        monitor: the name of the value.
        mode: `min` or `max`, which values are better.
        trials: in the order in which they were drawn.
        repeated: values of the best trial's settings with seeds that the search had not seen.
    """

    folder: Path
    monitor: str
    mode: str
    trials: list[TrialResult]
    repeated: list[float] = field(default_factory=list)

    @property
    def best(self) -> TrialResult | None:
        """The trial with the best value; None before one is complete."""
        return next(iter(self.ranked()), None)

    def ranked(self) -> list[TrialResult]:
        """Return the complete trials, the best first."""
        sign = 1 if self.mode == "min" else -1
        done = [(sign * t.value, t) for t in self.trials if t.value is not None]
        return [trial for _, trial in sorted(done, key=lambda pair: pair[0])]

    def count(self, state: str) -> int:
        return sum(trial.state == state for trial in self.trials)

    def mean_repeated(self) -> tuple[float, float]:
        """Return mean and standard deviation of `repeated`; the deviation of one value is 0."""
        deviation = statistics.stdev(self.repeated) if len(self.repeated) > 1 else 0.0
        return statistics.fmean(self.repeated), deviation

    def to_dict(self) -> dict[str, Any]:
        """Return the results as JSON takes them."""
        return {
            "study": str(self.folder),
            "monitor": self.monitor,
            "best": self.best and self.best.number,
            "trials": [asdict(trial) | {"folder": str(trial.folder)} for trial in self.trials],
            "repeated": self.repeated,
        }

    def __str__(self) -> str:
        rows = self.table(self.shown())
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.rjust, row, widths)) for row in rows]
        return "\n".join([*lines, f"trials {self.counts()}"])

    def table(self, trials: Iterable[TrialResult]) -> list[list[str]]:
        names = list(dict.fromkeys(name for trial in self.trials for name in trial.settings))
        rows = [["trial", self.monitor, *names, "epochs", "seconds", "state"]]
        for trial in trials:
            epochs = len(trial.intermediate_values)
            rows.append([
                str(trial.number),
                value_text(self.monitor, trial.last),
                *(setting_text(trial.settings.get(name)) for name in names),
                str(epochs) if epochs else NOTHING,
                NOTHING if trial.seconds is None else f"{trial.seconds:.1f}",
                trial.state,
            ])  # fmt: skip
        return rows

    def shown(self) -> list[TrialResult]:
        return self.ranked()[:MAX_ROWS] + [t for t in self.trials if t.state == "running"]

    def counts(self) -> str:
        counts = Counter(trial.state for trial in self.trials)
        return ", ".join(f"{n} {state}" for state, n in counts.items()) or "no trials yet"

    def trial_line(self, number: int) -> str:
        trial = next(trial for trial in self.trials if trial.number == number)
        value = value_text(self.monitor, trial.last)
        best = " (the best so far)" if self.best is trial else ""
        note = f": {trial.note}" if trial.note else ""
        start = f"trial {number:4} {trial.state:8} {self.monitor} {value}"
        return f"{start}  {trial.settings_text}{best}{note}"

    def best_line(self) -> str:
        if (best := self.best) is None:
            return "no trial is complete yet"
        value = value_text(self.monitor, best.value)
        return f"trial {best.number}: {self.monitor} {value} with {best.settings_text}"

    def repeated_line(self) -> str:
        values = [*self.mean_repeated(), min(self.repeated), max(self.repeated)]
        summary = "{} ± {} ({} to {})".format(*(value_text(self.monitor, x) for x in values))
        return f"{self.monitor} {summary} with {plural(len(self.repeated), 'further seed')}"


def result_of(trial: "FrozenTrial", folder: Path) -> TrialResult:
    note = str(trial.user_attrs.get(NOTE, ""))
    state = trial.state.name.lower()
    return TrialResult(
        trial.number,
        "failed" if state == "fail" else "diverged" if state == "pruned" and note else state,
        dict(trial.params),
        float(trial.value) if state == "complete" else None,  # type: ignore[arg-type]  # or damaged
        list(trial.user_attrs.get(VALUES, [])),
        [float(value) for _, value in sorted(trial.intermediate_values.items())],
        trial.duration.total_seconds() if trial.duration else None,
        folder,
        note,
    )


def setting_text(value: Any) -> str:
    """Return a setting's value, short.

    >>> setting_text(0.012345678), setting_text(None), setting_text("mlp")
    ('0.01235', '-', 'mlp')
    """
    return f"{value:.4g}" if isinstance(value, float) else plain_text(value)


@contextmanager
def live_table(console: "Console", trials: int) -> Iterator[Callable[[StudyResult], None]]:
    """Show the table on a terminal; give what draws it again, as `tune(watch=...)` takes it."""
    from rich.live import Live
    from rich.table import Column, Table

    drawn = 0.0

    def draw(study: StudyResult) -> None:
        nonlocal drawn
        if time.monotonic() - drawn < REFRESH:
            return
        drawn = time.monotonic()
        title = f"{study.folder}: {len(study.trials)} of {trials} trials, {study.counts()}"
        head, *rows = study.table(study.shown())
        table = Table(*(Column(name, justify="right") for name in head),
                      title=title, title_justify="left")  # fmt: skip
        for trial, row in zip(study.shown(), rows, strict=True):
            style = "bold green" if trial is study.best else "dim" if trial.value is None else None
            table.add_row(*row, style=style)
        live.update(table, refresh=True)

    redirect = sys.stdout.isatty()  # lines for a file must reach it
    live = Live(console=console, auto_refresh=False, transient=True, redirect_stdout=redirect)
    with live:
        yield draw


def write_page(study: StudyResult, optuna_study: "Study", config: StudyConfig) -> Path:
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


def importance(study: StudyResult, optuna_study: "Study", seed: int) -> list[dict[str, Any]]:
    """Return the share of the value's variance that each setting explains, the largest first.

    By fANOVA (Hutter et al. 2014, proceedings.mlr.press/v32/hutter14.html). Empty if there are
    too few trials, or all have the same value.
    """
    import optuna

    values = {trial.value for trial in study.ranked()}
    if study.count("complete") < MIN_TRIALS or len(values) == 1:
        return []
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed % 2**32)
    shares = optuna.importance.get_param_importances(optuna_study, evaluator=evaluator)
    return [{"name": name, "share": share} for name, share in shares.items()]


def history(study: StudyResult, trials: list[TrialResult]) -> Chart | None:
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
