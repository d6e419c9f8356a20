"""Charts of the pages: matplotlib figures as inline SVG.

The page's style sheet sets colours and fonts, so that a chart is readable by day and by night.
"""

import html
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from statistics import fmean
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import IdentityTransform

WIDTH, HEIGHT = 360, 210  # CSS pixels: as wide as a phone, where labels must not shrink
LEFT, RIGHT, TOP, BOTTOM = 50, 350, 10, 176
WIDE, SIDE = 720, 60  # parallel coordinates: their width, and the margin at both sides
COLORS = 8  # --c0 to --c7 of the style sheet; further lines are dashed
DASHES = ("", "6 3", "2 3", "8 3 2 3")
MAX_MARKS, MAX_POINTS, MAX_TICKS, MAX_LABEL = 40, 400, 6, 10
TOO_LARGE = 1e100  # for the arithmetic of an axis; no training that goes on has such a value
LOG_RATIO = 30  # largest to smallest value, above which an axis may be logarithmic
STYLE: list[str | dict[str, Any]] = [
    "default",  # whatever a user's matplotlibrc says
    {"svg.fonttype": "none", "path.simplify": False, "text.parse_math": False, "font.size": 11},
]


@dataclass(frozen=True)
class Series:
    """Points joined by a line; points alone where they have texts."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    color: int = 0
    texts: Sequence[str] = ()
    """A tooltip for each point."""
    has_marks: bool = True
    """Whether points of a short line are marked."""

    def points(self) -> list[tuple[float, float]]:
        return [(x, y) for x, y in zip(self.xs, self.ys, strict=True) if abs(y) < TOO_LARGE]


@dataclass(frozen=True)
class Axis:
    label: str
    limits: tuple[float, float] | None = None
    """None for the range of the data."""
    log: bool = False
    whole: bool = False
    choices: Sequence[str] = ()


@dataclass(frozen=True)
class Key:
    """An entry of a legend."""

    name: str
    style: str
    is_point: bool = False


@dataclass(frozen=True)
class Chart:
    title: str
    svg: Markup
    note: str
    keys: list[Key]


def draw_chart(
    title: str,
    x_axis: Axis,
    series: Sequence[Series],
    *,
    note: str = "",
    log: bool = False,
    summary: str = "",
) -> Chart | None:
    """Draw lines and points; None if no value is finite.

    Args:
        log: make the vertical axis logarithmic if the values span a factor of `LOG_RATIO`.
        summary: the chart in words; by default, where each line starts and ends.
    """
    ys = [y for one in series for _, y in one.points()]
    if not ys:
        return None
    log = log and spans_much(ys)
    styles, texts = dict[str, str](), dict[str, Sequence[str]]()
    with style.context(STYLE):
        figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), dpi=72)
        axes = add_axes(figure, LEFT, RIGHT)
        for place, one in enumerate(series):
            line, marks, points = f"line-{place}", f"marks-{place}", one.points()
            styles |= dict.fromkeys((line, marks), line_style(one.color))
            order = 3 - place / len(series)  # the first on top
            if not one.texts:
                ys = [y if abs(y) < TOO_LARGE else math.nan for y in one.ys]
                axes.plot(one.xs, ys, gid=line, zorder=order)
            if points and one.has_marks and (one.texts or len(one.xs) <= MAX_MARKS):
                axes.plot(*zip(*points, strict=True), "o", gid=marks, zorder=order)
                texts[marks] = one.texts or [
                    f"{one.name} {number_text(y)} at {number_text(x)}" for x, y in points
                ]
        set_axis(axes, "x", x_axis)
        set_axis(axes, "y", Axis("", log=log))
        axes.yaxis.grid(visible=True)
        axes.spines["bottom"].set(visible=True, gid="axis")
        svg = to_svg(figure, summary or summary_of(title, x_axis.label, series), styles, texts)
    keys = [Key(one.name, line_style(one.color), bool(one.texts)) for one in series]
    return Chart(title, svg, "; ".join(filter(None, ["logarithmic scale" * log, note])), keys)


def draw_parallel(
    axes: Sequence[Axis], rows: Sequence[Sequence[float]], texts: Sequence[str], summary: str
) -> Markup:
    """Draw parallel coordinates: a line for each row, the best last, so that it is on top.

    A row has a value for each axis (a choice by its place), and a tooltip in `texts`.
    """
    styles, tooltips = dict[str, str](), dict[str, Sequence[str]]()
    with style.context(STYLE):
        figure = Figure(figsize=(WIDE / 72, HEIGHT / 72), dpi=72)
        columns = []
        for place, axis in enumerate(axes):
            x = SIDE + (WIDE - 2 * SIDE) * place / max(1, len(axes) - 1)
            column = add_axes(figure, x - 0.1, x + 0.1)
            column.set_xticks([])
            column.set_xlabel(label_text(axis.label, 2 * MAX_LABEL), labelpad=12)
            set_axis(column, "y", axis)
            column.spines["left"].set(visible=True, gid="axis")
            columns.append(column)
        for place, (row, text) in enumerate(zip(rows, texts, strict=True), 1):
            pairs = zip(columns, row, strict=True)
            points = [column.transData.transform((0.5, value)) for column, value in pairs]
            line = f"line-{place}"
            part = round(100 * place / len(rows))  # from the worst to the best
            styles[line] = f"stroke:color-mix(in srgb,var(--c0) {part}%,var(--wrong))"
            if place == len(rows):
                styles[line] += ";stroke-width:3;stroke-opacity:1"
            tooltips[line] = [text]
            xs, ys = zip(*points, strict=True)
            crossing = Line2D(xs, ys, gid=line, transform=IdentityTransform(), zorder=-1)
            figure.add_artist(crossing)
        return to_svg(figure, summary, styles, tooltips)


def epoch_series(
    name: str, rows: Sequence[Mapping[str, Any]], column: str, color: int = 0
) -> Series:
    values = [row.get(column, math.nan) for row in rows]
    return Series(name, [row["epoch"] + 1 for row in rows], values, color)


def line_style(color: int) -> str:
    dash = DASHES[color // COLORS % len(DASHES)]
    return f"stroke:var(--c{color % COLORS})" + (f";stroke-dasharray:{dash}" if dash else "")


def add_axes(figure: Figure, left: float, right: float) -> Axes:
    width = figure.bbox.width
    rectangle = (left / width, 1 - BOTTOM / HEIGHT, (right - left) / width, (BOTTOM - TOP) / HEIGHT)
    axes = figure.add_axes(rectangle)
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(which="both", length=0, pad=6)
    return axes


def set_axis(axes: Axes, which: str, axis: Axis) -> None:
    drawn = getattr(axes, f"{which}axis")
    if which == "x":
        drawn.set_label_text(label_text(axis.label, 4 * MAX_LABEL))
    if axis.choices:
        axes.set(**{f"{which}lim": (-0.3, len(axis.choices) - 0.7)})
        labels = [label_text(name, MAX_LABEL) for name in axis.choices]
        drawn.set_ticks(range(len(labels)), labels=labels)
        return
    if axis.log:
        axes.set(**{f"{which}scale": "log"})
    if axis.limits:
        axes.set(**{f"{which}lim": axis.limits})
    low, high = drawn.get_view_interval()
    if axis.log:
        steps = (1, 2, 5) if high < 100 * low else (1,)
        drawn.set_major_locator(LogLocator(subs=steps, numticks=MAX_TICKS))
    else:
        drawn.set_major_locator(MaxNLocator(MAX_TICKS, integer=axis.whole, steps=[1, 2, 5, 10]))
    drawn.set_minor_locator(NullLocator())
    drawn.set_major_formatter(FuncFormatter(lambda value, _: number_text(value)))


def to_svg(
    figure: Figure, label: str, styles: Mapping[str, str], texts: Mapping[str, Sequence[str]]
) -> Markup:
    """Return a figure as an SVG element for a page: no network, no script, no ids.

    Args:
        label: for those who do not see it.
        styles: CSS of the artists, by their `gid`.
        texts: tooltips of an artist's points, or one for its line.
    """
    file, nothing = StringIO(), dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # a browser has more fonts
        figure.savefig(file, format="svg", metadata=nothing)
    tooltips = {gid: iter(some) for gid, some in texts.items()}
    parts: list[str] = []

    def rewrite(node: ElementTree.Element, gid: str) -> None:
        gid = own if (own := node.get("id", "")) in styles or own == "axis" else gid
        kind = node.tag.rpartition("}")[2]
        drawn = f'class="line" style="{styles[gid]}"' if gid in styles else f'class="{gid}"'
        if kind == "text":
            anchor = "end" if "text-anchor: end" in node.get("style", "") else "middle"
            x, y = rounded(node.get("x", "")), rounded(node.get("y", ""))
            place = f'x="{x}" y="{y}" text-anchor="{anchor}"'
            parts.append(f"<text {place}>{html.escape(node.text or '')}</text>")
        elif kind in ("path", "use"):
            text = next(tooltips.get(gid, iter(())), "")
            if kind == "path":
                shape = f'path {drawn} d="{rounded(node.get("d", ""))}"'
            else:
                kind, x, y = "circle", rounded(node.get("x", "")), rounded(node.get("y", ""))
                shape = f'circle {drawn} cx="{x}" cy="{y}" r="2.5"'
            title = f"<title>{html.escape(text)}</title></{kind}>"
            parts.append(f"<{shape}>{title}" if text else f"<{shape}/>")
        elif kind not in ("defs", "metadata"):
            for child in node:
                rewrite(child, gid)

    rewrite(ElementTree.fromstring(file.getvalue()), "grid")
    size = f"0 0 {figure.bbox.width:g} {figure.bbox.height:g}"
    opening = f'<svg viewBox="{size}" role="img" aria-label="{html.escape(label)}">'
    return Markup("\n".join([opening, *parts, "</svg>"]))


def rounded(numbers: str) -> str:
    """Return coordinates with one digit after the point, on one line.

    >>> rounded("M 50.0625 9.96 \\nL 60 10 \\n")
    'M50.1 10L60 10'
    """
    text = re.sub(
        r"-?\d+\.\d+", lambda number: f"{float(number[0]):.1f}".removesuffix(".0"), numbers
    )
    return re.sub(r"\s*([A-Za-z])\s*", r"\1", text).strip()


def number_text(value: float) -> str:
    """Return a number short enough for an axis.

    >>> number_text(0.30000000000000004), number_text(12000.0), number_text(0.00002)
    ('0.3', '12,000', '2e-05')
    >>> number_text(1_250_000.0)
    '1.25M'
    """
    if 1e6 <= abs(value) < 1e9:
        return f"{value / 1e6:.4g}M"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def label_text(text: str, longest: int) -> str:
    text = "".join(c if c.isprintable() else "?" for c in text)  # XML cannot hold all others
    return text if len(text) <= longest else text[: longest - 1] + "…"


def spans_much(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) > LOG_RATIO * min(values)


def summary_of(title: str, x_label: str, series: Sequence[Series]) -> str:
    told = [
        f"{one.name} from {number_text(points[0][1])} to {number_text(points[-1][1])}"
        for one in series
        if (points := one.points())
    ]
    return f"{title} by {x_label}: {'; '.join(told)}"


def thinned(values: Sequence[float]) -> tuple[list[float], list[float], int]:
    """Return at most `MAX_POINTS` points, each the mean of N values: places, means, N."""
    n = -(-len(values) // MAX_POINTS)
    groups = [values[i : i + n] for i in range(0, len(values), n or 1)]
    places = [i * n + (len(group) - 1) / 2 for i, group in enumerate(groups)]
    return places, [fmean(group) for group in groups], n
