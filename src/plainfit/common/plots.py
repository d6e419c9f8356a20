"""Figures: curves of a training, samples of a dataset. Without pyplot, so no window opens."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

NOT_METRICS = {"epoch", "train_loss", "valid_loss", "seconds", "samples_per_second"}
TRAIN, VALID = "#9db4d3", "#1f4e9c"


class Picture(Figure):
    """A figure that a notebook displays as it is."""

    def _repr_png_(self) -> bytes:
        png = BytesIO()
        self.savefig(png, format="png", dpi=100)
        return png.getvalue()


def curves(
    epochs: Sequence[dict[str, Any]], step_losses: Sequence[float], steps: int | None
) -> Picture:
    """Draw the loss of every step and of every epoch, and the metrics beside it.

    Args:
        epochs: the rows of a history.
        step_losses: the loss of every step, including those of an unfinished epoch.
        steps: the number of steps in an epoch, if it is known.
    """
    metrics = [name for name in epochs[0] if name not in NOT_METRICS] if epochs else []
    figure = Picture(figsize=(10 if metrics else 6, 4), layout="constrained")
    axes = figure.subplots(1, 2 if metrics else 1, squeeze=False)[0]
    ends = [row["epoch"] + 1 for row in epochs]
    axes[0].set(title="loss", xlabel="epochs done")
    if step_losses:
        per_epoch = steps or len(step_losses) / max(1, len(epochs))
        xs = [(step + 1) / per_epoch for step in range(len(step_losses))]
        axes[0].plot(xs, step_losses, color=TRAIN, alpha=0.7, linewidth=0.8, label="train, by step")
    axes[0].plot(ends, [row["train_loss"] for row in epochs], "o-", color=TRAIN, label="train")
    if epochs and "valid_loss" in epochs[0]:
        losses = [row["valid_loss"] for row in epochs]
        axes[0].plot(ends, losses, "o-", color=VALID, label="valid")
    axes[0].legend()
    for name in metrics:
        last = epochs[-1][name]
        label = f"{name}: {last:.4f} at the end"
        axes[1].plot(ends, [row[name] for row in epochs], "o-", label=label)
        axes[1].set(title="on the validation set", xlabel="epochs done")
        axes[1].legend()
    for axis in axes:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    return figure


def sample_sheet(images: Sequence[Any], names: Sequence[str], columns: int) -> Picture:
    """Draw images in a grid, with a name above each.

    Args:
        images: arrays of shape (height, width) or (height, width, 3), bytes or floats in [0, 1].
        names: a name for each image.
        columns: the number of images in a row.
    """
    rows = -(-len(images) // columns)
    figure = Picture(figsize=(columns, 1.2 * rows), layout="constrained")
    for axis in figure.subplots(rows, columns, squeeze=False).flat:
        axis.set_axis_off()
    for axis, image, name in zip(figure.axes, images, names, strict=False):
        axis.imshow(image, cmap="gray", interpolation="nearest")
        axis.set_title(name, fontsize=8)
    return figure


def histograms(columns: dict[str, Sequence[float]]) -> Picture:
    """Draw one small histogram for each column of a table."""
    across = min(4, len(columns))
    rows = -(-len(columns) // across)
    figure = Picture(figsize=(3 * across, 2 * rows), layout="constrained")
    axes = figure.subplots(rows, across, squeeze=False).flat
    for axis in axes:
        axis.set_visible(False)
    for axis, (name, values) in zip(figure.axes, columns.items(), strict=False):
        axis.set_visible(True)
        axis.hist(values, bins=30, color=VALID)
        axis.set_title(name, fontsize=8)
        axis.tick_params(labelsize=7)
    return figure


def schedule_curves(title: str, factors: Sequence[float], momenta: Sequence[float]) -> Picture:
    """Draw the factor of a schedule by step, and the momentum if the schedule changes it."""
    figure = Picture(figsize=(10 if momenta else 5, 3), layout="constrained")
    figure.suptitle(title, fontsize=9)
    values = {"factor of the learning rate": factors, "momentum": momenta}
    shown = {name: numbers for name, numbers in values.items() if numbers}
    for axis, (name, numbers) in zip(
        figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True
    ):
        axis.plot(numbers, color=VALID)
        axis.set(title=name, xlabel="step")
        axis.grid(alpha=0.3)
    return figure


def statistics_curves(
    columns: Sequence[str], statistics: dict[str, list[list[float]]], steps: dict[str, list[int]]
) -> Picture:
    """Draw statistics of layers by step: axes for each column, a line for each layer."""
    figure = Picture(figsize=(5 * len(columns), 4), layout="constrained")
    axes = figure.subplots(1, len(columns), squeeze=False)[0]
    shades = colormaps["viridis"]
    for place, (name, rows) in enumerate(statistics.items()):
        color = shades(
            place / max(1, len(statistics) - 1) * 0.9
        )  # from the first layer to the last
        for axis, values in zip(axes, zip(*rows, strict=True), strict=True):
            axis.plot(steps[name], values, color=color, linewidth=0.8, label=name)
    for axis, title in zip(axes, columns, strict=True):
        axis.set(title=title, xlabel="step")
        axis.grid(alpha=0.3)
    if 0 < len(statistics) <= 20:
        axes[0].legend(fontsize=7)
    return figure


def rate_curve(rates: Sequence[float], losses: Sequence[float], marks: dict[str, float]) -> Picture:
    """Draw the loss by learning rate, with the suggested rates."""
    figure = Picture(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    axis.plot(rates, losses, color=TRAIN)
    for (name, rate), color in zip(marks.items(), (VALID, "#c2571a"), strict=False):
        axis.axvline(rate, color=color, linestyle="--", label=f"{name}: {rate:.2g}")
    low, start = min(losses), losses[0]
    axis.set(xscale="log", xlabel="learning rate", title="loss, smoothed")
    axis.set_ylim(low - 0.1 * (start - low + 1e-9), start + 0.5 * (start - low + 1e-9))
    axis.legend()
    axis.grid(alpha=0.3)
    return figure
