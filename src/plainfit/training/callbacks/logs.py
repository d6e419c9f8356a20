"""Figures to files, as they come; a full disk is a warning and another try, not the end."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch

from plainfit.common.files import write_bytes, write_whole
from plainfit.training.hooks import Callback, Context


class EpochLog(Callback):
    """Base of the logs: after each epoch, appends what is new in the history.

    At the start of a training, and after a failed write, the file is written anew, so that a
    resumed training leaves the file of one that was never stopped.
    """

    observer = True

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.written = 0
        self.is_whole = False

    def on_fit_start(self, context: Context) -> None:
        """Begin the file with what is in the history already."""
        self.written = 0
        self.update(context)

    def on_epoch_end(self, context: Context) -> None:
        """Write what is new, and close the file, so that nothing is lost whatever comes next."""
        self.update(context)

    def on_stop(self, context: Context) -> None:
        """Write the steps of an epoch that is left."""
        self.update(context)

    def on_fit_end(self, context: Context) -> None:
        """Try once more, if the last write failed."""
        if not self.is_whole:
            self.update(context)

    def update(self, context: Context) -> None:
        """Append, or write the whole file."""
        count, text = self.new(context, self.written)
        try:
            if self.written:
                with self.path.open("a", encoding="utf-8", newline="") as file:
                    file.write(text)
            elif text or self.path.exists():  # perhaps of another training
                write_whole(self.path, lambda path: write_bytes(path, text.encode()))
            self.written, self.is_whole = count, True
        except OSError as error:
            self.written, self.is_whole = 0, False
            warnings.warn(
                f"{self.path} could not be written ({error.strerror}); training goes on, and the "
                "log is written anew later",
                RuntimeWarning,
                stacklevel=2,
            )

    def new(self, context: Context, written: int) -> tuple[int, str]:
        """Return how many items there are by now, and those after the first `written` as text."""
        raise NotImplementedError


class JsonLinesLog(EpochLog):
    """Each epoch's figures, one JSON object a line."""

    def new(self, context: Context, written: int) -> tuple[int, str]:
        """Return the rows of the history as lines."""
        rows = context.history.epochs
        return len(rows), "".join(json.dumps(row) + "\n" for row in rows[written:])


class StepLog(EpochLog):
    """Each step's loss and (highest) learning rate as CSV: `step,epoch,loss,lr`, floats exactly."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.rates: list[float] = []
        self.epochs: list[int] = []

    def on_fit_start(self, context: Context) -> None:
        """Begin the file; of an earlier training, nothing is kept."""
        if context.global_step == 0:
            self.rates, self.epochs = [], []
        super().on_fit_start(context)

    def on_batch_start(self, context: Context) -> None:
        """Note the rate that this step is taken with."""
        self.rates.append(context.rate())
        self.epochs.append(context.epoch)

    def new(self, context: Context, written: int) -> tuple[int, str]:
        """Return the steps as lines, under a heading."""
        losses = context.history.step_losses
        rows = zip(self.epochs[written:], losses[written:], self.rates[written:], strict=True)
        lines = [
            f"{step},{e},{loss!r},{lr!r}\n" for step, (e, loss, lr) in enumerate(rows, written)
        ]
        return len(losses), "".join([*([] if written else ["step,epoch,loss,lr\n"]), *lines])

    def state_dict(self) -> dict[str, Any]:
        """Return the rates and epochs of the steps so far."""
        return {
            "rates": torch.tensor(self.rates, dtype=torch.float64),
            "epochs": torch.tensor(self.epochs, dtype=torch.int64),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.rates, self.epochs = state["rates"].tolist(), state["epochs"].tolist()
