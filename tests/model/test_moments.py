"""Instants: microseconds inside, ISO 8601 with a zone outside."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallyd.engine.events import occurred_at
from tallyd.model.moments import DAY_US, HOUR_US, hour_of, iso, occurrence_problem, parse_iso
from tallyd.model.problems import ProblemError

NOON = 1_795_262_400_000_000  # 2026-11-21T12:00:00Z


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-21T12:00:00Z",
        "2026-11-21T12:00:00+00:00",
        "2026-11-21T14:00:00+02:00",
        "2026-11-21T06:30:00-05:30",
        "2026-11-21 12:00:00Z",
        "20261121T120000Z",
        "2026-11-22T01:45:00+13:45",
    ],
)
def test_every_zone_names_the_same_instant(text: str) -> None:
    """An instant is the same in all zones and spellings."""
    assert parse_iso(text) == NOON


@pytest.mark.parametrize(
    ("fraction", "micros"),
    [("1", 100_000), ("123", 123_000), ("123456", 123_456), ("1234567", 123_456), ("999999999", 999_999)],
)
def test_digits_finer_than_a_microsecond_are_cut_off(fraction: str, micros: int) -> None:
    """Seven digits, as .NET writes them, are read; nothing is rounded up into the next second."""
    assert parse_iso(f"2026-11-21T12:00:00.{fraction}Z") == NOON + micros


@pytest.mark.parametrize("text", ["2026-11-21T12:00:00", "2026-11-21", "2026-11-21T12:00:00.123"])
def test_a_time_without_a_zone_is_refused(text: str) -> None:
    """Guessing a zone would put usage into the wrong period, so the caller is asked for one."""
    with pytest.raises(ValueError, match="zone"):
        parse_iso(text)


@pytest.mark.parametrize("text", ["", "yesterday", "1795262400", "2026-02-30T00:00:00Z", "2026-11-21T25:00:00Z"])
def test_what_is_no_time_is_refused(text: str) -> None:
    """Words, bare numbers and impossible dates are not times."""
    with pytest.raises(ProblemError, match="occurredAt"):
        occurred_at(text, NOON)


@pytest.mark.parametrize(
    "text",
    [
        "9999-12-31T23:59:59Z",
        "9999-12-31T23:59:59.999999-23:59",
        "0001-01-01T00:00:00Z",
        "0001-01-01T00:00:00+23:59",
        "1999-12-31T23:59:59Z",
    ],
)
def test_years_at_the_ends_of_the_calendar_are_refused_by_name(text: str) -> None:
    """The year 9999, the year 1 and a zone that would leave the calendar are problems of the field, no crash."""
    with pytest.raises(ProblemError) as refused:
        occurred_at(text, NOON)
    assert refused.value.problem.field == "occurredAt"


def test_old_events_are_welcome_and_far_future_ones_are_not() -> None:
    """Back-filling reaches to 2000; a clock that is a day ahead is forgiven, more is a mistake."""
    assert occurrence_problem(parse_iso("2000-01-01T00:00:00Z"), NOON) is None
    assert occurrence_problem(NOON + DAY_US, NOON) is None
    assert occurrence_problem(NOON + DAY_US + 1, NOON) is not None


@given(st.integers(0, 4_000_000_000_000_000))
def test_an_instant_survives_being_written(micros: int) -> None:
    """What is written is read back to the microsecond."""
    assert parse_iso(iso(micros)) == micros


@given(st.integers(0, 4_000_000_000_000_000))
def test_an_hour_contains_its_instants(micros: int) -> None:
    """The start of an hour is a whole hour, at most an hour before."""
    start = hour_of(micros)
    assert start % HOUR_US == 0
    assert start <= micros < start + HOUR_US
