"""From values to text, and from a template to a page; text that comes from a run is escaped."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from plainfit.runs.folder import write_whole
from plainfit.training.history import HEADINGS, SHAPES

NOTHING = "-"  # in a cell without a value


@dataclass(frozen=True)
class Card:
    """A value at the top of a page."""

    title: str
    value: str
    note: str = ""


def render_to(out: Path, template: str, **values: Any) -> Path:
    """Fill in a template and write the page.

    Raises:
        RunError: if the file cannot be written.
    """
    page = environment().get_template(template).render(**values)
    # The name of a file can hold bytes that are not text; they become question marks.
    write_whole(out, lambda path: path.write_bytes(page.encode("utf-8", "replace")))
    return out


@cache
def environment() -> Environment:
    templates = Environment(
        loader=PackageLoader("plainfit.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["share"] = share_text
    return templates


def share_text(value: float) -> str:
    """Return a share or a probability with three digits; NaN stands for 0 of 0."""
    return NOTHING if math.isnan(value) else f"{value:.3f}"


def value_text(name: str, value: float | None) -> str:
    """Return a loss, a metric or a time as the command line prints it.

    >>> value_text("accuracy", 0.5), value_text("epoch", 3), value_text("test_loss", None)
    ('0.5000', '3', '-')
    """
    return NOTHING if value is None else format(value, SHAPES.get(name, ".4f"))


def header_text(name: str) -> str:
    """Return the header of a column.

    >>> header_text("best_valid_loss"), header_text("samples_per_second")
    ('best valid loss', 'samples/s')
    """
    return HEADINGS.get(name, name).replace("_", " ")


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
    """Return names and values as text."""
    return [(name.replace("_", " "), plain_text(value)) for name, value in values.items()]
