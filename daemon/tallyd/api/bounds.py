"""One bound on what all peers together may have half sent: each is bounded, but there may be thousands (P11)."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import trio

from tallyd.api.wire import encode

BODY_TIMEOUT_S: Final = 30
THROWN_AWAY_BYTES_MAX: Final = 67_108_864
TOO_LARGE: Final = "tallyd.too_large"

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Asgi = Callable[[Scope, Receive, Callable[[Any], Awaitable[None]]], Awaitable[None]]


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
    """An ASGI application whose requests' bodies are read for it, within bounds.

    Room for a body is reserved before any of it is read. A body that is too large is read to its end and thrown
    away, for most clients listen only when they have sent all; the request is then marked `TOO_LARGE`.

    Args:
        app: the application.
        bodies_bytes_max: room for all bodies together.
        body_bytes_max: the largest body, and what one without a length is taken for.
    """

    def __init__(self, app: Asgi, *, bodies_bytes_max: int, body_bytes_max: int) -> None:
        self._app = app
        self._budget = Budget(bodies_bytes_max)
        self._body_bytes_max = body_bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Any) -> None:
        """Serve a request, or answer 503 when there is no room for its body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        size = self._size(scope)
        if not self._budget.take(size):
            await self._read(receive, 0)
            await _refuse(send)
            return
        try:
            await self._serve(scope, receive, send)
        finally:
            self._budget.give_back(size)

    def _size(self, scope: Scope) -> int:
        headers = {name.lower(): value for name, value in scope["headers"]}
        length = headers.get(b"content-length", b"")
        if length.isdigit():
            return min(int(length), self._body_bytes_max)
        unsized = b"transfer-encoding" in headers or not scope["http_version"].startswith("1")
        return self._body_bytes_max if unsized and scope["method"] != "GET" else 0

    async def _serve(self, scope: Scope, receive: Receive, send: Any) -> None:
        body = await self._read(receive, self._body_bytes_max)
        if body is None:
            return  # gone, or too slow: nobody is there to be answered
        if len(body) > self._body_bytes_max:
            headers = [(name, value) for name, value in scope["headers"] if name.lower() != b"content-length"]
            scope = {**scope, TOO_LARGE: True, "headers": headers}
            body = b""
        unread = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_again() -> Any:
            return unread.pop() if unread else await receive()

        await self._app(scope, receive_again, send)

    async def _read(self, receive: Receive, most: int) -> bytes | None:
        """Return the body; a byte more than `most` of one that is larger; None when it does not come."""
        body, thrown_away = bytearray(), 0
        with trio.move_on_after(BODY_TIMEOUT_S):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    return None
                content = message.get("body", b"")
                room = most + 1 - len(body)
                body += content[:room]
                thrown_away += max(0, len(content) - room)
                if not message.get("more_body", False) or thrown_away > THROWN_AWAY_BYTES_MAX:
                    return bytes(body)
        return None


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
