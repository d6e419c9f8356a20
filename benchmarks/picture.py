"""The picture of the page: how many times as fast as the tutorial's loop each contender is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contenders import MODELS

COLOURS = {"ours": "#c2410c", "option": "#fdba74", "bare": "#6b7280", "peer": "#3b82a6"}


def draw(by_model: dict[str, Sequence[dict[str, Any]]], path: Path) -> None:
    """Write bars of all contenders, a panel for each model, the fastest on top."""
    from matplotlib.figure import Figure

    height = 1.1 + 0.27 * max(map(len, by_model.values()), default=1)
    figure = Figure(figsize=(11, height), layout="constrained")
    panels = figure.subplots(1, max(len(by_model), 1), squeeze=False)[0]
    for panel, (model, rows) in zip(panels, by_model.items(), strict=False):
        known = [row for row in rows if row["of_tutorial"] is not None]
        bars(panel, sorted(known, key=lambda row: row["of_tutorial"]))
        panel.set_title(MODELS[model][0].upper() + MODELS[model][1:], fontsize=11, loc="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def bars(panel: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Draw a bar for each row, with its range over the rounds and its value."""
    values = [row["of_tutorial"] for row in rows]
    lows = [row["of_tutorial"] - row["of_tutorial_range"][0] for row in rows]
    highs = [row["of_tutorial_range"][1] - row["of_tutorial"] for row in rows]
    places = range(len(rows))
    panel.barh(
        places,
        values,
        color=[COLOURS[row["kind"]] for row in rows],
        xerr=[lows, highs],
        error_kw={"ecolor": "#374151", "elinewidth": 0.8, "capsize": 2},
    )
    top = max([v + h for v, h in zip(values, highs, strict=True)], default=1)
    for place, value, high in zip(places, values, highs, strict=True):
        panel.text(value + high + top * 0.015, place, f"{value:.2f}", va="center", fontsize=8)
    panel.axvline(1, color="#6b7280", linewidth=0.8, linestyle=":")
    panel.set_yticks(places, [row["title"] for row in rows], fontsize=9)
    for label, row in zip(panel.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if row["kind"] == "ours" else "normal")
    panel.set_xlim(0, top * 1.12)
    panel.set_xlabel("times as fast as the tutorial's loop", fontsize=9)
    panel.tick_params(axis="x", labelsize=8)
    panel.spines[["top", "right"]].set_visible(False)
