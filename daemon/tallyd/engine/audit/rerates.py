"""The auditor's view of re-ratings: each goes on from the one before, and the last is what the books hold."""

from collections.abc import Iterable
from decimal import Decimal

import msgspec

from tallyd.engine.audit.basis import Basis
from tallyd.engine.audit.charges import ChargeAudit
from tallyd.engine.audit.findings import Findings
from tallyd.engine.audit.rollups import RollupSums
from tallyd.engine.rerating import RatedState, as_first, decode_state, event_of, state_of
from tallyd.engine.rows import ChargeRow, EventRow, RerateRow
from tallyd.model.money import ZERO, plain

_Place = tuple[str, str, str]


class _Held(msgspec.Struct):
    """A re-rated event as the books have it now, as it was first, and as re-ratings have left it so far."""

    row: EventRow
    charges: list[ChargeRow]
    first_row: EventRow
    first_charges: list[ChargeRow]
    state: RatedState


class RerateAudit:
    """Knows how events were before they were re-rated, and replays the re-ratings."""

    def __init__(
        self,
        rerates: Iterable[RerateRow],
        basis: Basis,
        charges: ChargeAudit,
        rollups: RollupSums,
        findings: Findings,
    ) -> None:
        self._basis = basis
        self._charges = charges
        self._rollups = rollups
        self._findings = findings
        self._first: dict[int, RatedState] = {}
        self._held: dict[int, _Held] = {}
        for rerate in rerates:
            with findings.guard("ledger", _place(rerate)):
                self._first.setdefault(rerate.event, decode_state(rerate.before))

    def as_first(self, row: EventRow, charges: list[ChargeRow]) -> tuple[EventRow, list[ChargeRow]]:
        """Return an event and its charges as they were recorded."""
        state = self._first.get(row.id)
        if state is None:
            return row, charges
        first_row, first_charges = as_first(row, charges, state)
        self._held[row.id] = _Held(row, charges, first_row, first_charges, state_of(first_row, first_charges))
        return first_row, first_charges

    def as_it_stands(self, row: EventRow, charges: list[ChargeRow]) -> tuple[EventRow, list[ChargeRow]]:
        """Return an event and its charges as the re-ratings so far have left them."""
        held = self._held.get(row.id)
        return (row, charges) if held is None else as_first(row, charges, held.state)

    def rerate(self, rerate: RerateRow) -> None:
        """Check one re-rating, and add what it changes."""
        held = self._held.get(rerate.event)
        if held is None:
            self._findings.add("ledger", _place(rerate), "the event is not in the books before that")
            return
        before, after = decode_state(rerate.before), decode_state(rerate.after)
        self._compare("before its re-rating", rerate.event, stands=before, should=held.state)
        held.state = after
        row, charges = held.first_row, held.first_charges
        own = self._rollups.own(row, charges)
        own.cost += Decimal(after.cost or 0) - Decimal(before.cost or 0)
        own.unpriced -= (before.no_price is not None) - (after.no_price is not None)
        old = {charge.feature: charge for charge in before.charges}
        new = {charge.feature: charge for charge in after.charges}
        event = event_of(row)
        after_row, _ = as_first(row, charges, after)
        for charge in charges:
            was, now = old.get(charge.feature), new.get(charge.feature)
            if was is not None and now is not None and was != now:
                with self._findings.guard("charge", f"event {charge.event} feature {charge.feature}"):
                    earned = self._charges.rerated(after_row, event, charge, was, now)
                    self._rollups.earn(row, charge.feature, charge.currency, earned)
        self._findings.same("event", row.id, "re-rated cost", after.cost, self._basis.cost(after_row, event))
        if event.revenue_amount is None and not row.capped:
            amounts = [Decimal(charge.amount) for charge in after.charges if charge.amount is not None]
            revenue = plain(sum(amounts, ZERO)) if amounts else None
            self._findings.same("event", row.id, "re-rated revenue", after.revenue, revenue)

    def finish(self) -> None:
        """Compare what the books hold with what the last re-rating of each event left."""
        for number, held in self._held.items():
            with self._findings.guard("event", number):
                stands = state_of(held.row, held.charges)
                self._compare("after its last re-rating", number, stands=stands, should=held.state)

    def _compare(self, when: str, event: int, *, stands: RatedState, should: RatedState) -> None:
        left, right = _flat(event, stands), _flat(event, should)
        for place in {**left, **right}:
            kind, where, column = place
            self._findings.same(kind, where, f"{column} {when}", left.get(place), right.get(place))


def _flat(event: int, state: RatedState) -> dict[_Place, object]:
    """Return every column of a state by its place."""
    values: dict[_Place, object] = {
        ("event", str(event), column): getattr(state, column)
        for column in state.__struct_fields__
        if column != "charges"
    }
    for charge in state.charges:
        where = f"event {event} feature {charge.feature}"
        for column in charge.__struct_fields__:
            values["charge", where, column] = getattr(charge, column)
    return values


def _place(rerate: RerateRow) -> str:
    return f"customer {rerate.customer} position {rerate.position} re-rates event {rerate.event}"
