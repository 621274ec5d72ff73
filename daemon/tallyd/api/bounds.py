"""One bound on what all peers together may have half sent: each is bounded, but there may be thousands (P11)."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from tallyd.api.wire import encode

Scope = MutableMapping[str, Any]
Asgi = Callable[[Scope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]


class Budget:
    """Bytes that may be held at a time."""

    def __init__(self, most: int) -> None:
        self._left = most

    def take(self, amount: int) -> bool:
        """Take some bytes, if they are there."""
        if amount > self._left:
            return False
        self._left -= amount
        return True

    def give_back(self, amount: int) -> None:
        """Give bytes back."""
        self._left += amount


class BoundedBodies:
    """An ASGI application whose requests reserve room for their body before any of it is read.

    Args:
        app: the application.
        bodies_bytes_max: room for all bodies together.
        body_bytes_max: what a body without a length is taken for.
    """

    def __init__(self, app: Asgi, *, bodies_bytes_max: int, body_bytes_max: int) -> None:
        self._app = app
        self._budget = Budget(bodies_bytes_max)
        self._body_bytes_max = body_bytes_max

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Serve a request, or answer 503 when there is no room."""
        size = self._size(scope)
        if not self._budget.take(size):
            await _refuse(send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            self._budget.give_back(size)

    def _size(self, scope: Scope) -> int:
        if scope["type"] != "http":
            return 0
        headers = {name.lower(): value for name, value in scope["headers"]}
        length = headers.get(b"content-length", b"")
        if length.isdigit():
            return min(int(length), self._body_bytes_max)
        unsized = b"transfer-encoding" in headers or not scope["http_version"].startswith("1")
        return self._body_bytes_max if unsized and scope["method"] != "GET" else 0


async def _refuse(send: Any) -> None:
    message = "too many bodies are being sent at once; retry shortly"
    content = encode({"success": False, "error": {"code": "unavailable", "message": message}})
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        (b"retry-after", b"1"),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": content})
