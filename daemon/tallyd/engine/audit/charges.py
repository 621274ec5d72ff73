"""The auditor's own counters: what each charge should be, and what its counters are after it."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Final

import msgspec

from tallyd.engine import rating
from tallyd.engine.account import EMPTY, LIFETIME, ChargeRow, Counter, CounterKey, EventRow
from tallyd.engine.audit.basis import Basis
from tallyd.engine.audit.deductions import Billed, Paid
from tallyd.engine.audit.findings import Findings
from tallyd.engine.counting import bearer_of_sent, is_capped
from tallyd.engine.metering import difference
from tallyd.engine.rating import NoPrice, PricedFeature
from tallyd.engine.rerating import RatedCharge
from tallyd.model.event import UsageEvent
from tallyd.model.money import ZERO, plain

_decode_quantity: Final = msgspec.json.Decoder(dict[str, Decimal]).decode
_Owned = tuple[int, CounterKey]


class ChargeAudit:
    """Recounts charges in the order of their events, and keeps the counters and seen values that follow."""

    def __init__(self, basis: Basis, findings: Findings) -> None:
        self._basis = basis
        self._findings = findings
        self._counters: dict[_Owned, Counter] = {}
        self._seen: dict[_Owned, set[str]] = {}

    # Charges

    def event(self, row: EventRow, event: UsageEvent, charges: list[ChargeRow], paid: Paid) -> None:
        """Check an event's charges, as they were first, and move the counters. `paid`: what credits paid of it."""
        moved: dict[str, list[CounterKey]] = {}
        for charge in charges:
            with self._findings.guard("charge", _place(charge)):
                self._basis.check_charge(row, charge)
                moved[charge.feature] = self._charge(row, event, charge, paid)
        with self._findings.guard("event", row.id):
            paid.finish()
        capped = bool(charges) and not any(moved.values())
        self._findings.same("event", row.id, "capped", bool(row.capped), capped)
        if event.revenue_amount is not None:
            bearer = bearer_of_sent(row.feature, [feature for feature, keys in moved.items() if keys])
            for key in moved.get(bearer or "", ()):
                self._note_sent(row.customer, key, event.revenue_amount)

    def _note_sent(self, customer: int, key: CounterKey, revenue: Decimal) -> None:
        counter = self._counters[customer, key]
        self._counters[customer, key] = msgspec.structs.replace(counter, sent=counter.sent + revenue)

    def _charge(self, row: EventRow, event: UsageEvent, charge: ChargeRow, paid: Paid) -> list[CounterKey]:
        """Check a charge and move its counters; return which: none where a cap was reached."""
        where, same = _place(charge), self._findings.same
        feature = self._basis.feature(charge, charge.plan_version)
        subscription = self._basis.subscription_of(charge)
        if feature is None or subscription is None:
            message = f"{charge.plan_key}@{charge.plan_version}, its feature or its subscription is gone"
            self._findings.add("plan", where, message)
            return []
        period = subscription.period_at(row.occurred_at)
        same("charge", where, "period_start", charge.period_start, period.start)
        keys = [CounterKey(charge.subscription, charge.feature, period.start)]
        if feature.accumulates:
            keys.insert(0, CounterKey(charge.subscription, charge.feature, LIFETIME))
        counter = self._counters.get((row.customer, keys[0]), EMPTY)
        same("charge", where, "used_before", charge.used_before, plain(counter.used))
        settles = paid.settles  # what a hold had set aside is never past a cap
        units, capped = self._recount(row.customer, keys[0], feature, event, counter, settles=settles)
        same("charge", where, "units", charge.units, plain(units))
        if capped:
            self._check_unrated(charge, "0")
            return []
        for key in keys:  # moved first: a damaged amount does not hide what was counted
            before = self._counters.get((row.customer, key), EMPTY)
            self._counters[row.customer, key] = _counted(before, event, charge, units)
        quantity = _decode_quantity(charge.quantity)
        amount = Decimal(charge.amount or 0)
        for key in keys:
            self._counters[row.customer, key] = _rated(self._counters[row.customer, key], quantity, amount)
        if event.revenue_amount is None:
            self._check_amount(row, event, feature, charge, counter, paid)
        else:
            self._check_unrated(charge, None)
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
        seen = self._seen.get((customer, key))
        if meter is None:
            units = rating.units_of(feature, event)
        else:
            units = difference(meter, event, value=counter.used, latest_at=counter.latest_at, seen=seen)
        if not settles and is_capped(feature, counter, units):
            return ZERO, True
        if meter is not None and meter.aggregation == "unique":
            self._seen.setdefault((customer, key), set()).add(str(meter.reading(event)))
        return units, False

    def _check_unrated(self, charge: ChargeRow, amount: str | None) -> None:
        """Check a charge that the plan does not price: past a cap, or with revenue sent."""
        where, same = _place(charge), self._findings.same
        same("charge", where, "amount", charge.amount, amount)
        same("charge", where, "no_price", charge.no_price, None)
        same("charge", where, "quantity", _decode_quantity(charge.quantity), {})
        same("charge", where, "before", _decode_quantity(charge.before), {})

    def _check_amount(
        self,
        row: EventRow,
        event: UsageEvent,
        feature: PricedFeature,
        charge: ChargeRow,
        counter: Counter,
        paid: Paid,
    ) -> None:
        where, same = _place(charge), self._findings.same
        cost = None if row.cost is None else Decimal(row.cost)
        units = Decimal(charge.units)
        whole = rating.quantity_of(feature, event, units, cost)
        deductions = paid.take(charge.feature)
        left = paid.billed(whole, deductions) if deductions else Billed(whole)
        quantity = _decode_quantity(charge.quantity)
        same("charge", where, "quantity", quantity, left.rest)
        before = {dimension: counter.rated[dimension] for dimension in quantity if dimension in counter.rated}
        same("charge", where, "before", _decode_quantity(charge.before), before)
        by_units = bool(deductions) and paid.check_quote(row, event, feature, units, deductions)
        if left.settled:
            same("charge", where, "amount", charge.amount, "0")
            same("charge", where, "no_price", charge.no_price, None)
        elif charge.no_price is None:
            amount, _ = rating.marginal(feature, counter.rated, left.rest)
            if deductions and not by_units:
                same("credit entry", deductions[0].entry.id, "charge", deductions[0].details.charge, amount)
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
        quantity = _decode_quantity(new.quantity)
        cost = None if row.cost is None else Decimal(row.cost)
        known = _decode_quantity(old.quantity)
        whole = rating.quantity_of(counting, event, Decimal(charge.units), cost)
        same("charge", where, "re-rated quantity", quantity, rating.still_billed(whole, known))
        if new.amount is not None:
            amount, _ = rating.marginal(feature, _decode_quantity(charge.before), quantity)
            same("charge", where, "re-rated amount", new.amount, None if amount is None else plain(amount))
        added = {dimension: value for dimension, value in quantity.items() if dimension not in known}
        earned = Decimal(new.amount or 0) - Decimal(old.amount or 0)
        for start in (LIFETIME, charge.period_start):
            key = (row.customer, CounterKey(charge.subscription, charge.feature, start))
            counter = self._counters.get(key)
            if counter is not None:
                unpriced = counter.unpriced - (new.no_price is None)
                rated = _rated(counter, added, earned)
                self._counters[key] = msgspec.structs.replace(rated, unpriced=unpriced)
        return earned

    # What the books say

    def counter(self, customer: int, key: CounterKey, stands: Counter) -> None:
        """Check a counter."""
        should = self._counters.pop((customer, key), None)
        where = _counter_place(customer, key)
        if should is None:
            self._findings.add("counter", where, f"no event explains it: it holds {stands.used} used")
            return
        for field in Counter.__struct_fields__:
            self._findings.same("counter", where, field, getattr(stands, field), getattr(should, field))

    def seen_value(self, customer: int, key: CounterKey, value: str) -> None:
        """Check a value that a `unique` meter has seen."""
        should = self._seen.get((customer, key), set())
        if value not in should:
            self._findings.add("seen value", _counter_place(customer, key), f"no event explains {value!r}")
        should.discard(value)

    def finish(self) -> None:
        """Report what the events explain but the books do not have."""
        for (customer, key), counter in self._counters.items():
            if counter.events:
                self._findings.add("counter", _counter_place(customer, key), "is missing")
        for (customer, key), values in self._seen.items():
            for value in sorted(values):
                self._findings.add("seen value", _counter_place(customer, key), f"{value!r} is missing")


def _place(charge: ChargeRow) -> str:
    return f"event {charge.event} feature {charge.feature}"


def _counter_place(customer: int, key: CounterKey) -> str:
    return f"customer {customer} {key.feature} subscription {key.subscription} period {key.period_start}"


def _sum(left: dict[str, Decimal], right: Mapping[str, Decimal]) -> dict[str, Decimal]:
    return {
        key: left.get(key, ZERO) + right.get(key, ZERO) for key in (*left, *(k for k in right if k not in left))
    }


def _counted(counter: Counter, event: UsageEvent, charge: ChargeRow, units: Decimal) -> Counter:
    return msgspec.structs.replace(
        counter,
        used=counter.used + units,
        events=counter.events + 1,
        unpriced=counter.unpriced + (charge.no_price is not None),
        latest_at=max(counter.latest_at, event.occurred_at),
    )


def _rated(counter: Counter, quantity: Mapping[str, Decimal], amount: Decimal) -> Counter:
    return msgspec.structs.replace(counter, rated=_sum(counter.rated, quantity), charged=counter.charged + amount)
