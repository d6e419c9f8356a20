"""The page `try`."""

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from plainfit.web.home import Home, page


def routes(home: Home) -> APIRouter:
    router = APIRouter()

    @router.get("/try")
    async def show(request: Request) -> HTMLResponse:
        return page("try")

    return router
