"""Meters against a naive recount: whatever the events and their order, the counters say what a recount says."""

from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import Ledger, account_on, at, event, plan_of
from tallyd.engine.account import LIFETIME, Account
from tallyd.model.event import UsageEvent
from tallyd.model.money import ZERO

FIRST, LAST = at("2026-01-01T00:00:00Z"), at("2026-04-01T00:00:00Z")
MONTHS = [at(f"2026-0{month}-01T00:00:00Z") for month in (1, 2, 3, 4)]
KINDS = ("count", "sum", "max", "last", "unique")

moments = st.integers(FIRST, LAST - 1) | st.sampled_from([*MONTHS[:3], MONTHS[1] - 1, MONTHS[2] - 1])
readings = st.one_of(
    st.none(),
    st.integers(-50, 50),
    st.decimals(-50, 50, places=3),
    st.sampled_from(["7", "3.5", "seven", "", True]),
)


@st.composite
def happenings(draw: st.DrawFn) -> UsageEvent:
    """An event that the meter may or may not count."""
    meta: dict[str, Any] = {"region": draw(st.sampled_from(["eu", "us"]))}
    value = draw(readings)
    if value is not None:
        meta["x"] = value
    return event(draw(st.sampled_from(["call", "call", "other"])), at=draw(moments), meta=meta)


def meter(kind: str) -> str:
    """A meter of European calls."""
    key = "" if kind == "count" else ', key = "x"'
    clause = '{ key = "region", operator = "equals", value = "eu" }'
    return (
        f'event_name = "call"\naggregation = {{ type = "{kind}"{key} }}\n'
        f'filter = {{ conjunction = "and", clauses = [{clause}] }}'
    )


def as_number(value: object) -> Decimal | None:
    """The recount's own reading of a number."""
    if isinstance(value, bool) or value is None or value in ("", "seven"):
        return None
    return Decimal(str(value))


def recount(kind: str, happened: list[UsageEvent]) -> Decimal:
    """Count the slow way: all events of a period at hand, in the order in which they arrived."""
    counted = [
        (each.occurred_at, arrival, (each.metadata or {}).get("x"))
        for arrival, each in enumerate(happened)
        if each.name == "call" and (each.metadata or {}).get("region") == "eu"
    ]
    if kind == "count":
        return Decimal(len(counted))
    if kind == "unique":
        values = ["true" if value is True else str(value) for *_, value in counted if value is not None]
        return Decimal(len(set(values)))
    numbers = [(when, arrival, as_number(value)) for when, arrival, value in counted]
    read = [(when, arrival, number) for when, arrival, number in numbers if number is not None]
    if not read:
        return ZERO
    if kind == "sum":
        return sum((number for *_, number in read), ZERO)
    if kind == "max":
        return max(ZERO, *(number for *_, number in read))
    return max(read)[2]


def used(account: Account, period_start: int) -> Decimal:
    """What the account's counter says."""
    for key, counter in account.counters.items():
        if key.period_start == period_start:
            return counter.used
    return ZERO


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(happened=st.lists(happenings(), max_size=30))
def test_a_meter_counts_what_a_recount_counts_in_each_period(kind: str, happened: list[UsageEvent]) -> None:
    """For events in any order, over three periods, every counter equals a recount of that period's events."""
    ledger = Ledger(account_on(plan_of('{ model = "included" }', meter=meter(kind)), starts_at=FIRST))
    for each in happened:
        ledger.record(each)
    for start, end in pairwise(MONTHS):
        inside = [each for each in happened if start <= each.occurred_at < end]
        assert used(ledger.account, start) == recount(kind, inside)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(happened=st.lists(happenings(), max_size=30))
def test_a_meter_that_accumulates_counts_for_ever(kind: str, happened: list[UsageEvent]) -> None:
    """With `accumulate` the deciding counter is a recount of all events, and the periods' parts sum to it."""
    pricing = '{ model = "included", reset_mode = "accumulate" }'
    ledger = Ledger(account_on(plan_of(pricing, meter=meter(kind)), starts_at=FIRST))
    for each in happened:
        ledger.record(each)
    assert used(ledger.account, LIFETIME) == recount(kind, happened)
    assert sum((used(ledger.account, start) for start in MONTHS[:3]), ZERO) == recount(kind, happened)


@settings(max_examples=40)
@given(st.lists(st.tuples(moments, st.none() | st.decimals(0, 100, places=2)), max_size=30))
def test_a_feature_without_a_meter_sums_the_units_of_events_that_name_it(
    sent: list[tuple[int, Decimal | None]],
) -> None:
    """`usageUnits` are summed per period of the event's own time; an event without units adds none."""
    ledger = Ledger(account_on(plan_of('{ model = "included" }'), starts_at=FIRST))
    for moment, units in sent:
        ledger.record(event(at=moment, feature_key="api", usage_units=units))
        ledger.record(event(at=moment, feature_key="other", usage_units=Decimal(1)))
    for start, end in pairwise(MONTHS):
        wanted = sum((units for moment, units in sent if start <= moment < end and units is not None), ZERO)
        assert used(ledger.account, start) == wanted


def test_of_two_readings_at_one_instant_the_later_arrival_is_the_last() -> None:
    """`last` goes by the event's own time; a tie goes to whichever came in later."""
    ledger = Ledger(account_on(plan_of('{ model = "included" }', meter=meter("last")), starts_at=FIRST))
    for moment, value in ((MONTHS[0] + 5, 10), (MONTHS[0] + 5, 7), (MONTHS[0] + 4, 99)):
        ledger.record(event(at=moment, meta={"region": "eu", "x": value}))
    assert used(ledger.account, MONTHS[0]) == 7


def test_usage_units_can_be_metered() -> None:
    """`usageUnits` as a meter's key reads the event's units, not a metadata field of that name."""
    written = 'event_name = "call"\naggregation = { type = "max", key = "usageUnits" }'
    ledger = Ledger(account_on(plan_of('{ model = "included" }', meter=written), starts_at=FIRST))
    for units in ("3", "8", "5"):
        ledger.record(event(at=FIRST, usage_units=units, meta={"usageUnits": 100}))
    assert used(ledger.account, FIRST) == 8
