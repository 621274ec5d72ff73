"""What-if: both sides by the rules of billing, exact, and nothing changed by asking."""

import itertools
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Any, Final

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from engine.test_pricing_law import MODEL_TERMS
from support import MODELS, NOW, Ledger, account_on, at, enrolment, event, plan_of, provider_prices, terms
from tallyd.api.whatif_views import LOUD, Note, notes
from tallyd.engine import voiding
from tallyd.engine.account import Counter, CounterKey, Enrolled, apply
from tallyd.engine.billing.stretches import Span, runs_in, stretch_of, unsubscribed
from tallyd.engine.billing.whatif import Compared, Comparison, before_credits
from tallyd.engine.catalog import price_plan
from tallyd.engine.credits.draft import Draft
from tallyd.engine.rating import PricedPlan
from tallyd.engine.rows import EventRow
from tallyd.engine.voiding import ToVoid
from tallyd.model.catalog import Aggregation, Meter, Plan, PlanFeature
from tallyd.model.event import UsageEvent
from tallyd.model.money import ZERO
from tallyd.model.periods import Cycle, Period
from tallyd.model.subscription import Phase, Subscription
from tallyd.pricing.seam import Measure

MARCH: Final = Span(date(2026, 3, 1), date(2026, 4, 1))
START: Final = at("2026-01-01T00:00:00Z")
MIDDLE: Final = at("2026-03-10T00:00:00Z")
USAGE: Final = '{ model = "usage", usage_unit_type = "calls", price_per_unit = "0.10" }'
TIERS: Final = (
    '{ model = "graduated", usage_unit_type = "calls", tiers = ['
    " { up_to = 1000, price_per_unit = 0, flat_fee = 10 },"
    ' { up_to = 10000, price_per_unit = "0.001", flat_fee = 5 },'
    ' { up_to = "inf", price_per_unit = "0.0001" } ] }'
)
TOKENS: Final = '{ model = "llm_tokens", rates = { "gpt-4o" = { input = "2.50", output = 10 } } }'
MARKUP: Final = '{ model = "llm_tokens", markup_percent = 30 }'
PRICES: Final = {("gpt-4o", None): provider_prices("gpt-4o", input=1, output=4), ("mystery", None): None}


def used(units: Any, moment: int = MIDDLE, **fields: Any) -> UsageEvent:
    """Usage of the feature `api` in March."""
    return event(feature_key="api", usage_units=units, at=moment, **fields)


def played(plan: PricedPlan, happened: Sequence[UsageEvent], **fields: Any) -> Ledger:
    """A customer on a plan since January to whom all this happened."""
    ledger = Ledger(account_on(plan, **{"starts_at": START, **fields}), terms(dict(PRICES)))
    for each in happened:
        ledger.record(each)
    return ledger


def enrolled(ledger: Ledger) -> list[Enrolled]:
    """The customer's subscriptions with their plans."""
    found = [ledger.account.subscription(each.number) for each in ledger.account.subscriptions()]
    return [each for each in found if each is not None]


def asked(ledger: Ledger, target: PricedPlan, span: Span = MARCH) -> Compared:
    """What a time would have been under the target."""
    stretches = [each for each in (stretch_of(one, span, NOW) for one in enrolled(ledger)) if each is not None]
    comparison = Comparison(ledger.account.customer, target, stretches)
    for row in ledger.rows:
        if comparison.since <= row.occurred_at < comparison.until:
            comparison.event(row)
    return comparison.result(ledger.account.counters)


def codes(compared: Compared) -> set[Note]:
    """What has to be known beside the amounts."""
    return {note for note, _ in notes(compared)}


# By hand


def test_tiers_are_entered_from_the_first_unit_on() -> None:
    """15,000 calls at 0.10 were 1,500.00; in the tiers of the contract they are 24.50, three events or one."""
    ledger = played(plan_of(USAGE), [used(400), used(700), used(13_900)])
    found = asked(ledger, plan_of(TIERS))
    assert (found.was.exact, found.was.amount) == (Decimal("1500.00"), Decimal("1500.00"))
    assert (found.would_be.exact, found.would_be.amount) == (Decimal("24.5"), Decimal("24.50"))
    assert (found.events, codes(found)) == (3, set())


def test_only_the_range_s_periods_count() -> None:
    """February's and April's usage is not March's, and does not fill March's tiers."""
    outside = [used(900, at("2026-02-28T23:59:59Z")), used(900, at("2026-04-01T00:00:00Z"))]
    found = asked(played(plan_of(USAGE), [*outside, used(1001)]), plan_of(TIERS))
    assert found.was.exact == Decimal("100.10")
    assert found.would_be.exact == Decimal("15.001")
    assert found.events == 1


def test_the_target_s_meters_count_in_their_own_way() -> None:
    """Four events of 10 units by three people: by units 4.00, by events 4 x 2, by people 3 x 5."""
    people = [used(10, meta={"who": each}) for each in ("a", "b", "a", "c")]
    ledger = played(plan_of(USAGE), people)
    by_events = plan_of(USAGE.replace("0.10", "2"), meter='event_name = "call"\naggregation = { type = "count" }')
    by_people = plan_of(
        USAGE.replace("0.10", "5"), meter='event_name = "call"\naggregation = { type = "unique", key = "who" }'
    )
    assert asked(ledger, by_events).was.exact == Decimal("4.00")
    assert asked(ledger, by_events).would_be.exact == 8
    found = asked(ledger, by_people)
    assert (found.would_be.exact, found.would_be.features["api"].used) == (15, 3)


def test_a_meter_that_counts_none_of_it_is_said_loudly() -> None:
    """A feature that both plans have, whose new meter wants another event, would be used by nobody."""
    other = plan_of(USAGE, meter='event_name = "other"\naggregation = { type = "count" }')
    found = asked(played(plan_of(USAGE), [used(10)]), other)
    assert found.would_be.exact == 0
    assert codes(found) == {Note.NOT_COUNTED}


def test_tokens_are_priced_by_the_target_s_rates() -> None:
    """A million tokens in and a hundred thousand out: 2.50 and 1.00, with a base price of 5 instead of 20."""
    before = plan_of('{ model = "llm_tokens", rates = { "*" = { input = 1, output = 4 } } }')
    ledger = played(before, [used(None, model="gpt-4o", input_tokens=10**6, output_tokens=10**5)])
    found = asked(ledger, msgspec.structs.replace(plan_of(TOKENS), price_amount=Decimal(5)))
    assert found.was.exact == Decimal("1.4")
    assert (found.would_be.base.exact, found.would_be.exact) == (5, Decimal("8.5"))


def test_a_markup_is_on_the_cost_that_the_books_have() -> None:
    """Provider cost of 1.40, found when the event came, plus 30 percent: 1.82. It is not looked up again."""
    ledger = played(plan_of(USAGE), [used(1, model="gpt-4o", input_tokens=10**6, output_tokens=10**5)])
    found = asked(ledger, plan_of(MARKUP))
    assert Decimal(ledger.rows[0].cost or 0) == Decimal("1.4")
    assert found.would_be.exact == Decimal("1.82")


def test_a_markup_is_on_the_target_s_own_cost_where_it_has_a_rule() -> None:
    """Ten units that cost us 0.50 each by the target's rule, plus 30 percent: 6.50."""
    ruled = plan_of(MARKUP, extra='cost = { model = "simple", cost_per_unit = "0.50" }\n')
    ledger = played(plan_of(USAGE), [used(10, model="gpt-4o", input_tokens=10**6)])
    assert asked(ledger, ruled).would_be.exact == Decimal("6.5")


def test_a_cost_that_a_cap_has_hidden_is_not_taken_for_none() -> None:
    """An event past the present limit is booked at no cost; a markup on that would be free: it is unpriced."""
    capped = plan_of(USAGE.replace(" }", ", max_usage = 5 }"))
    ledger = played(capped, [used(5), used(1, model="gpt-4o", input_tokens=10**6)])
    assert (ledger.rows[1].cost, ledger.rows[1].cost_source) == ("0", "usage_cap")
    found = asked(ledger, plan_of(MARKUP))
    assert found.would_be.unpriced == 2
    assert Note.UNPRICED in codes(found)


def test_usage_without_a_price_is_counted_not_hidden() -> None:
    """Two models, of which the target prices one: the other's event is unpriced there, and said loudly (P9)."""
    happened = [used(None, model=each, input_tokens=10**6) for each in ("gpt-4o", "mystery")]
    found = asked(played(plan_of('{ model = "included" }'), happened), plan_of(TOKENS))
    assert (found.would_be.exact, found.would_be.unpriced, found.was.unpriced) == (Decimal("2.5"), 1, 0)
    assert codes(found) == {Note.UNPRICED}


def test_a_feature_that_the_target_lacks_would_be_free_and_is_said_loudly() -> None:
    """Usage of `api` under a plan that has only `other` costs nothing: the note says how much was used."""
    found = asked(played(plan_of(USAGE), [used(12)]), plan_of(USAGE, feature="other"))
    assert found.would_be.exact == 0
    assert dict(notes(found)) == {Note.MISSING: "api (12 used) not in plan@1: would be free"}
    assert Note.MISSING in LOUD


def test_a_limit_of_the_target_holds_and_what_it_kept_out_is_told() -> None:
    """Of 4 + 4 + 4 units and a limit of 5, the first two count, as with `record`; the last is past it."""
    capped = plan_of(USAGE.replace(" }", ", max_usage = 5 }"))
    found = asked(played(plan_of(USAGE), [used(4), used(4), used(4)]), capped)
    assert (found.was.exact, found.would_be.exact) == (Decimal("1.20"), Decimal("0.80"))
    past = found.past_limit["api"]
    assert (past.limit, past.events, past.units) == (5, 1, 4)
    assert codes(found) == {Note.PAST_LIMIT}


def test_usage_that_accumulates_begins_with_the_subscription() -> None:
    """10 units free for ever: what January used up is gone in March, though only March is asked about."""
    tiers = '[{ up_to = 10, price_per_unit = 0 }, { up_to = "inf", price_per_unit = 1 }]'
    shared = f'usage_unit_type = "calls", tiers = {tiers}'
    ledger = played(plan_of(USAGE), [used(8, at("2026-01-05T00:00:00Z")), used(8)])
    for_ever = asked(ledger, plan_of(f'{{ model = "graduated", reset_mode = "accumulate", {shared} }}'))
    each_month = asked(ledger, plan_of(f'{{ model = "graduated", {shared} }}'))
    assert (for_ever.would_be.exact, each_month.would_be.exact) == (6, 0)
    assert (for_ever.events, for_ever.would_be.features["api"].used) == (1, 8)


def test_revenue_that_was_sent_is_charged_on_neither_side() -> None:
    """What was charged elsewhere is not priced by the plan it is on, nor by another."""
    found = asked(played(plan_of(USAGE), [used(10, revenue_amount="7")]), plan_of(TIERS))
    assert (found.was.exact, found.would_be.exact) == (0, 0)
    assert found.would_be.features["api"].used == 10


# Credits


def test_what_credits_paid_for_stands_at_the_plan_s_price() -> None:
    """600 of 1,500 units were paid with credits, and 3.00 with money: before credits all 1,500 are priced."""
    feature = plan_of(TIERS).features["api"]
    paid = Counter(
        used=Decimal(1_500),
        rated={"units": Decimal(900)},
        charged=Decimal(7),
        credited=Decimal(3),
        covered={"units": Decimal(600)},
        events=2,
        billed=Decimal(7),
        billed_to=9,
    )
    whole = before_credits(paid, feature)
    assert whole.charged == Decimal("15.5")
    assert (whole.rated, whole.covered, whole.credited) == ({"units": Decimal(1_500)}, {}, ZERO)
    assert (whole.billed, whole.billed_to) == (ZERO, 0)


def test_credits_are_told() -> None:
    """The side that was says how much of it credits paid."""
    ledger = played(plan_of(USAGE), [used(10)])
    key = CounterKey(1, "api", at("2026-03-01T00:00:00Z"))
    counter = ledger.account.counters[key]
    ledger.account.counters[key] = msgspec.structs.replace(
        counter, charged=Decimal("0.40"), rated={"units": Decimal(4)}, covered={"units": Decimal(6)}
    )
    found = asked(ledger, plan_of(USAGE))
    assert (found.was.exact, found.would_be.exact, found.was.credited) == (1, 1, Decimal("0.60"))
    assert codes(found) == {Note.CREDITS}


# Periods and base prices


def based(price: Any, **fields: Any) -> PricedPlan:
    """A plan with a base price."""
    return msgspec.structs.replace(plan_of(USAGE), price_amount=Decimal(price), **fields)


def test_a_period_belongs_to_the_range_it_begins_in() -> None:
    """Anchored on the 15th, March is 15 March to 15 April, whole."""
    ledger = played(
        based(49), [used(1, at("2026-03-14T23:59:59Z")), used(5, at("2026-04-14T23:59:59Z"))], anchor_day=15
    )
    found = asked(ledger, based(99))
    assert found.stretches[0].periods == [Period(at("2026-03-15T00:00:00Z"), at("2026-04-15T00:00:00Z"))]
    assert (found.was.exact, found.would_be.exact) == (Decimal("49.50"), Decimal("99.50"))


def test_a_month_is_the_subscriber_s_own() -> None:
    """A month begins at midnight in the subscriber's zone: March in Berlin begins on 28 February, 23:00 UTC."""
    zone = "Europe/Berlin"
    begins = at("2026-02-28T23:00:00Z")
    phase = Phase(begins, "plan", 1, Cycle(begins, 1, 1, 0, zone))
    subscription = subscribed([phase])
    found = stretch_of((subscription, (based(49),)), MARCH, NOW)
    assert found is not None
    assert found.periods == [Period(begins, at("2026-03-31T22:00:00Z"))]


def subscribed(phases: list[Phase], **fields: Any) -> Subscription:
    """A subscription of some phases."""
    return Subscription(
        number=1,
        id="subscription-1",
        customer=1,
        created_at=NOW,
        phases=phases,
        **{"starts_at": phases[0].starts_at, "ends_at": None, **fields},
    )


def base(subscription: Subscription, *plans: PricedPlan, target: PricedPlan) -> tuple[Decimal, Decimal]:
    """Base prices of March, as they were and under the target."""
    stretch = stretch_of((subscription, plans), MARCH, NOW)
    assert stretch is not None
    customer = account_on(*plans).customer
    found = Comparison(customer, target, [stretch]).result({})
    return found.was.base.exact, found.would_be.base.exact


def cycle(**fields: Any) -> Cycle:
    """Calendar months from January on."""
    return msgspec.structs.replace(Cycle(START, 1), **fields)


def test_after_an_upgrade_each_plan_s_part_is_compared_with_one_whole_target() -> None:
    """Half of a 30 day month at 10 and half at 30 were 20; under the target it is 15, and no part of it."""
    june = Span(date(2026, 6, 1), date(2026, 7, 1))
    half = at("2026-06-16T00:00:00Z")
    phases = [Phase(START, "small", 1, cycle()), Phase(half, "large", 1, cycle())]
    enrolled_ = (subscribed(phases), (based(10, key="small"), based(30, key="large")))
    stretch = stretch_of(enrolled_, june, NOW)
    assert stretch is not None
    found = Comparison(account_on(based(10)).customer, based(15), [stretch]).result({})
    assert (found.was.base.exact, found.would_be.base.exact) == (20, 15)


def test_tiers_run_on_through_an_upgrade_that_keeps_the_period() -> None:
    """As it was, each plan's part had a counter of its own; on the target all along, there is one."""
    plan = plan_of('{ model = "included" }')
    phases = [Phase(START, "plan", 1, cycle()), Phase(MIDDLE, "plan", 2, cycle())]
    subscription = subscribed(phases, renewed_to=START)
    stretch = stretch_of((subscription, (plan, msgspec.structs.replace(plan, version=2))), MARCH, NOW)
    assert stretch is not None
    comparison = Comparison(account_on(plan).customer, plan_of(TIERS), [stretch])
    for row in played(plan, [used(800, at("2026-03-02T00:00:00Z")), used(800, at("2026-03-20T00:00:00Z"))]).rows:
        comparison.event(row)
    assert comparison.result({}).would_be.exact == Decimal("15.6")


def test_only_subscriptions_on_the_plan_asked_for() -> None:
    """`on` takes the periods in which that plan was in force, for all of the period or a part."""
    phases = [Phase(START, "small", 1, cycle()), Phase(at("2026-02-10T00:00:00Z"), "large", 1, cycle())]
    one = (subscribed(phases), (based(10, key="small"), based(30, key="large")))
    quarter = Span(date(2026, 1, 1), date(2026, 4, 1))
    months = {
        key: [each.start for each in stretch.periods] if stretch else []
        for key in ("small", "large", "other")
        for stretch in [stretch_of(one, quarter, NOW, key)]
    }
    january, february, march = (at(f"2026-0{month}-01T00:00:00Z") for month in (1, 2, 3))
    assert months == {"small": [january, february], "large": [february, march], "other": []}


@pytest.mark.parametrize(
    ("fields", "price"),
    [
        pytest.param({"interval_months": 3}, 90, id="a quarter, in part"),
        pytest.param({"interval_months": 0, "interval_days": 7}, 7, id="weeks, cut off at both ends"),
        pytest.param({"interval_months": 0}, 31, id="a draft that does not say"),
    ],
)
def test_a_target_with_another_interval_is_charged_for_the_time(fields: dict[str, Any], price: int) -> None:
    """March is 31 of the 90 days of a quarter, and as many sevenths of weeks: 31.00 by each of these prices."""
    was, would_be = base(subscribed([Phase(START, "plan", 1, cycle())]), based(49), target=based(price, **fields))
    assert was == 49
    assert abs(would_be - 31) < Decimal("1e-15")


def test_a_pause_is_left_out_by_each_plan_s_own_timing() -> None:
    """Paused for ten days of March: in arrears 21 of 31 days are charged; in advance all of it was, beforehand."""
    pause = [(at("2026-03-11T00:00:00Z"), at("2026-03-21T00:00:00Z"))]
    one = subscribed([Phase(START, "plan", 1, cycle())], pauses=pause)
    assert base(one, based(31), target=based(62, timing="IN_ARREARS")) == (31, 42)
    begun = subscribed([Phase(START, "plan", 1, cycle())], pauses=[(START + 1, at("2026-03-21T00:00:00Z"))])
    assert base(begun, based(31), target=based(62, timing="IN_ARREARS")) == (11, 22)
    never = subscribed([Phase(START, "plan", 1, cycle())], pauses=[(START + 1, None)])
    assert base(never, based(31), target=based(62)) == (0, 0)


def test_a_subscription_that_ended_is_charged_to_its_end() -> None:
    """Ended on 11 March, ten of 31 days are charged on both sides."""
    one = subscribed([Phase(START, "plan", 1, cycle())], ends_at=at("2026-03-11T00:00:00Z"))
    assert base(one, based(31), target=based(62)) == (10, 20)


def test_a_trial_is_free_on_both_sides() -> None:
    """A trial in March costs nothing, whatever is used in it."""
    march = at("2026-03-01T00:00:00Z")
    fields = {"starts_at": march, "trial_ends_at": at("2026-03-15T00:00:00Z")}
    phases = [Phase(march, "plan", 1, Cycle(at("2026-03-15T00:00:00Z"), 15))]
    ledger = Ledger(account_on(based(49)))
    one = subscribed(phases, renewed_to=march, **fields)
    ledger.account.enrolments = [enrolment(based(49))]
    stretch = stretch_of((one, (based(49),)), MARCH, NOW)
    assert stretch is not None
    assert len(stretch.periods) == 2
    assert len(stretch.paid) == 1
    comparison = Comparison(ledger.account.customer, plan_of(TIERS), [stretch])
    for row in played(based(49), [used(500, at("2026-03-02T00:00:00Z"))], starts_at=START).rows:
        comparison.event(row)
    free = Counter(used=Decimal(500), rated={"units": Decimal(500)}, charged=Decimal(50), events=1)
    found = comparison.result({CounterKey(1, "api", march): free})
    assert (found.was.exact, found.would_be.exact) == (49, 0)
    assert found.would_be.features["api"].used == found.was.features["api"].used == 500
    assert Note.TRIAL in codes(found)


def test_of_a_period_that_runs_the_usage_so_far_counts() -> None:
    """November is asked about on the 21st: its whole base price, the usage there is, and a word about it."""
    ledger = played(based(49), [used(10, NOW)])
    found = asked(ledger, based(99), Span(date(2026, 11, 1), date(2027, 1, 1)))
    assert (found.was.exact, found.would_be.exact) == (50, 100)
    assert found.stretches[0].runs
    assert Note.RUNNING in codes(found)


def test_nothing_that_begins_later_counts() -> None:
    """A range ahead of us has no periods yet, and a subscription that ended before it has none any more."""
    ahead = Span(date(2026, 12, 1), date(2027, 1, 1))
    one = subscribed([Phase(START, "plan", 1, cycle())])
    assert stretch_of((one, (based(1),)), ahead, NOW) is None
    assert runs_in(one, ahead)
    ended = subscribed([Phase(START, "plan", 1, cycle())], ends_at=at("2026-02-01T00:00:00Z"))
    assert stretch_of((ended, (based(1),)), MARCH, NOW) is None
    assert not runs_in(ended, MARCH)
    assert unsubscribed(account_on(based(1)).customer, based(1), ahead, "UTC", NOW) is None


def test_the_months_of_a_quarter_add_up_to_it() -> None:
    """Each period counts once, so three answers are the one answer, whatever the anchor day."""
    happened = [used(units, START + units * 86_400_000_000) for units in range(100)]
    ledger = played(based(49), happened, anchor_day=31)
    target = msgspec.structs.replace(plan_of(TIERS), price_amount=Decimal(9))
    spans = [Span(date(2026, month, 1), date(2026, month + 1, 1)) for month in (1, 2, 3)]
    months = [asked(ledger, target, each) for each in spans]
    quarter = asked(ledger, target, Span(date(2026, 1, 1), date(2026, 4, 1)))
    for side in ("was", "would_be"):
        parts = [getattr(each, side) for each in months]
        assert sum(each.exact for each in parts) == getattr(quarter, side).exact
        assert sum(each.amount for each in parts) == getattr(quarter, side).amount
    assert sum(each.events for each in months) == quarter.events


def test_each_of_several_subscriptions_is_taken_to_be_on_the_target() -> None:
    """Two base prices, and the usage of each under the target: 2 x 20 and 30 calls, and a word about it."""
    ledger = Ledger(account_on(based(49), plan_of(USAGE, feature="other"), starts_at=START), terms(dict(PRICES)))
    for feature, number in (("api", 1), ("other", 2)):
        happened = event(feature_key=feature, usage_units=15, at=MIDDLE, subscription_id=f"subscription-{number}")
        assert ledger.record(happened).row.subscription == number
    found = asked(ledger, based(20))
    assert (found.was.exact, found.would_be.exact) == (Decimal("52.00"), Decimal("41.50"))
    assert codes(found) == {Note.SEVERAL, Note.MISSING}


def test_usage_that_has_no_price_as_it_is_is_told() -> None:
    """An event that lacks a price now may have one under the target: both sides say what they leave out."""
    found = asked(
        played(plan_of(TOKENS), [used(None, model="mystery", input_tokens=5)]), plan_of('{ model = "included" }')
    )
    assert (found.was.unpriced, found.would_be.unpriced) == (1, 0)
    assert codes(found) == {Note.UNPRICED_NOW}


# Without a subscription


def alone(target: PricedPlan, *happened: UsageEvent, span: Span = MARCH) -> Compared:
    """Somebody without a subscription, through the range."""
    ledger = Ledger(account_on())
    for each in happened:
        ledger.record(each)
    stretch = unsubscribed(ledger.account.customer, target, span, "UTC", NOW)
    assert stretch is not None
    comparison = Comparison(ledger.account.customer, target, [stretch])
    for row in ledger.rows:
        comparison.event(row)
    return comparison.result({})


def test_without_a_subscription_the_range_is_on_the_target() -> None:
    """15,000 calls that nobody was charged for would have been 24.50 and the base price, for the month."""
    found = alone(
        msgspec.structs.replace(plan_of(TIERS), price_amount=Decimal(49)),
        used(15_000),
        used(5, at("2026-04-01T00:00:00Z")),
    )
    assert (found.was.exact, found.would_be.exact, found.events) == (0, Decimal("73.5"), 1)


def test_without_a_subscription_a_longer_range_has_the_target_s_periods() -> None:
    """Two months and a half of a monthly plan are three periods, the last of them cut off."""
    span = Span(at("2026-02-01T00:00:00Z"), at("2026-04-16T00:00:00Z"))
    found = alone(based(30), used(1), span=span)
    assert [each.start for each in found.stretches[0].periods] == [
        at(f"2026-0{month}-01T00:00:00Z") for month in (2, 3, 4)
    ]
    assert found.would_be.base.exact == 75


def test_without_a_subscription_usage_of_what_the_target_lacks_is_told() -> None:
    """An event names its feature: one that the target does not have would be free there, too."""
    found = alone(plan_of(USAGE, feature="other"), used(12), used(3))
    assert found.missing == {"api": Decimal(15)}
    assert codes(found) == {Note.MISSING}


def test_events_on_no_subscription_are_told_and_charged_on_neither_side() -> None:
    """What came in the subscription's time without being booked on it is left out, and counted."""
    plan = plan_of(USAGE)
    stray = Ledger(account_on())
    stray.record(used(7))
    stretch = stretch_of(enrolled(played(plan, []))[0], MARCH, NOW)
    assert stretch is not None
    comparison = Comparison(stray.account.customer, plan, [stretch])
    comparison.event(stray.rows[0])
    found = comparison.result({})
    assert (found.was.exact, found.would_be.exact, found.unsubscribed) == (0, 0, 1)
    assert codes(found) == {Note.UNSUBSCRIBED}


# For any plan and any usage

WHOLE: Final = Span(date(2026, 1, 1), date(2026, 4, 1))
METERS: Final = {
    "seats": Meter(key="seats", event_name="call", aggregation=Aggregation(type="unique", key="who")),
    "peak": Meter(key="peak", event_name="call", aggregation=Aggregation(type="max", key="level")),
    "level": Meter(key="level", event_name="call", aggregation=Aggregation(type="last", key="level")),
}


def with_features(pricings: dict[str, dict[str, Any]]) -> PricedPlan:
    """A plan with a feature that counts what is sent, and others with meters."""
    features = [
        PlanFeature(feature=key, pricing=pricing, meter=key if key in METERS else None)
        for key, pricing in pricings.items()
    ]
    written = Plan(key="plan", name="Plan", price_amount=Decimal("9.99"), features=features)
    return price_plan(written, 1, METERS, MODELS)


plans = st.dictionaries(
    st.sampled_from(["api", *METERS]), st.one_of(*MODEL_TERMS.values()), min_size=1, max_size=3
).map(with_features)


@st.composite
def happening(draw: st.DrawFn) -> UsageEvent:
    """An event with whatever a client may send along, and what the meters read."""
    fields: dict[str, Any] = {"at": draw(st.integers(START, at("2026-04-01T00:00:00Z") - 1))}
    fields["meta"] = {"who": draw(st.sampled_from("abc")), "level": draw(st.integers(0, 9))}
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
    return event("call", feature_key=draw(st.sampled_from(["api", None])), **fields)


@settings(max_examples=150)
@given(plans, st.lists(happening(), max_size=15))
def test_a_plan_compared_with_itself_differs_in_nothing(plan: PricedPlan, happened: list[UsageEvent]) -> None:
    """Counted and priced again on its own plan, usage comes to what was charged, digit for digit (P5, P9)."""
    ledger = played(plan, happened)
    found = asked(ledger, plan, WHOLE)
    charged = [each for key, each in ledger.account.counters.items() if key.period_start >= 0]
    assert found.was.exact - found.was.base.exact == sum((each.charged for each in charged), ZERO)
    assert found.would_be == found.was
    assert found.events == len(happened)
    assert not found.missing


@settings(max_examples=150)
@given(plans, plans, st.lists(happening(), max_size=15))
def test_what_would_have_been_is_what_is_where_it_was_done(
    plan: PricedPlan, target: PricedPlan, happened: list[UsageEvent]
) -> None:
    """The same life on the target itself comes to what the what-if says; costs that a cap has hidden apart."""
    ledger, done = played(plan, happened), played(target, happened)
    assume(not any(row.capped and row.model for row in ledger.rows))
    assert asked(ledger, target, WHOLE).would_be == asked(done, target, WHOLE).was


@settings(max_examples=60)
@given(plans, plans, st.lists(happening(), max_size=8))
def test_asking_changes_nothing(plan: PricedPlan, target: PricedPlan, happened: list[UsageEvent]) -> None:
    """Counters, values seen, position and chain are after asking what they were before."""
    account = played(plan, happened).account
    ledger = played(plan, happened)
    ledger.account = account
    before = account.copy()
    asked(ledger, target, WHOLE)
    assert (account.counters, account.seen) == (before.counters, before.seen)
    assert (account.position, account.chain, account.enrolments) == (
        before.position,
        before.chain,
        before.enrolments,
    )


def take_back(ledger: Ledger, row: EventRow) -> None:
    """Void an event."""
    ledger.let_time_pass()
    charges = [each for each in ledger.charges if each.event == row.id]
    rest = {
        each.feature: [
            other
            for other in ledger.rows
            if other is not row
            and any(
                (one.event, one.feature, one.period_start) == (other.id, each.feature, each.period_start)
                for one in ledger.charges
            )
        ]
        for each in charges
    }
    draft = Draft(ledger.account, NOW, itertools.count(10**6).__next__)
    apply(ledger.account, voiding.void(draft, ToVoid(row=row, charges=charges, rest=rest), ""))
    ledger.rows.remove(row)


def voidable(plan: PricedPlan) -> bool:
    """Whether what is left after a void does not depend on the order: no limits, no tokens by a meter."""
    return not any(
        each.limit or (each.meter and (each.accumulates or each.model.measure is Measure.TOKENS))
        for each in plan.features.values()
    )


@settings(max_examples=150)
@given(st.data(), plans.filter(voidable))
def test_voided_events_have_never_been(data: st.DataObject, plan: PricedPlan) -> None:
    """Where events were voided, what is left comes to the same by the counters and by counting again."""
    unsold = happening().filter(lambda each: each.revenue_amount is None)
    ledger = played(plan, data.draw(st.lists(unsold, min_size=1, max_size=10)))
    for row in data.draw(st.lists(st.sampled_from(ledger.rows), unique=True, max_size=4)):
        take_back(ledger, row)
    found = asked(ledger, plan, WHOLE)
    assert found.would_be.exact == found.was.exact
    assert {key: part.used for key, part in found.would_be.features.items() if part.events} == {
        key: part.used for key, part in found.was.features.items() if part.events
    }
