"""Billing periods: half-open, clamped to the month's end, and coming back."""

from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import at
from tallyd.model.periods import Period, calendar_month, period_at

instants = st.integers(at("2000-01-01T00:00:00Z"), at("2060-01-01T00:00:00Z"))
intervals = st.sampled_from([1, 2, 3, 6, 12, 120])


def day(text: str) -> int:
    """Midnight UTC."""
    return at(f"{text}T00:00:00Z")


def successive(starts_at: int, anchor_day: int, count: int, interval_months: int = 1) -> list[Period]:
    """The first periods of a subscription, each asked for at the end of the one before."""
    periods = []
    moment = starts_at
    for _ in range(count):
        period = period_at(moment, starts_at=starts_at, anchor_day=anchor_day, interval_months=interval_months)
        periods.append(period)
        moment = period.end
    return periods


def test_the_31st_is_clamped_and_comes_back() -> None:
    """From 31 January periods begin on 28 February, 31 March, 30 April and 31 May: nobody drifts to the 28th."""
    starts = [period.start for period in successive(day("2026-01-31"), 31, 5)]
    assert starts == [
        day("2026-01-31"),
        day("2026-02-28"),
        day("2026-03-31"),
        day("2026-04-30"),
        day("2026-05-31"),
    ]


@pytest.mark.parametrize(
    ("anchor", "february"), [(28, "2028-02-28"), (29, "2028-02-29"), (30, "2028-02-29"), (31, "2028-02-29")]
)
def test_february_of_a_leap_year_has_a_29th(anchor: int, february: str) -> None:
    """In a leap year the anchor days 29 to 31 fall on 29 February, and the 28th stays."""
    period = period_at(day("2028-02-29"), starts_at=day("2028-01-01"), anchor_day=anchor)
    assert period.start == day(february)


def test_a_year_from_the_leap_day_comes_back_to_it() -> None:
    """A yearly subscription of 29 February begins on the 28th in common years and on the 29th four years on."""
    starts = [period.start for period in successive(day("2024-02-29"), 29, 5, 12)]
    assert starts == [
        day("2024-02-29"),
        day("2025-02-28"),
        day("2026-02-28"),
        day("2027-02-28"),
        day("2028-02-29"),
    ]


def test_a_period_is_half_open() -> None:
    """The last microsecond belongs to a period, its end to the next one."""
    end = day("2026-02-28")
    first = period_at(end - 1, starts_at=day("2026-01-31"), anchor_day=31)
    second = period_at(end, starts_at=day("2026-01-31"), anchor_day=31)
    assert first == Period(day("2026-01-31"), end)
    assert second == Period(end, day("2026-03-31"))


@pytest.mark.parametrize(
    ("starts_at", "anchor", "end"),
    [
        ("2026-03-15", 1, "2026-04-01"),
        ("2026-03-15", 15, "2026-04-15"),
        ("2026-03-15", 16, "2026-03-16"),
        ("2026-03-15", 31, "2026-03-31"),
        ("2026-02-28", 31, "2026-03-31"),
        ("2026-12-31", 31, "2027-01-31"),
    ],
)
def test_a_start_between_two_boundaries_makes_a_short_first_period(starts_at: str, anchor: int, end: str) -> None:
    """The first period runs from the start itself to the next boundary."""
    start = day(starts_at)
    assert period_at(start, starts_at=start, anchor_day=anchor) == Period(start, day(end))


def test_a_start_within_a_day_keeps_its_time_and_later_periods_begin_at_midnight() -> None:
    """Only the first period begins at an odd hour."""
    start = at("2026-05-10T17:30:00Z")
    assert successive(start, 10, 2) == [
        Period(start, day("2026-06-10")),
        Period(day("2026-06-10"), day("2026-07-10")),
    ]


def test_a_quarter_is_three_months() -> None:
    """Boundaries of a quarterly plan are three months apart, over the turn of the year."""
    starts = [period.start for period in successive(day("2026-08-31"), 31, 4, 3)]
    assert starts == [day("2026-08-31"), day("2026-11-30"), day("2027-02-28"), day("2027-05-31")]


@given(instants, instants, st.integers(1, 31), intervals)
def test_the_period_contains_the_moment(one: int, other: int, anchor: int, interval: int) -> None:
    """For any start, anchor and interval the answer contains the instant that was asked for (P7)."""
    starts_at, moment = min(one, other), max(one, other)
    period = period_at(moment, starts_at=starts_at, anchor_day=anchor, interval_months=interval)
    assert starts_at <= period.start <= moment < period.end


@given(instants, st.integers(1, 31), intervals, st.integers(1, 30))
def test_periods_tile_time(starts_at: int, anchor: int, interval: int, count: int) -> None:
    """Successive periods meet without gap or overlap, and any instant inside one gives that same period."""
    periods = successive(starts_at, anchor, count, interval)
    assert periods[0].start == starts_at
    for before, after in pairwise(periods):
        assert before.end == after.start
    for period in periods:
        for moment in (period.start, (period.start + period.end) // 2, period.end - 1):
            again = period_at(moment, starts_at=starts_at, anchor_day=anchor, interval_months=interval)
            assert again == period


@given(instants, st.integers(1, 31), intervals)
def test_a_full_period_has_the_plan_s_months(starts_at: int, anchor: int, interval: int) -> None:
    """From one boundary to the next the calendar moves on by exactly the interval."""
    second = successive(starts_at, anchor, 2, interval)[1]
    start = datetime.fromtimestamp(second.start / 1e6, UTC)
    end = datetime.fromtimestamp(second.end / 1e6, UTC)
    assert (end.year - start.year) * 12 + end.month - start.month == interval


def test_a_calendar_month_ends_with_the_year() -> None:
    """December ends on the first of January."""
    assert calendar_month(at("2026-12-31T23:59:59.999999Z")) == Period(day("2026-12-01"), day("2027-01-01"))
