"""Figures to an experiment tracker: one small adapter each, its package imported when it is used.

Everything stays on this machine unless you set the tracker up otherwise, by its own environment
variables (`MLFLOW_TRACKING_URI`, `WANDB_MODE=online`, ...).
"""

import os
from importlib import import_module
from pathlib import Path
from typing import Any

from plainfit.common.errors import ConfigError, unknown_name


class Tracker:
    """What a tracker does; subclass it for one of your own."""

    def start(self, settings: dict[str, Any], run_id: str | None, step: int) -> str | None:
        """Begin, or go on with the run of that name; return its name.

        Args:
            settings: of the training, plain values by name.
            run_id: what `start` returned when the training that is resumed began.
            step: the first step that will be logged: what a tracker has from there on is obsolete.
        """
        raise NotImplementedError

    def log(self, figures: dict[str, float], step: int) -> None:
        """Take figures by name, at a step."""
        raise NotImplementedError

    def close(self) -> None:
        """Write what is left."""


def package(name: str) -> Any:
    """Import a tracker's package.

    Raises:
        ConfigError: if it is not installed.
    """
    extra = "tensorboard" if name.startswith("torch") else name
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"tracking with {extra} needs its package, and it is not installed ({error}): "
            f"pip install 'plainfit[{extra}]'"
        ) from error


class TensorBoard(Tracker):
    """Event files for TensorBoard: `tensorboard --logdir FOLDER`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.module = package("torch.utils.tensorboard")

    def start(self, settings: dict[str, Any], run_id: str | None, step: int) -> str | None:
        """Open an event file; of earlier ones, the reader drops what comes after `step`."""
        purge = step if run_id else None
        self.writer = self.module.SummaryWriter(str(self.folder), purge_step=purge)
        return "tensorboard"

    def log(self, figures: dict[str, float], step: int) -> None:
        """Write scalars."""
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Close the file."""
        self.writer.close()


class MLflow(Tracker):
    """A run of MLflow, in a database in the folder unless `MLFLOW_TRACKING_URI` says otherwise."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.module = package("mlflow")

    def start(self, settings: dict[str, Any], run_id: str | None, step: int) -> str | None:
        """Begin a run, or open it again."""
        if "MLFLOW_TRACKING_URI" not in os.environ:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.module.set_tracking_uri(f"sqlite:///{(self.folder / 'mlflow.db').resolve()}")
        run = self.module.start_run(run_id=run_id)
        if run_id is None:
            self.module.log_params(settings)
        return str(run.info.run_id)

    def log(self, figures: dict[str, float], step: int) -> None:
        """Write metrics; those of a step that is logged again stand beside the first."""
        self.module.log_metrics(figures, step=step)

    def close(self) -> None:
        """End the run."""
        self.module.end_run()


class WeightsAndBiases(Tracker):
    """A run of Weights & Biases, offline unless `WANDB_MODE` says otherwise: see `wandb sync`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.module = package("wandb")

    def start(self, settings: dict[str, Any], run_id: str | None, step: int) -> str | None:
        """Begin a run, or go on with it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.run = self.module.init(
            project="plainfit",
            dir=str(self.folder),
            config=settings,
            id=run_id,
            resume="allow",
            mode=os.environ.get("WANDB_MODE", "offline"),
        )
        return str(self.run.id)

    def log(self, figures: dict[str, float], step: int) -> None:
        """Write figures."""
        self.run.log(figures, step=step)

    def close(self) -> None:
        """Finish the run."""
        self.run.finish()


class Trackio(Tracker):
    """A run of trackio, on this machine: `trackio show`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.module = package("trackio")

    def start(self, settings: dict[str, Any], run_id: str | None, step: int) -> str | None:
        """Begin a run, or go on with it."""
        name = run_id or self.folder.resolve().name
        self.module.init(
            project="plainfit", name=name, config=settings, resume="allow", embed=False
        )
        return name

    def log(self, figures: dict[str, float], step: int) -> None:
        """Write figures."""
        self.module.log(figures, step=step)

    def close(self) -> None:
        """Finish the run."""
        self.module.finish()


TRACKERS: dict[str, type[Any]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WeightsAndBiases,
    "trackio": Trackio,
}


def make_tracker(given: str | Tracker, folder: Path) -> Tracker:
    """Return a tracker: the one given, or that of a name, which writes to the folder.

    Raises:
        ConfigError: if the name is not known, or its package not installed.
    """
    if isinstance(given, Tracker):
        return given
    if given not in TRACKERS:
        raise ConfigError(unknown_name("tracker", given, TRACKERS))
    tracker: Tracker = TRACKERS[given](folder)
    return tracker
