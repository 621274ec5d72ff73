"""The native API's manners: Tanso's envelope and errors (CONTRACTS 1.1)."""

from typing import Any, Final

from quart import Response

from tallyd.api.http.family import STATUS, answer, whole_parameter
from tallyd.model.problems import Code, Problem

CLIENT: Final = "/api/v1/client"
ANALYTICS: Final = "/api/v1/analytics"
MONETIZATION: Final = "/api/v1/monetization"


def success(data: Any, status: int = 200) -> Response:
    """Return `{success, data}`."""
    return answer({"success": True, "data": data}, status)


def page(items: list[Any], *, total: int, limit: int, offset: int) -> dict[str, Any]:
    """Return a client list's page; past the end it is empty, not an error."""
    more = offset + len(items) < total
    return {"items": items, "pagination": {"total": total, "limit": limit, "offset": offset, "hasMore": more}}


PAGE_MAX: Final = 500
OFFSET_MAX: Final = 10_000_000


def listed(items: list[Any]) -> dict[str, Any]:
    """Return the page of a short list that the query's `limit` and `offset` ask for.

    Raises:
        ProblemError: limit or offset out of range.
    """
    limit = whole_parameter("limit", 50, least=1, most=PAGE_MAX)
    offset = whole_parameter("offset", 0, most=1_000_000)
    return page(items[offset : offset + limit], total=len(items), limit=limit, offset=offset)


def render(problem: Problem) -> tuple[int, Any]:
    """Return `{success: false, error: {code, message, detail}}`."""
    code, message = problem.code, problem.sentence()
    if code is Code.MALFORMED:
        code, message = Code.VALIDATION_FAILED, f"Malformed request body: {message}"
    elif code is Code.VALIDATION_FAILED:
        message = f"Validation failed: {message}"
    elif code is Code.DUPLICATE_KEY:  # of credits; keys of events are answered with 409 (CONTRACTS 1.2)
        code = Code.VALIDATION_FAILED
    error = {"code": code, "message": message}
    if problem.detail is not None:
        error["detail"] = problem.detail
    return STATUS[code], {"success": False, "error": error}
