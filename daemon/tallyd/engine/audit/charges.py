"""The auditor's own charges: what each should be, and what it makes of its counters."""

from decimal import Decimal
from typing import Final

import msgspec

from tallyd.engine import rating
from tallyd.engine.audit.basis import Basis
from tallyd.engine.audit.counters import Counters, counted, paid, rated
from tallyd.engine.audit.deductions import Billed, Deduction, Paid
from tallyd.engine.audit.findings import Findings
from tallyd.engine.counters import LIFETIME, Counter, CounterKey
from tallyd.engine.counting import bearer_of_sent, is_capped
from tallyd.engine.metering import difference
from tallyd.engine.rating import NoPrice, PricedFeature
from tallyd.engine.rerating import RatedCharge
from tallyd.engine.rows import ChargeRow, EventRow
from tallyd.model.event import UsageEvent
from tallyd.model.money import ZERO, plain

decode_quantity: Final = msgspec.json.Decoder(dict[str, Decimal]).decode


class ChargeAudit:
    """Recounts charges in the order of their events, and moves the counters."""

    def __init__(self, basis: Basis, counters: Counters, findings: Findings) -> None:
        self._basis = basis
        self._counters = counters
        self._findings = findings

    # Charges

    def event(self, row: EventRow, event: UsageEvent, charges: list[ChargeRow], given: Paid) -> None:
        """Check an event's charges, as they were first, and move the counters; `given` is what credits paid."""
        moved: dict[str, list[CounterKey]] = {}
        for charge in charges:
            with self._findings.guard("charge", _place(charge)):
                self._basis.check_charge(row, charge)
                moved[charge.feature] = self._charge(row, event, charge, given)
        with self._findings.guard("event", row.id):
            given.finish()
        capped = bool(charges) and not any(moved.values())
        self._findings.same("event", row.id, "capped", bool(row.capped), capped)
        if event.revenue_amount is not None:
            bearer = bearer_of_sent(row.feature, [feature for feature, keys in moved.items() if keys])
            for key in moved.get(bearer or "", ()):
                counter = self._counters.get(row.customer, key)
                sent = counter.sent + event.revenue_amount
                self._counters.put(row.customer, key, msgspec.structs.replace(counter, sent=sent))

    def _charge(self, row: EventRow, event: UsageEvent, charge: ChargeRow, given: Paid) -> list[CounterKey]:
        """Check a charge and move its counters; return which: none where a cap was reached."""
        where, same = _place(charge), self._findings.same
        feature = self._basis.feature(charge, charge.plan_version)
        life = self._basis.lives.get(charge.subscription)
        if feature is None or life is None:
            message = f"{charge.plan_key}@{charge.plan_version}, its feature or its subscription is gone"
            self._findings.add("plan", where, message)
            return []
        keys = keys_of(charge.subscription, feature, life.segment_at(row.occurred_at).start)
        counter = self._counters.get(row.customer, keys[0])
        same("charge", where, "used_before", charge.used_before, plain(counter.used))
        settles = given.settles  # what a hold had set aside is never past a cap
        units, capped = self._recount(row.customer, keys[0], feature, event, counter, settles=settles)
        same("charge", where, "units", charge.units, plain(units))
        if capped:
            self._check_unrated(charge, "0")
            return []
        unpriced = charge.no_price is not None
        for key in keys:  # moved first: a damaged amount does not hide what was counted
            before = self._counters.get(row.customer, key)
            self._counters.put(row.customer, key, counted(before, event, units, unpriced=unpriced))
        quantity, amount = decode_quantity(charge.quantity), Decimal(charge.amount or 0)
        for key in keys:
            self._counters.put(row.customer, key, rated(self._counters.get(row.customer, key), quantity, amount))
        if event.revenue_amount is not None:
            self._check_unrated(charge, None)
            return keys
        deductions = given.take(charge.feature)
        for each in deductions:
            for key in keys:
                before = self._counters.get(row.customer, key)
                after = paid(before, each.details.covered, each.details.credited)
                self._counters.put(row.customer, key, after)
        self._check_amount(row, event, feature, charge, counter, deductions, given)
        return keys

    def _recount(
        self,
        customer: int,
        key: CounterKey,
        feature: PricedFeature,
        event: UsageEvent,
        counter: Counter,
        *,
        settles: bool,
    ) -> tuple[Decimal, bool]:
        """Return the units an event adds, and whether a cap keeps them from counting."""
        meter = feature.meter
        if meter is None:
            units = rating.units_of(feature, event)
        else:
            seen = self._counters.seen(customer, key) if meter.aggregation == "unique" else None
            units = difference(meter, event, value=counter.used, latest_at=counter.latest_at, seen=seen)
        if not settles and is_capped(feature, counter, units):
            return ZERO, True
        if meter is not None and meter.aggregation == "unique":
            self._counters.seen(customer, key).add(str(meter.reading(event)))
        return units, False

    def _check_unrated(self, charge: ChargeRow, amount: str | None) -> None:
        """Check a charge that the plan does not price: past a cap, or with revenue sent."""
        where, same = _place(charge), self._findings.same
        same("charge", where, "amount", charge.amount, amount)
        same("charge", where, "no_price", charge.no_price, None)
        same("charge", where, "quantity", decode_quantity(charge.quantity), {})
        same("charge", where, "before", decode_quantity(charge.before), {})

    def _check_amount(
        self,
        row: EventRow,
        event: UsageEvent,
        feature: PricedFeature,
        charge: ChargeRow,
        counter: Counter,
        deductions: list[Deduction],
        given: Paid,
    ) -> None:
        where, same = _place(charge), self._findings.same
        cost = None if row.cost is None else Decimal(row.cost)
        units = Decimal(charge.units)
        whole = rating.quantity_of(feature, event, units, cost)
        left = given.billed(whole, deductions) if deductions else Billed(whole)
        quantity = decode_quantity(charge.quantity)
        same("charge", where, "quantity", quantity, left.rest)
        before = {dimension: counter.rated[dimension] for dimension in quantity if dimension in counter.rated}
        same("charge", where, "before", decode_quantity(charge.before), before)
        by_units = bool(deductions) and given.check_quote(row, event, feature, units, deductions)
        if left.settled:
            same("charge", where, "amount", charge.amount, "0")
            same("charge", where, "no_price", charge.no_price, None)
        elif charge.no_price is None:
            amount, _ = rating.marginal(feature, counter.rated, left.rest)
            if deductions and not by_units:
                same("ledger entry", deductions[0].entry.id, "charge", deductions[0].details.charge, amount)
            if left.waived:
                same("charge", where, "credited", left.credited, amount or ZERO)
            should = None if amount is None else plain(amount - left.credited if deductions else amount)
            same("charge", where, "amount", charge.amount, "0" if left.waived else should)
        else:
            NoPrice(charge.no_price)  # an unknown one is damage
            same("charge", where, "amount", charge.amount, None)

    # Re-ratings

    def rerated(
        self, row: EventRow, event: UsageEvent, charge: ChargeRow, old: RatedCharge, new: RatedCharge
    ) -> Decimal:
        """Check a re-rated charge and move its counters; return what it earned more. `row` is as re-rated."""
        where, same = _place(charge), self._findings.same
        counting = self._basis.feature(charge, old.plan_version)
        feature = self._basis.feature(charge, new.plan_version)
        if counting is None or feature is None:
            self._findings.add("plan", where, f"{charge.plan_key}@{new.plan_version} or its feature is gone")
            return ZERO
        quantity = decode_quantity(new.quantity)
        cost = None if row.cost is None else Decimal(row.cost)
        known = decode_quantity(old.quantity)
        whole = rating.quantity_of(counting, event, Decimal(charge.units), cost)
        same("charge", where, "re-rated quantity", quantity, rating.still_billed(whole, known))
        if new.amount is not None:
            amount, _ = rating.marginal(feature, decode_quantity(charge.before), quantity)
            same("charge", where, "re-rated amount", new.amount, None if amount is None else plain(amount))
        added = {dimension: value for dimension, value in quantity.items() if dimension not in known}
        earned = Decimal(new.amount or 0) - Decimal(old.amount or 0)
        for start in (LIFETIME, charge.period_start):
            key = CounterKey(charge.subscription, charge.feature, start)
            if self._counters.known(row.customer, key):
                counter = self._counters.get(row.customer, key)
                unpriced = counter.unpriced - (new.no_price is None)
                after = msgspec.structs.replace(rated(counter, added, earned), unpriced=unpriced)
                self._counters.put(row.customer, key, after)
        return earned


def keys_of(subscription: int, feature: PricedFeature, start: int) -> list[CounterKey]:
    """Return the counters that a feature's usage moves; the first decides limit and price."""
    keys = [CounterKey(subscription, feature.key, start)]
    return [keys[0]._replace(period_start=LIFETIME), *keys] if feature.accumulates else keys


def _place(charge: ChargeRow) -> str:
    return f"event {charge.event} feature {charge.feature}"
