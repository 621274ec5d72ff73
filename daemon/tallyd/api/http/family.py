"""A family of endpoints: how it answers, and how it says no. One error shape each, in one place."""

from collections.abc import Awaitable, Callable
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any, Final

import msgspec
import structlog
from quart import Response, request
from quart_trio import QuartTrio

from tallyd.actors.keys import require
from tallyd.api.wire import encode
from tallyd.core import Core
from tallyd.model.moments import EARLIEST_US, LATEST_US, parse_iso
from tallyd.model.problems import Code, Problem, ProblemError, invalid

STATUS: Final = {
    Code.VALIDATION_FAILED: 400,
    Code.MALFORMED: 400,
    Code.UNAUTHORIZED: 401,
    Code.DENIED: 403,
    Code.FORBIDDEN: 403,
    Code.NOT_FOUND: 404,
    Code.CONFLICT: 409,
    Code.IDEMPOTENCY_CONFLICT: 409,
    Code.INSUFFICIENT_CREDITS: 409,
    Code.DUPLICATE_KEY: 409,
    Code.TOO_LARGE: 413,
    Code.POISON: 422,
    Code.RATE_LIMITED: 429,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
}
CONFLICT: Final = 409
RETRY_AFTER_S: Final = 1
_JSON: Final = "application/json"
_log = structlog.get_logger(__name__)

Handler = Callable[..., Awaitable[Response]]


class Family:
    """Endpoints that share an error shape.

    Args:
        core: what handlers work with.
        render: turns a problem into (status, body).
        once: wraps the handling of requests that change something; see `replays`.
    """

    def __init__(
        self,
        core: Core,
        render: Callable[[Problem], tuple[int, Any]],
        once: Callable[[Callable[[], Awaitable[Response]]], Awaitable[Response]] | None = None,
    ) -> None:
        self.core = core
        self._render = render
        self._once = once

    def route(self, app: QuartTrio, rule: str, method: str, scope: str | None, handler: Handler) -> None:
        """Serve a handler; problems it raises are answered in the family's shape.

        Args:
            app: the application.
            rule: path, with `<name>` for parameters.
            method: HTTP method.
            scope: what the key must allow; None for an open endpoint.
            handler: called with the path's parameters.
        """
        changing = self._once if method != "GET" else None

        async def view(**parameters: str) -> Response:
            try:
                if scope is not None:
                    require(self.core.keys.scopes_of(_secret()), scope)
                if changing is not None:
                    return await changing(partial(self._handled, handler, parameters))
                return await handler(**parameters)
            except ProblemError as error:
                return self.problem(error.problem)

        endpoint = f"{method} {rule}"
        app.add_url_rule(rule, endpoint=endpoint, view_func=view, methods=[method])

    async def _handled(self, handler: Handler, parameters: dict[str, str]) -> Response:
        try:
            return await handler(**parameters)
        except ProblemError as error:
            return self.problem(error.problem)

    def problem(self, problem: Problem) -> Response:
        """Answer with a problem."""
        status, body = self._render(problem)
        response = answer(body, status)
        if status == CONFLICT:
            response.headers["x-should-retry"] = "false"  # SDKs retry a 409 unless told not to (CONTRACTS 2.1)
        if problem.code in (Code.RATE_LIMITED, Code.UNAVAILABLE):
            response.headers["Retry-After"] = str(RETRY_AFTER_S)
        return response


def answer(body: Any, status: int = 200, encoder: Callable[[Any], bytes] = encode) -> Response:
    """Return a JSON response."""
    return Response(encoder(body), status, content_type=_JSON)


def _secret() -> str | None:
    authorization: str | None = request.headers.get("Authorization")
    if authorization is not None:
        scheme, _, secret = authorization.partition(" ")
        return secret.strip() if scheme.lower() == "bearer" else None
    key: str | None = request.headers.get("X-API-Key")
    return key


async def body_bytes() -> bytes:
    """Return the request's body."""
    content = await request.get_data(as_text=False)
    return content.encode() if isinstance(content, str) else content


def whole_parameter(name: str, default: int, *, least: int = 0, most: int) -> int:
    """Read a whole number from the query.

    Raises:
        ProblemError: not a number, or out of range.
    """
    text = request.args.get(name)
    if text is None:
        return default
    try:
        value = msgspec.convert(text, int, strict=False)
    except msgspec.ValidationError:
        raise invalid(name, "must be a whole number") from None
    if not least <= value <= most:
        raise invalid(name, f"must be {least} to {most}")
    return value


def decimal_parameter(name: str) -> Decimal | None:
    """Read a number from the query, every digit kept; whether it can be kept is for others to check.

    Raises:
        ProblemError: not a number.
    """
    text = request.args.get(name)
    if text is None:
        return None
    try:
        return Decimal(text)
    except InvalidOperation:
        raise invalid(name, "must be a number") from None


def instant_parameter(name: str) -> int | None:
    """Read an instant from the query; a `+` that arrived as a space is put right.

    Raises:
        ProblemError: not ISO 8601 with a zone.
    """
    text = request.args.get(name)
    if text is None:
        return None
    try:
        moment = parse_iso(text.replace(" ", "+") if "T" in text else text)
    except (ValueError, OverflowError):
        raise invalid(name, "must be an ISO 8601 time with a zone, such as 2026-11-21T00:00:00Z") from None
    if not EARLIEST_US <= moment <= LATEST_US:
        raise invalid(name, "must lie in the years 2000 to 2199")
    return moment


def header_text(name: str) -> str | None:
    """Read a header as UTF-8 text, so that it equals the same text in a body.

    Raises:
        ProblemError: not UTF-8.
    """
    text: str | None = request.headers.get(name)
    if text is None or text.isascii():
        return text
    try:
        return text.encode("latin-1").decode()
    except UnicodeError:
        raise invalid(name, "must be UTF-8") from None


def flag_parameter(name: str, *, default: bool = False) -> bool:
    """Read true or false from the query.

    Raises:
        ProblemError: neither.
    """
    text = request.args.get(name)
    if text is None:
        return default
    if text.lower() not in ("true", "false"):
        raise invalid(name, "must be true or false")
    return text.lower() == "true"
