"""Roll-ups: hourly sums that equal a recount from the rows, nothing twice, in every currency."""

from decimal import Decimal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from support import Ledger, account_on, at, event, priced, provider_prices, terms
from tallyd.engine.rows import RollupDelta, RollupKey
from tallyd.model.money import ZERO

FIRST = at("2026-11-01T00:00:00Z")
HOUR = 3_600_000_000
CATALOG = """
[[features]]
key = "api"
[[features]]
key = "calls"
[[features]]
key = "biggest"
[[meters]]
key = "calls"
event_name = "call"
aggregation = { type = "count" }
[[meters]]
key = "biggest"
event_name = "call"
aggregation = { type = "max", key = "usageUnits" }
[[plans]]
key = "p"
name = "P"
currency = "CURRENCY"
[[plans.features]]
feature = "api"
pricing = { model = "usage", usage_unit_type = "u", price_per_unit = "0.3", max_usage = 40 }
[[plans.features]]
feature = "calls"
meter = "calls"
pricing = { model = "usage", usage_unit_type = "u", price_per_unit = "0.01" }
[[plans.features]]
feature = "biggest"
meter = "biggest"
pricing = { model = "included", max_usage = 15 }
"""
PRICES = {("m", None): provider_prices("m", input=2, output=4), ("mystery", None): None}

happenings = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["call", "other"]),
        "at": st.integers(FIRST - 2 * HOUR, FIRST + 3 * HOUR),
        "feature_key": st.sampled_from([None, "api", "calls", "stranger"]),
    },
    optional={
        "usage_units": st.integers(0, 20),
        "model": st.sampled_from(["m", "mystery"]),
        "input_tokens": st.integers(0, 1000),
        "reasoning_tokens": st.integers(0, 1000),
        "revenue_amount": st.decimals(0, 3, places=2),
        "cost_amount": st.decimals(0, 3, places=2),
    },
)


def played(currency: str, happened: list[dict[str, Any]]) -> Ledger:
    """A customer with three features, two of them metered on one event."""
    plan = priced(CATALOG.replace("CURRENCY", currency))
    ledger = Ledger(account_on(plan, starts_at=FIRST), terms(dict(PRICES)))
    for fields in happened:
        ledger.record(event(**fields))
    return ledger


def summed(ledger: Ledger) -> dict[RollupKey, RollupDelta]:
    """All roll-up rows."""
    sums: dict[RollupKey, RollupDelta] = {}
    for changes in ledger.changes:
        for key, delta in changes.rollups:
            sums.setdefault(key, RollupDelta()).add(delta)
    return sums


def decimal(text: str | None) -> Decimal:
    """An amount, or nothing."""
    return Decimal(text) if text is not None else ZERO


@settings(max_examples=40)
@given(st.sampled_from(["USD", "EUR"]), st.lists(happenings, max_size=20))
def test_rollups_equal_a_recount_from_the_rows(currency: str, happened: list[dict[str, Any]]) -> None:
    """Events, cost, revenue, tokens and unpriced of every hour are those of the rows of that hour."""
    ledger = played(currency, happened)
    sums = summed(ledger)
    for hour in {key.hour for key in sums} | {row.occurred_at // HOUR * HOUR for row in ledger.rows}:
        mine = [row for row in ledger.rows if row.occurred_at // HOUR * HOUR == hour]
        held = [delta for key, delta in sums.items() if key.hour == hour]
        assert sum(delta.events for delta in held) == len(mine)
        assert sum(delta.unpriced for delta in held) == sum(row.no_price is not None for row in mine)
        assert sum((delta.cost for delta in held), ZERO) == sum((decimal(row.cost) for row in mine), ZERO)
        assert sum((delta.revenue for delta in held), ZERO) == sum((decimal(row.revenue) for row in mine), ZERO)


@settings(max_examples=40)
@given(st.sampled_from(["USD", "EUR"]), st.lists(happenings, max_size=20))
def test_revenue_stands_under_the_feature_and_currency_that_earned_it(
    currency: str, happened: list[dict[str, Any]]
) -> None:
    """Per feature, charges of the plan; costs always in USD, charges always in the plan's currency."""
    ledger = played(currency, happened)
    sums = summed(ledger)
    sent = {row.id for row in ledger.rows if row.revenue_source == "sent"}
    for feature in ("calls", "biggest"):
        charged = sum(
            (
                decimal(each.amount)
                for each in ledger.charges
                if each.feature == feature and each.event not in sent
            ),
            ZERO,
        )
        own = sum(
            (
                decimal(row.revenue)
                for row in ledger.rows
                if row.id in sent and _own_feature(ledger, row.id) == feature
            ),
            ZERO,
        )
        held = [delta.revenue for key, delta in sums.items() if key.feature == feature]
        assert sum(held, ZERO) == charged + own
    assert all(not delta.cost for key, delta in sums.items() if key.currency != "USD")
    for key, delta in sums.items():
        if delta.revenue:
            rows = [row for row in ledger.rows if row.occurred_at // HOUR * HOUR == key.hour]
            assert key.currency in {row.currency for row in rows}


def _own_feature(ledger: Ledger, number: int) -> str:
    row = next(row for row in ledger.rows if row.id == number)
    features = [charge.feature for charge in ledger.charges if charge.event == number]
    return row.feature or min(features, default="")


@settings(max_examples=40)
@given(st.lists(happenings, max_size=20))
def test_units_by_feature_are_what_the_counters_used(happened: list[dict[str, Any]]) -> None:
    """A feature's units over all hours are its counter's, whoever fed it and whatever else was sent."""
    ledger = played("USD", [fields for fields in happened if fields["at"] >= FIRST])
    sums = summed(ledger)
    for key, counter in ledger.account.counters.items():
        units = sum((delta.units for rollup, delta in sums.items() if rollup.feature == key.feature), ZERO)
        loose = sum(
            (
                Decimal(row.units)
                for row in ledger.rows
                if _own_feature(ledger, row.id) == key.feature
                and not any(charge.event == row.id and charge.feature == key.feature for charge in ledger.charges)
            ),
            ZERO,
        )
        assert units == counter.used + loose


def test_tokens_are_summed_as_input_and_output() -> None:
    """Cached input is input, reasoning is output; a capped event adds no tokens."""
    ledger = played("USD", [{"name": "other", "input_tokens": 3, "cache_read_tokens": 4, "reasoning_tokens": 5}])
    (delta,) = summed(ledger).values()
    assert (delta.input_tokens, delta.output_tokens) == (7, 5)
