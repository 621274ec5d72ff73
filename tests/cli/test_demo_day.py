"""The demo's made-up day."""

from tallyd.cli.demo_day import CUSTOMERS, LANES, UNKNOWN_MODEL, make_day
from tallyd.model.moments import DAY_US, parse_iso

NOW = parse_iso("2026-11-21T12:34:56Z")


def test_the_same_seed_makes_the_same_day() -> None:
    """A day can be lived again; another seed makes another."""
    assert make_day(7, NOW) == make_day(7, NOW)
    assert make_day(7, NOW) != make_day(8, NOW)


def test_a_day_has_what_the_demo_promises() -> None:
    """Thousands of events of all customers, in the 24 hours before, by every way, with retries among them."""
    day = make_day(1, NOW)
    events = [body for call in day.calls if call.kind != "check" for body in call.bodies]
    keys = [body["eventIdempotencyKey"] for body in events]
    assert len(events) > 5_000
    assert len(set(keys)) < len(keys)
    assert {body.get("customerReferenceId") for body in events} >= {each.reference for each in CUSTOMERS}
    assert any(body.get("costInput", {}).get("model") == UNKNOWN_MODEL for body in events)
    assert all(day.of(lane) for lane in (*LANES, "late"))
    assert day.end - day.start == DAY_US
    assert day.end <= NOW


def test_the_rush_reserves_at_least_what_its_calls_use() -> None:
    """Many agents, each of whose calls fits what it reserved, and is an event of its own."""
    rush = make_day(1, NOW).rush
    assert len(rush.calls) == 64
    assert all(1 <= body["usageUnits"] <= rush.estimate["usageUnits"] for body in rush.calls)
    assert len({body["eventIdempotencyKey"] for body in rush.calls}) == 64


def test_lanes_are_in_the_order_of_the_day() -> None:
    """Each way's calls are in the order of their time."""
    day = make_day(1, NOW)
    for lane in LANES:
        times = [call.at for call in day.of(lane)]
        assert times == sorted(times)
