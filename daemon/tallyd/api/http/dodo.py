"""Dodo's manners: its error shape, its statuses and codes, its pages (CONTRACTS 2.1).

The endpoints themselves are in `dodo_events` and `dodo_meters`. Success bodies are the bare object, lists are
`{"items": […]}` without totals.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec
from quart import Response

from tallyd.api.http.family import STATUS, answer, whole_parameter
from tallyd.model.problems import Code, Problem, ProblemError

PAGE_SIZE: Final = 10
PAGE_SIZE_MAX: Final = 100
PAGE_NUMBER_MAX: Final = 2**31 - 1

UNPROCESSABLE: Final = 422
INVALID_BODY: Final = "INVALID_REQUEST_BODY"
INVALID_QUERY: Final = "INVALID_QUERY_PARAMS"
TOO_MANY_KEYS: Final = "MAXIMUM_KEYS_REACHED"

_NAMES: Final = {
    Code.VALIDATION_FAILED: "INVALID_REQUEST_PARAMETERS",
    Code.MALFORMED: INVALID_BODY,
    Code.RATE_LIMITED: "TOO_MANY_REQUESTS",
    Code.TOO_LARGE: "PAYLOAD_TOO_LARGE",
    Code.INTERNAL: "INTERNAL_SERVER_ERROR",
}
"""Dodo's codes where they are not simply ours in capitals."""


class DodoProblem(Problem, frozen=True, kw_only=True):
    """A problem with a status and a code of Dodo's own.

    Attributes:
        status: HTTP status.
        name: the code, upper snake.
    """

    status: int
    name: str


class Page(msgspec.Struct, frozen=True):
    """Which page of a list is asked for; the first one is number 0."""

    size: int
    number: int

    @property
    def start(self) -> int:
        """How many rows come before it."""
        return self.size * self.number

    @property
    def end(self) -> int:
        """How many rows there are up to its end."""
        return self.start + self.size


def render(problem: Problem) -> tuple[int, Any]:
    """Return `{code, message}` with its status: 422 for what cannot be read, 400 for what breaks a rule."""
    if isinstance(problem, DodoProblem):
        return problem.status, {"code": problem.name, "message": problem.sentence()}
    status = UNPROCESSABLE if problem.code is Code.MALFORMED else STATUS[problem.code]
    return status, {"code": _NAMES.get(problem.code, problem.code.upper()), "message": problem.sentence()}


@contextmanager
def refusing(name: str, status: int = UNPROCESSABLE) -> Iterator[None]:
    """Give a problem raised inside this status and Dodo's code.

    Raises:
        ProblemError: the problem, with both.
    """
    try:
        yield
    except ProblemError as error:
        problem = error.problem
        raise ProblemError(
            DodoProblem(code=problem.code, message=problem.message, field=problem.field, status=status, name=name)
        ) from None


def asked_page() -> Page:
    """Read `page_size` (default 10, at most 100) and `page_number` (0-based) from the query.

    Raises:
        ProblemError: 422, out of range.
    """
    with refusing(INVALID_QUERY):
        return Page(
            whole_parameter("page_size", PAGE_SIZE, least=1, most=PAGE_SIZE_MAX),
            whole_parameter("page_number", 0, most=PAGE_NUMBER_MAX),
        )


def items(views: list[Any]) -> Response:
    """Answer with a page; past the end it is empty, not an error."""
    return answer({"items": views})
