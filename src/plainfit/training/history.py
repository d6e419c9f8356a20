"""What a training returns: losses and metrics, by epoch and by step; the best epoch."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from plainfit.common.errors import ConfigError, near_miss

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from plainfit.training.fit_call import FitCall

WIDTH = 11  # of a column, in characters; wide enough for all of our own headers
SHAPES = {"epoch": "d", "seconds": ".2f", "samples_per_second": ",.0f"}
HEADINGS = {"samples_per_second": "samples/s"}
DOWN = ("loss", "error", "mse", "mae", "rmse", "perplexity")  # in the names of what is minimized


class History:
    """The losses and metrics of a training.

    Attributes:
        epochs: one dict per epoch: `epoch` (from 0), `train_loss` (mean over the samples while
            training), `valid_loss` and each metric (of the whole validation set), `seconds`
            (training and validation), `samples_per_second` (training alone).
        step_losses: the training loss of every step, in order, as exact floats.
        stopped: why the training stopped before the end of its last epoch, or an empty string.
        steps: steps per epoch; None if the loader has no length.
        unfinished: whether it stopped within an epoch, which then has no row yet.
        run: the call of `fit`, with references to its arguments: `history.run.eject("train.py")`
            writes the training as a plain PyTorch script.

    >>> history = History()
    >>> history.epochs.append({"epoch": 0, "train_loss": 0.5, "valid_loss": 0.25, "seconds": 1.0})
    >>> print(history)
          epoch  train_loss  valid_loss     seconds
              0      0.5000      0.2500        1.00
    """

    def __init__(self) -> None:
        self.epochs: list[dict[str, Any]] = []
        self.step_losses: list[float] = []
        self.stopped = ""
        self.unfinished = False
        self.steps: int | None = None
        self.run: FitCall | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave `run`, which refers to model and data, out of copies and pickles."""
        return vars(self) | {"run": None}

    def __len__(self) -> int:
        return len(self.epochs)

    def __getitem__(self, epoch: int) -> dict[str, Any]:
        return self.epochs[epoch]

    def __repr__(self) -> str:
        return f"<History of {len(self)} epochs, {len(self.step_losses)} steps>"

    def __str__(self) -> str:
        if not self.epochs:
            return "(no epochs yet)"
        return "\n".join([heading_line(self.epochs[0]), *map(epoch_line, self.epochs)])

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return a copy of the epochs, one dict each, as `pandas.DataFrame` takes it."""
        return [dict(row) for row in self.epochs]

    def best(self, monitor: str | None = None, mode: str | None = None) -> dict[str, Any] | None:
        """Return the row of the best epoch, as `best_epoch` finds it; None without one."""
        index = best_epoch(self.epochs, monitor, mode)
        return None if index is None else self.epochs[index]

    def plot(self) -> "Figure":
        """Draw losses and metrics by epoch, as a figure of matplotlib."""
        from plainfit.common.plots import curves

        return curves(self.epochs, self.step_losses, self.steps)


def best_epoch(
    rows: Sequence[Mapping[str, Any]], monitor: str | None = None, mode: str | None = None
) -> int | None:
    """Return the index of the best row, the first one among equals; None if none is finite.

    Args:
        rows: one mapping an epoch, as in `History.epochs`.
        monitor: the column to compare; by default `valid_loss`, or `train_loss` without validation.
        mode: `min` or `max`; by default `min` for losses and errors, by the name of the column.

    >>> best_epoch([{"valid_loss": math.nan}, {"valid_loss": 0.5}, {"valid_loss": 0.7}])
    1
    """
    if monitor is None:
        monitor = "valid_loss" if rows and "valid_loss" in rows[0] else "train_loss"
    if mode not in (None, "min", "max"):
        raise ConfigError(f"mode must be 'min' or 'max', got {mode!r}")
    values = [monitored(row, monitor) for row in rows]
    finite = [index for index, value in enumerate(values) if math.isfinite(value)]
    lowest = mode == "min" if mode else is_lower_better(monitor)
    return (min if lowest else max)(finite, key=values.__getitem__, default=None)


def is_lower_better(name: str) -> bool:
    """Return whether a column holds a loss or an error, by its name.

    >>> is_lower_better("valid_loss"), is_lower_better("accuracy")
    (True, False)
    """
    return any(word in name.lower() for word in DOWN)


def monitored(row: Mapping[str, Any], name: str) -> float:
    if name not in row:
        raise ConfigError(
            f"what is monitored must be a column of the history ({', '.join(row)}), got "
            f"{name!r}{near_miss(name, row)}"
        )
    return float(row[name])


def heading_line(row: dict[str, Any]) -> str:
    return " ".join(f"{HEADINGS.get(name, name):>{WIDTH}}" for name in row)


def epoch_line(row: dict[str, Any]) -> str:
    return " ".join(
        f"{value:>{max(WIDTH, len(HEADINGS.get(name, name)))}{SHAPES.get(name, '.4f')}}"
        for name, value in row.items()
    )


def kept(value: Any) -> Any:
    """Return a scalar as it may be kept for long: a float, or a tensor of an accelerator.

    To read one of those would wait. On the CPU, a small tensor lies within the memory that a step
    frees, and the C library cannot use what is around it for the large ones of the next step.
    """
    return value if isinstance(value, Tensor) and not value.is_cpu else float(value)


def read(values: Sequence[Any]) -> list[float]:
    """Return what was `kept` as floats; waits for the device once."""
    if not any(isinstance(value, Tensor) for value in values):
        return list(values)
    scalars = [torch.as_tensor(value).reshape(()) for value in values]
    floats: list[float] = torch.stack(scalars).tolist()
    return floats


def weighted_mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """Return the mean of the values, each counting by its weight, in float64.

    A value of weight 0 does not count, even if it is NaN; without another, the mean is NaN.
    """
    counted = [(value, n) for value, n in zip(values, weights, strict=True) if n]
    return sum(value * n for value, n in counted) / sum(weights) if counted else math.nan
