"""From a template to a file; whatever comes from a run is escaped."""

import math
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from plainfit.report.reading import NOTHING
from plainfit.runs.folder import write_whole


def render_to(out: Path, template: str, **values: Any) -> Path:
    """Fill in a template and write the page.

    Raises:
        RunError: if the file cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("plainfit.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["share"] = share_text
    page = environment.get_template(template).render(**values)
    # A name from a file system can hold bytes that are no text; they become question marks.
    write_whole(out, lambda path: path.write_bytes(page.encode("utf-8", "replace")))
    return out


def share_text(value: float) -> str:
    """Return a share or a probability with three digits; NaN is 0 of 0."""
    return NOTHING if math.isnan(value) else f"{value:.3f}"
