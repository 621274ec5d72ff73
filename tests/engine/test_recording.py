"""Recording: caps, costs, what is sent along, and what lies outside a subscription."""

from decimal import Decimal

import pytest

from support import NOW, Ledger, account_on, at, event, plan_of, priced, provider_prices, terms
from tallyd.engine.account import CounterKey
from tallyd.engine.costs import CostRule, Rates
from tallyd.engine.recording import Denied, Recorded

START = at("2026-11-01T00:00:00Z")
CAPPED = '{ model = "usage", usage_unit_type = "calls", price_per_unit = "0.10", max_usage = 10 }'
PRICES = {
    ("gpt-4o", None): provider_prices("gpt-4o", input="2.50", output="10"),
    ("mystery", None): None,
}
COUNTED = 'event_name = "call"\naggregation = { type = "count" }'
SIMPLE = CostRule(model="simple", cost_per_unit=Decimal("0.5"))


def ledger(pricing: str = CAPPED, *, default: CostRule | None = None, extra: str = "", meter: str = "") -> Ledger:
    """A customer on a plan of one feature since the first of the month."""
    account = account_on(plan_of(pricing, extra=extra, meter=meter), starts_at=START)
    return Ledger(account, terms(dict(PRICES), default))


def used(book: Ledger, feature: str = "api") -> Decimal:
    """Units of this month."""
    return book.account.counter(CounterKey(1, feature, START)).used


# Caps (CONTRACTS 1.4)


def test_the_event_that_crosses_the_cap_is_accepted_whole_and_later_ones_are_zeroed() -> None:
    """8 of 10 used: an event of 5 counts and costs in full; the next is kept with units, cost and revenue 0."""
    book = ledger()
    rows = [book.record(event(feature_key="api", usage_units=units, cost_amount=1)).row for units in (8, 5, 1)]
    assert [row.units for row in rows] == ["8", "5", "0"]
    assert [Decimal(row.revenue or "-1") for row in rows] == [Decimal("0.80"), Decimal("0.50"), 0]
    assert [row.cost for row in rows] == ["1", "1", "0"]
    assert [row.capped for row in rows] == [0, 0, 1]
    assert used(book) == 13


def test_reaching_the_cap_exactly_is_not_exceeding_it() -> None:
    """The event that ends on the cap counts; only then the cap is reached."""
    book = ledger()
    assert book.record(event(feature_key="api", usage_units=10)).row.capped == 0
    assert book.record(event(feature_key="api", usage_units="0.01")).row.capped == 1
    assert used(book) == 10


def test_the_cap_is_open_again_in_the_next_period() -> None:
    """Capped in November, not in December; with `accumulate` the cap is for ever."""
    december = at("2026-12-01T00:00:00Z")
    for mode, capped in (("reset", 0), ("accumulate", 1)):
        book = ledger(CAPPED.replace(" }", f', reset_mode = "{mode}" }}'))
        book.record(event(feature_key="api", usage_units=10))
        assert book.record(event(at=december, feature_key="api", usage_units=1)).row.capped == capped


def test_a_capped_event_keeps_its_body_and_place_in_the_chain() -> None:
    """What was sent stays provable, though it counts for nothing (P10)."""
    book = ledger()
    book.record(event(feature_key="api", usage_units=10))
    row = book.record(event(feature_key="api", usage_units=7)).row
    assert '"usageUnits":7' in row.body
    assert row.position == 2
    assert row.chain == book.account.chain


def test_a_cap_of_one_feature_leaves_the_other_feature_of_the_same_event_counted() -> None:
    """An event that feeds a capped and an open feature is zeroed in one and counted and charged in the other."""
    plan = priced("""
[[features]]
key = "api"
[[features]]
key = "all"
[[meters]]
key = "calls"
event_name = "call"
aggregation = { type = "count" }
[[plans]]
key = "p"
name = "P"
[[plans.features]]
feature = "api"
pricing = { model = "usage", usage_unit_type = "u", price_per_unit = 1, max_usage = 1 }
[[plans.features]]
feature = "all"
meter = "calls"
pricing = { model = "usage", usage_unit_type = "u", price_per_unit = "0.01" }
""")
    book = Ledger(account_on(plan, starts_at=START))
    book.record(event(feature_key="api", usage_units=1))
    row = book.record(event(feature_key="api", usage_units=1)).row
    assert (used(book), used(book, "all")) == (1, 2)
    assert row.capped == 0
    assert row.revenue == "0.01"


# Costs (CONTRACTS 1.5)


@pytest.mark.parametrize(
    ("sent", "rule", "default", "model", "cost", "source"),
    [
        ("9", True, True, "gpt-4o", "9", "sent"),
        (None, True, True, "gpt-4o", "0.04", "plan_rule"),
        (None, False, True, "gpt-4o", "5.0", "account_default"),
        (None, False, False, "gpt-4o", "0.007500", "price_table"),
        (None, False, False, "mystery", None, None),
        (None, False, False, None, None, None),
    ],
)
def test_the_cost_chain_is_walked_in_order(
    sent: str | None, rule: bool, default: bool, model: str | None, cost: str | None, source: str | None
) -> None:
    """Sent wins over the plan's rule, that over the account's default, that over the price table."""
    extra = 'cost = { model = "simple", cost_per_unit = "0.004" }' if rule else ""
    book = ledger('{ model = "included" }', default=SIMPLE if default else None, extra=extra)
    fields = {"cost_amount": sent} if sent else {}
    if model:
        fields["model"] = model
    row = book.record(event(feature_key="api", usage_units=10, input_tokens=1000, output_tokens=500, **fields)).row
    assert (None if row.cost is None else Decimal(row.cost)) == (None if cost is None else Decimal(cost))
    assert row.cost_source == source


def test_an_unknown_model_is_unpriced_and_never_zero() -> None:
    """No price for the model: cost stays absent, the reason is on the row and in the roll-up (P9)."""
    book = ledger('{ model = "included" }')
    decided = book.record(event(feature_key="api", model="mystery", input_tokens=1000))
    assert decided.row.cost is None
    assert decided.row.no_price == "unknown_model"
    assert sum(delta.unpriced for _, delta in decided.changes.rollups) == 1


def test_an_event_without_a_model_has_no_cost_and_lacks_none() -> None:
    """No cost and nothing to go by is not the same as an unknown price."""
    row = ledger('{ model = "included" }').record(event(feature_key="api", usage_units=1)).row
    assert (row.cost, row.no_price) == (None, None)


def test_units_without_tokens_are_priced_as_input() -> None:
    """An event that names a model and sends only units pays the input price for them."""
    row = (
        ledger('{ model = "included" }')
        .record(event(feature_key="api", usage_units=1_000_000, model="gpt-4o"))
        .row
    )
    assert Decimal(row.cost or "-1") == Decimal("2.50")


def test_a_rule_that_does_not_cover_an_event_passes_it_on() -> None:
    """A simple rule needs units, a model-aware one the model: else the next link of the chain decides."""
    book = ledger('{ model = "included" }', extra='cost = { model = "simple", cost_per_unit = 7 }')
    row = book.record(event(feature_key="api", model="gpt-4o", input_tokens=1_000_000)).row
    assert (row.cost_source, Decimal(row.cost or "-1")) == ("price_table", Decimal("2.50"))


def test_a_model_aware_rule_counts_cached_input_as_input_and_reasoning_as_output() -> None:
    """Two rates price five kinds of token; a model of its own wins over the defaults."""
    rule = CostRule(
        model="model_aware",
        default_input_cost_per_unit=Decimal("0.1"),
        model_costs={"own": Rates(input=Decimal(1), output=Decimal(10))},
    )
    tokens = {"input_tokens": 1, "cache_read_tokens": 2, "output_tokens": 3, "reasoning_tokens": 4}
    book = ledger('{ model = "included" }', default=rule)
    costs = [book.record(event(model=model, **tokens)).row.cost for model in ("own", "other")]
    assert [Decimal(cost or "-1") for cost in costs] == [Decimal(73), Decimal("0.3")]


# Sent along, or outside


def test_sent_revenue_is_kept_and_not_priced_again() -> None:
    """Revenue that came with an event is the event's revenue; its units count, the plan charges nothing."""
    book = ledger()
    decided = book.record(event(feature_key="api", usage_units=4, revenue_amount="99.99"))
    assert (decided.row.revenue, decided.row.revenue_source) == ("99.99", "sent")
    counter = book.account.counter(CounterKey(1, "api", START))
    assert (counter.used, counter.charged, counter.sent, counter.rated) == (4, 0, Decimal("99.99"), {})


def test_sent_revenue_of_zero_is_a_price_too() -> None:
    """Free of charge, as sent, is not unpriced and not priced by the plan."""
    row = ledger().record(event(feature_key="api", usage_units=4, revenue_amount=0)).row
    assert (row.revenue, row.revenue_source, row.no_price) == ("0", "sent", None)


def test_an_event_before_the_start_is_kept_and_costed_but_not_priced() -> None:
    """A microsecond before the subscription: in the ledger with units and cost, without charge or counter."""
    book = ledger()
    decided = book.record(event(at=START - 1, feature_key="api", usage_units=3, cost_amount=2))
    row = decided.row
    assert (row.units, row.cost, row.revenue, row.subscription) == ("3", "2", None, None)
    assert not decided.charges
    assert not book.account.counters
    assert book.record(event(at=START, feature_key="api", usage_units=3)).charges


def test_an_event_after_the_end_is_not_priced() -> None:
    """A subscription covers its start and not its end."""
    account = account_on(plan_of(CAPPED), starts_at=START, ends_at=NOW)
    book = Ledger(account)
    assert not book.record(event(at=NOW, feature_key="api", usage_units=1)).charges
    assert book.record(event(at=NOW - 1, feature_key="api", usage_units=1)).charges


# Consume


def test_consume_is_refused_whole_where_record_would_cross() -> None:
    """8 of 10 used: 3 more do not fit and change nothing; 2 more do (P4)."""
    book = ledger()
    book.record(event(feature_key="api", usage_units=8))
    position = book.account.position
    refused = book.consume(event(feature_key="api", usage_units=3))
    assert isinstance(refused, Denied)
    assert (used(book), book.account.position) == (8, position)
    assert isinstance(book.consume(event(feature_key="api", usage_units=2)), Recorded)
    assert used(book) == 10


@pytest.mark.parametrize(("plans", "reason"), [(0, "no_subscription"), (1, "feature_not_in_plan")])
def test_consume_of_what_was_not_granted_is_refused(plans: int, reason: str) -> None:
    """Without a plan that has the feature nothing is admitted: closed when in doubt."""
    book = Ledger(account_on(*[plan_of(CAPPED)] * plans, starts_at=START))
    refused = book.consume(event(feature_key="other", usage_units=1))
    assert isinstance(refused, Denied)
    assert refused.entitlement.reason == reason


def test_a_refusal_speaks_of_the_subscription_that_refused() -> None:
    """With two subscriptions the answer rests on the one the event named: a refusal never says `allowed`."""
    roomy, full = plan_of(CAPPED.replace("10 }", "1000 }")), plan_of(CAPPED)
    book = Ledger(account_on(roomy, full, starts_at=START))
    book.record(event(feature_key="api", usage_units=10, subscription_id="subscription-2"))
    refused = book.consume(event(feature_key="api", usage_units=1, subscription_id="subscription-2"))
    assert isinstance(refused, Denied)
    assert not refused.entitlement.allowed
    assert refused.entitlement.limit == 10


def test_consume_by_the_meter_s_event_alone_is_counted() -> None:
    """An event that a meter counts need not name the feature as well."""
    book = ledger('{ model = "included", max_usage = 2 }', meter=COUNTED)
    outcomes = [isinstance(book.consume(event("call")), Recorded) for _ in range(3)]
    assert outcomes == [True, True, False]


def test_consume_of_a_metered_feature_by_an_event_the_meter_does_not_count_is_refused() -> None:
    """Units that no counter would count cannot be admitted against a limit (P4)."""
    book = ledger('{ model = "included", max_usage = 2 }', meter=COUNTED)
    outcomes = [book.consume(event("other", feature_key="api", usage_units=1)) for _ in range(4)]
    assert sum(isinstance(outcome, Recorded) for outcome in outcomes) <= 2


# Meters that go down, or stand still


def test_a_gauge_at_its_cap_comes_down_again() -> None:
    """A `last` meter that reached its limit follows a lower reading, so that the customer is allowed again."""
    gauge = 'event_name = "stored"\naggregation = { type = "last", key = "gb" }'
    book = ledger('{ model = "included", max_usage = 10, reset_mode = "accumulate" }', meter=gauge)
    for minute, gb in enumerate((10, 12, 3)):
        book.record(event("stored", at=NOW + minute, meta={"gb": gb}))
    assert used(book) == 3


def test_a_value_seen_before_costs_as_ever_at_the_cap() -> None:
    """With all seats taken, the next call of a seated user adds nothing, and its cost is kept."""
    seats = 'event_name = "active"\naggregation = { type = "unique", key = "user" }'
    book = ledger('{ model = "included", max_usage = 1 }', meter=seats)
    rows = [book.record(event("active", meta={"user": user}, cost_amount=1)).row for user in ("ann", "ann", "bob")]
    assert [(row.cost, row.capped) for row in rows] == [("1", 0), ("1", 0), ("0", 1)]
