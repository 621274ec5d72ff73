"""Taking an event back: counters, charges, credits and the open invoice follow; the event and its void both stay.

What a feature has left to charge is always the price of the usage that is left. So a void takes from a counter
what its quantities cost last: the price of all usage, less the price of all usage but these.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final

import msgspec

from tallyd.engine import rating
from tallyd.engine.account import LIFETIME, Changes, Counter, CounterKey
from tallyd.engine.billing import revising
from tallyd.engine.counting import bearer_of_sent, main_feature
from tallyd.engine.credits import granting
from tallyd.engine.credits.draft import Draft
from tallyd.engine.metering import CompiledMeter, difference
from tallyd.engine.rating import Marginal, PricedFeature, PricedPlan
from tallyd.engine.rerating import event_of
from tallyd.engine.rollups import COST_CURRENCY
from tallyd.engine.rows import ChargeRow, EventRow, RollupDelta, RollupKey
from tallyd.model.credits import Grant
from tallyd.model.event import UsageEvent
from tallyd.model.ledger_entries import Cause, DeductionDetails, Entry, EntryKind, json_text
from tallyd.model.moments import hour_of
from tallyd.model.money import ZERO
from tallyd.pricing.seam import UNITS

_replace: Final = msgspec.structs.replace
_decode_quantity: Final = msgspec.json.Decoder(dict[str, Decimal]).decode
_decode_deduction: Final = msgspec.json.Decoder(DeductionDetails).decode
_RUNNING: Final = frozenset({"max", "last", "unique"})


class VoidedPart(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What a void takes from the counters of one feature.

    Attributes:
        feature: feature key.
        period_start: of the counter of the period.
        units: units that no longer count.
        quantity: priced quantities that are gone, by dimension.
        amount: charge that is gone.
        covered: quantities that credits had paid for, by dimension.
        credited: of the price, what credits in money had paid.
        sent: revenue that had come with the event.
        unpriced: 1 when the event had no price here.
    """

    feature: str
    period_start: int
    units: Decimal = ZERO
    quantity: dict[str, Decimal] = {}
    amount: Decimal = ZERO
    covered: dict[str, Decimal] = {}
    credited: Decimal = ZERO
    sent: Decimal = ZERO
    unpriced: int = 0


class VoidTerms(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Why and what: `details` of EVENT_VOIDED."""

    reason: str = ""
    parts: list[VoidedPart] = []


class ToVoid(msgspec.Struct, frozen=True, kw_only=True):
    """An event and all it did, as the books have it.

    Attributes:
        row: the event.
        charges: its charges.
        rest: for features whose meter does not simply add: the other events that count, in order.
        deductions: what it drew from credits and nobody has reversed, with the grants touched.
    """

    row: EventRow
    charges: list[ChargeRow]
    rest: Mapping[str, Sequence[EventRow]] = {}
    deductions: Sequence[tuple[Entry, dict[int, Grant]]] = ()


def runs(meter: CompiledMeter | None) -> bool:
    """Whether a meter's value depends on the order of its events, so that one cannot simply be taken off."""
    return meter is not None and meter.aggregation in _RUNNING


def void(draft: Draft, given: ToVoid, reason: str, marginal: Marginal = rating.marginal) -> Changes:
    """Take an event back; return all that changes."""
    row, event = given.row, event_of(given.row)
    voiding = _Voiding(draft, given, event, marginal)
    parts = [voiding.part(charge) for charge in given.charges]
    draft.note(
        EntryKind.EVENT_VOIDED,
        Cause.MANUAL,
        at=draft.now,
        event=row.id,
        details=json_text(VoidTerms(reason=reason, parts=parts)),
    )
    for entry, grants in given.deductions:
        granting.reverse(draft, entry, grants, description=reason or None)
    for part in parts:
        if row.subscription is not None:
            key = CounterKey(row.subscription, part.feature, part.period_start)
            counter = draft.counter(key)
            if counter.billed_to or counter.billed:
                revising.reopen(draft, key, in_grace=False)
    changes = draft.changes()
    changes.unseen = voiding.unseen
    changes.rollups = _rollups(row, event, given.charges, parts)
    changes.late = True
    return changes


class _Voiding:
    def __init__(self, draft: Draft, given: ToVoid, event: UsageEvent, marginal: Marginal) -> None:
        self._draft = draft
        self._given = given
        self._event = event
        self._marginal = marginal
        self._paid = _paid_by_credits(given.deductions)
        counted = [charge.feature for charge in given.charges if not given.row.capped]
        sent = event.revenue_amount is not None
        self._bearer = bearer_of_sent(given.row.feature, counted) if sent else None
        self.unseen: list[tuple[CounterKey, str]] = []

    def part(self, charge: ChargeRow) -> VoidedPart:
        """Take a charge's part off its counters."""
        enrolment = self._draft.enrolment_at(charge.subscription, charge.period_start)
        feature = enrolment.plan.features.get(charge.feature)
        if self._given.row.capped or _capped(charge):
            return VoidedPart(feature=charge.feature, period_start=charge.period_start)
        keys = [CounterKey(charge.subscription, charge.feature, charge.period_start)]
        of_all_time = keys[0]._replace(period_start=LIFETIME)
        if feature.accumulates if feature is not None else of_all_time in self._draft.account.counters:
            keys.insert(0, of_all_time)
        counter = self._draft.counter(keys[0])
        units, latest_at = self._units(keys[0], charge, feature, counter)
        covered, credited = self._paid.get(charge.feature, ({}, ZERO))
        quantity = _decode_quantity(charge.quantity)
        if feature is not None and runs(feature.meter) and UNITS in quantity:  # tokens do not run
            quantity = {UNITS: units}
        part = VoidedPart(
            feature=charge.feature,
            period_start=charge.period_start,
            units=units,
            quantity=quantity,
            amount=self._amount(charge, enrolment.plan, counter, quantity, credited),
            covered=covered,
            credited=credited,
            sent=self._event.revenue_amount or ZERO if charge.feature == self._bearer else ZERO,
            unpriced=0 if charge.no_price is None else 1,
        )
        for key in keys:
            self._draft.put_counter(key, without(self._draft.counter(key), part, latest_at))
        return part

    def _units(
        self, key: CounterKey, charge: ChargeRow, feature: PricedFeature | None, counter: Counter
    ) -> tuple[Decimal, int]:
        """Return the units that no longer count, and the time of the latest event that does."""
        meter = None if feature is None else feature.meter
        if meter is None or not runs(meter):
            return Decimal(charge.units), counter.latest_at
        value, latest_at, seen = ZERO, 0, set[str]()
        for row in self._given.rest.get(charge.feature, ()):
            event = event_of(row)
            value += difference(meter, event, value=value, latest_at=latest_at, seen=seen)
            latest_at = max(latest_at, event.occurred_at)
            reading = meter.reading(event)
            if isinstance(reading, str):
                seen.add(reading)
        own = meter.reading(self._event)
        if isinstance(own, str) and own not in seen:
            self.unseen.append((key, own))
        return counter.used - value, latest_at

    def _amount(
        self,
        charge: ChargeRow,
        plan: PricedPlan,
        counter: Counter,
        quantity: dict[str, Decimal],
        credited: Decimal,
    ) -> Decimal:
        """Return what the quantities cost last, less what credits in money paid of them.

        If another plan has taken the place of the one they were priced by, it is what was charged.
        """
        if charge.amount is None or not quantity:
            return ZERO
        if (plan.key, plan.version) != (charge.plan_key, charge.plan_version):
            return Decimal(charge.amount)
        feature = plan.features[charge.feature]
        before = {dimension: value - quantity.get(dimension, ZERO) for dimension, value in counter.rated.items()}
        amount, _ = self._marginal(feature, before, quantity)
        return Decimal(charge.amount) if amount is None else amount - credited


def _capped(charge: ChargeRow) -> bool:
    """Whether the charge was zeroed by a cap: its counters were not moved."""
    return charge.amount == "0" and charge.units == "0" and charge.quantity == "{}" and charge.no_price is None


def _paid_by_credits(
    deductions: Sequence[tuple[Entry, dict[int, Grant]]],
) -> dict[str, tuple[dict[str, Decimal], Decimal]]:
    """Return what credits paid for, by feature: quantities by dimension, and of the price."""
    paid: dict[str, tuple[dict[str, Decimal], Decimal]] = {}
    for entry, _ in deductions:
        details = _decode_deduction(entry.details)
        covered, credited = paid.get(entry.feature or "", ({}, ZERO))
        for dimension, value in details.covered.items():
            covered[dimension] = covered.get(dimension, ZERO) + value
        paid[entry.feature or ""] = (covered, credited + details.credited)
    return paid


def without(counter: Counter, part: VoidedPart, latest_at: int) -> Counter:
    """Return a counter without what a void takes off it."""
    return _replace(
        counter,
        used=counter.used - part.units,
        rated=_less(counter.rated, part.quantity),
        charged=counter.charged - part.amount,
        sent=counter.sent - part.sent,
        events=counter.events - 1,
        unpriced=counter.unpriced - part.unpriced,
        latest_at=latest_at,
        covered=_less(counter.covered, part.covered),
        credited=counter.credited - part.credited,
    )


def _less(held: dict[str, Decimal], gone: dict[str, Decimal]) -> dict[str, Decimal]:
    if not gone:
        return held
    left = dict(held)
    for dimension, value in gone.items():
        left[dimension] = left.get(dimension, ZERO) - value
    return left


def _rollups(
    row: EventRow, event: UsageEvent, charges: list[ChargeRow], parts: list[VoidedPart]
) -> list[tuple[RollupKey, RollupDelta]]:
    """Return what is taken off the roll-ups."""
    own_feature = main_feature(row.feature, [charge.feature for charge in charges])
    hour, model, provider = hour_of(row.occurred_at), row.model or "", row.provider or ""
    own = RollupKey._make((hour, row.customer, own_feature, model, provider, row.name, COST_CURRENCY))
    delta = RollupDelta(events=-1, units=-Decimal(row.units), unpriced=0 if row.no_price is None else -1)
    if row.cost is not None:
        delta.cost = -Decimal(row.cost)
    if event.tokens and not row.capped:
        for kind, count in event.tokens.items():
            if kind in ("output", "reasoning"):
                delta.output_tokens -= count
            else:
                delta.input_tokens -= count
    added = [(own, delta)]
    if row.revenue_source == "sent" and row.revenue is not None:
        added.append((own._replace(currency=row.currency), RollupDelta(revenue=-Decimal(row.revenue))))
    for part in parts:
        beside = ZERO if part.feature == own_feature else part.units
        if beside or part.amount:
            key = own._replace(feature=part.feature, currency=row.currency)
            added.append((key, RollupDelta(units=-beside, revenue=-part.amount)))
    return added


__all__ = ["ToVoid", "VoidTerms", "VoidedPart", "runs", "void", "without"]
