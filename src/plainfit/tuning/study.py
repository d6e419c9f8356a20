"""A search for settings: `tune`.

This module is not named for its function, as a module `plainfit.tune` would hide it
(docs/decisions/0002-lazy-package.md).
"""

import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from plainfit.common.errors import ConfigError, RunError
from plainfit.training.history import is_lower_better
from plainfit.tuning.plan import Plan, check
from plainfit.tuning.results import StudyResult
from plainfit.tuning.space import parse_space


def tune(
    space: Mapping[str, Any],
    train: Callable[..., Any],
    *,
    trials: int = 50,
    folder: str | Path | None = None,
    fixed: Mapping[str, Any] | None = None,
    monitor: str = "valid_loss",
    lower_is_better: bool | None = None,
    pruner: str = "median",
    seeds: int = 1,
    seed: int = 0,
    repeat: int = 0,
    time_limit: float | None = None,
    storage: str | None = None,
    echo: Callable[[str], None] | None = print,
    watch: Callable[[StudyResult], None] | None = None,
) -> StudyResult:
    """Search for the settings with which a training comes to the best figure, and return the study.

    Everything is in the study's folder. The same call goes on with it, after a kill too; several
    processes that make it share the trials.

    Args:
        space: what to search, by name: `"log:1e-3..1"` and `"8..64"` are ranges, as is a tuple
            `(8, 64)`, of whole numbers where both ends are; `"mlp,cnn"` and lists are choices.
        train: called with the settings as keyword arguments. It returns a `History`, whose last
            epoch counts, or a number. It is also given those that it names of `seed`, for
            `get_data` and `get_model`; `report`, a callback for `fit`, without which no training is
            pruned; and `folder`, of the trial, for checkpoints and all else.
        trials: how many in all, those of other processes and earlier calls included.
        folder: of the study; by default `studies/TIME`.
        fixed: further settings, the same for each trial.
        monitor: a column of the history.
        lower_is_better: by default, so for losses and errors and not for the rest.
        pruner: what stops trials early: `median` those behind the median of the others' at the
            same epoch (Golovin et al. 2017, Vizier), `hyperband` (Li et al. 2018,
            arXiv:1603.06560), or `none`.
        seeds: how many trainings a trial has; their mean counts. The first one may be pruned.
        seed: of the first training, and of the settings that are drawn.
        repeat: train with the best settings so many times again, with further seeds.
        time_limit: seconds after which to stop; the trial that runs goes on another time.
        storage: the URL of a database, for several machines; by default a journal in the folder.
        echo: is given a line for each trial; None for silence.
        watch: is given the study after each epoch.

    Raises:
        ConfigError: if the space is empty or wrong, `train` cannot be called with it, the folder
            has another study, or Optuna is not installed; nothing is written then.
        RunError: if the folder cannot be used.
        Exception: what `train` raises, unless a trial was complete before; then it is noted.
    """
    plan = Plan(
        parse_space(space),
        dict(fixed or {}),
        monitor,
        is_lower_better(monitor) if lower_is_better is None else lower_is_better,
        pruner,
        seeds,
        seed,
    )
    check(plan, train, trials, repeat, time_limit)
    place = Path(folder) if folder is not None else Path("studies") / time.strftime("%Y%m%d-%H%M%S")
    known = read_study(place, storage)
    if known is not None:
        plan.check_against(known, place)
    make_place(place)
    from plainfit.tuning.work import Work

    end = math.inf if time_limit is None else time.monotonic() + time_limit
    work = Work(plan, train, place, storage, trials, end, echo, watch)
    work.run(repeat)
    return work.result()


def read_study(folder: Path, storage: str | None) -> dict[str, Any] | None:
    """Return what the study in a folder is about, as `Plan.to_dict` gives it; None without one.

    Raises:
        RunError: if it cannot be read.
        ConfigError: if there is no such database, or Optuna is not installed.
    """
    require_optuna()
    from plainfit.tuning.storage import read_description

    return read_description(folder, storage)


def require_optuna() -> None:
    """Check that what a study needs is there.

    Raises:
        ConfigError: if it is not.
    """
    if os.name == "nt":
        raise ConfigError("a study is for Linux and macOS: Windows lacks the locks that it needs")
    try:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
    except ImportError as error:
        raise ConfigError(
            f"a search needs Optuna, and it is not installed ({error}): "
            "pip install 'plainfit[tune]'"
        ) from error


def make_place(folder: Path) -> None:
    """Make the study's folder, if it is not there.

    Raises:
        RunError: if it cannot be made, or holds something else.
    """
    from plainfit.runs.folder import create_folder
    from plainfit.tuning.queue import QUEUE

    if not (folder / QUEUE).exists():
        create_folder(folder)
    try:
        (folder / QUEUE).touch()
    except OSError as error:
        raise RunError(
            f"the study's folder {folder} must be writable ({error.strerror})"
        ) from error
