"""Billing periods: half-open, clamped to the month's end, coming back, and true to the clocks of their zone.

The naive calendar of these tests walks the days of a zone one by one and finds where each begins by looking at
every five minutes; what it says and what `Cycle` says must be the same.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from support import at
from tallyd.model.periods import (
    Cycle,
    Period,
    add_months,
    calendar_month,
    local_date,
    midnight,
    zone_problem,
)

instants = st.integers(at("2000-01-01T00:00:00Z"), at("2060-01-01T00:00:00Z"))
intervals = st.sampled_from([1, 2, 3, 6, 12, 120])
anchors = st.integers(1, 31)
lengths = st.sampled_from(
    [{"months": 1}, {"months": 3}, {"months": 12}, *({"months": 0, "days": n} for n in (1, 7, 10))]
)
"""How long periods are, as fields of a cycle."""

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",  # clocks changed at midnight: days without one, and hours before it twice
    "America/St_Johns",  # clocks changed a minute after midnight: the new day begins, is left, and begins again
    "America/Havana",  # midnight comes twice in autumn, and not at all in spring
    "Asia/Beirut",
    "Asia/Amman",
    "Asia/Tehran",
    "Asia/Gaza",
    "Asia/Kathmandu",
    "Africa/Cairo",
    "Africa/Casablanca",
    "Australia/Lord_Howe",  # half an hour of daylight saving
    "Pacific/Apia",  # had no 30 December 2011
    "Pacific/Kiritimati",
    "Pacific/Chatham",
    "America/Asuncion",
    "Antarctica/Troll",
    "Etc/GMT+12",
)
zones = st.sampled_from(ZONES)
modern = st.integers(at("2004-01-01T00:00:00Z"), at("2032-01-01T00:00:00Z"))
"""Instants of the years in which these zones changed their clocks."""

DAY = 86_400_000_000
SPRING = {
    "Europe/Berlin": "2026-03-29",
    "America/New_York": "2026-03-08",
    "Australia/Lord_Howe": "2026-10-04",
}


def day(text: str) -> int:
    """Midnight UTC."""
    return at(f"{text}T00:00:00Z")


def successive(cycle: Cycle, count: int) -> list[Period]:
    """The first periods of a cycle, each asked for at the end of the one before."""
    periods = []
    moment = cycle.origin
    for _ in range(count):
        period = cycle.period_at(moment)
        periods.append(period)
        moment = period.end
    return periods


def starts(cycle: Cycle, count: int) -> list[int]:
    """Where the first periods of a cycle begin."""
    return [period.start for period in successive(cycle, count)]


@cache
def first_seen(of: date, zone: str) -> int:
    """Where a day begins, by looking every five minutes from 15 hours before it would in London."""
    there = ZoneInfo(zone)
    moment = datetime(of.year, of.month, of.day, tzinfo=UTC) - timedelta(hours=15)
    while moment.astimezone(there).date() < of:
        moment += timedelta(minutes=5)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def is_anchor(of: date, anchor_day: int) -> bool:
    """Whether a day is the anchor day of its month, or the last one of a month that has no such day."""
    return of.day == anchor_day or (of.day < anchor_day and (of + timedelta(days=1)).month != of.month)


def naive_starts(cycle: Cycle) -> Iterator[int]:
    """Where periods begin, by walking through the days of the calendar; the first may lie before the origin."""
    today = local_date(cycle.origin, cycle.zone)
    if cycle.days:
        while True:
            yield first_seen(today, cycle.zone)
            today += timedelta(days=cycle.days)
    while not (is_anchor(today, cycle.anchor_day) and first_seen(today, cycle.zone) <= cycle.origin):
        today -= timedelta(days=1)
    anchors_seen = 0
    while True:
        if is_anchor(today, cycle.anchor_day):
            if anchors_seen % cycle.months == 0:
                yield first_seen(today, cycle.zone)
            anchors_seen += 1
        today += timedelta(days=1)


def naive_periods(cycle: Cycle) -> Iterator[Period]:
    """The periods of a cycle; a day that a zone left out makes none."""
    for start, end in pairwise(naive_starts(cycle)):
        if start < end and cycle.origin < end:
            yield Period(max(start, cycle.origin), end)


def test_the_31st_is_clamped_and_comes_back() -> None:
    """From 31 January periods begin on 28 February, 31 March, 30 April and 31 May: nobody drifts to the 28th."""
    assert starts(Cycle(day("2026-01-31"), 31), 5) == [
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
    assert Cycle(day("2028-01-01"), anchor).period_at(day("2028-02-29")).start == day(february)


def test_a_year_from_the_leap_day_comes_back_to_it() -> None:
    """A yearly subscription of 29 February begins on the 28th in common years and on the 29th four years on."""
    assert starts(Cycle(day("2024-02-29"), 29, months=12), 5) == [
        day("2024-02-29"),
        day("2025-02-28"),
        day("2026-02-28"),
        day("2027-02-28"),
        day("2028-02-29"),
    ]


def test_a_period_is_half_open() -> None:
    """The last microsecond belongs to a period, its end to the next one."""
    cycle, end = Cycle(day("2026-01-31"), 31), day("2026-02-28")
    assert cycle.period_at(end - 1) == Period(day("2026-01-31"), end)
    assert cycle.period_at(end) == Period(end, day("2026-03-31"))


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
    assert Cycle(start, anchor).period_at(start) == Period(start, day(end))


@pytest.mark.parametrize(
    ("anchor", "whole"),
    [
        (1, ("2026-03-01", "2026-04-01")),
        (15, ("2026-03-15", "2026-04-15")),
        (16, ("2026-02-16", "2026-03-16")),
        (31, ("2026-02-28", "2026-03-31")),
    ],
)
def test_a_short_first_period_is_part_of_a_whole_one(anchor: int, whole: tuple[str, str]) -> None:
    """What a full price is for begins on the anchor day before the start; later periods are whole anyway."""
    cycle = Cycle(at("2026-03-15T09:30:00Z"), anchor)
    assert cycle.whole_at(cycle.origin) == Period(day(whole[0]), day(whole[1]))
    assert cycle.whole_at(day(whole[1])) == cycle.period_at(day(whole[1]))


def test_a_start_within_a_day_keeps_its_time_and_later_periods_begin_at_midnight() -> None:
    """Only the first period begins at an odd hour."""
    start = at("2026-05-10T17:30:00Z")
    assert successive(Cycle(start, 10), 2) == [
        Period(start, day("2026-06-10")),
        Period(day("2026-06-10"), day("2026-07-10")),
    ]


def test_a_quarter_is_three_months() -> None:
    """Boundaries of a quarterly plan are three months apart, over the turn of the year."""
    assert starts(Cycle(day("2026-08-31"), 31, months=3), 4) == [
        day("2026-08-31"),
        day("2026-11-30"),
        day("2027-02-28"),
        day("2027-05-31"),
    ]


def test_a_week_is_seven_days_of_the_calendar() -> None:
    """Weeks begin at midnight of their weekday, an hour earlier in UTC once clocks have gone forward."""
    cycle = Cycle(at("2026-03-20T16:00:00Z"), 20, months=0, days=7, zone="Europe/Berlin")
    assert starts(cycle, 4) == [
        at("2026-03-20T16:00:00Z"),
        at("2026-03-26T23:00:00Z"),
        at("2026-04-02T22:00:00Z"),
        at("2026-04-09T22:00:00Z"),
    ]


@given(instants, instants, anchors, intervals)
def test_the_period_contains_the_moment(one: int, other: int, anchor: int, interval: int) -> None:
    """For any start, anchor and interval the answer contains the instant that was asked for (P7)."""
    cycle, moment = Cycle(min(one, other), anchor, months=interval), max(one, other)
    period = cycle.period_at(moment)
    assert cycle.origin <= period.start <= moment < period.end


@given(instants, anchors, intervals, st.integers(1, 30))
def test_periods_tile_time(starts_at: int, anchor: int, interval: int, count: int) -> None:
    """Successive periods meet without gap or overlap, and any instant inside one gives that same period."""
    tile(Cycle(starts_at, anchor, months=interval), count)


@given(modern, anchors, lengths, zones, st.integers(1, 30))
@example(day("2011-12-25"), 30, {"months": 0, "days": 1}, "Pacific/Apia", 12)
@example(day("2011-12-01"), 30, {"months": 1}, "Pacific/Apia", 4)
@example(day("2011-12-09"), 1, {"months": 0, "days": 7}, "Pacific/Apia", 6)
@example(at("2009-11-01T03:15:00Z"), 1, {"months": 0, "days": 1}, "America/St_Johns", 4)
def test_periods_tile_time_in_every_zone(
    starts_at: int, anchor: int, length: dict[str, int], zone: str, count: int
) -> None:
    """Wherever clocks change, periods meet, and each instant lies in the one period that is given for it."""
    tile(Cycle(starts_at, anchor, zone=zone, **length), count)


def tile(cycle: Cycle, count: int) -> None:
    """Ask for periods one after the other, and for each of them from within."""
    periods = successive(cycle, count)
    assert periods[0].start == cycle.origin
    for before, after in pairwise(periods):
        assert before.end == after.start
    for number, period in enumerate(periods):
        whole = cycle.whole_at(period.start)
        assert whole == period if number else (whole.start <= period.start and whole.end == period.end)
        for moment in (period.start, (period.start + period.end) // 2, period.end - 1):
            assert cycle.period_at(moment) == period
            assert cycle.whole_at(moment) == whole


@given(modern, anchors, lengths, zones)
@example(at("2017-12-30T12:00:00Z"), 18, {"months": 1}, "America/Sao_Paulo")  # the hour before midnight, twice
@example(at("2018-10-30T12:00:00Z"), 4, {"months": 1}, "America/Sao_Paulo")  # no midnight on 4 November
@example(day("2011-12-25"), 30, {"months": 0, "days": 1}, "Pacific/Apia")
@example(at("2009-11-01T03:15:00Z"), 1, {"months": 0, "days": 1}, "America/St_Johns")
def test_a_walk_through_the_calendar_agrees(
    starts_at: int, anchor: int, length: dict[str, int], zone: str
) -> None:
    """Periods are those that someone finds who looks at every day, and for where it begins."""
    cycle = Cycle(starts_at, anchor, zone=zone, **length)
    count = 16 if cycle.months < 12 else 6
    assert successive(cycle, count) == list(islice(naive_periods(cycle), count))


@given(modern, anchors, lengths, zones)
def test_boundaries_are_the_first_instants_of_local_days(
    starts_at: int, anchor: int, length: dict[str, int], zone: str
) -> None:
    """A microsecond before a boundary it is still the day before."""
    cycle = Cycle(starts_at, anchor, zone=zone, **length)
    for period in successive(cycle, 8):
        today = local_date(period.end, zone)
        assert local_date(period.end - 1, zone) < today
        assert midnight(today, zone) == period.end
        if cycle.months:
            assert is_anchor(today, anchor)


@pytest.mark.parametrize("zone", ZONES)
def test_every_day_begins_where_its_date_appears(zone: str) -> None:
    """Through four years of clock changes, every day begins where its date is first seen."""
    for year in (2009, 2011, 2018, 2023):
        for number in range(0, 366, 1 if zone in {"America/Sao_Paulo", "America/Havana", "Asia/Beirut"} else 5):
            today = date(year, 1, 1) + timedelta(days=number)
            assert midnight(today, zone) == first_seen(today, zone), today


@pytest.mark.parametrize(
    ("zone", "of", "begins"),
    [
        ("America/Sao_Paulo", "2018-11-04", "2018-11-04T03:00:00Z"),  # 00:00 is skipped: it begins at 01:00 -02
        ("America/Sao_Paulo", "2018-02-18", "2018-02-18T03:00:00Z"),  # 23:00 comes twice before it
        ("Asia/Beirut", "2022-03-27", "2022-03-26T22:00:00Z"),
        ("America/Havana", "2023-03-12", "2023-03-12T05:00:00Z"),
        ("America/Havana", "2023-11-05", "2023-11-05T04:00:00Z"),  # the first of two midnights
        ("Africa/Cairo", "2023-04-28", "2023-04-27T22:00:00Z"),
        ("Pacific/Apia", "2011-12-30", "2011-12-30T10:00:00Z"),  # was never: what follows it begins then
        ("Pacific/Apia", "2011-12-31", "2011-12-30T10:00:00Z"),
        ("Asia/Kathmandu", "2026-01-01", "2025-12-31T18:15:00Z"),
        ("Australia/Lord_Howe", "2026-04-06", "2026-04-05T13:30:00Z"),
    ],
)
def test_the_first_instant_of_a_day_where_clocks_are_odd(zone: str, of: str, begins: str) -> None:
    """A day without a midnight begins with the first instant it has, one with two with the first of them."""
    assert midnight(date.fromisoformat(of), zone) == at(begins)


@pytest.mark.parametrize(("zone", "of"), SPRING.items())
def test_a_day_on_which_clocks_change_is_shorter(zone: str, of: str) -> None:
    """The day has an hour less, or half of one, and its period runs from midnight to midnight."""
    today = date.fromisoformat(of)
    start, end = Cycle(midnight(today, zone), 1, months=0, days=1, zone=zone).period_at(midnight(today, zone))
    lost = 1_800_000_000 if zone == "Australia/Lord_Howe" else 3_600_000_000
    assert (start, end - start) == (midnight(today, zone), DAY - lost)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "America/Sao_Paulo", "Asia/Beirut"])
def test_five_years_from_31_january_are_sixty_periods(zone: str) -> None:
    """Anchored on 31 January where clocks change: 60 periods, without gap or overlap, and back on 31 January."""
    first, last = midnight(date(2015, 1, 31), zone), midnight(date(2020, 1, 31), zone)
    periods = successive(Cycle(first, 31, zone=zone), 60)
    assert periods[0].start == first
    assert periods[-1].end == last
    assert all(before.end == after.start for before, after in pairwise(periods))
    days = [local_date(period.start, zone) for period in periods]
    assert [today.day for today in days[:12]] == [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
    assert days[13] == date(2016, 2, 29)


@given(instants, anchors, intervals)
def test_a_full_period_has_the_plan_s_months(starts_at: int, anchor: int, interval: int) -> None:
    """From one boundary to the next the calendar moves on by exactly the interval."""
    second = successive(Cycle(starts_at, anchor, months=interval), 2)[1]
    start = datetime.fromtimestamp(second.start / 1e6, UTC)
    end = datetime.fromtimestamp(second.end / 1e6, UTC)
    assert (end.year - start.year) * 12 + end.month - start.month == interval


def test_a_calendar_month_ends_with_the_year() -> None:
    """December ends on the first of January."""
    assert calendar_month(at("2026-12-31T23:59:59.999999Z")) == Period(day("2026-12-01"), day("2027-01-01"))


def test_months_are_added_to_the_same_time_of_the_day() -> None:
    """Some months later it is the same day and time, or the month's last day; the year turns by itself."""
    assert add_months(at("2026-11-30T10:20:30.000001Z"), 3) == at("2027-02-28T10:20:30.000001Z")
    assert add_months(at("2027-02-28T00:00:00Z"), 12) == day("2028-02-28")


@pytest.mark.parametrize("name", ZONES)
def test_a_zone_of_the_database_is_no_problem(name: str) -> None:
    """Every zone has its name taken as it is."""
    assert zone_problem(name) is None


@pytest.mark.parametrize(
    "name", ["", "Mars/Olympus", "Europe", "../etc/passwd", "/etc/passwd", "x\0y", "z" * 5_000]
)
def test_what_is_no_zone_is_refused_in_words(name: str) -> None:
    """A folder, a path, a place elsewhere: each is answered with what to write."""
    problem = zone_problem(name)
    assert problem is not None
    assert "Europe/Berlin" in problem
