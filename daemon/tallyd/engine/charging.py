"""What an event came to, as its rows have it: revenue, units, and a charge for each feature it counts in."""

from decimal import Decimal
from typing import Final

import msgspec

from tallyd.engine import counting
from tallyd.engine.account import Account, Enrolment
from tallyd.engine.counting import Count
from tallyd.engine.rows import ChargeRow
from tallyd.model.event import UsageEvent
from tallyd.model.money import ZERO, plain

_encode: Final = msgspec.json.Encoder(order="deterministic").encode
_NOTHING_PRICED: Final = "{}"


def revenue_of(event: UsageEvent, counts: list[Count], *, capped: bool) -> tuple[Decimal | None, str | None]:
    """Sum of the plan's charges, or what was sent. None while every charge is unpriced, or there is none."""
    if capped:
        return ZERO, "plan"
    if event.revenue_amount is not None:
        return event.revenue_amount, "sent"
    amounts = [count.amount for count in counts if count.amount is not None]
    return (sum(amounts, ZERO), "plan") if amounts else (None, None)


def units_of(event: UsageEvent, counts: list[Count], *, capped: bool) -> Decimal:
    """Units of the event itself: what its main feature counted, else what was sent."""
    if capped:
        return ZERO
    main = counting.main_feature(event.feature_key, [count.feature.key for count in counts])
    for count in counts:
        if count.feature.key == main:
            return count.units
    return event.units or ZERO


def charge_rows(
    account: Account, event: UsageEvent, enrolment: Enrolment, counts: list[Count], event_id: int
) -> list[ChargeRow]:
    """Return the charges of an event, one for each feature it counts in."""
    start = enrolment.segment_at(event.occurred_at).start
    rows = []
    for count in counts:
        rated, quantity = count.counter.rated, count.quantity
        before = {dimension: rated[dimension] for dimension in quantity if dimension in rated}
        rows.append(
            ChargeRow(
                event_id,
                account.customer.number,
                count.feature.key,
                enrolment.subscription.number,
                start,
                enrolment.plan.key,
                enrolment.plan.version,
                plain(count.counter.used),
                plain(count.units),
                _encode(before).decode() if before else _NOTHING_PRICED,
                _encode(quantity).decode() if quantity else _NOTHING_PRICED,
                None if count.amount is None else plain(count.amount),
                enrolment.plan.currency,
                count.no_price,
            )
        )
    return rows
