"""The auditor: recomputes the books from the events as sent, and compares.

It shares the rules of counting and pricing with the rest of the engine but none of the bookkeeping: running sums,
roll-ups and chains are kept here a second time, so that a mistake in one place shows in the other.
"""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final

import msgspec

from tallyd.engine import chain, rating
from tallyd.engine.account import (
    LIFETIME,
    ChargeRow,
    Counter,
    CounterKey,
    EventRow,
    RerateRow,
    RollupDelta,
    RollupKey,
)
from tallyd.engine.audit_rollups import RollupSums
from tallyd.engine.costs import CostRule, CostSource
from tallyd.engine.counting import bearer_of_sent, is_capped, main_feature
from tallyd.engine.metering import difference
from tallyd.engine.rating import PricedFeature, PricedPlan
from tallyd.engine.rerating import RatedCharge, RatedState, as_first, decode_state, event_of
from tallyd.model.event import UsageEvent
from tallyd.model.money import ZERO, plain
from tallyd.model.subscription import Subscription
from tallyd.pricing.prices import TokenPrices

_decode_quantity: Final = msgspec.json.Decoder(dict[str, Decimal]).decode


class Finding(msgspec.Struct, frozen=True):
    """Something in the books that does not follow from the events.

    Attributes:
        kind: `event`, `charge`, `counter`, `rollup`, `ledger` or `plan`.
        where: which one.
        message: what stands there and what should.
    """

    kind: str
    where: str
    message: str


class _Ledger:
    __slots__ = ("chain", "position", "rerates")

    def __init__(self, rerates: list[RerateRow]) -> None:
        self.position = 0
        self.chain = chain.GENESIS
        self.rerates = rerates


class Auditor:
    """Give it every event in order of its id, then what the books say; it reports what does not follow.

    Args:
        plans: priced plans by (key, version); a missing one is a finding.
        subscriptions: by row number.
        price_versions: content by id.
        rerates: re-ratings by customer, in order of position.
    """

    def __init__(
        self,
        plans: Mapping[tuple[str, int], PricedPlan],
        subscriptions: Mapping[int, Subscription],
        price_versions: Mapping[int, str],
        rerates: Mapping[int, list[RerateRow]],
    ) -> None:
        self._plans = plans
        self._subscriptions = subscriptions
        self._bases = {number: _basis(content) for number, content in price_versions.items()}
        self._rerates = rerates
        self._first_state: dict[int, RatedState] = {}
        for rows in rerates.values():
            for row in rows:
                self._first_state.setdefault(row.event, decode_state(row.before))
        self._rerated: dict[int, tuple[EventRow, list[ChargeRow]]] = {}
        self._ledgers: dict[int, _Ledger] = {}
        self._counters: dict[tuple[int, CounterKey], Counter] = {}
        self._seen: dict[tuple[int, CounterKey], set[str]] = {}
        self._rollups = RollupSums()
        self.findings: list[Finding] = []
        self.events = 0
        self.charges = 0

    def _find(self, kind: str, where: object, message: str) -> None:
        self.findings.append(Finding(kind, str(where), message))

    def _same(self, kind: str, where: object, what: str, stands: object, should: object) -> None:
        if stands != should:
            self._find(kind, where, f"{what} is {stands!r}, should be {should!r}")

    # Events

    def event(self, row: EventRow, charges: list[ChargeRow]) -> None:
        """Check one event and its charges, and add them to the running sums."""
        self.events += 1
        self.charges += len(charges)
        ledger = self._ledgers.get(row.customer)
        if ledger is None:
            ledger = self._ledgers[row.customer] = _Ledger(list(self._rerates.get(row.customer, ())))
        while ledger.rerates and ledger.rerates[0].position < row.position:
            self._rerate(ledger, ledger.rerates.pop(0))
        state = self._first_state.get(row.id)
        first_row, first_charges = (row, charges) if state is None else as_first(row, charges, state)
        if state is not None:
            self._rerated[row.id] = (row, charges)
        self._extend(ledger, row.customer, row.position, row.id, _chained(first_row), row.chain)
        try:
            event = event_of(row)
        except Exception as error:  # noqa: BLE001 - a changed body may break in any way; that is the finding
            self._find("event", row.id, f"the body cannot be read: {error}")
            return
        self._check_event(first_row, event, first_charges)
        moved = {charge.feature: self._charge(first_row, event, charge) for charge in first_charges}
        if event.revenue_amount is not None:
            bearer = bearer_of_sent(row.feature, [feature for feature, keys in moved.items() if keys])
            for key in moved.get(bearer or "", ()):
                self._note_sent(row.customer, key, event.revenue_amount)
        self._rollups.add(first_row, event, first_charges)

    def _extend(
        self,
        ledger: _Ledger,
        customer: int,
        position: int,
        event: int,
        fields: tuple[object, ...],
        link: bytes,
    ) -> None:
        where = f"customer {customer} position {position}"
        self._same("ledger", where, "position", position, ledger.position + 1)
        if chain.link(ledger.chain, fields) != link:
            self._find(
                "ledger", where, f"the row of event {event} was changed, or one before it: the chain breaks"
            )
        ledger.position = position
        ledger.chain = link

    def _check_event(self, row: EventRow, event: UsageEvent, charges: list[ChargeRow]) -> None:
        self._same("event", row.id, "cost", row.cost, self._cost(row, event))
        if row.capped:
            revenue: str | None = "0"
        elif event.revenue_amount is not None:
            revenue = plain(event.revenue_amount)
        else:
            amounts = [Decimal(charge.amount) for charge in charges if charge.amount is not None]
            revenue = plain(sum(amounts, ZERO)) if amounts else None
        self._same("event", row.id, "revenue", row.revenue, revenue)
        self._same("event", row.id, "units", row.units, plain(_units(row, event, charges)))
        self._same("event", row.id, "name", row.name, event.name)

    def _cost(self, row: EventRow, event: UsageEvent) -> str | None:
        """Recompute the cost from the price version the row names."""
        if row.capped:
            return "0"
        if event.cost_amount is not None:
            return plain(event.cost_amount)
        if row.cost_version is None:
            return None
        basis = self._bases.get(row.cost_version)
        if isinstance(basis, CostRule):
            amount = basis.cost(event)
        elif basis is not None:
            tokens = event.tokens or ({"input": event.units} if event.units else {})
            amount = basis.cost(tokens)
        else:
            return f"by price version {row.cost_version}, which is gone"
        return None if amount is None else plain(amount)

    # Charges

    def _feature(self, charge: ChargeRow, version: int) -> PricedFeature | None:
        plan = self._plans.get((charge.plan_key, version))
        return plan.features.get(charge.feature) if plan else None

    def _note_sent(self, customer: int, key: CounterKey, revenue: Decimal) -> None:
        counter = self._counters[customer, key]
        self._counters[customer, key] = msgspec.structs.replace(counter, sent=counter.sent + revenue)

    def _charge(self, row: EventRow, event: UsageEvent, charge: ChargeRow) -> list[CounterKey]:
        """Check a charge and move its counters; return which: none where a cap was reached."""
        where = f"event {charge.event} feature {charge.feature}"
        feature = self._feature(charge, charge.plan_version)
        subscription = self._subscriptions.get(charge.subscription)
        if feature is None or subscription is None:
            self._find("plan", where, f"{charge.plan_key}@{charge.plan_version} or its subscription is gone")
            return []
        period = subscription.period_at(row.occurred_at)
        self._same("charge", where, "period_start", charge.period_start, period.start)
        keys = [CounterKey(charge.subscription, charge.feature, period.start)]
        if feature.accumulates:
            keys.insert(0, CounterKey(charge.subscription, charge.feature, LIFETIME))
        counter = self._counters.get((row.customer, keys[0]), Counter())
        self._same("charge", where, "used_before", charge.used_before, plain(counter.used))
        units, capped = self._recount(row.customer, keys[0], feature, event, counter)
        self._same("charge", where, "units", charge.units, plain(units))
        if capped:
            self._same("charge", where, "amount", charge.amount, "0")
            return []
        quantity = _decode_quantity(charge.quantity)
        self._check_amount(where, row, event, feature, charge, counter, quantity)
        for key in keys:
            before = self._counters.get((row.customer, key), Counter())
            self._counters[row.customer, key] = _advanced(before, event, charge, units, quantity)
        return keys

    def _recount(
        self, customer: int, key: CounterKey, feature: PricedFeature, event: UsageEvent, counter: Counter
    ) -> tuple[Decimal, bool]:
        """Return the units an event adds, and whether a cap keeps them from counting."""
        meter = feature.meter
        seen = self._seen.setdefault((customer, key), set()) if meter else set()
        if meter is None:
            units = rating.units_of(feature, event)
        else:
            units = difference(meter, event, value=counter.used, latest_at=counter.latest_at, seen=seen)
        if is_capped(feature, counter, units):
            return ZERO, True
        if meter is not None and meter.aggregation == "unique":
            seen.add(str(meter.reading(event)))
        return units, False

    def _check_amount(
        self,
        where: str,
        row: EventRow,
        event: UsageEvent,
        feature: PricedFeature,
        charge: ChargeRow,
        counter: Counter,
        quantity: dict[str, Decimal],
    ) -> None:
        if event.revenue_amount is not None:
            self._same("charge", where, "quantity", quantity, {})
            return
        cost = None if row.cost is None else Decimal(row.cost)
        should = rating.quantity_of(feature, event, Decimal(charge.units), cost)
        self._same("charge", where, "quantity", quantity, should)
        before = {dimension: counter.rated[dimension] for dimension in quantity if dimension in counter.rated}
        self._same("charge", where, "before", _decode_quantity(charge.before), before)
        if charge.no_price is None:
            amount, _ = rating.marginal(feature, counter.rated, quantity)
            self._same("charge", where, "amount", charge.amount, None if amount is None else plain(amount))
        else:
            self._same("charge", where, "amount", charge.amount, None)

    # Re-ratings

    def _rerate(self, ledger: _Ledger, rerate: RerateRow) -> None:
        fields = (
            rerate.customer,
            rerate.position,
            rerate.event,
            rerate.rated_at,
            rerate.before,
            rerate.after,
        )
        self._extend(ledger, rerate.customer, rerate.position, rerate.event, fields, rerate.chain)
        held = self._rerated.get(rerate.event)
        if held is None:
            self._find("ledger", f"event {rerate.event}", "is re-rated, but is not in the books before that")
            return
        row, charges = held
        before, after = decode_state(rerate.before), decode_state(rerate.after)
        own = self._rollups.own(row, charges)
        own.cost += Decimal(after.cost or 0) - Decimal(before.cost or 0)
        own.unpriced -= (before.no_price is not None) - (after.no_price is not None)
        after_row = msgspec.structs.replace(
            row,
            cost=after.cost,
            cost_source=after.cost_source,
            cost_version=after.cost_version,
        )
        event = event_of(row)
        self._same("event", row.id, "re-rated cost", after.cost, self._cost(after_row, event))
        for charge, old, new in zip(charges, before.charges, after.charges, strict=True):
            self._rerate_charge(row, event, after, charge, old, new)

    def _rerate_charge(
        self,
        row: EventRow,
        event: UsageEvent,
        after: RatedState,
        charge: ChargeRow,
        old: RatedCharge,
        new: RatedCharge,
    ) -> None:
        where = f"event {row.id} feature {charge.feature}"
        counting = self._feature(charge, charge.plan_version if old == new else old.plan_version)
        feature = self._feature(charge, new.plan_version)
        if old == new or counting is None or feature is None:
            return
        cost = None if after.cost is None else Decimal(after.cost)
        quantity = _decode_quantity(new.quantity)
        should = rating.quantity_of(counting, event, Decimal(charge.units), cost)
        self._same("charge", where, "re-rated quantity", quantity, should)
        if new.amount is not None:
            amount, _ = rating.marginal(feature, _decode_quantity(charge.before), quantity)
            self._same("charge", where, "re-rated amount", new.amount, None if amount is None else plain(amount))
        earned = Decimal(new.amount or 0) - Decimal(old.amount or 0)
        self._rollups.earn(row, charge.feature, charge.currency, earned)
        added = {key: value for key, value in quantity.items() if key not in _decode_quantity(old.quantity)}
        for start in (LIFETIME, charge.period_start):
            key = (row.customer, CounterKey(charge.subscription, charge.feature, start))
            counter = self._counters.get(key)
            if counter is not None:
                self._counters[key] = msgspec.structs.replace(
                    counter,
                    rated=_sum(counter.rated, added),
                    charged=counter.charged + earned,
                    unpriced=counter.unpriced - (new.no_price is None),
                )

    # What the books say

    def ledger(self, customer: int, position: int, link: bytes) -> None:
        """Check where a customer's ledger stands."""
        held = self._ledgers.pop(customer, None) or _Ledger([])
        while held.rerates:
            self._rerate(held, held.rerates.pop(0))
        self._same("ledger", f"customer {customer}", "position", position, held.position)
        if link != held.chain:
            self._find("ledger", f"customer {customer}", "the last hash is not that of its last row")

    def counter(self, customer: int, key: CounterKey, stands: Counter) -> None:
        """Check a counter."""
        should = self._counters.pop((customer, key), None)
        where = f"customer {customer} {key.feature} subscription {key.subscription} period {key.period_start}"
        if should is None:
            if stands.events:
                self._find("counter", where, "counts usage that no event explains")
            return
        for field in Counter.__struct_fields__:
            self._same("counter", where, field, getattr(stands, field), getattr(should, field))

    def rollup(self, key: RollupKey, stands: RollupDelta) -> None:
        """Check a roll-up row."""
        should = self._rollups.take(key)
        for field in RollupDelta.__struct_fields__:
            self._same("rollup", tuple(key), field, getattr(stands, field), getattr(should, field))

    def finish(self) -> None:
        """Report what the events explain but the books do not have."""
        for customer in list(self._ledgers):
            self._find("ledger", f"customer {customer}", "has events but no ledger")
        for (customer, key), counter in self._counters.items():
            if counter.events:
                self._find("counter", f"customer {customer} {key.feature}", "is missing")
        for rollup in self._rollups.left():
            self._find("rollup", tuple(rollup), "is missing")


def _basis(content: str) -> CostRule | TokenPrices:
    raw: dict[str, Any] = msgspec.json.decode(content)
    shape: Callable[..., Any] = msgspec.convert
    wanted = TokenPrices if raw["kind"] == CostSource.TABLE else CostRule
    basis: CostRule | TokenPrices = shape(raw["basis"], wanted)
    return basis


def _chained(row: EventRow) -> tuple[object, ...]:
    return msgspec.structs.astuple(row)[:-1]


def _units(row: EventRow, event: UsageEvent, charges: list[ChargeRow]) -> Decimal:
    if row.capped:
        return ZERO
    main = main_feature(row.feature, [charge.feature for charge in charges])
    for charge in charges:
        if charge.feature == main:
            return Decimal(charge.units)
    return event.units or ZERO


def _sum(left: dict[str, Decimal], right: Mapping[str, Decimal]) -> dict[str, Decimal]:
    return {
        key: left.get(key, ZERO) + right.get(key, ZERO) for key in (*left, *(k for k in right if k not in left))
    }


def _advanced(
    counter: Counter, event: UsageEvent, charge: ChargeRow, units: Decimal, quantity: dict[str, Decimal]
) -> Counter:
    return Counter(
        used=counter.used + units,
        rated=_sum(counter.rated, quantity),
        charged=counter.charged + Decimal(charge.amount or 0),
        sent=counter.sent,
        events=counter.events + 1,
        unpriced=counter.unpriced + (charge.no_price is not None),
        latest_at=max(counter.latest_at, event.occurred_at),
    )
