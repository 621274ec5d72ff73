"""Roll-ups: hourly sums by customer, feature, model, provider, event name and currency.

Costs stand under the event's own feature and in USD, the currency of provider prices; charges stand under the
feature that is charged and in the plan's currency. So every sum is exact and nothing is counted twice.
"""

from decimal import Decimal
from typing import Final

from tallyd.engine.costs import Cost
from tallyd.engine.counting import Count, main_feature
from tallyd.engine.rows import EventRow, RollupDelta, RollupKey
from tallyd.model.event import UsageEvent
from tallyd.model.moments import hour_of
from tallyd.model.money import ZERO

COST_CURRENCY: Final = "USD"


def rollups_of(
    row: EventRow,
    event: UsageEvent,
    units: Decimal,
    cost: Cost,
    revenue: Decimal | None,
    counts: list[Count],
) -> list[tuple[RollupKey, RollupDelta]]:
    """Return what one event adds to which roll-up rows."""
    own_feature = main_feature(event.feature_key, [count.feature.key for count in counts])
    hour, model, provider = hour_of(event.occurred_at), event.model or "", event.provider or ""
    own = RollupKey._make((hour, row.customer, own_feature, model, provider, event.name, COST_CURRENCY))
    delta = RollupDelta(events=1, units=units, unpriced=1 if row.no_price else 0)
    if cost.amount is not None:
        delta.cost = cost.amount
    if event.tokens and not row.capped:
        _add_tokens(delta, event.tokens)
    added = [(own, delta)]
    if row.currency == COST_CURRENCY and (
        not counts or (len(counts) == 1 and counts[0].feature.key == own_feature)
    ):
        delta.revenue = revenue or ZERO  # by far the most common: one feature, charged in the currency of costs
        return added
    for feature, extra_units, amount in _charged(event, revenue, counts, own_feature):
        if feature == own_feature and row.currency == COST_CURRENCY:
            delta.revenue += amount
        else:
            key = own._replace(feature=feature, currency=row.currency)
            added.append((key, RollupDelta(units=extra_units, revenue=amount)))
    return added


def _charged(
    event: UsageEvent, revenue: Decimal | None, counts: list[Count], own_feature: str
) -> list[tuple[str, Decimal, Decimal]]:
    """Return (feature, units beside the event's own, revenue) for everything that earned something."""
    if event.revenue_amount is not None:
        others = [
            (count.feature.key, count.units, ZERO)
            for count in counts
            if count.units and count.feature.key != own_feature
        ]
        return [(own_feature, ZERO, revenue or ZERO), *others]
    return [
        (
            count.feature.key,
            ZERO if count.feature.key == own_feature else count.units,
            count.amount or ZERO,
        )
        for count in counts
        if count.amount or (count.units and count.feature.key != own_feature)
    ]


def _add_tokens(delta: RollupDelta, tokens: dict[str, Decimal]) -> None:
    for kind, count in tokens.items():
        if kind in ("output", "reasoning"):
            delta.output_tokens += count
        else:
            delta.input_tokens += count
