"""Voids replayed: what each takes off its counters follows from the event's charges and from what is left."""

from collections.abc import Iterable
from decimal import Decimal
from typing import Final

from tallyd.engine import rating
from tallyd.engine.audit.basis import Basis
from tallyd.engine.audit.charges import decode_quantity, keys_of
from tallyd.engine.audit.counters import Counters, without
from tallyd.engine.audit.entry_form import details_of
from tallyd.engine.audit.findings import Findings
from tallyd.engine.audit.followups import Demand, FollowUps
from tallyd.engine.audit.rerates import RerateAudit
from tallyd.engine.audit.rollups import RollupSums
from tallyd.engine.audit.wallet import Shelf
from tallyd.engine.counters import LIFETIME, Counter, CounterKey
from tallyd.engine.counting import bearer_of_sent
from tallyd.engine.metering import difference
from tallyd.engine.rating import PricedFeature, PricedPlan
from tallyd.engine.rerating import event_of
from tallyd.engine.rows import ChargeRow, EventRow
from tallyd.engine.voiding import VoidedPart, VoidTerms
from tallyd.model.event import UsageEvent
from tallyd.model.ledger_entries import DeductionDetails, Entry, EntryKind
from tallyd.model.money import ZERO
from tallyd.pricing.seam import UNITS

_RUNNING: Final = ("max", "last", "unique")
_MEANWHILE: Final = frozenset({EntryKind.REVERSAL, EntryKind.EXPIRATION})
_Paid = dict[str, list[DeductionDetails]]


class VoidAudit:
    """Replays voids: counters, seen values and roll-ups follow, and what credits paid comes back.

    Attributes:
        events: those voided so far.
    """

    def __init__(
        self,
        basis: Basis,
        counters: Counters,
        rollups: RollupSums,
        rerates: RerateAudit,
        follow_ups: FollowUps,
        findings: Findings,
        shelf: Shelf | None,
    ) -> None:
        self._basis = basis
        self._counters = counters
        self._rollups = rollups
        self._rerates = rerates
        self._follow_ups = follow_ups
        self._findings = findings
        self._shelf = shelf
        self.events: set[int] = set()

    def entry(self, entry: Entry, terms: VoidTerms) -> None:
        """Check a void, and take off what it says, or what it should."""
        shelf, number = self._shelf, entry.event or 0
        row = shelf.event(number) if shelf else None
        if shelf is None or row is None or row.customer != entry.customer or row.id > entry.id:
            self._findings.add("ledger entry", entry.id, f"event {number} is not one of the customer's before it")
            return
        if number in self.events:
            self._findings.add("ledger entry", entry.id, f"event {number} has been voided already")
            return
        self.events.add(number)
        row, charges = self._rerates.as_it_stands(row, shelf.charges(number))
        event, paid = event_of(row), self._paid(entry, shelf.entries_of(number))
        counted = [charge.feature for charge in charges if not row.capped]
        bearer = bearer_of_sent(row.feature, counted) if event.revenue_amount is not None else None
        parts = []
        for charge in charges:
            with self._findings.guard("ledger entry", entry.id):
                sent = event.revenue_amount or ZERO if charge.feature == bearer else ZERO
                parts.append(self._part(entry, row, event, charge, paid.get(charge.feature, []), sent))
        self._compare(entry, terms.parts, parts)
        self._rollups.take_off(row, event, charges, parts)

    def _paid(self, entry: Entry, caused: Iterable[Entry]) -> _Paid:
        """Return what the event drew and nobody has given back, by feature; that is to come back now."""
        before = [each for each in caused if each.id < entry.id]
        reversed_ = {each.reverses for each in before}
        paid: _Paid = {}
        for each in before:
            if each.kind == EntryKind.DEDUCTION and each.id not in reversed_:
                paid.setdefault(each.feature or "", []).append(details_of(each))
                message = f"entry {each.id} paid for the event, and nothing gives it back"
                demand = Demand("ledger entry", entry.id, message, _MEANWHILE)
                self._follow_ups.expect(entry.customer, (EntryKind.REVERSAL, each.id), demand)
        return paid

    def _part(
        self,
        entry: Entry,
        row: EventRow,
        event: UsageEvent,
        charge: ChargeRow,
        paid: list[DeductionDetails],
        sent: Decimal,
    ) -> VoidedPart:
        """Return what the void takes from one feature, having taken it."""
        plan = self._basis.plan_at(self._basis.lives[charge.subscription].state, charge.period_start)
        feature = plan.features.get(charge.feature) if plan else None
        if row.capped or _zeroed(charge):
            return VoidedPart(feature=charge.feature, period_start=charge.period_start)
        keys = self._keys(row, charge, feature)
        counter = self._counters.get(row.customer, keys[0])
        units, latest_at = Decimal(charge.units), counter.latest_at
        quantity = decode_quantity(charge.quantity)
        if feature is not None and feature.meter is not None and feature.meter.aggregation in _RUNNING:
            value, latest_at = self._left(entry, event, charge, feature, keys[0])
            units = counter.used - value
            quantity = {UNITS: units} if UNITS in quantity else quantity  # tokens do not run
        credited = sum((each.credited for each in paid), ZERO)
        part = VoidedPart(
            feature=charge.feature,
            period_start=charge.period_start,
            units=units,
            quantity=quantity,
            amount=_amount(charge, plan, counter, quantity, credited),
            covered=_covered(paid),
            credited=credited,
            sent=sent,
            unpriced=int(charge.no_price is not None),
        )
        for key in keys:
            self._counters.put(row.customer, key, without(self._counters.get(row.customer, key), part, latest_at))
        return part

    def _keys(self, row: EventRow, charge: ChargeRow, feature: PricedFeature | None) -> list[CounterKey]:
        """Return the counters to take from; `feature` is None where another plan has taken its plan's place."""
        if feature is not None:
            return keys_of(charge.subscription, feature, charge.period_start)
        keys = [
            CounterKey(charge.subscription, charge.feature, start) for start in (LIFETIME, charge.period_start)
        ]
        return keys if self._counters.known(row.customer, keys[0]) else keys[1:]

    def _left(
        self, entry: Entry, event: UsageEvent, charge: ChargeRow, feature: PricedFeature, key: CounterKey
    ) -> tuple[Decimal, int]:
        """Return a meter's value without the event, and the time of the latest one that counts."""
        meter, seen = feature.meter, set[str]()
        value, latest_at = ZERO, 0
        if self._shelf is None or meter is None:
            return value, latest_at
        for row in self._shelf.beside(charge, before=entry.id, ever=feature.accumulates):
            other = event_of(row)
            value += difference(meter, other, value=value, latest_at=latest_at, seen=seen)
            latest_at = max(latest_at, other.occurred_at)
            if meter.aggregation == "unique":
                seen.add(str(meter.reading(other)))
        own = str(meter.reading(event))
        if meter.aggregation == "unique" and own not in seen:
            self._counters.seen(entry.customer, key).discard(own)
        return value, latest_at

    def _compare(self, entry: Entry, stand: list[VoidedPart], should: list[VoidedPart]) -> None:
        stands = {part.feature: part for part in stand}
        for part in should:
            told = stands.pop(part.feature, VoidedPart(feature="", period_start=0))
            for field in VoidedPart.__struct_fields__:
                what = f"{field} of the part of {part.feature!r}"
                self._findings.same("ledger entry", entry.id, what, getattr(told, field), getattr(part, field))
        if stands or len(stand) > len(should):
            message = f"it takes off {sorted(part.feature for part in stand)}, the event has {len(should)} charges"
            self._findings.add("ledger entry", entry.id, message)


def _zeroed(charge: ChargeRow) -> bool:
    """Whether a cap kept the charge from counting."""
    stands = (charge.units, charge.amount, charge.quantity, charge.no_price)
    return stands == ("0", "0", "{}", None)


def _amount(
    charge: ChargeRow,
    plan: PricedPlan | None,
    counter: Counter,
    quantity: dict[str, Decimal],
    credited: Decimal,
) -> Decimal:
    """Return what quantities cost as the last of all usage, less what credits in money paid of them.

    Where another plan has taken the place of the charge's own, it is what was charged.
    """
    if charge.amount is None or not quantity:
        return ZERO
    if plan is None or (plan.key, plan.version) != (charge.plan_key, charge.plan_version):
        return Decimal(charge.amount)
    feature = plan.features[charge.feature]
    before = {dimension: value - quantity.get(dimension, ZERO) for dimension, value in counter.rated.items()}
    amount, _ = rating.marginal(feature, before, quantity)
    return Decimal(charge.amount) if amount is None else amount - credited


def _covered(paid: list[DeductionDetails]) -> dict[str, Decimal]:
    covered: dict[str, Decimal] = {}
    for each in paid:
        for dimension, value in each.covered.items():
            covered[dimension] = covered.get(dimension, ZERO) + value
    return covered
