"""What all pages share: the folder of runs and the runs in it, and texts in two languages."""

import json
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from fastapi import HTTPException, Request
from fastapi.responses import HTMLResponse

from plainfit.common.errors import TrustError, command
from plainfit.ladder.lessons import LANGUAGES
from plainfit.report.rendering import environment
from plainfit.runs.folder import RECORD, Run, open_run
from plainfit.web.trainings import Trainings

PAGES = ("try", "runs", "ladder", "clean")
TEMPLATES = Path(__file__).parent / "templates"
COOKIE, YEAR = "plainfit-language", 365 * 86_400  # seconds


@dataclass(frozen=True)
class Home:
    """The folder of runs that the pages are about; nothing outside it is opened by name."""

    folder: Path

    def run_folder(self, name: str) -> Path:
        """Return the folder of a run.

        Raises:
            HTTPException: 404 if `name` is not that of a run in the folder. As in other errors
                that a page shows, `text` is the key of its words, which take the other values.
        """
        for record in self.folder.glob(f"*/{RECORD}"):
            if record.parent.name == name:
                return record.parent
        raise HTTPException(404, {"text": "no_run", "name": repr(name), "folder": str(self.folder)})

    @property
    def first_training(self) -> str:
        return command("train", "--out", self.folder / "first")

    @cached_property
    def trainings(self) -> Trainings:
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
                detail = {"text": "code_changed", "source": error.source}
                raise HTTPException(409, detail) from error
            open_run(self.run_folder(name), trust_code=True).factory  # noqa: B018


def language_of(request: Request) -> str:
    asked = [
        request.query_params.get("lang", ""),
        request.cookies.get(COOKIE, ""),
        *request.headers.get("accept-language", "").split(","),
    ]
    codes = (one.strip()[:2].lower() for one in asked)
    return next((code for code in codes if code in LANGUAGES), "en")


@cache
def texts(name: str, language: str) -> dict[str, str]:
    place = list(LANGUAGES).index(language)
    both = json.loads((TEMPLATES / f"{name}.json").read_text(encoding="utf-8"))
    return {key: pair[place] for key, pair in both.items()}


def page(request: Request, name: str, **values: Any) -> HTMLResponse:
    """Return the HTML of a page, of the template of this name; `page` may be that of another.

    Its texts are in the template, and in the page's scripts, as `t`.
    """
    language = language_of(request)
    shown = {"page": name, "pages": PAGES, "lang": LANGUAGES[language]} | values
    shown["t"] = texts("page", language) | texts(shown["page"], language)
    template = environment("plainfit.web").get_template(f"{name}.html.jinja")
    answer = HTMLResponse(template.render(shown))
    if "lang" in request.query_params:
        answer.set_cookie(COOKIE, language, max_age=YEAR, samesite="strict")
    return answer
