"""Figures: curves of a training, samples of a dataset. Without pyplot, so no window opens."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib import colormaps, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from plainfit.common.errors import DataError, raised_as
from plainfit.common.files import write_whole

NOT_METRICS = {"epoch", "train_loss", "valid_loss", "seconds", "samples_per_second"}
TRAIN, VALID = "#9db4d3", "#1f4e9c"
# One of Linux by both names that matplotlib's versions have for it, of Windows, of macOS.
CHINESE = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Microsoft YaHei", "Hiragino Sans GB")


class Picture(Figure):
    """A figure that a notebook displays as it is, and that has Chinese where a font has it."""

    def draw(self, renderer: Any) -> None:
        texts = [text for text in self.findobj(Text) if not text.get_text().isascii()]
        if texts:
            fonts = get_font_names()
            font = [name for name in CHINESE if name in fonts][:1]
            for text in texts:
                text.set_fontfamily([*rcParams["font.family"], *font])
        super().draw(renderer)

    def _repr_png_(self) -> bytes:
        png = BytesIO()
        self.savefig(png, format="png", dpi=100)
        return png.getvalue()


def literal(name: str) -> str:
    r"""Return a name as matplotlib draws it unchanged: what is between $ is no mathematics.

    >>> literal("US$ to A$")
    'US\\$ to A\\$'
    """
    return name.replace("$", r"\$")


def curves(
    epochs: Sequence[dict[str, Any]], step_losses: Sequence[float], steps: int | None
) -> Picture:
    """Draw the losses of steps and epochs (the rows of a history), and the metrics beside them."""
    metrics = [name for name in epochs[0] if name not in NOT_METRICS] if epochs else []
    figure, axes = panels(2 if metrics else 1, width=5 if metrics else 6)
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
        label = f"{literal(name)}: {epochs[-1][name]:.4f} at the end"
        axes[1].plot(ends, [row[name] for row in epochs], "o-", label=label)
        axes[1].set(title="on the validation set", xlabel="epochs done")
        axes[1].legend()
    for axis in axes:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def write_picture(figure: Figure, path: Path) -> None:
    content = BytesIO()
    with raised_as(DataError, f"the picture {path} must be writable as PNG, PDF or SVG"):
        figure.savefig(content, format=path.suffix[1:] or "png", dpi=120)
        write_whole(path, content.getvalue())


def panels(count: int, width: float, height: float = 4) -> tuple[Picture, Sequence[Axes]]:
    """Return a figure of axes side by side, each with a grid; sizes are in inches, of each."""
    figure = Picture(figsize=(width * count, height), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    for axis in axes:
        axis.grid(alpha=0.3)
    return figure, axes


def sample_sheet(images: Sequence[Any], names: Sequence[str], columns: int) -> Picture:
    """Draw images in a grid, with a name above each.

    They have the shape (height, width) or (height, width, 3): bytes, or floats in [0, 1].
    """
    rows = -(-len(images) // columns)
    figure = Picture(figsize=(columns, 1.2 * rows))  # an inch for each image, and its name
    axis = figure.add_axes((0, 0, 1, 1))  # one for all: axes of their own take seconds
    for number, (image, name) in enumerate(zip(images, names, strict=True)):
        row, column = divmod(number, columns)
        x, y = column + 0.5, 1.2 * row + 0.7  # the centre
        height, width = (0.45 * size / max(image.shape[:2]) for size in image.shape[:2])
        extent = (x - width, x + width, y + height, y - height)
        axis.imshow(image, cmap="gray", interpolation="nearest", extent=extent)
        axis.text(x, y - 0.5, literal(name), fontsize=8, ha="center")
    axis.set(xlim=(0, columns), ylim=(1.2 * rows, 0))
    axis.set_axis_off()
    return figure


def histograms(columns: dict[str, Sequence[float]]) -> Picture:
    across = min(4, len(columns))
    rows = -(-len(columns) // across)
    figure = Picture(figsize=(3 * across, 2 * rows))  # a constrained layout takes as long again
    left, bottom, right, top = 0.16 / across, 0.22 / rows, 1 - 0.04 / across, 1 - 0.12 / rows
    figure.subplots_adjust(left, bottom, right, top, wspace=0.25, hspace=0.45)
    for number, (name, values) in enumerate(columns.items(), 1):
        axis = figure.add_subplot(rows, across, number)
        axis.hist(values, bins=30, color=VALID, histtype="stepfilled")
        axis.set_title(literal(name), fontsize=8)
        axis.tick_params(labelsize=7)
    return figure


def schedule_curves(title: str, factors: Sequence[float], momenta: Sequence[float]) -> Picture:
    shown = {"factor of the learning rate": factors} | ({"momentum": momenta} if momenta else {})
    figure, axes = panels(len(shown), width=5, height=3)
    figure.suptitle(title, fontsize=9)
    for axis, (name, values) in zip(axes, shown.items(), strict=True):
        axis.plot(values, color=VALID)
        axis.set(title=name, xlabel="step")
    return figure


def statistics_curves(
    columns: Sequence[str], statistics: dict[str, list[list[float]]], steps: dict[str, list[int]]
) -> Picture:
    """Draw statistics of layers by step: axes for each column, a line for each layer."""
    figure, axes = panels(len(columns), width=5)
    for number, (name, rows) in enumerate(statistics.items()):
        color = colormaps["viridis"](0.9 * number / max(1, len(statistics) - 1))
        for axis, values in zip(axes, zip(*rows, strict=True), strict=True):
            axis.plot(steps[name], values, color=color, linewidth=0.8, label=literal(name))
    for axis, title in zip(axes, columns, strict=True):
        axis.set(title=title, xlabel="step")
    if 0 < len(statistics) <= 20:
        axes[0].legend(fontsize=7)
    return figure


def rate_curve(rates: Sequence[float], losses: Sequence[float], marks: dict[str, float]) -> Picture:
    figure, (axis,) = panels(1, width=6)
    axis.plot(rates, losses, color=TRAIN)
    for (name, rate), color in zip(marks.items(), (VALID, "#c2571a"), strict=False):
        axis.axvline(rate, color=color, linestyle="--", label=f"{name}: {rate:.2g}")
    low, start = min(losses), losses[0]
    axis.set(xscale="log", xlabel="learning rate", title="loss, smoothed")
    axis.set_ylim(low - 0.1 * (start - low + 1e-9), start + 0.5 * (start - low + 1e-9))
    axis.legend()
    return figure
