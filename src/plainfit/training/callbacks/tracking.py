"""Figures to an experiment tracker, epoch by epoch."""

import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from plainfit.training.hooks import Callback, Context
from plainfit.training.position import random_state, set_random_state
from plainfit.training.trackers import Tracker, make_tracker


class Tracking(Callback):
    """Log every step's loss and learning rate, and every epoch's figures.

    It only looks. A tracker that fails is a warning, and the training goes on without it.

    Args:
        tracker: `tensorboard`, `mlflow`, `wandb`, `trackio`, or a `Tracker` of your own.
        folder: for what it writes.
        settings: of the training, for the tracker to keep.
    """

    observer = True

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
        """Let the tracker do something; give it up if it fails. It draws no number of ours."""
        if self.tracker is None:
            return
        before = random_state()
        try:
            random.seed()  # trackers draw the names of their runs
            do(self.tracker)
        except Exception as error:  # each tracker has errors of its own
            self.tracker = None
            warnings.warn(
                f"tracking failed ({type(error).__name__}: {error}); training goes on without it",
                RuntimeWarning,
                stacklevel=3,
            )
        finally:
            set_random_state(before)

    def on_fit_start(self, context: Context) -> None:
        """Begin, or go on with the run that was begun."""
        given = self.settings | {"epochs": context.epochs}

        def start(tracker: Tracker) -> None:
            self.run_id = tracker.start(given, self.run_id, self.logged)

        self.attempt(start)

    def on_batch_start(self, context: Context) -> None:
        """Note the learning rate."""
        self.rates.append(context.rate())

    def on_epoch_end(self, context: Context) -> None:
        """Log the steps of the epoch, and its row."""
        row = {name: value for name, value in context.history[-1].items() if name != "epoch"}
        losses = context.history.step_losses

        def log(tracker: Tracker) -> None:
            for step in range(self.logged, len(losses)):
                tracker.log({"step_loss": losses[step], "lr": self.rates[step]}, step)
            tracker.log(row, len(losses) - 1)

        self.attempt(log)
        self.logged = len(losses)

    def on_fit_end(self, context: Context) -> None:
        """Close."""
        self.attempt(lambda tracker: tracker.close())

    def on_exception(self, context: Context) -> None:
        """Close."""
        self.on_fit_end(context)

    def state_dict(self) -> dict[str, Any]:
        """Return the tracked run's name and how far it is."""
        return {"run_id": self.run_id, "logged": self.logged, "rates": list(self.rates)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.run_id, self.logged = state["run_id"], state["logged"]
        self.rates = list(state["rates"])
