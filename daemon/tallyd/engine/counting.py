"""Counting: which features of the plan an event feeds, by how much, and what their counters are afterwards."""

from collections.abc import Iterable
from decimal import Decimal

import msgspec

from tallyd.engine import entitlements, rating
from tallyd.engine.account import EMPTY, LIFETIME, Account, Counter, CounterKey, Enrolment
from tallyd.engine.metering import difference
from tallyd.engine.rating import NoPrice, PricedFeature
from tallyd.model.event import UsageEvent
from tallyd.model.money import ZERO


class Count(msgspec.Struct, gc=False):
    """One plan feature's part in an event, while it is being decided.

    Attributes:
        feature: the feature fed.
        key: the counter that decides its limit and price.
        counter: that counter before the event.
        units: units the event adds.
        capped: whether the limit was already reached.
        amount: the charge, once priced.
        no_price: why there is no charge.
        quantity: the quantities priced, by dimension.
        covered: quantities that credits paid for, by dimension.
        credited: of the plan's price, what credits in money paid.
    """

    feature: PricedFeature
    key: CounterKey
    counter: Counter
    units: Decimal
    capped: bool
    amount: Decimal | None = None
    no_price: NoPrice | None = None
    quantity: dict[str, Decimal] = {}
    covered: dict[str, Decimal] = {}
    credited: Decimal = ZERO


def count(account: Account, enrolment: Enrolment, event: UsageEvent) -> list[Count]:
    """Count the event in every feature of the plan that it feeds."""
    counts = []
    for feature in enrolment.plan.counted_by(event):
        key = enrolment.counter_key(feature, event.occurred_at)
        counter = account.counters.get(key, EMPTY)
        if feature.meter is None:
            units = rating.units_of(feature, event)
        else:
            units = difference(
                feature.meter,
                event,
                value=counter.used,
                latest_at=counter.latest_at,
                seen=account.seen.get(key),
            )
        counts.append(Count(feature, key, counter, units, is_capped(feature, counter, units)))
    return counts


def main_feature(named: str | None, counted: Iterable[str]) -> str:
    """Return the one feature an event's own units, cost and sent revenue stand under: none is counted twice.

    The feature the event names; else the first it is counted in, by key; else none, which is the empty text.
    """
    return named if named is not None else min(counted, default="")


def bearer_of_sent(named: str | None, counted: Iterable[str]) -> str | None:
    """Return the one counter that a revenue sent with the event is noted in, by feature."""
    features = list(counted)
    return named if named in features else min(features, default=None)


def is_capped(feature: PricedFeature, counter: Counter, units: Decimal) -> bool:
    """Whether the cap zeroes the event: not a reading that adds nothing to a meter, or brings it down."""
    if feature.meter is not None and units <= ZERO:
        return False
    return entitlements.capped(feature, counter)


def counters_after(
    account: Account, event: UsageEvent, enrolment: Enrolment | None, counts: list[Count]
) -> dict[CounterKey, Counter]:
    """Return the new values of the counters that the event moves. A capped feature is not moved."""
    changed = {}
    bearer = None
    if event.revenue_amount is not None:
        bearer = bearer_of_sent(event.feature_key, [each.feature.key for each in counts if not each.capped])
    for each in counts:
        if each.capped:
            continue
        sent = event.revenue_amount if each.feature.key == bearer else None
        changed[each.key] = _advance(each.counter, event, each, sent)
        if each.key.period_start == LIFETIME and enrolment:
            start = enrolment.segment_at(event.occurred_at).start
            key = CounterKey(each.key.subscription, each.key.feature, start)
            changed[key] = _advance(account.counters.get(key, EMPTY), event, each, sent)
    return changed


def _advance(counter: Counter, event: UsageEvent, each: Count, sent: Decimal | None) -> Counter:
    """Return the counter after the event. Sent revenue is counted as used, but the plan does not price it."""
    return Counter(
        used=counter.used + each.units,
        rated=added(counter.rated, each.quantity) if each.quantity else counter.rated,
        charged=counter.charged if each.amount is None else counter.charged + each.amount,
        sent=counter.sent if sent is None else counter.sent + sent,
        events=counter.events + 1,
        unpriced=counter.unpriced + (each.no_price is not None),
        latest_at=max(counter.latest_at, event.occurred_at),
        covered=added(counter.covered, each.covered) if each.covered else counter.covered,
        credited=counter.credited + each.credited if each.credited else counter.credited,
        billed=counter.billed,
        billed_to=counter.billed_to,
    )


def added(held: dict[str, Decimal], more: dict[str, Decimal]) -> dict[str, Decimal]:
    """Return the sum of two mappings of quantities, by dimension."""
    together = dict(held)
    for dimension, quantity in more.items():
        together[dimension] = together.get(dimension, ZERO) + quantity
    return together


def newly_seen(event: UsageEvent, counts: list[Count]) -> list[tuple[CounterKey, str]]:
    """Return the values that `unique` meters see for the first time."""
    added = []
    for each in counts:
        meter = each.feature.meter
        if meter is not None and meter.aggregation == "unique" and each.units and not each.capped:
            added.append((each.key, str(meter.reading(event))))
    return added
