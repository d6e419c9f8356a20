"""The page `clean`."""

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from plainfit.web.home import Home, page


def routes(home: Home) -> APIRouter:
    router = APIRouter()

    @router.get("/clean")
    async def show(request: Request) -> HTMLResponse:
        return page("clean")

    return router
