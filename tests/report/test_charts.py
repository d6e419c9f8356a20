"""Charts: what the SVG shows, and that nothing else changes it."""

import re
from itertools import pairwise

import matplotlib
import numpy as np
import pytest

from plainfit.common.plots import histograms
from plainfit.report.charts import COLORS, Axis, Series, draw_chart, draw_parallel

STEPS = Axis("step", whole=True)


def circles(chart):
    return [tuple(map(float, place)) for place in re.findall(r'cx="(.*?)" cy="(.*?)"', chart.svg)]


def labels(chart, anchor):
    return re.findall(rf'text-anchor="{anchor}">(.*?)</text>', chart.svg)


def test_a_line_breaks_where_a_value_is_not_finite():
    nan = float("nan")
    chart = draw_chart("loss", STEPS, [Series("a", range(5), [1, 2, nan, 3, 4])])
    (line,) = re.findall(r'class="line" style="stroke:var\(--c0\)" d="(.*?)"', chart.svg)
    assert [piece.count("L") for piece in line.split("M")[1:]] == [1, 1]
    assert len(circles(chart)) == 4
    assert re.findall("<title>(.*?)</title>", chart.svg)[2] == "a 3 at 3"
    assert draw_chart("loss", STEPS, [Series("a", [0], [nan])]) is None
    flat = draw_chart("loss", STEPS, [Series("a", [1], [0.0])])
    assert circles(flat) == [(200.0, 93.0)]


def test_the_scale_is_logarithmic_where_values_differ_by_much():
    wide = [Series("a", range(3), [1, 0.1, 0.01])]
    charts = [draw_chart("x", STEPS, wide, log=log) for log in (True, False)]
    log, linear = ([b[1] - a[1] for a, b in pairwise(circles(chart))] for chart in charts)
    assert log[0] == pytest.approx(log[1], abs=0.11)
    assert linear[0] > 5 * linear[1]
    assert charts[0].note == "logarithmic scale"
    assert labels(charts[0], "end") == ["0.01", "0.1", "1"]
    assert labels(draw_chart("x", STEPS, [Series("a", [0, 1], [1, 40])], log=True), "end") == [
        "1", "2", "5", "10", "20",
    ]  # fmt: skip
    assert draw_chart("x", STEPS, [Series("a", range(2), [1, 0])], log=True).note == ""


def test_an_axis_has_round_numbers_a_range_or_choices():
    points = Series("a", [0, 1], [1, 2], texts=["one", "two"])
    choices = draw_chart("x", Axis("model", choices=["mlp", "a long name"]), [points])
    assert labels(choices, "middle") == ["mlp", "a long na…", "model"]
    rates = draw_chart("x", Axis("lr", (0.001, 1), log=True), [Series("a", [0.01, 0.1], [1, 2])])
    assert labels(rates, "middle") == ["0.001", "0.01", "0.1", "1", "lr"]
    assert [x for x, _ in circles(rates)] == [150, 250]
    whole = draw_chart("x", STEPS, [Series("a", [1, 2], [1, 2])])
    assert labels(whole, "middle") == ["1", "2", "step"]


def test_parallel_coordinates_have_a_line_for_each_row_the_best_on_top():
    axes = [Axis("lr", (0, 4)), Axis("model", choices=["mlp", "cnn"]), Axis("loss", (0.1, 1), True)]
    svg = draw_parallel(axes, [[1, 0, 1.0], [4, 1, 0.1]], ["worst", "best"], "two trials")
    line = r'd="M60 (.*?)L360 (.*?)L660 (.*?)"><title>(.*?)</title>'
    found = re.findall(line, svg)
    assert [text for *_, text in found] == ["worst", "best"]
    assert [(float(first), float(last)) for first, _, last, _ in found] == [(134.5, 10), (10, 176)]


def test_a_chart_depends_on_its_data_alone():
    def draw():
        return draw_chart("x", STEPS, [Series("a", range(3), [1, 2, 4])]).svg

    svg, before = draw(), dict(matplotlib.rcParams)
    own = {"lines.linewidth": 9, "font.size": 30, "axes.grid": True, "axes.xmargin": 0.3}
    with matplotlib.rc_context(own | {"svg.fonttype": "path", "axes.spines.top": True}):
        assert draw() == svg
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("name", ["$x_1$", "a$b", '<b>&"', "数字", "\x1b[31m", "\udcff"])
def test_names_are_text_whatever_is_in_them(name):
    points = Series(name, [0, 1], [1, 2], texts=[name, name])
    svg = draw_chart("x", Axis(name, choices=[name, "b"]), [points], summary=name).svg
    assert not re.search("<b>|<script", svg)
    shown = name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert re.findall("<title>(.*?)</title>", svg)[0] == shown.replace('"', "&quot;")


def test_the_style_sheet_has_every_colour_for_day_and_night():
    from importlib.resources import files

    css = (files("plainfit.report") / "templates" / "page.css").read_text()
    assert all(css.count(f"--c{color}:") == 2 for color in range(COLORS))


def test_a_table_has_a_histogram_for_each_column():
    columns = {f"c{number}": np.arange(40.0) ** number for number in range(1, 6)}
    axes = histograms({name: values.tolist() for name, values in columns.items()}).axes
    assert [axis.get_title() for axis in axes] == [*columns]
    for axis, values in zip(axes, columns.values(), strict=True):
        (outline,) = axis.patches  # of all bars: two corners above each
        counts = outline.get_xy()[1:61:2, 1].tolist()
        assert counts == np.histogram(values, bins=30)[0].tolist()
