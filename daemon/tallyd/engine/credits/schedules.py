"""Dated rows: what was in force at an instant stays so (CONTRACTS 1.2, 1.7).

Weights and prices are published ahead of time and never edited. A row holds from its `effective_from` on, until a
later one of the same kind does.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Final, Generic, Protocol, TypeVar

import msgspec

from tallyd.model.moments import LATEST_US, MINUTE_US
from tallyd.model.money import ZERO, floor_to, number_problem
from tallyd.model.problems import Code, Problem

AHEAD_US: Final = 5 * MINUTE_US
"""How far ahead of now a weight is looked up for an event that lies in the future (CONTRACTS 1.4)."""

AMOUNT_MAX: Final = 1_000_000
AMOUNT_DIGITS_MAX: Final = 6
BATCH_ROWS_MAX: Final = 1_000


class DatedRow(Protocol):
    """A row of a schedule. `id` is derived from all that counts: equal ids are equal rows."""

    @property
    def id(self) -> str:
        """Name of the row's content."""

    @property
    def effective_from(self) -> int:
        """When it begins to hold, in microseconds."""

    @property
    def created_at(self) -> int:
        """When it was published, in microseconds."""


RowT = TypeVar("RowT", bound=DatedRow)


class Timeline(Generic[RowT]):
    """Rows of one kind, one after the other."""

    __slots__ = ("_instants", "rows")

    def __init__(self, rows: Iterable[RowT]) -> None:
        self.rows = sorted(rows, key=lambda row: row.effective_from)
        self._instants = [row.effective_from for row in self.rows]

    def at(self, moment: int, known_at: int) -> RowT | None:
        """Return the row in force at a moment, as far as was known at another; None before the first.

        Asking again later with the same two instants gives the same answer, whatever was published since.
        """
        index = bisect_right(self._instants, moment)
        while index:
            index -= 1
            row = self.rows[index]
            if row.created_at <= known_at:
                return row
        return None

    def free_instant(self, moment: int) -> int:
        """Return the first instant from `moment` on at which no row begins."""
        while moment in self._instants:
            moment += 1
        return moment


class Published(msgspec.Struct, Generic[RowT], frozen=True):
    """A batch that may be kept. `repeated`: its rows were kept already, and nothing changes."""

    rows: list[RowT]
    repeated: bool


def amount_problem(value: Decimal) -> str | None:
    """Say why a number can be neither a weight nor a price of credits, or None when it can."""
    if not value.is_finite() or not ZERO < value <= AMOUNT_MAX:
        return f"must be more than 0 and at most {AMOUNT_MAX:,}"
    if number_problem(value) or value != floor_to(value, AMOUNT_DIGITS_MAX):
        return f"must have at most {AMOUNT_DIGITS_MAX} digits after the decimal point"
    return None


def size_problem(size: int, field: str) -> Problem | None:
    """Say why a batch of that many rows cannot be published, or None. `field` is the rows' wire name."""
    if 1 <= size <= BATCH_ROWS_MAX:
        return None
    return invalid_field(field, f"must have 1 to {BATCH_ROWS_MAX:,} rows")


def publish(
    held: Iterable[RowT], batch: Sequence[RowT], effective_from: int, *, now: int, field: str
) -> Published[RowT] | Problem:
    """Decide good rows that all begin at one instant: new, there already, too late, or in conflict (E6).

    A batch that is there already is no mistake, even when its instant has passed: it is a request sent again.
    """
    there = {row.id: row for row in held if row.effective_from == effective_from}
    if there and there.keys() == {row.id for row in batch}:
        return Published([there[row.id] for row in batch], repeated=True)
    if effective_from < now:
        return invalid_field("effectiveFrom", "must not lie in the past; leave it out to publish from now on")
    if effective_from >= LATEST_US:
        return invalid_field("effectiveFrom", "must lie before the year 2200")
    if there:
        text = f"other {field} were published for that very instant; choose another effectiveFrom"
        return Problem(code=Code.CONFLICT, field="effectiveFrom", message=text)
    return Published(list(batch), repeated=False)


def removal_problem(row: DatedRow, now: int, ahead: int = 0) -> Problem | None:
    """Say why a row cannot be taken back, or None: it can as long as it lies in the future (E6).

    `ahead` is how far in the future it may have been used already.
    """
    if row.effective_from > now + ahead:
        return None
    return invalid_field("id", "is in force, or was; only what begins in the future can be deleted")


def invalid_field(field: str, message: str) -> Problem:
    """Return the problem of one field, by its wire name, such as `weights[0].weight`."""
    return Problem(code=Code.VALIDATION_FAILED, field=field, message=message)
