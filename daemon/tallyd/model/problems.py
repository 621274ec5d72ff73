"""Everything that can go wrong, as data: one closed list, translated once by each API family."""

from enum import StrEnum

import msgspec


class Code(StrEnum):
    """Stable error codes; the values are what the Tanso envelope and the socket's `data.code` carry."""

    VALIDATION_FAILED = "validation_failed"
    MALFORMED = "malformed_request"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    IDEMPOTENCY_CONFLICT = "idempotency_conflict"
    DUPLICATE_KEY = "duplicate_key"
    INSUFFICIENT_CREDITS = "insufficient_credits"
    DENIED = "denied"
    TOO_LARGE = "too_large"
    RATE_LIMITED = "rate_limited"
    UNAVAILABLE = "unavailable"
    POISON = "poison"
    INTERNAL = "internal_error"


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request was not carried out.

    Attributes:
        code: stable, for programs.
        message: one sentence for people; says what to do next where that is not obvious.
        field: the offending field's wire name, when one is to blame.
        detail: the other thing a caller needs, such as the original event's id of a duplicate.
    """

    code: Code
    message: str
    field: str | None = None
    detail: str | None = None

    def sentence(self) -> str:
        """Return `field: message`, or the message alone."""
        return f"{self.field}: {self.message}" if self.field else self.message


class ProblemError(Exception):
    """Carries a `Problem` up to the interface that answers it."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.sentence())
        self.problem = problem


def invalid(field: str, message: str) -> ProblemError:
    """Return the error for one bad field."""
    return ProblemError(Problem(code=Code.VALIDATION_FAILED, message=message, field=field))


def not_found(message: str) -> ProblemError:
    """Return the error for something unknown."""
    return ProblemError(Problem(code=Code.NOT_FOUND, message=message))


def unavailable(message: str) -> ProblemError:
    """Return the error for an outcome that is unknown or a service that is stopping: retry with the same key."""
    return ProblemError(Problem(code=Code.UNAVAILABLE, message=message))


def overloaded(message: str) -> ProblemError:
    """Return the error for a full queue: nothing was taken, retry shortly."""
    return ProblemError(Problem(code=Code.RATE_LIMITED, message=message))
