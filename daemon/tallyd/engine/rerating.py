"""Re-rating: giving an event the prices it lacked when it came, once they exist.

What was counted stays as it was; only missing amounts are filled in, and a ledger row of its own says so.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

import msgspec

from tallyd.engine import chain, costs, events, rating
from tallyd.engine.account import LIFETIME, Account, Changes, Counter, CounterKey
from tallyd.engine.costs import Cost
from tallyd.engine.counting import main_feature
from tallyd.engine.rating import NoPrice, PricedFeature, PricedPlan
from tallyd.engine.rollups import COST_CURRENCY
from tallyd.engine.rows import ChargeRow, EventRow, Rerated, RerateRow, RollupDelta, RollupKey
from tallyd.engine.terms import Terms
from tallyd.model.event import Source, UsageEvent
from tallyd.model.moments import hour_of
from tallyd.model.money import ZERO, plain

LatestPlan = Callable[[str], PricedPlan | None]

_encode = msgspec.json.Encoder(order="deterministic").encode
_decode_quantity = msgspec.json.Decoder(dict[str, Decimal]).decode
_PRICED_COLUMNS = ("cost", "cost_source", "cost_version", "revenue", "revenue_source", "no_price")


class RatedCharge(msgspec.Struct, array_like=True):
    """A charge inside a re-rating's before and after."""

    feature: str
    plan_version: int
    quantity: str
    amount: str | None
    no_price: str | None


class RatedState(msgspec.Struct):
    """What a re-rating may change: an event's priced columns and its charges, before or after."""

    cost: str | None
    cost_source: str | None
    cost_version: int | None
    revenue: str | None
    revenue_source: str | None
    no_price: str | None
    charges: list[RatedCharge]


decode_state: Final = msgspec.json.Decoder(RatedState).decode


def state_of(row: EventRow, charges: list[ChargeRow]) -> RatedState:
    """Return the priced columns of an event and its charges, as they stand."""
    rated = [
        RatedCharge(charge.feature, charge.plan_version, charge.quantity, charge.amount, charge.no_price)
        for charge in charges
    ]
    return RatedState(**{column: getattr(row, column) for column in _PRICED_COLUMNS}, charges=rated)


def as_first(row: EventRow, charges: list[ChargeRow], state: RatedState) -> tuple[EventRow, list[ChargeRow]]:
    """Return an event and its charges as they were before they were ever re-rated."""
    first = {charge.feature: charge for charge in state.charges}
    row = msgspec.structs.replace(
        row,
        cost=state.cost,
        cost_source=state.cost_source,
        cost_version=state.cost_version,
        revenue=state.revenue,
        revenue_source=state.revenue_source,
        no_price=state.no_price,
    )
    return row, [_charge_as_first(charge, first.get(charge.feature)) for charge in charges]


def _charge_as_first(charge: ChargeRow, first: RatedCharge | None) -> ChargeRow:
    if first is None:
        return charge
    return msgspec.structs.replace(
        charge,
        plan_version=first.plan_version,
        quantity=first.quantity,
        amount=first.amount,
        no_price=first.no_price,
    )


def event_of(row: EventRow) -> UsageEvent:
    """Read the event back from its ledger row."""
    event = events.read_event(
        events.decode_body(row.body),
        source=Source(row.source),
        key=row.key,
        new_key=lambda: row.key,
        now=row.received_at,
        feature_named=lambda _: None,
        key_space=row.key_space,
    )
    return msgspec.structs.replace(event, feature_key=row.feature, occurred_at=row.occurred_at)


def decide(
    account: Account,
    row: EventRow,
    charges: list[ChargeRow],
    *,
    now: int,
    terms: Terms,
    latest: LatestPlan,
) -> Changes | None:
    """Fill in what was missing; None when nothing more is known than before.

    What credits have paid for stays paid: only the rest is priced.

    A charge that the subscriber's own version does not price is priced by the plan's newest version, if that
    does: the version used is noted on the charge.
    """
    event = event_of(row)
    cost = _cost(account, event, row, charges, terms)
    priced = [_charge(account, event, charge, cost.amount, latest) for charge in charges]
    new_charges = [charge for charge, _ in priced]
    new_row = _priced_row(row, event, cost, new_charges)
    if new_row == row and new_charges == charges:
        return None
    position = account.position + 1
    fields = (row.customer, position, row.id, now, _state(row, charges), _state(new_row, new_charges))
    link = chain.link(account.chain, fields)
    counters: dict[CounterKey, Counter] = {}
    for old, (new, quantity) in zip(charges, priced, strict=True):
        counters.update(_counters(account, old, new, quantity))
    return Changes(
        rerated=Rerated(RerateRow(*fields, link), new_row, new_charges),
        counters=counters,
        rollups=_rollups(row, new_row, charges, new_charges),
        late=True,
        price_versions={cost.version.id: cost.version.content} if cost.version else {},
        position=position,
        chain=link,
    )


def _cost(account: Account, event: UsageEvent, row: EventRow, charges: list[ChargeRow], terms: Terms) -> Cost:
    if row.cost is not None:
        return Cost(amount=Decimal(row.cost))
    features = [_feature(account, charge) for charge in charges]
    rule = next((feature.cost for feature in features if feature and feature.cost), None)
    return costs.cost_of(
        event, rule=rule, default=terms.default_cost, prices=terms.prices, versions=terms.versions
    )


def _feature(account: Account, charge: ChargeRow) -> PricedFeature | None:
    """Return the feature as the plan has it that the subscription was on in the charge's period."""
    if all(each.subscription.number != charge.subscription for each in account.enrolments):
        return None
    plan = account.enrolment_at(charge.subscription, charge.period_start).plan
    return plan.features.get(charge.feature) if plan.key == charge.plan_key else None


def _charge(
    account: Account,
    event: UsageEvent,
    charge: ChargeRow,
    cost: Decimal | None,
    latest: LatestPlan,
) -> tuple[ChargeRow, dict[str, Decimal]]:
    """Return the charge as it is now, and the quantities it prices that were not priced before."""
    feature = _feature(account, charge)
    if charge.no_price is None or feature is None:
        return charge, {}
    old = _decode_quantity(charge.quantity)
    whole = rating.quantity_of(feature, event, Decimal(charge.units), cost)
    quantity = rating.still_billed(whole, old)
    before = _decode_quantity(charge.before)
    version = charge.plan_version
    amount, no_price = rating.marginal(feature, before, quantity)
    if amount is None:
        newest = latest(charge.plan_key)
        newer = newest.features.get(charge.feature) if newest and newest.version != version else None
        if newest and newer:
            amount, no_price = rating.marginal(newer, before, quantity)
            version = newest.version if amount is not None else version
    added = {dimension: value for dimension, value in quantity.items() if dimension not in old}
    new = msgspec.structs.replace(
        charge,
        plan_version=version,
        quantity=_encode(quantity).decode(),
        amount=None if amount is None else plain(amount),
        no_price=no_price.value if no_price else None,
    )
    return new, added


def _priced_row(row: EventRow, event: UsageEvent, cost: Cost, charges: list[ChargeRow]) -> EventRow:
    amounts = [Decimal(charge.amount) for charge in charges if charge.amount is not None]
    no_price = NoPrice.UNKNOWN_MODEL.value if cost.unknown_model else None
    for charge in charges:
        no_price = no_price or charge.no_price
    changed: dict[str, Any] = {"no_price": no_price}
    if row.cost is None and cost.amount is not None:
        changed["cost"] = plain(cost.amount)
        changed["cost_source"] = cost.source.value if cost.source else None
        changed["cost_version"] = cost.version.id if cost.version else None
    if event.revenue_amount is None and amounts and row.capped == 0:
        changed["revenue"] = plain(sum(amounts, ZERO))
        changed["revenue_source"] = "plan"
    return msgspec.structs.replace(row, **changed)


def _state(row: EventRow, charges: list[ChargeRow]) -> str:
    """Return everything re-rating may change, as JSON: what is chained, and what `verify` goes back to."""
    state = {column: getattr(row, column) for column in _PRICED_COLUMNS}
    rated = [
        [charge.feature, charge.plan_version, charge.quantity, charge.amount, charge.no_price]
        for charge in charges
    ]
    return _encode({**state, "charges": rated}).decode()


def _counters(
    account: Account, old: ChargeRow, new: ChargeRow, quantity: dict[str, Decimal]
) -> dict[CounterKey, Counter]:
    if new == old:
        return {}
    changed = {}
    amount = Decimal(new.amount) if new.amount is not None and old.amount is None else ZERO
    for start in (LIFETIME, old.period_start):
        key = CounterKey(old.subscription, old.feature, start)
        counter = account.counters.get(key)
        if counter is None:
            continue
        rated = dict(counter.rated)
        for dimension, value in quantity.items():
            rated[dimension] = rated.get(dimension, ZERO) + value
        changed[key] = msgspec.structs.replace(
            counter,
            rated=rated,
            charged=counter.charged + amount,
            unpriced=counter.unpriced - (new.no_price is None),
        )
    return changed


def _rollups(
    row: EventRow, new_row: EventRow, charges: list[ChargeRow], new_charges: list[ChargeRow]
) -> list[tuple[RollupKey, RollupDelta]]:
    own_feature = main_feature(row.feature, [charge.feature for charge in charges])
    own = RollupKey(
        hour_of(row.occurred_at),
        row.customer,
        own_feature,
        row.model or "",
        row.provider or "",
        row.name,
        COST_CURRENCY,
    )
    delta = RollupDelta(unpriced=-1 if new_row.no_price is None else 0)
    if row.cost is None and new_row.cost is not None:
        delta.cost = Decimal(new_row.cost)
    added = [(own, delta)]
    for old, new in zip(charges, new_charges, strict=True):
        if old.amount is None and new.amount is not None:
            key = own._replace(feature=new.feature, currency=new.currency)
            added.append((key, RollupDelta(revenue=Decimal(new.amount))))
    return added
