"""What all pages share: the folder of runs, and the runs in it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from plainfit.runs.folder import RECORD, Run, open_run
from plainfit.web.trainings import Trainings

PAGES = ("try", "runs", "ladder", "clean")


@dataclass(frozen=True)
class Home:
    """The folder of runs that the pages are about; nothing outside it is opened by name."""

    folder: Path

    def run_folder(self, name: str) -> Path:
        """Return the folder of a run.

        Raises:
            HTTPException: 404 if `name` is not that of a run in the folder.
        """
        for record in self.folder.glob(f"*/{RECORD}"):
            if record.parent.name == name:
                return record.parent
        raise HTTPException(404, f"{name!r} must be the name of a run in {self.folder}")

    @cached_property
    def trainings(self) -> Trainings:
        """Those that the page has started."""
        return Trainings(self.folder)

    def run(self, name: str) -> Run:
        """Open a run; its model's code is imported only if it is trusted."""
        return open_run(self.run_folder(name))


environment = Environment(
    loader=PackageLoader("plainfit.web"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def page(name: str, **values: Any) -> HTMLResponse:
    """Return the HTML of a page, of the template of this name; `page` may be that of another."""
    template = environment.get_template(f"{name}.html.jinja")
    return HTMLResponse(template.render({"page": name, "pages": PAGES, **values}))
