"""What all pages share: the folder of runs, and the runs in it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from fastapi.responses import HTMLResponse

from plainfit.common.errors import TrustError
from plainfit.report.rendering import environment
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

    def trust(self, name: str, source: str) -> None:
        """Trust the code of a run's model from now on, as it is shown by `source`.

        Raises:
            HTTPException: 409 if the code is another by now.
        """
        try:
            self.run(name).factory  # noqa: B018  # imports it, if it is trusted
        except TrustError as error:
            if error.source != source:
                raise HTTPException(
                    409, f"the code has changed meanwhile: {error.source}"
                ) from error
            open_run(self.run_folder(name), trust_code=True).factory  # noqa: B018


def page(name: str, **values: Any) -> HTMLResponse:
    """Return the HTML of a page, of the template of this name; `page` may be that of another."""
    template = environment("plainfit.web").get_template(f"{name}.html.jinja")
    return HTMLResponse(template.render({"page": name, "pages": PAGES, **values}))
