"""The page `ladder`."""

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from plainfit.web.home import Home, page


def routes(home: Home) -> APIRouter:
    router = APIRouter()

    @router.get("/ladder")
    async def show(request: Request) -> HTMLResponse:
        return page("ladder")

    return router
