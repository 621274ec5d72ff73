"""The demo's made-up months."""

from tallyd.cli.demo_months import LATE, first_of_next_month, make_months
from tallyd.model.moments import DAY_US, from_micros, iso, parse_iso

START = parse_iso("2027-01-01T00:00:00Z")


def test_the_same_seed_makes_the_same_months() -> None:
    """The months can be lived again; another seed makes others."""
    assert make_months(7, START) == make_months(7, START)
    assert make_months(7, START) != make_months(8, START)


def test_they_begin_with_the_month_after_today() -> None:
    """A test clock only runs forward, so the demo begins with the next month there is."""
    assert iso(first_of_next_month(parse_iso("2026-12-31T23:59:59Z"))) == "2027-01-01T00:00:00Z"
    assert iso(first_of_next_month(parse_iso("2026-12-01T00:00:00Z"))) == "2027-01-01T00:00:00Z"


def test_what_happens_on_a_day_is_sent_on_it() -> None:
    """Events happen before they are sent, on the day they are sent, and none is lost at a month's end."""
    months = make_months(1, START)
    assert len(months.days) == (months.end - START) // DAY_US - 1
    for day in months.days:
        midnight = day.at - day.at % DAY_US
        for body in (body for batch in day.batches for body in batch):
            assert midnight <= parse_iso(body["occurredAt"]) < day.at


def test_the_late_event_is_late() -> None:
    """It happened in the first month and comes in the second, when the first is invoiced."""
    months = make_months(1, START)
    assert months.late["customerReferenceId"] == LATE
    assert months.starts[0] < parse_iso(months.late["occurredAt"]) < months.starts[1] < months.late_at


def test_the_upgrade_is_in_the_middle_of_the_second_month() -> None:
    """Half of the new price is charged and half of the old one given back, whatever the month's length."""
    for month in range(1, 13):
        months = make_months(1, parse_iso(f"2027-{month:02}-01T00:00:00Z"))
        assert months.upgrade_at - months.starts[1] == months.starts[2] - months.upgrade_at
        assert from_micros(months.upgrade_at).month == from_micros(months.starts[1]).month


def test_retries_are_among_what_is_sent() -> None:
    """Some batches are sent again: they must change nothing."""
    keys = [
        body["eventIdempotencyKey"]
        for day in make_months(1, START).days
        for batch in day.batches
        for body in batch
    ]
    assert len(keys) > len(set(keys)) > 1_000
