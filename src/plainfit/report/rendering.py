"""From values to text, and from a template to a page; text that comes from a run is escaped."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from plainfit.runs.folder import write_output
from plainfit.training.history import HEADINGS, SHAPES

NOTHING = "-"  # in a cell without a value


@dataclass(frozen=True)
class Card:
    """A value at the top of a page."""

    title: str
    value: str
    note: str = ""


def render_to(out: Path, template: str, **values: Any) -> Path:
    page = environment().get_template(template).render(**values)
    # The name of a file can hold bytes that are not text; they become question marks.
    write_output(out, page.encode("utf-8", "replace"))
    return out


@cache
def environment(package: str = "plainfit.report") -> Environment:
    templates = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["share"] = share
    return templates


def share(value: float) -> str:
    """Return a share or a probability; NaN stands for 0 of 0."""
    return NOTHING if math.isnan(value) else f"{value:.3f}"


def value_text(name: str, value: Any) -> str:
    """Return a loss, a metric, a time or a count as the command line prints it.

    >>> value_text("accuracy", 0.5), value_text("parameters", 1234), value_text("test_loss", None)
    ('0.5000', '1,234', '-')
    >>> value_text("mae", 16575.5098), value_text("mae", 0.00001234)
    ('16,575.5', '1.23e-05')
    """
    if isinstance(value, float):
        usual = ".3g" if 0 < abs(value) < 0.001 else ",.1f" if abs(value) >= 1000 else ".4f"
        return format(value, SHAPES.get(name, usual))
    return NOTHING if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def header_text(name: str) -> str:
    """Return the header of a column.

    >>> header_text("best_valid_loss"), header_text("samples_per_second")
    ('best valid loss', 'samples/s')
    """
    return HEADINGS.get(name, name).replace("_", " ")


def table_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a table for a template: a column for each name in the first row."""
    names = list(rows[0]) if rows else []
    return {
        "head": [header_text(name) for name in names],
        "rows": [[value_text(name, row.get(name)) for name in names] for row in rows],
    }


def plain_text(value: Any) -> str:
    """Return a setting as a reader would write it.

    >>> plain_text(None), plain_text(True), plain_text({"a": 1}), plain_text(0.1)
    ('-', 'yes', 'a=1', '0.1')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name}={plain_text(item)}" for name, item in value.items()) or NOTHING
    if isinstance(value, list | tuple):
        return ", ".join(map(plain_text, value)) or NOTHING
    return NOTHING if value is None else str(value)


def duration(seconds: float) -> str:
    """Return a time in at most two units.

    >>> duration(1.234), duration(192), duration(7380)
    ('1.23 s', '3 min 12 s', '2 h 3 min')
    """
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def facts(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name.replace("_", " "), plain_text(value)) for name, value in values.items()]
