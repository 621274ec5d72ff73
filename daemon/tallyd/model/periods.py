"""Billing periods: half-open, from an anchor day that is clamped to the month's end and comes back.

31 January is followed by 28 February and then by 31 March, so nobody drifts to the 28th. Periods begin at midnight
where the subscriber lives: a day on which clocks change is an hour longer or shorter, and nothing is lost.
"""

from calendar import monthrange
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from tallyd.model.moments import from_micros, to_micros

MONTHS_A_YEAR: Final = 12
_UTC: Final = "UTC"


class Period(NamedTuple):
    """`[start, end)` in microseconds UTC."""

    start: int
    end: int


class Cycle(msgspec.Struct, frozen=True, gc=False):
    """How periods follow each other: every so many months on the anchor day, or every so many days.

    Attributes:
        origin: where the first period begins, microseconds UTC; whatever comes before is not the cycle's.
        anchor_day: day of the month on which periods begin, 1 to 31; of no meaning where days are counted.
        months: length of a period; 0 where days are counted.
        days: length of a period in days (7 for a week); 0 where months are counted.
        zone: IANA name of the time zone in whose midnights periods begin.
    """

    origin: int
    anchor_day: int
    months: int = 1
    days: int = 0
    zone: str = _UTC

    def period_at(self, moment: int) -> Period:
        """Return the period that contains `moment`, which must not lie before `origin`.

        Months are counted from that of the first boundary at or before `origin`, days from the origin's own. The
        first period begins at `origin` itself, so it may be shorter than the others.
        """
        start, end = self.whole_at(moment)
        return Period(max(start, self.origin), end)

    def whole_at(self, moment: int) -> Period:
        """Return the period as it would be if it did not begin with `origin`: what a full price is for."""
        steps = self._steps(moment)
        start, end = self._boundary(steps), self._boundary(steps + 1)
        # Where midnight is skipped or comes twice, the date and the instant may disagree by some hours.
        while start > moment:
            steps -= 1
            start, end = self._boundary(steps), start
        while end <= moment:
            steps += 1
            start, end = end, self._boundary(steps + 1)
        return Period(start, end)

    def end_of(self, periods: int) -> int:
        """Return where the last of so many periods ends, the first included."""
        moment = self.origin
        for _ in range(periods):
            moment = self.period_at(moment).end
        return moment

    def _steps(self, moment: int) -> int:
        """Count the boundaries from the first to the one that begins the moment's own period, or nearly so."""
        day = local_date(moment, self.zone)
        if self.days:
            return (day - _date_of(self.origin, self.zone)).days // self.days
        return (_month_number(day) - _first_month(self.origin, self.anchor_day, self.zone)) // self.months

    def _boundary(self, steps: int) -> int:
        if self.days:
            return midnight(_date_of(self.origin, self.zone) + timedelta(days=steps * self.days), self.zone)
        month = _first_month(self.origin, self.anchor_day, self.zone) + steps * self.months
        return _anchored(month, self.anchor_day, self.zone)


def zone_problem(name: str) -> str | None:
    """Say why a text is no time zone, or None when it is one."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return f"{name!r} is no time zone of the IANA database; write one such as Europe/Berlin, or UTC"
    return None


def local_date(moment: int, zone: str) -> date:
    """Return the date of an instant, where the zone is."""
    at = from_micros(moment)
    return at.date() if zone == _UTC else at.astimezone(ZoneInfo(zone)).date()


_date_of: Final = lru_cache(maxsize=4_096)(local_date)
"""`local_date` of the origins of cycles, which are asked for again and again."""


@lru_cache(maxsize=4_096)
def midnight(day: date, zone: str) -> int:
    """Return the first instant of a day, where the zone is.

    Where clocks go forward at midnight the day begins with the first instant that exists; where they go back
    over it, with the first of the two midnights.
    """
    if zone == _UTC:
        return to_micros(datetime(day.year, day.month, day.day, tzinfo=UTC))
    there = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone))
    before, after = there.astimezone(UTC), there.replace(fold=1).astimezone(UTC)
    # In a gap the earlier offset (fold 0) leads past it and the later one before it: the gap begins in between.
    if after < before:
        return to_micros(_first_instant(day, zone, after, before))
    return to_micros(before)


def _first_instant(day: date, zone: str, low: datetime, high: datetime) -> datetime:
    """Return the first instant that has the date, between one that has not and one that has."""
    while high - low > timedelta(seconds=1):
        middle = low + (high - low) // 2
        middle = middle.replace(microsecond=0)
        if middle <= low:
            break
        if middle.astimezone(ZoneInfo(zone)).date() >= day:
            high = middle
        else:
            low = middle
    return high


@lru_cache(maxsize=4_096)
def _anchored(month_number: int, anchor_day: int, zone: str) -> int:
    """Return the first instant of the anchor day in a month counted from year 0."""
    year, month = divmod(month_number, MONTHS_A_YEAR)
    day = min(anchor_day, monthrange(year, month + 1)[1])
    return midnight(date(year, month + 1, day), zone)


@lru_cache(maxsize=4_096)
def _first_month(origin: int, anchor_day: int, zone: str) -> int:
    """Return the month of the first boundary at or before the origin."""
    month = _month_number(local_date(origin, zone))
    return month if _anchored(month, anchor_day, zone) <= origin else month - 1


def _month_number(day: date) -> int:
    return day.year * MONTHS_A_YEAR + day.month - 1


def calendar_month(moment: int) -> Period:
    """Return the UTC calendar month that contains the instant."""
    month = _month_number(local_date(moment, _UTC))
    return Period(_anchored(month, 1, _UTC), _anchored(month + 1, 1, _UTC))


def add_months(moment: int, months: int) -> int:
    """Return the same day and time some months later, clamped to the month's end."""
    then = from_micros(moment)
    year, month = divmod(then.year * MONTHS_A_YEAR + then.month - 1 + months, MONTHS_A_YEAR)
    return to_micros(then.replace(year=year, month=month + 1, day=min(then.day, monthrange(year, month + 1)[1])))
