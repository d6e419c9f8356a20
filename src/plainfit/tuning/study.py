"""A search for settings: `tune`.

The module does not have the name of the function, because a module `plainfit.tune` would hide it
(docs/decisions/0002-lazy-package.md).
"""

import inspect
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypedDict, get_type_hints

from plainfit.common.errors import ConfigError, RunError, unknown_name
from plainfit.common.files import JOURNAL
from plainfit.common.schema import COUNT, UP_TO_COUNT, check_values, hints_of, misfit
from plainfit.models.build import known_arguments
from plainfit.runs.folder import check_new, create_folder
from plainfit.runs.settings import RunConfig
from plainfit.training.history import mode_of
from plainfit.tuning.results import StudyResult
from plainfit.tuning.space import StudyConfig, brought_up_to_date, parse_space

PRUNERS = ("median", "hyperband", "none")
NUMBERS = hints_of(RunConfig) | {
    "trials": Annotated[int, COUNT],
    "seeds": Annotated[int, COUNT],
    "repeat": Annotated[int, UP_TO_COUNT],
}


# What `StudyConfig.to_dict` gives, and the number of trials.
HINTS = {**get_type_hints(StudyConfig), "space": dict[str, Any], "trials": int}
Description: Any = TypedDict("Description", HINTS)  # type: ignore[misc]  # made at run time


OFFERED = ("seed", "report", "folder")  # what `train` gets if it has such a parameter


def tune(
    space: Mapping[str, Any],
    train: Callable[..., Any],
    *,
    trials: int = 50,
    folder: str | Path | None = None,
    fixed: Mapping[str, Any] | None = None,
    monitor: str = "valid_loss",
    mode: str | None = None,
    pruner: str = "median",
    seeds: int = 1,
    seed: int = 0,
    repeat: int = 0,
    time_limit: float | None = None,
    storage: str | None = None,
    echo: Callable[[str], None] | None = print,
    watch: Callable[[StudyResult], None] | None = None,
) -> StudyResult:
    """Search for the settings that give a training the best value, and return the study.

    Everything is in the study's folder. The same call continues it, even after a kill; several
    processes that make the same call share the trials.

    Args:
        space: what to search, by name: `"log:1e-3..1"`, `"8..64"` and the tuple `(8, 64)` are
            ranges, of whole numbers if both ends are; `"mlp,cnn"` and lists are choices.
        train: called with the settings as keyword arguments; returns a `History`, whose last epoch
            counts, or a number. If it has such parameters, it also gets `seed`, for `get_data` and
            `get_model`; `report`, a callback for `fit`, without which no training is pruned; and
            `folder`, the folder of the trial, for checkpoints and other files.
        trials: the number of all trials, including those of other processes and earlier calls.
        folder: the folder of the study; by default `studies/TIME`.
        fixed: further settings, the same for each trial.
        monitor: a column of the history.
        mode: `min` or `max`, which values of it are better, as for `EarlyStopping`.
        pruner: how to stop trials early: `median` stops those behind the median of the others at
            the same epoch (Golovin et al. 2017, Vizier); `hyperband` (Li et al. 2018,
            arXiv:1603.06560); or `none`.
        seeds: the number of trainings of a trial; their mean counts. The first may be pruned.
        seed: the seed of the first training, and of the settings that are drawn.
        repeat: the number of further seeds to train the best settings with at the end.
        time_limit: seconds after which to stop; another call resumes the running trial.
        storage: the URL of a database, for several machines; by default a journal in the folder.
        echo: called with a line for each trial; None for silence.
        watch: called with the study after each epoch.

    Raises:
        ConfigError: if the space is empty or wrong, `train` does not take it, the folder holds
            another study, `torchrun` has started this process, or Optuna is not installed; nothing
            is written then.
        RunError: if the folder cannot be used.
        Exception: what `train` raises, unless a trial is complete; then the trial notes it.
    """
    config = StudyConfig(
        parse_space(space), dict(fixed or {}), monitor, mode_of(monitor, mode), pruner, seeds, seed
    )
    check_launcher()
    check_call(config, train, trials, repeat, time_limit)
    place = Path(folder) if folder is not None else Path("studies") / time.strftime("%Y%m%d-%H%M%S")
    if (stored := read_study(place, storage)) is not None:
        config.check_against(stored, place)
    from plainfit.tuning.storage import QUEUE, whole_study
    from plainfit.tuning.work import Work

    with whole_study(place):
        if not (place / QUEUE).exists():
            create_folder(place)
            check_new(place)
        (place / QUEUE).touch()
    end = math.inf if time_limit is None else time.monotonic() + time_limit
    work = Work(config, train, place, storage, trials, end, echo or (lambda line: None), watch)
    work.run(repeat)
    return work.result()


def check_launcher() -> None:
    """Refuse processes that were started together, but not for the trials of one worker."""
    world = os.environ.get("WORLD_SIZE", "1")
    if world != "1" and "PLAINFIT_LAUNCHER" not in os.environ:
        raise ConfigError(
            f"a study must be searched by processes that are started one by one, got {world} of a "
            "launcher; leave out torchrun (plainfit tune --processes N has N for each trial)"
        )


def check_call(
    config: StudyConfig,
    train: Callable[..., Any],
    trials: int,
    repeat: int,
    time_limit: float | None,
) -> None:
    own = {"trials": trials, "repeat": repeat, "time_limit": time_limit}
    check_values(own | {"seeds": config.seeds, "seed": config.seed}, NUMBERS)
    if config.pruner not in PRUNERS:
        raise ConfigError(unknown_name("pruner", config.pruner, PRUNERS))
    settings = [*config.space, *config.fixed]
    for name in settings:
        if name in OFFERED or settings.count(name) > 1:
            given = "passed by tune itself" if name in OFFERED else "fixed"
            raise ConfigError(f"a setting must have one origin, and {name} is searched and {given}")
    known_arguments(train, dict.fromkeys(settings))
    signature = inspect.signature(train)
    offered = [name for name in OFFERED if name in signature.parameters]
    try:
        signature.bind(**dict.fromkeys([*settings, *offered]))
    except TypeError as error:
        raise ConfigError(
            f"train must take {', '.join(settings)} as keyword arguments: {error}; give others by "
            "fixed={...}"
        ) from error
    if (config.seeds > 1 or repeat) and "seed" not in offered:
        raise ConfigError("train must have a parameter seed, to be called with several seeds")


def read_study(folder: Path, url: str | None) -> dict[str, Any] | None:
    """Return `StudyConfig.to_dict` of the study in a folder or a database; None if it is new."""
    if os.name == "nt":
        raise ConfigError("a study needs Linux or macOS: Windows lacks POSIX locks")
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(
            f"a search needs Optuna, which is not installed ({error}): pip install 'plainfit[tune]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    from plainfit.tuning.storage import DESCRIPTION, open_storage, study_name, whole_study

    if url is None and not (folder / JOURNAL).exists():
        return None
    storage, name = open_storage(folder, url), study_name(folder, url)
    with whole_study(folder):
        try:
            study = storage.get_study_id_from_name(name)
        except KeyError:
            return None
        found = brought_up_to_date(storage.get_study_user_attrs(study).get(DESCRIPTION))
        trials = storage.get_n_trials(study)
    if found is not None and (wrong := misfit(found, Description, "")):
        raise RunError(f"the study {name!r} in {url or folder} is damaged: {wrong}; restore it")
    if found is None and trials:
        raise ConfigError(
            f"the study {name!r} must be one of plainfit, and is not; choose another folder"
        )
    return found
