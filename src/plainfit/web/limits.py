"""What a server lets in: bodies of so many bytes, from pages of its own address."""

from typing import Any

from fastapi.responses import JSONResponse

LOCAL = ("127.0.0.1", "localhost", "[::1]")


class LimitedBody:
    """Answers a request with more bytes than `most` with 413, without reading the rest."""

    def __init__(self, app: Any, most: int) -> None:
        self.app = app
        self.most = most

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, and count what it reads."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        said = dict(scope["headers"]).get(b"content-length", b"0")
        left = self.most

        async def counted() -> Any:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise TooLargeError
            return message

        too_large = JSONResponse({"detail": f"a request has at most {self.most:,} bytes"}, 413)
        if said.isdigit() and int(said) > self.most:
            await too_large(scope, receive, send)
            return
        try:
            await self.app(scope, counted, send)
        except TooLargeError:
            await too_large(scope, receive, send)


class TooLargeError(Exception):
    """A body has more bytes than it may have."""


class OwnHost:
    """Answers requests for another host with 403: a page elsewhere may have named it so."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on if its host and origin are this machine's own."""
        headers = dict(scope.get("headers", ()))
        host = headers.get(b"host", b"").decode("latin-1")
        origin = headers.get(b"origin", b"").decode("latin-1")
        is_own = host.rpartition(":")[0] in LOCAL or host in LOCAL
        if scope["type"] == "http" and not (is_own and origin in ("", f"http://{host}")):
            await JSONResponse({"detail": "must be asked as 127.0.0.1"}, 403)(scope, receive, send)
            return
        await self.app(scope, receive, send)
