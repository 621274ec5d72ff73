"""What an event's deductions say it was paid with, and what that leaves for the plan to bill (P5)."""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Final, NamedTuple

from tallyd.engine.audit.entry_form import details_of
from tallyd.engine.audit.findings import Findings
from tallyd.engine.audit.wallet import Pool, amount_of
from tallyd.engine.credits.weights import Weights
from tallyd.engine.rating import PricedFeature
from tallyd.engine.rows import EventRow
from tallyd.model.event import UsageEvent
from tallyd.model.ledger_entries import DeductionDetails, Entry, EntryKind, text
from tallyd.model.money import ZERO, share

_QUOTED: Final = ("weight", "weight_id", "weight_match", "weights", "units_per_credit")


class Deduction(NamedTuple):
    """One pool's part in paying for a feature of an event."""

    entry: Entry
    details: DeductionDetails
    total: Decimal


class Billed(NamedTuple):
    """What is left for the plan. `settled`: nothing, so that its model was not asked."""

    rest: dict[str, Decimal]
    credited: Decimal = ZERO
    settled: bool = False
    waived: bool = False


class Paid:
    """The deductions of one event by feature, and whether it settled a hold.

    Args:
        entries: those the event caused, in order.
        weights: what usage costs in credits.
        pools: the customer's, as they stood when the event came.
        findings: where it reports.
    """

    def __init__(
        self, entries: Iterable[Entry], weights: Weights, pools: Sequence[Pool], findings: Findings
    ) -> None:
        self._weights = weights
        self._findings = findings
        units = (pool.model for pool in pools if pool.model.charge == "units")
        self._precisions = list(dict.fromkeys([None, *(model.precision for model in units)]))
        self._by_feature: dict[str | None, list[Deduction]] = {}
        self.settles = False
        for entry in entries:
            if entry.kind in (EntryKind.HOLD_DRAWN, EntryKind.HOLD_CLOSED):
                self.settles = True
            elif entry.kind == EntryKind.DEDUCTION:
                with findings.guard("ledger entry", entry.id):
                    overage = amount_of(entry.overage_after) - amount_of(entry.overage_before)
                    deduction = Deduction(entry, details_of(entry), overage - amount_of(entry.amount))
                    self._by_feature.setdefault(entry.feature, []).append(deduction)

    def take(self, feature: str) -> list[Deduction]:
        """Return the deductions for a feature, once."""
        return self._by_feature.pop(feature, [])

    def finish(self) -> None:
        """Report deductions for what the event was not charged for."""
        for feature, deductions in self._by_feature.items():
            for each in deductions:
                message = f"it pays for {feature!r} of event {each.entry.event}, which the plan does not charge"
                self._findings.add("ledger entry", each.entry.id, message)

    def billed(self, quantity: dict[str, Decimal], deductions: list[Deduction]) -> Billed:
        """Return what the plan has to bill of quantities that these deductions pay for, checking their shares."""
        charge = deductions[0].details.charge or ZERO
        covered, rest = dict.fromkeys(quantity, ZERO), dict(quantity)
        paid = credited = ZERO
        waived: list[Deduction] = []
        for each in deductions:
            self._same(each, "charge", each.details.charge, charge)
            if each.details.waived:
                waived.append(each)
                self._same(each, "drawn of what is waived", each.total, ZERO)
            elif each.details.covered:
                paid += each.total
                until = {dimension: share(value, paid, charge) for dimension, value in quantity.items()}
                part = {dimension: value - covered[dimension] for dimension, value in until.items()}
                self._same(each, "covered", each.details.covered, part)
                self._same(each, "credited", each.details.credited, ZERO)
                covered = until
                rest = {dimension: value - part[dimension] for dimension, value in rest.items()}
            else:
                credited += each.total
                self._same(each, "credited", each.details.credited, each.total)
        if paid > charge:
            message = f"{text(paid)} credits are drawn for a charge of {text(charge)}"
            self._findings.add("ledger entry", deductions[0].entry.id, message)
        if paid and paid == charge:
            return Billed({}, credited, settled=True)
        return self._waived(waived, Billed(rest, credited)) if waived else Billed(rest, credited)

    def _waived(self, waived: list[Deduction], billed: Billed) -> Billed:
        each, *more = waived
        for other in more:
            self._findings.add("ledger entry", other.entry.id, "its usage is waived already")
        if each.details.covered:
            self._same(each, "covered", each.details.covered, billed.rest)
            return Billed({}, billed.credited, settled=True, waived=True)
        return Billed(billed.rest, billed.credited + each.details.credited, waived=True)

    def check_quote(
        self, row: EventRow, event: UsageEvent, feature: PricedFeature, units: Decimal, deductions: list[Deduction]
    ) -> bool:
        """Check what the usage comes to in credits; return whether units were quoted, rather than money."""
        first = deductions[0]
        stands = _quoted(first.details)
        if stands == _quoted(DeductionDetails()):
            return False
        for each in deductions[1:]:
            self._same(each, "the weights", _quoted(each.details), stands)
        quotes = [
            self._weights.quote(feature, event, units, now=row.received_at, precision=precision)
            for precision in self._precisions
        ]
        should = {name: getattr(quotes[0], name) for name in _QUOTED}
        self._same(first, "the weights", stands, should)
        if first.details.charge not in [quote.charge for quote in quotes]:
            self._same(first, "charge", first.details.charge, quotes[0].charge)
        return True

    def _same(self, deduction: Deduction, what: str, stands: object, should: object) -> None:
        self._findings.same("ledger entry", deduction.entry.id, what, stands, should)


def _quoted(details: DeductionDetails) -> dict[str, object]:
    return {name: getattr(details, name) for name in _QUOTED}
