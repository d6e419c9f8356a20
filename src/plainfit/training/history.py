"""What a training returns: losses and metrics, by epoch and by step; the best epoch."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from plainfit.common.errors import ConfigError, near_miss, plural

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from plainfit.training.fit_call import FitCall

WIDTH = 11  # of a column, in characters; wide enough for all of our own headers
SHAPES = {"epoch": "d", "seconds": ".2f", "samples_per_second": ",.0f"}
HEADINGS = {"samples_per_second": "samples/s"}

# The words, without `_`, at the end of the names of what is minimized and what is maximized.
LOW = (
    "bce bpc brier cer cost crossentropy deviance distance divergence ece eer err error errors fid "
    "hinge kl logloss loss losses lpips mae mape medae mse msle negativeloglikelihood "
    "negloglikelihood nll perplexity ppl rmse rmsle smape ter wer"
)
HIGH = (
    "acc accuracy ap ap50 auc aucpr aucroc aupr auprc auroc bleu chrf corr correlation dcg dice "
    "elbo exactmatch explainedvariance f1 f2 fbeta iou jaccard kappa likelihood loglikelihood map "
    "map50 mcc meteor miou mrr ndcg precision psnr r2 recall reward rouge rouge1 rouge2 rougel "
    "sensitivity similarity snr specificity spearman ssim"
)
MODES = dict.fromkeys(LOW.split(), "min") | dict.fromkeys(HIGH.split(), "max")
WORDS = re.compile(r"binary|multiclass|multilabel|[A-Z]+(?![a-z])\d*|[A-Z]?[a-z]+\d*|\d+")
LAST = re.compile(
    r"\d+|at|k|top\d*|average|coef|coefficient|index|macro|mean|measure|micro|rate|score|test|"
    r"train|val|valid|validation|weighted"
)  # words that may follow those above
INVERSE = {"anti", "false", "inv", "inverse", "minus", "neg", "negative", "non", "not"}


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
        modes: `min` or `max` for the metrics that say which is better (`higher_is_better`).
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
        self.modes: dict[str, str] = {}
        self.run: FitCall | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave `run`, which refers to model and data, out of copies and pickles."""
        return vars(self) | {"run": None}

    def __len__(self) -> int:
        return len(self.epochs)

    def __getitem__(self, epoch: int) -> dict[str, Any]:
        return self.epochs[epoch]

    def __repr__(self) -> str:
        steps = plural(len(self.step_losses), "step")
        return f"<History of {plural(len(self), 'epoch')}, {steps}>"

    def __str__(self) -> str:
        if not self.epochs:
            return "(no epochs yet)"
        return "\n".join([heading_line(self.epochs[0]), *map(epoch_line, self.epochs)])

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return a copy of the epochs, one dict each, as `pandas.DataFrame` takes it."""
        return [dict(row) for row in self.epochs]

    def best(self, monitor: str | None = None, mode: str | None = None) -> dict[str, Any] | None:
        """Return the row of the best epoch, as `best_epoch` finds it; None without one."""
        index = best_epoch(self.epochs, monitor, mode or self.modes.get(monitor or ""))
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
        mode: `min` or `max`, which values are better; by default as known of its name.

    >>> best_epoch([{"valid_loss": math.nan}, {"valid_loss": 0.5}, {"valid_loss": 0.7}])
    1
    """
    if monitor is None:
        monitor = "valid_loss" if rows and "valid_loss" in rows[0] else "train_loss"
    values = [monitored(row, monitor) for row in rows]
    better = min if mode_of(monitor, mode) == "min" else max
    finite = [index for index, value in enumerate(values) if math.isfinite(value)]
    return better(finite, key=values.__getitem__, default=None)


def mode_of(column: str, mode: str | None = None) -> str:
    """Return `min` or `max`, which values of a column are better: as given, or known of its name.

    >>> [mode_of(name) for name in ("valid_loss", "word_error_rate", "top5_accuracy", "MeanIoU")]
    ['min', 'min', 'max', 'max']
    """
    if mode not in (None, "min", "max"):
        raise ConfigError(f"must be 'min' or 'max', got {mode!r}", field="mode")
    if (known := mode or mode_by_name(column)) is None:
        raise ConfigError(
            f"must say which values of {column!r} are better: pass mode='min' or mode='max'",
            field="mode",
        )
    return known


def mode_by_name(name: str) -> str | None:
    """Return the mode that a name's last words in the table have; None if it is not clear."""
    words = [word.lower() for word in WORDS.findall(name)]
    while len(words) > 1 and LAST.fullmatch(words[-1]):
        words.pop()
    for at in range(len(words)):  # the longest first: a log-likelihood is no likelihood
        if mode := MODES.get("".join(words[at:])):
            is_clear = INVERSE.isdisjoint(words[:at]) and words[:1] != ["1"]
            return mode if is_clear else None
    return None


def monitored(row: Mapping[str, Any], name: str) -> float:
    if name not in row:
        raise ConfigError(
            f"what is monitored must be a column of the history ({', '.join(row)}), got "
            f"{name!r}{near_miss(name, row)}"
        )
    return float(row[name])


def heading_line(row: dict[str, Any]) -> str:
    return " ".join(f"{HEADINGS.get(name, name):>{WIDTH}}" for name in row)


def shape_of(name: str, value: float) -> str:
    """Return how a number of an epoch is written.

    >>> shape_of("mae", 50123.4567), shape_of("r2", 0.5)
    (',.1f', '.4f')
    """
    return SHAPES.get(name, ".4f" if abs(value) < 1000 else ",.1f")


def epoch_line(row: dict[str, Any]) -> str:
    return " ".join(
        f"{value:>{max(WIDTH, len(HEADINGS.get(name, name)))}{shape_of(name, value)}}"
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
    tensors = [value.reshape(()) for value in values if isinstance(value, Tensor)]
    floats = iter(torch.stack(tensors).tolist() if tensors else ())
    return [next(floats) if isinstance(value, Tensor) else value for value in values]


def weighted_mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """Return the mean of the values, each counting by its weight, in float64.

    A value of weight 0 does not count, even if it is NaN; without another, the mean is NaN.
    """
    counted = [(value, n) for value, n in zip(values, weights, strict=True) if n]
    return sum(value * n for value, n in counted) / sum(weights) if counted else math.nan
