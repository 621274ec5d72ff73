"""The pricing law through the engine: what events are charged is what their usage costs (P5, P9)."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import MODELS, Ledger, account_on, at, event, provider_prices, terms
from tallyd.engine.account import LIFETIME, CounterKey
from tallyd.engine.catalog import price_plan
from tallyd.engine.rating import PricedPlan
from tallyd.engine.rows import ChargeRow
from tallyd.model.catalog import Plan, PlanFeature
from tallyd.model.event import UsageEvent
from tallyd.model.money import ZERO
from tallyd.pricing.seam import total

FIRST = at("2026-01-01T00:00:00Z")
LAST = at("2026-04-01T00:00:00Z")
PRICES = {
    ("gpt-4o", None): provider_prices("gpt-4o", input="2.50", output="10"),
    ("mystery", None): None,
}

prices = st.decimals(0, 100, places=6)
caps = st.fixed_dictionaries(
    {},
    optional={
        "max_usage": st.integers(0, 150),
        "reset_mode": st.sampled_from(["reset", "accumulate"]),
    },
)


@st.composite
def graduated(draw: st.DrawFn) -> dict[str, Any]:
    """Terms of up to four tiers."""
    ends = [*sorted(draw(st.sets(st.integers(1, 200), max_size=3))), "inf"]
    fees = st.sampled_from([0, 5, Decimal("0.01")])
    tiers = [{"up_to": end, "price_per_unit": draw(prices), "flat_fee": draw(fees)} for end in ends]
    return {"model": "graduated", "usage_unit_type": "calls", "tiers": tiers, **draw(caps)}


rates = st.fixed_dictionaries({"input": prices, "output": prices}, optional={"cache_read": prices})
MODEL_TERMS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "included": caps.map(lambda cap: {"model": "included", **cap}),
    "usage": st.tuples(prices, caps).map(
        lambda drawn: {"model": "usage", "usage_unit_type": "calls", "price_per_unit": drawn[0], **drawn[1]}
    ),
    "graduated": graduated(),
    "llm_tokens": st.one_of(
        st.tuples(st.dictionaries(st.sampled_from(["gpt-4o", "mystery", "*"]), rates, min_size=1), caps).map(
            lambda drawn: {"model": "llm_tokens", "rates": drawn[0], **drawn[1]}
        ),
        st.tuples(st.integers(0, 200), caps).map(
            lambda drawn: {"model": "llm_tokens", "markup_percent": drawn[0], **drawn[1]}
        ),
    ),
}


def plan(pricing: dict[str, Any]) -> PricedPlan:
    """A plan of one feature."""
    written = Plan(key="plan", name="Plan", features=[PlanFeature(feature="api", pricing=pricing)])
    return price_plan(written, 1, {}, MODELS)


@st.composite
def sent(draw: st.DrawFn) -> UsageEvent:
    """An event with whatever a client may send along."""
    fields: dict[str, Any] = {"at": draw(st.integers(FIRST, LAST - 1))}
    if draw(st.booleans()):
        fields["usage_units"] = draw(st.decimals(0, 60, places=2))
    for kind in draw(st.sets(st.sampled_from(["input_tokens", "output_tokens", "cache_read_tokens"]))):
        fields[kind] = draw(st.integers(0, 10**6))
    model = draw(st.sampled_from([None, "gpt-4o", "mystery"]))
    if model is not None:
        fields["model"] = model
    if draw(st.integers(0, 4)) == 0:
        fields["cost_amount"] = draw(st.decimals(0, 5, places=4))
    if draw(st.integers(0, 6)) == 0:
        fields["revenue_amount"] = draw(st.decimals(0, 5, places=2))
    return event("call", feature_key="api", **fields)


def played(priced: PricedPlan, happened: list[UsageEvent]) -> Ledger:
    """A customer on the plan to whom all this happened."""
    ledger = Ledger(account_on(priced, starts_at=FIRST), terms(dict(PRICES)))
    for each in happened:
        ledger.record(each)
    return ledger


def amounts(charges: list[ChargeRow], wanted: Callable[[ChargeRow], bool]) -> Decimal:
    """Sum of the charges."""
    return sum((Decimal(each.amount) for each in charges if each.amount is not None and wanted(each)), ZERO)


@pytest.mark.parametrize("model", MODEL_TERMS)
@settings(max_examples=40)
@given(data=st.data())
def test_charges_sum_to_the_rating_of_the_usage(model: str, data: st.DataObject) -> None:
    """For any terms and events, in each period: charges = counter's charged = rate() of the counter's usage."""
    priced = plan(data.draw(MODEL_TERMS[model]))
    ledger = played(priced, data.draw(st.lists(sent(), max_size=15)))
    feature = priced.features["api"]
    deciding = {
        key: counter
        for key, counter in ledger.account.counters.items()
        if (key.period_start == LIFETIME) == feature.accumulates
    }
    for key, counter in deciding.items():
        charged = amounts(ledger.charges, lambda row, key=key: key.period_start in (LIFETIME, row.period_start))
        assert charged == counter.charged
        assert charged == total(feature.model.rate(feature.terms, counter.rated))
    assert sum((counter.charged for counter in deciding.values()), ZERO) == amounts(ledger.charges, lambda _: True)


@pytest.mark.parametrize("model", MODEL_TERMS)
@settings(max_examples=40)
@given(data=st.data())
def test_every_counter_is_the_sum_of_its_rows(model: str, data: st.DataObject) -> None:
    """Used, charged, sent and unpriced of each period's counter can be recomputed from the rows alone (P10)."""
    priced = plan(data.draw(MODEL_TERMS[model]))
    ledger = played(priced, data.draw(st.lists(sent(), max_size=15)))
    rows = {row.id: row for row in ledger.rows}
    for key, counter in ledger.account.counters.items():
        mine = [
            each
            for each in ledger.charges
            if key.period_start in (LIFETIME, each.period_start) and not rows[each.event].capped
        ]
        assert counter.used == sum((Decimal(each.units) for each in mine), ZERO)
        assert counter.charged == sum((Decimal(each.amount) for each in mine if each.amount), ZERO)
        assert counter.events == len(mine)
        assert counter.unpriced == sum(each.no_price is not None for each in mine)
        sent_with = [rows[each.event] for each in mine if rows[each.event].revenue_source == "sent"]
        assert counter.sent == sum((Decimal(row.revenue or "0") for row in sent_with), ZERO)


@pytest.mark.parametrize("model", MODEL_TERMS)
@settings(max_examples=40)
@given(data=st.data())
def test_a_row_s_revenue_is_its_charges_or_what_was_sent(model: str, data: st.DataObject) -> None:
    """An event's revenue is the exact sum of its charges; absent while unpriced; as sent when sent."""
    happened = data.draw(st.lists(sent(), max_size=10))
    ledger = played(plan(data.draw(MODEL_TERMS[model])), happened)
    for row, each in zip(ledger.rows, happened, strict=True):
        mine = [charge for charge in ledger.charges if charge.event == row.id]
        if row.capped:
            assert (row.revenue, row.cost, row.units) == ("0", "0", "0")
        elif each.revenue_amount is not None:
            assert (Decimal(row.revenue or "-1"), row.revenue_source) == (each.revenue_amount, "sent")
            assert all(charge.amount is None and charge.quantity == "{}" for charge in mine)
        elif all(charge.amount is None for charge in mine):
            assert row.revenue is None
            assert row.no_price is not None
        else:
            assert Decimal(row.revenue or "-1") == amounts(mine, lambda _: True)


@settings(max_examples=40)
@given(graduated(), st.lists(sent(), min_size=1, max_size=12))
def test_what_came_before_is_written_on_the_charge(pricing: dict[str, Any], happened: list[UsageEvent]) -> None:
    """Any charge can be recomputed from its own row: terms, quantities before, quantity (P10)."""
    priced = plan(pricing)
    feature = priced.features["api"]
    decode = msgspec.json.Decoder(dict[str, Decimal]).decode
    for charge in played(priced, happened).charges:
        quantity = decode(charge.quantity)
        if quantity:
            again = feature.model.marginal(feature.terms, decode(charge.before), quantity)
            assert Decimal(charge.amount or "-1") == again


@pytest.mark.parametrize(("units", "charge"), [("0", "0"), ("500", "10"), ("1001", "15.001"), ("15000", "24.5")])
def test_the_vectors_of_the_contract_in_one_event_and_in_many(units: str, charge: str) -> None:
    """The graduated vectors (CONTRACTS 1.6) come out whether the units came at once or in ten parts."""
    tiers = [
        {"up_to": 1000, "price_per_unit": 0, "flat_fee": 10},
        {"up_to": 10000, "price_per_unit": "0.001", "flat_fee": 5},
        {"up_to": "inf", "price_per_unit": "0.0001"},
    ]
    priced = plan({"model": "graduated", "usage_unit_type": "tokens", "tiers": tiers})
    for parts in (1, 10):
        each = Decimal(units) / parts
        happened = [event("call", at=FIRST, feature_key="api", usage_units=each) for _ in range(parts)]
        ledger = played(priced, happened)
        assert ledger.account.counters[CounterKey(1, "api", FIRST)].charged == Decimal(charge)


def test_reset_starts_in_the_first_tier_each_period_and_accumulate_goes_on() -> None:
    """Ten free units, then 1.00: with `reset` February is free again, with `accumulate` it is not."""
    tiers = [{"up_to": 10, "price_per_unit": 0}, {"up_to": "inf", "price_per_unit": 1}]
    happened = [
        event("call", at=moment, feature_key="api", usage_units=10)
        for moment in (FIRST, at("2026-02-15T00:00:00Z"))
    ]
    charged = {}
    for mode in ("reset", "accumulate"):
        pricing = {"model": "graduated", "usage_unit_type": "u", "tiers": tiers, "reset_mode": mode}
        charged[mode] = [charge.amount for charge in played(plan(pricing), happened).charges]
    assert charged == {"reset": ["0", "0"], "accumulate": ["0", "10"]}
