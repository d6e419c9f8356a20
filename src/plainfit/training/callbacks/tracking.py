"""Values to an experiment tracker, epoch by epoch; one small adapter for each tracker.

A tracker's package is imported when it is used. Everything stays on this machine unless you
configure the tracker otherwise, by its own environment variables (`MLFLOW_TRACKING_URI`,
`WANDB_MODE=online`, ...).
"""

import os
import random
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from plainfit.common.errors import ConfigError, unknown_name
from plainfit.training.hooks import Callback, Context, warn
from plainfit.training.state import random_state, set_random_state


class Tracker:
    """Base class of the trackers; subclass it for one of your own."""

    def start(self, settings: dict[str, Any], run_id: str | None, step: int) -> str | None:
        """Begin a run, or continue the run `run_id`; return the run's name.

        Args:
            settings: of the training, plain values by name.
            run_id: what `start` returned at first, if the training is resumed.
            step: the first step that will be logged; anything logged from there on is obsolete.
        """
        raise NotImplementedError

    def log(self, values: dict[str, float], step: int) -> None:
        """Log values by name at a step."""
        raise NotImplementedError

    def close(self) -> None:
        """Write what is left, and end the run."""


class PackageTracker(Tracker):
    """Base class of the trackers that write to a folder by another package."""

    package: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        extra = self.package.split(".")[-1]
        try:
            self.module: Any = import_module(self.package)
        except ImportError as error:
            raise ConfigError(
                f"tracking with {extra} needs its package, and it is not installed ({error}): "
                f"pip install 'plainfit[{extra}]'"
            ) from error


class TensorBoard(PackageTracker):
    """Event files for TensorBoard: `tensorboard --logdir FOLDER`."""

    package = "torch.utils.tensorboard"

    def start(self, settings: dict[str, Any], run_id: str | None, step: int) -> str | None:
        purge = step if run_id else None  # the reader drops the steps from there on in older files
        self.writer = self.module.SummaryWriter(str(self.folder), purge_step=purge)
        return "tensorboard"

    def log(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class MLflow(PackageTracker):
    """A run of MLflow, in a database in the folder unless `MLFLOW_TRACKING_URI` says otherwise."""

    package = "mlflow"

    def start(self, settings: dict[str, Any], run_id: str | None, step: int) -> str | None:
        if "MLFLOW_TRACKING_URI" not in os.environ:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.module.set_tracking_uri(f"sqlite:///{(self.folder / 'mlflow.db').resolve()}")
        run = self.module.start_run(run_id=run_id)
        if run_id is None:
            self.module.log_params(settings)
        return str(run.info.run_id)

    def log(self, values: dict[str, float], step: int) -> None:
        # If a step is logged again, MLflow keeps both values.
        self.module.log_metrics(values, step=step)

    def close(self) -> None:
        self.module.end_run()


class WeightsAndBiases(PackageTracker):
    """A run of Weights & Biases, offline unless `WANDB_MODE` says otherwise: see `wandb sync`."""

    package = "wandb"

    def start(self, settings: dict[str, Any], run_id: str | None, step: int) -> str | None:
        self.folder.mkdir(parents=True, exist_ok=True)
        mode = os.environ.get("WANDB_MODE", "offline")
        given = {"config": settings, "resume": "allow", "project": "plainfit"}
        run = self.module.init(dir=str(self.folder), id=run_id, mode=mode, **given)
        return str(run.id)

    def log(self, values: dict[str, float], step: int) -> None:
        self.module.log(values, step=step)

    def close(self) -> None:
        self.module.finish()


class Trackio(WeightsAndBiases):
    """A run of trackio, on this machine: `trackio show`. It has the functions of wandb."""

    package = "trackio"

    def start(self, settings: dict[str, Any], run_id: str | None, step: int) -> str | None:
        name = run_id or self.folder.resolve().name
        given = {"config": settings, "resume": "allow", "project": "plainfit"}
        self.module.init(name=name, embed=False, **given)
        return name


TRACKERS: dict[str, type[PackageTracker]] = {
    kind.package.split(".")[-1]: kind for kind in (TensorBoard, MLflow, WeightsAndBiases, Trackio)
}


def make_tracker(given: str | Tracker, folder: Path) -> Tracker:
    if isinstance(given, Tracker):
        return given
    if given not in TRACKERS:
        raise ConfigError(unknown_name("tracker", given, TRACKERS))
    return TRACKERS[given](folder)


class Tracking(Callback):
    """Log every step's loss and learning rate, and every epoch's row of the history.

    If the tracker fails, a warning says so, and the training continues without it.

    Args:
        tracker: `tensorboard`, `mlflow`, `wandb`, `trackio`, or a `Tracker` of your own.
        folder: where it writes.
        settings: of the training, for the tracker to store.
    """

    observer = True
    in_program = "after"
    saved = ("run_id", "logged", "rates")

    def __init__(
        self,
        tracker: str | Tracker,
        folder: str | Path = "runs/tracked",
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.tracker: Tracker | None = make_tracker(tracker, Path(folder))
        self.settings = settings or {}
        self.run_id: str | None = None
        self.logged = 0
        self.rates: list[float] = []

    def attempt(self, do: Callable[[Tracker], object]) -> None:
        """Call the tracker, and drop it if it fails; the generators stay as they are."""
        if self.tracker is None:
            return
        before = random_state()
        try:
            random.seed()  # trackers draw the names of their runs
            do(self.tracker)
        except Exception as error:  # each tracker has errors of its own
            self.tracker = None
            what = f"tracking failed ({type(error).__name__}: {error})"
            warn(f"{what}; training goes on without it")
        finally:
            set_random_state(before)

    def on_fit_start(self, context: Context) -> None:
        given = self.settings | {"epochs": context.epochs}

        def start(tracker: Tracker) -> None:
            self.run_id = tracker.start(given, self.run_id, self.logged)

        self.attempt(start)

    def on_batch_start(self, context: Context) -> None:
        self.rates.append(context.rate())

    def on_epoch_end(self, context: Context) -> None:
        row = {name: value for name, value in context.history[-1].items() if name != "epoch"}
        losses = context.history.step_losses

        def log(tracker: Tracker) -> None:
            for step in range(self.logged, len(losses)):
                tracker.log({"step_loss": losses[step], "lr": self.rates[step]}, step)
            tracker.log(row, len(losses) - 1)

        self.attempt(log)
        self.logged = len(losses)

    def on_fit_end(self, context: Context) -> None:
        self.attempt(lambda tracker: tracker.close())

    on_exception = on_fit_end
