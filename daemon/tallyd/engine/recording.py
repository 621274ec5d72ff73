"""Recording an event: count it, cost it, charge it, and chain it into the customer's ledger.

This is the decision at the heart of tallyd. It reads an account and returns what changes; nothing is changed
here, so it may be run again, in a thread, or in a simulation.
"""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Final

import msgspec

from tallyd.engine import chain, costs, counting, entitlements, rating
from tallyd.engine.account import Account, Changes, ChargeRow, Enrolment, EventRow
from tallyd.engine.costs import Cost, CostRule, PriceBook, Versions
from tallyd.engine.counting import Count
from tallyd.engine.credits.weights import NO_WEIGHTS, Weights
from tallyd.engine.entitlements import Reason
from tallyd.engine.rating import NoPrice, PricedFeature
from tallyd.engine.rollups import rollups_of
from tallyd.model.catalog import CreditModel
from tallyd.model.customer import Customer
from tallyd.model.event import UsageEvent
from tallyd.model.money import ZERO, plain
from tallyd.pricing.seam import Usage

Marginal = Callable[[PricedFeature, Usage, Usage], tuple[Decimal | None, NoPrice | None]]

_encode = msgspec.json.Encoder(order="deterministic").encode
_NOTHING_PRICED: Final = "{}"
_UNKNOWN_MODEL: Final = NoPrice.UNKNOWN_MODEL


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for the whole account, beside the customer's own books.

    Attributes:
        prices: provider prices known so far.
        default_cost: the account's default cost model, or None.
        versions: names of the bases of cost.
        currency: of revenues sent without a plan, ISO 4217.
        weights: what usage costs in credits.
        credit_models: the rules of new pools, by key.
    """

    prices: PriceBook
    default_cost: CostRule | None
    versions: Versions
    currency: str
    weights: Weights = NO_WEIGHTS
    credit_models: Mapping[str, CreditModel] = {}


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """The event as the books now have it, and what that changes."""

    row: EventRow
    charges: list[ChargeRow]
    changes: Changes


class Denied(msgspec.Struct, frozen=True, gc=False):
    """A `consume` that does not fit: nothing is recorded, and the answer says why."""

    entitlement: entitlements.Entitlement


def record(
    account: Account,
    event: UsageEvent,
    *,
    event_id: int,
    now: int,
    terms: Terms,
    marginal: Marginal = rating.marginal,
) -> Recorded:
    """Decide one event as a fact that happened: always recorded, zeroed where a cap was already reached."""
    enrolment = account.enrolment_for(event)
    counts = counting.count(account, enrolment, event) if enrolment else []
    return _record(account, event, enrolment, counts, event_id=event_id, now=now, terms=terms, marginal=marginal)


def consume(
    account: Account,
    event: UsageEvent,
    *,
    event_id: int,
    now: int,
    terms: Terms,
    marginal: Marginal = rating.marginal,
) -> Recorded | Denied:
    """Decide one event as a request: recorded if every limit it touches holds, else refused whole (P4)."""
    enrolment = account.enrolment_for(event)
    counts = counting.count(account, enrolment, event) if enrolment else []
    for count in counts:
        if enrolment and not entitlements.admits(count.feature, count.counter, count.units):
            asked_of = (account, enrolment, count.feature)
            return Denied(entitlements.decide_granted(*asked_of, event.occurred_at, count.units))
    if not _names_a_counted_feature(event, counts):
        entitlement = entitlements.decide(
            account, event.feature_key or event.name, event.occurred_at, event.units or ZERO
        )
        if entitlement.allowed and entitlement.limit is not None:  # nothing would count what is admitted (P4)
            entitlement = msgspec.structs.replace(entitlement, allowed=False, reason=Reason.NOT_COUNTED)
        if not entitlement.allowed:
            return Denied(entitlement)
    return _record(account, event, enrolment, counts, event_id=event_id, now=now, terms=terms, marginal=marginal)


def _record(
    account: Account,
    event: UsageEvent,
    enrolment: Enrolment | None,
    counts: list[Count],
    *,
    event_id: int,
    now: int,
    terms: Terms,
    marginal: Marginal,
) -> Recorded:
    capped = bool(counts) and all(count.capped for count in counts)
    cost = costs.CAPPED if capped else _cost(event, counts, terms)
    for count in counts:
        if count.capped:
            count.units = ZERO
            count.amount = ZERO
        elif event.revenue_amount is None:
            count.quantity = rating.quantity_of(count.feature, event, count.units, cost.amount)
            count.amount, count.no_price = marginal(count.feature, count.counter.rated, count.quantity)
    revenue, revenue_source = _revenue(event, counts, capped=capped)
    no_price = _UNKNOWN_MODEL if cost.unknown_model else None
    for count in counts:
        no_price = no_price or count.no_price
    charges = _charge_rows(account, event, enrolment, counts, event_id) if enrolment else []
    position = account.position + 1
    units = _units(event, counts, capped=capped)
    fields = (
        event_id,
        account.customer.number,
        position,
        event.key_space,
        event.key,
        event.source,
        event.name,
        event.feature_key,
        event.occurred_at,
        now,
        enrolment.subscription.number if enrolment else None,
        plain(units),
        None if cost.amount is None else plain(cost.amount),
        cost.source,
        cost.version.id if cost.version else None,
        None if revenue is None else plain(revenue),
        revenue_source,
        enrolment.plan.currency if enrolment else terms.currency,
        no_price,
        1 if capped else 0,
        event.model,
        event.provider,
        event.body,
    )
    link = chain.link(account.chain, fields)
    row = EventRow(*fields, link)
    changes = Changes(
        customer=None if account.known else _with_creation(account.customer, now),
        event=row,
        charges=charges,
        counters=counting.counters_after(account, event, enrolment, counts),
        seen=counting.newly_seen(event, counts),
        rollups=rollups_of(row, event, units, cost, revenue, counts),
        price_versions={cost.version.id: cost.version.content} if cost.version else {},
        position=position,
        chain=link,
    )
    return Recorded(row, charges, changes)


def _names_a_counted_feature(event: UsageEvent, counts: list[Count]) -> bool:
    if event.feature_key is None:
        return bool(counts)
    return any(count.feature.key == event.feature_key for count in counts)


def _with_creation(customer: Customer, now: int) -> Customer:
    return msgspec.structs.replace(customer, created_at=now)


def _cost(event: UsageEvent, counts: list[Count], terms: Terms) -> Cost:
    rule = None
    for count in counts:
        rule = rule or count.feature.cost
    return costs.cost_of(
        event, rule=rule, default=terms.default_cost, prices=terms.prices, versions=terms.versions
    )


def _revenue(event: UsageEvent, counts: list[Count], *, capped: bool) -> tuple[Decimal | None, str | None]:
    """Sum of the plan's charges, or what was sent. None while every charge is unpriced, or there is none."""
    if capped:
        return ZERO, "plan"
    if event.revenue_amount is not None:
        return event.revenue_amount, "sent"
    amounts = [count.amount for count in counts if count.amount is not None]
    return (sum(amounts, ZERO), "plan") if amounts else (None, None)


def _units(event: UsageEvent, counts: list[Count], *, capped: bool) -> Decimal:
    """Units of the event itself: what its main feature counted, else what was sent."""
    if capped:
        return ZERO
    main = counting.main_feature(event.feature_key, [count.feature.key for count in counts])
    for count in counts:
        if count.feature.key == main:
            return count.units
    return event.units or ZERO


def _charge_rows(
    account: Account, event: UsageEvent, enrolment: Enrolment, counts: list[Count], event_id: int
) -> list[ChargeRow]:
    period = enrolment.period_at(event.occurred_at)
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
                period.start,
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
