"""Billing periods: half-open, from an anchor day that is clamped to the month's end and comes back.

31 January is followed by 28 February and then by 31 March, so nobody drifts to the 28th.
"""

from calendar import monthrange
from datetime import UTC, datetime
from typing import NamedTuple

from tallyd.model.moments import from_micros, to_micros

MONTHS_A_YEAR = 12


class Period(NamedTuple):
    """`[start, end)` in microseconds UTC."""

    start: int
    end: int


def _boundary(month_number: int, anchor_day: int) -> int:
    """Midnight UTC of the anchor day in a month counted from year 0."""
    year, month = divmod(month_number, MONTHS_A_YEAR)
    day = min(anchor_day, monthrange(year, month + 1)[1])
    return to_micros(datetime(year, month + 1, day, tzinfo=UTC))


def _month_number(micros: int) -> int:
    moment = from_micros(micros)
    return moment.year * MONTHS_A_YEAR + moment.month - 1


def period_at(moment: int, *, starts_at: int, anchor_day: int, interval_months: int = 1) -> Period:
    """Return the billing period that contains `moment`, which must not lie before `starts_at`.

    Boundaries fall on midnight UTC of the anchor day, every `interval_months` months counted from the month
    of the first boundary at or before `starts_at`. The first period begins at `starts_at` itself.
    """
    first = _month_number(starts_at)
    if _boundary(first, anchor_day) > starts_at:
        first -= 1
    steps = (_month_number(moment) - first) // interval_months
    if _boundary(first + steps * interval_months, anchor_day) > moment:
        steps -= 1
    start = _boundary(first + steps * interval_months, anchor_day)
    end = _boundary(first + (steps + 1) * interval_months, anchor_day)
    return Period(max(start, starts_at), end)


def calendar_month(moment: int) -> Period:
    """Return the UTC calendar month that contains the instant."""
    month = _month_number(moment)
    return Period(_boundary(month, 1), _boundary(month + 1, 1))


def add_months(moment: int, months: int) -> int:
    """Return the same day and time some months later, clamped to the month's end."""
    then = from_micros(moment)
    year, month = divmod(then.year * MONTHS_A_YEAR + then.month - 1 + months, MONTHS_A_YEAR)
    return to_micros(then.replace(year=year, month=month + 1, day=min(then.day, monthrange(year, month + 1)[1])))
