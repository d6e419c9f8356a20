"""A study as text: a line for each trial, the best first."""

import sys
import time
from typing import TYPE_CHECKING, Any

from plainfit.report.reading import NOTHING, figure_text, plain_text
from plainfit.tuning.results import StudyResult, TrialResult, spread

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

SHOWN = 10  # trials in a table
REFRESH = 0.2  # seconds between two drawings


def setting_text(value: Any) -> str:
    """Return a setting's value, short.

    >>> setting_text(0.012345678), setting_text(None), setting_text("mlp")
    ('0.01235', '-', 'mlp')
    """
    return f"{value:.4g}" if isinstance(value, float) else plain_text(value)


def cells(study: StudyResult, trial: TrialResult) -> list[str]:
    """Return a trial's line in the table, under `headings`."""
    return [
        str(trial.number),
        figure_text(study.monitor, trial.last),
        *(setting_text(trial.settings.get(name)) for name in names(study)),
        str(len(trial.figures)) if trial.figures else NOTHING,
        NOTHING if trial.seconds is None else f"{trial.seconds:.1f}",
        trial.state,
    ]


def names(study: StudyResult) -> list[str]:
    """Return what is searched."""
    return list(dict.fromkeys(name for trial in study.trials for name in trial.settings))


def headings(study: StudyResult) -> list[str]:
    """Return the headings of the table."""
    return ["trial", study.monitor, *names(study), "epochs", "seconds", "state"]


def top(study: StudyResult) -> list[TrialResult]:
    """Return the trials to show: the best first, then those that run."""
    return study.ranked()[:SHOWN] + [trial for trial in study.trials if trial.state == "running"]


def counts(study: StudyResult) -> str:
    """Return how many trials there are of each state."""
    states = dict.fromkeys(trial.state for trial in study.trials)
    return ", ".join(f"{study.count(state)} {state}" for state in states) or "no trials yet"


def lines(study: StudyResult) -> list[str]:
    """Return the best trials as a table of text."""
    rows = [headings(study), *(cells(study, trial) for trial in top(study))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        *("  ".join(f"{c:>{w}}" for c, w in zip(row, widths, strict=True)) for row in rows),
        f"trials {counts(study)}",
    ]


def trial_line(study: StudyResult, number: int) -> str:
    """Return a line about a trial that is over."""
    trial = next(trial for trial in study.trials if trial.number == number)
    figure = figure_text(study.monitor, trial.last)
    best = " (the best so far)" if study.best is trial else ""
    note = f": {trial.note}" if trial.note else ""
    return (
        f"trial {number:4} {trial.state:8} {study.monitor} {figure}  {settings_text(trial)}"
        f"{best}{note}"
    )


def settings_text(trial: TrialResult) -> str:
    """Return what a trial was made with."""
    return ", ".join(f"{name} {setting_text(value)}" for name, value in trial.settings.items())


def best_line(study: StudyResult) -> str:
    """Say which trial is the best, and what it was made with."""
    best = study.best
    if best is None:
        return "no trial is complete yet"
    figure = figure_text(study.monitor, best.value)
    return f"trial {best.number}: {study.monitor} {figure} with {settings_text(best)}"


def repeated_line(study: StudyResult) -> str:
    """Say what came of the best settings with seeds that the search had not seen."""
    figures = study.repeated
    mean, deviation = spread(figures)
    texts = [figure_text(study.monitor, x) for x in (mean, deviation, min(figures), max(figures))]
    of = "{} ± {} ({} to {})".format(*texts)
    return f"{study.monitor} {of} with {len(figures)} further seeds"


class LiveTable:
    """The table on a terminal, drawn anew as trials get on: `with table: tune(watch=table.show)`.

    Args:
        console: of the terminal.
        trials: how many there will be.
    """

    def __init__(self, console: "Console", trials: int) -> None:
        from rich.live import Live

        self.trials = trials
        self.live = Live(
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # lines that go to a file must get there
        )
        self.drawn = 0.0

    def __enter__(self) -> None:
        self.live.start()

    def __exit__(self, *error: object) -> None:
        self.live.stop()

    def show(self, study: StudyResult) -> None:
        """Draw the study, if the last time is long enough ago."""
        now = time.monotonic()
        if now - self.drawn > REFRESH:
            self.drawn = now
            self.live.update(self.table(study), refresh=True)

    def table(self, study: StudyResult) -> "Table":
        """Return the table: the best first, then those that run."""
        from rich.table import Table

        title = f"{study.folder}: {len(study.trials)} of {self.trials} trials, {counts(study)}"
        table = Table(title=title, title_justify="left")
        for name in headings(study):
            table.add_column(name, justify="right")
        best = study.best
        for trial in top(study):
            style = "bold green" if trial is best else "dim" if trial.value is None else None
            table.add_row(*cells(study, trial), style=style)
        return table
