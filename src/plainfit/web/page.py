"""`plainfit app`: pages on this machine about a folder of runs."""

from pathlib import Path
from typing import Annotated

from fastapi import Body, FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles

import plainfit.report
from plainfit.common.errors import TrustError
from plainfit.web import cleaning, ladder, runs, trying
from plainfit.web.home import Home
from plainfit.web.limits import LimitedBody, OwnHost, OwnToken
from plainfit.web.serving import REFUSALS, described_app

HERE = Path(__file__).parent
STYLE = Path(plainfit.report.__file__).parent / "templates" / "page.css"
BODY = 32 * 2**20  # bytes of a request
REFUSED_HERE = {404: "There is no such thing.", 409: "Code must be trusted first, or has changed."}


def create_page(folder: Path, token: str, *, any_host: bool = False) -> FastAPI:
    """Return the ASGI application of the page.

    Args:
        folder: of runs.
        token: what a browser must know, from the address that the terminal shows.
        any_host: answer requests for other hosts than this machine's own names.
    """
    home = Home(folder)
    # An object has the key of a text in `templates`, so that the page can say it in its language.
    app = described_app("plainfit", REFUSALS | REFUSED_HERE, ["string", "object"])
    app.state.home, app.state.is_closing = home, lambda: False
    app.add_exception_handler(TrustError, untrusted)
    app.add_middleware(LimitedBody, most=BODY)
    app.add_middleware(OwnToken, token=token)
    if not any_host:
        app.add_middleware(OwnHost)

    @app.get("/", include_in_schema=False)
    async def first() -> RedirectResponse:
        return RedirectResponse("/runs")

    @app.get("/static/page.css", include_in_schema=False)
    async def style() -> FileResponse:
        return FileResponse(STYLE)

    @app.post("/api/trust/{name}")
    def trust(name: str, source: Annotated[str, Body(embed=True)]) -> None:
        home.trust(name, source)

    app.mount("/static", StaticFiles(directory=HERE / "static"))
    for module in (trying, runs, ladder, cleaning):
        app.include_router(module.routes(home))
    return app


async def untrusted(request: Request, error: Exception) -> JSONResponse:
    """Name the code that is to be trusted, for `POST /api/trust/RUN` to say so of this `source`."""
    assert isinstance(error, TrustError)
    named = {"target": error.target, "source": error.source}
    return JSONResponse({"detail": str(error), "untrusted": named}, 409)
