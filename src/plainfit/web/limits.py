"""What a server lets in: bodies of so many bytes, from pages of its own address, with its token."""

import secrets
from contextlib import suppress
from typing import Any

from fastapi import HTTPException
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse
from h11 import LocalProtocolError
from starlette.requests import Request

LOCAL = ("127.0.0.1", "localhost", "[::1]")


class LimitedBody:
    """Answers a request with more bytes than `most` with 413, without reading the rest.

    All bodies that are being read or answered have `together` so many; what goes beyond it is
    answered with 503.
    """

    def __init__(self, app: Any, most: int, together: int = 2**30) -> None:
        self.app = app
        self.most = most
        self.together = together
        self.held = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        too_large = HTTPException(413, f"a request has at most {self.most:,} bytes")
        said = dict(scope["headers"]).get(b"content-length", b"0")
        read = 0

        async def counted() -> Any:
            nonlocal read
            message = await receive()
            size = len(message.get("body", b""))
            read, self.held = read + size, self.held + size
            if read > self.most:
                raise too_large
            if self.held > max(self.together, read):  # a single one may have as much as `most`
                raise HTTPException(503, "too many requests are read", {"Retry-After": "1"})
            return message

        async def sent(message: Any) -> None:
            with suppress(LocalProtocolError):  # a body that is no HTTP: uvicorn has answered
                await send(message)

        if said.isdigit() and len(said) < 20 and int(said) > self.most:
            await JSONResponse({"detail": too_large.detail}, 413)(scope, receive, send)
            return
        try:
            await self.app(scope, counted, sent)
        finally:
            self.held -= read


class OwnHost:
    """Answers requests for another host with 403: a page elsewhere may have named it so."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = dict(scope.get("headers", ()))
        host = headers.get(b"host", b"").decode("latin-1")
        origin = headers.get(b"origin", b"").decode("latin-1")
        is_own = host.rpartition(":")[0] in LOCAL or host in LOCAL
        if scope["type"] == "http" and not (is_own and origin in ("", f"http://{host}")):
            await JSONResponse({"detail": "must be asked as 127.0.0.1"}, 403)(scope, receive, send)
            return
        await self.app(scope, receive, send)


class OwnToken:
    """Lets in a browser that has opened `/?token=...`, and remembers it by a cookie.

    Every answer tells the browser to load nothing from elsewhere, and to run no script that stands
    in the page.
    """

    HEADERS = (
        (
            b"content-security-policy",
            b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
            b"connect-src 'self'; media-src 'self' blob:; frame-src 'self'; form-action 'none'; "
            b"base-uri 'none'; frame-ancestors 'self'",
        ),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"cache-control", b"no-store"),
    )

    def __init__(self, app: Any, token: str) -> None:
        self.app = app
        self.token = token

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = (
                    []
                    if any(name == b"content-security-policy" for name, _ in message["headers"])
                    else self.HEADERS[:1]
                )
                message["headers"] = [*message["headers"], *own, *self.HEADERS[1:]]
            await send(message)

        request = Request(scope)
        cookie = f"plainfit-{request.url.port}"  # cookies do not differ by port
        given = request.query_params.get("token", "")
        if self.is_own(given):
            answer = RedirectResponse(request.url.remove_query_params("token"), 303)
            answer.set_cookie(cookie, self.token, httponly=True, samesite="strict")
            await answer(scope, receive, guarded)
        elif self.is_own(request.cookies.get(cookie, "")):
            await self.app(scope, receive, guarded)
        else:
            text = (
                "Open the address that `plainfit app` has printed: it has the token.\n"
                "请打开 `plainfit app` 打印出的网址。令牌就在网址里。\n"
            )
            await PlainTextResponse(text, 403)(scope, receive, guarded)

    def is_own(self, token: str) -> bool:
        return secrets.compare_digest(token.encode(), self.token.encode())
