"""Line charts as numbers for an inline SVG, whose colours and fonts the page sets by CSS.

matplotlib would draw them with fixed colours, which a page that is dark at night cannot change.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT = 360, 210  # as wide as a phone, so that the labels are not scaled down there
LEFT, RIGHT, TOP, BOTTOM = 50, 350, 10, 176
COLORS = 8  # that the page defines; further lines are dashed in one of three ways
MOST_MARKS, MOST_POINTS, MOST_TICKS = 40, 400, 6
LARGE_RATIO = 30  # between the largest and the smallest value, from which the axis is logarithmic


@dataclass(frozen=True)
class Line:
    """What to draw: a name and its points."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]

    def points(self) -> list[tuple[float, float]]:
        """Return the points that are finite."""
        return [(x, y) for x, y in zip(self.xs, self.ys, strict=True) if math.isfinite(y)]


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where, and what it says."""

    at: float
    text: str


@dataclass(frozen=True)
class Mark:
    """A dot, and what it says to a pointer that rests on it."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class DrawnLine:
    """A line in the picture."""

    name: str
    style: str
    """Classes of the style sheet: the colour, and perhaps a dash."""
    pieces: list[str]
    """The points of each unbroken piece, as SVG writes them."""
    marks: list[Mark]


@dataclass(frozen=True)
class Chart:
    """A picture of lines, ready for the template."""

    title: str
    x_label: str
    note: str
    summary: str
    """What it shows, in words."""
    lines: list[DrawnLine]
    x_ticks: list[Tick]
    y_ticks: list[Tick]


@dataclass(frozen=True)
class Axis:
    """A range of values, laid along a stretch of the picture."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        """Return where a value is."""
        low, high = self.low, self.high
        if self.log:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 1)

    def ticks(self, *, whole: bool = False) -> list[Tick]:
        """Return round numbers within the range."""
        if self.log:
            values = log_ticks(self.low, self.high)
        else:
            locator = MaxNLocator(6, integer=whole, steps=[1, 2, 5, 10])
            values = [float(value) for value in locator.tick_values(self.low, self.high)]
        inside = [value for value in values if self.low <= value <= self.high]
        return [Tick(self.place(value), number_text(value)) for value in inside]


def draw_chart(
    title: str, x_label: str, lines: Sequence[Line], *, note: str = "", log: bool = False
) -> Chart | None:
    """Lay out a chart of lines; None if there is no finite value.

    Args:
        title: what is on the vertical axis.
        x_label: what is on the horizontal one, counted in whole numbers.
        lines: each gets a colour by its place, whether it has points or not.
        note: for the reader.
        log: let the vertical axis be logarithmic where the values differ by much.
    """
    points = [point for line in lines for point in line.points()]
    if not points:
        return None
    ys = [y for _, y in points]
    x_axis = Axis(*padded(x for x, _ in points), LEFT, RIGHT)
    y_axis = vertical_axis(ys, log)
    return Chart(
        title,
        x_label,
        "; ".join(filter(None, ["logarithmic scale" if y_axis.log else "", note])),
        summary_of(title, x_label, lines),
        [draw_line(line, place, x_axis, y_axis) for place, line in enumerate(lines)],
        x_axis.ticks(whole=True),
        y_axis.ticks(),
    )


def vertical_axis(ys: Sequence[float], log: bool) -> Axis:
    """Return an axis for these values, logarithmic where that is asked and they differ by much."""
    log = log and min(ys) > 0 and max(ys) > LARGE_RATIO * min(ys)
    low, high = padded(map(math.log, ys)) if log else padded(ys)
    margin = 0.04 * (high - low)
    low, high = low - margin, high + margin
    if log:
        return Axis(math.exp(low), math.exp(high), BOTTOM, TOP, True)
    return Axis(low, high, BOTTOM, TOP)


def draw_line(line: Line, place: int, x_axis: Axis, y_axis: Axis) -> DrawnLine:
    """Lay out one line, broken where a value is not finite."""
    pairs = list(zip(line.xs, line.ys, strict=True))
    pieces = [
        " ".join(f"{x_axis.place(x)},{y_axis.place(y)}" for x, y in piece)
        for finite, piece in groupby(pairs, key=lambda pair: math.isfinite(pair[1]))
        if finite
    ]
    shown = line.points() if len(pairs) <= MOST_MARKS else []
    marks = [
        Mark(x_axis.place(x), y_axis.place(y), f"{line.name} {number_text(y)} at {number_text(x)}")
        for x, y in shown
    ]
    return DrawnLine(line.name, style_of(place), pieces, marks)


def style_of(place: int) -> str:
    """Return the classes of the line at that place."""
    return f"c{place % COLORS} d{place // COLORS % 4}"


def padded(values: Iterable[float]) -> tuple[float, float]:
    """Return the smallest and largest value, apart from each other."""
    some = list(values)
    low, high = min(some), max(some)
    if high - low > 1e-12 * max(abs(low), abs(high)):
        return low, high
    room = abs(low) / 10 or 1.0
    return low - room, high + room


def log_ticks(low: float, high: float) -> list[float]:
    """Return powers of ten, and 2 and 5 times them if there is room."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [m * 10.0**power for power in powers for m in (1, 2, 5)]
    if sum(low <= value <= high for value in fine) <= MOST_TICKS:
        return fine
    return [10.0**power for power in powers[:: -(-len(powers) // MOST_TICKS)]]


def number_text(value: float) -> str:
    """Return a number short enough for an axis.

    >>> number_text(0.30000000000000004), number_text(12000.0), number_text(0.00002)
    ('0.3', '12,000', '2e-05')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def summary_of(title: str, x_label: str, lines: Sequence[Line]) -> str:
    """Say in words what a chart shows, for those who do not see it."""
    ends = [(line.name, line.points()) for line in lines]
    told = [
        f"{name} from {number_text(points[0][1])} to {number_text(points[-1][1])}"
        for name, points in ends
        if points
    ]
    return f"{title} by {x_label}: {'; '.join(told)}"


def thinned(values: Sequence[float]) -> tuple[list[float], list[float], int]:
    """Return at most some hundred points, each the mean of so many values; and how many."""
    each = -(-len(values) // MOST_POINTS)
    groups = [values[i : i + each] for i in range(0, len(values), each or 1)]
    xs = [i * each + (len(group) - 1) / 2 for i, group in enumerate(groups)]
    return xs, [sum(group) / len(group) for group in groups], each
