"""Re-rating: only what was missing is filled in, once, and the books still balance."""

from decimal import Decimal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from support import NOW, Ledger, account_on, event, plan_of, provider_prices, terms
from tallyd.engine import chain, rerating
from tallyd.engine.account import Account, Changes, CounterKey, apply
from tallyd.engine.rating import PricedPlan
from tallyd.engine.rows import ChargeRow, EventRow, RollupDelta, RollupKey
from tallyd.engine.terms import Terms
from tallyd.model.money import ZERO
from tallyd.pricing.seam import total

START = 1_793_491_200_000_000  # 2026-11-01
KEY = CounterKey(1, "api", START)
MARKUP = '{ model = "llm_tokens", markup_percent = 30 }'
BY_RATE = '{ model = "llm_tokens", rates = { "gpt-4o" = { input = 1, output = 2 } } }'
UNKNOWN = {("late", None): None, ("gpt-4o", None): provider_prices("gpt-4o", input=2, output=4)}
KNOWN = {**UNKNOWN, ("late", None): provider_prices("late", input=10, output=20)}


def rerated(
    account: Account,
    row: EventRow,
    charges: list[ChargeRow],
    known: Terms,
    newest: PricedPlan | None = None,
) -> Changes | None:
    """Price an event again, and make the changes."""
    changes = rerating.decide(account, row, charges, now=NOW, terms=known, latest=lambda _: newest)
    if changes is not None:
        apply(account, changes)
    return changes


def book(pricing: str, *happened: dict[str, Any]) -> Ledger:
    """A customer who sent these events while the model `late` was unknown."""
    ledger = Ledger(account_on(plan_of(pricing), starts_at=START), terms(dict(UNKNOWN)))
    for fields in happened:
        ledger.record(event(feature_key="api", **fields))
    return ledger


def summed(changes: list[Changes]) -> dict[RollupKey, RollupDelta]:
    """All roll-ups."""
    sums: dict[RollupKey, RollupDelta] = {}
    for each in changes:
        for key, delta in each.rollups:
            sums.setdefault(key, RollupDelta()).add(delta)
    return sums


def test_nothing_new_changes_nothing() -> None:
    """While the model is still unknown there is no ledger row."""
    ledger = book(MARKUP, {"model": "late", "input_tokens": 5})
    assert rerated(ledger.account, ledger.rows[0], ledger.charges, ledger.terms) is None


def test_a_price_that_is_known_now_fills_in_cost_and_charge() -> None:
    """A million tokens at 10.00, plus 30 percent: cost 10, charge 13, nothing unpriced any more."""
    ledger = book(MARKUP, {"model": "late", "input_tokens": 1_000_000})
    before = ledger.rows[0]
    assert (before.cost, before.revenue, before.no_price) == (None, None, "unknown_model")
    changes = rerated(ledger.account, before, ledger.charges, terms(dict(KNOWN)))
    assert changes is not None
    assert changes.rerated is not None
    after = changes.rerated.event
    assert (Decimal(after.cost or "-1"), Decimal(after.revenue or "-1"), after.no_price) == (10, 13, None)
    counter = ledger.account.counter(KEY)
    assert (counter.charged, counter.unpriced, counter.events) == (13, 0, 1)


def test_what_was_counted_and_sent_stays() -> None:
    """Units, body, key and place in the ledger are as they were; the row's own link still holds."""
    ledger = book(MARKUP, {"model": "late", "input_tokens": 7, "usage_units": 3})
    before = ledger.rows[0]
    changes = rerated(ledger.account, before, ledger.charges, terms(dict(KNOWN)))
    assert changes is not None
    assert changes.rerated is not None
    after = changes.rerated.event
    untouched = ("id", "position", "key", "units", "body", "chain", "occurred_at", "currency", "capped")
    assert all(getattr(after, name) == getattr(before, name) for name in untouched)


def test_it_is_a_ledger_row_of_its_own_in_the_chain() -> None:
    """The re-rating takes the next position, and its link covers what was before and after (P10)."""
    ledger = book(MARKUP, {"model": "late", "input_tokens": 7}, {"usage_units": 1})
    previous = ledger.account.chain
    changes = rerated(ledger.account, ledger.rows[0], ledger.charges[:1], terms(dict(KNOWN)))
    assert changes is not None
    assert changes.rerated is not None
    row = changes.rerated.row
    fields = (row.customer, row.position, row.event, row.rated_at, row.before, row.after)
    assert row.position == ledger.account.position == 3
    assert row.chain == ledger.account.chain == chain.link(previous, fields)


def test_a_cost_known_from_the_start_is_never_changed() -> None:
    """Prices that change later do not touch an event that has its cost (P10)."""
    ledger = book(BY_RATE, {"model": "gpt-4o", "input_tokens": 1_000_000})
    dearer = terms({("gpt-4o", None): provider_prices("gpt-4o", input=99, output=99)})
    assert rerated(ledger.account, ledger.rows[0], ledger.charges, dearer) is None


def test_the_newest_version_of_the_plan_may_price_what_the_own_one_does_not() -> None:
    """A model without a rate gets the newest version's, and the charge names that version."""
    ledger = book(BY_RATE, {"model": "late", "input_tokens": 1_000_000})
    newest = plan_of('{ model = "llm_tokens", rates = { "*" = { input = 5, output = 5 } } }')
    newest = type(newest)(**{name: getattr(newest, name) for name in newest.__struct_fields__} | {"version": 2})
    changes = rerated(ledger.account, ledger.rows[0], ledger.charges, terms(dict(KNOWN)), newest)
    assert changes is not None
    assert changes.rerated is not None
    (charge,) = changes.rerated.charges
    assert (charge.plan_version, Decimal(charge.amount or "-1")) == (2, 5)


def test_sent_revenue_stays_when_only_the_cost_was_missing() -> None:
    """An event that brought its revenue gets the cost it lacked, and no charge."""
    ledger = book(MARKUP, {"model": "late", "input_tokens": 1_000_000, "revenue_amount": 4})
    changes = rerated(ledger.account, ledger.rows[0], ledger.charges, terms(dict(KNOWN)))
    assert changes is not None
    assert changes.rerated is not None
    after = changes.rerated.event
    assert (Decimal(after.cost or "-1"), after.revenue, after.revenue_source) == (10, "4", "sent")
    assert ledger.account.counter(KEY).charged == 0


sent = st.fixed_dictionaries(
    {"model": st.sampled_from(["late", "gpt-4o"]), "input_tokens": st.integers(1, 10**6)},
    optional={"output_tokens": st.integers(0, 10**6), "usage_units": st.integers(0, 9)},
)


@settings(max_examples=40)
@given(st.lists(sent, max_size=12), st.randoms(use_true_random=False))
def test_after_rerating_all_the_books_say_what_they_would_have_said(
    happened: list[dict[str, Any]], chance: Any
) -> None:
    """Re-rated in any order, counters, charges and roll-ups equal those of prices known from the start."""
    late = book(MARKUP, *happened)
    never = Ledger(account_on(plan_of(MARKUP), starts_at=START), terms(dict(KNOWN)))
    for fields in happened:
        never.record(event(feature_key="api", **fields))
    charges = {charge.event: charge for charge in late.charges}
    order = list(late.rows)
    chance.shuffle(order)
    changes = list(late.changes)
    for row in order:
        again = rerated(late.account, row, [charges[row.id]], terms(dict(KNOWN)))
        changes.extend([again] if again else [])
    assert late.account.counters == never.account.counters
    feature = late.account.enrolments[0].plan.features["api"]
    counter = late.account.counter(KEY)
    assert counter.charged == total(feature.model.rate(feature.terms, counter.rated))
    sums, wanted = summed(changes), summed(never.changes)
    assert {key: delta for key, delta in sums.items() if delta != RollupDelta()} == wanted
    assert sum((delta.revenue for delta in sums.values()), ZERO) == counter.charged
