"""The auditor: recomputes the books from the events as sent, and compares.

It shares the rules of counting and pricing with the rest of the engine but none of the bookkeeping: running sums,
roll-ups and chains are kept here a second time, so that a mistake in one place shows in the other. Every row is
checked under a guard: damage is a finding that names the row, and the next row is checked all the same.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

import msgspec

from tallyd.engine import chain
from tallyd.engine.audit.access import Access
from tallyd.engine.audit.base_lines import BasePrices
from tallyd.engine.audit.basis import Basis
from tallyd.engine.audit.charges import ChargeAudit
from tallyd.engine.audit.counters import Counters
from tallyd.engine.audit.credits import CreditAudit
from tallyd.engine.audit.deductions import Paid
from tallyd.engine.audit.dues import DueAudit
from tallyd.engine.audit.entry_form import OF_BILLING, check_form, details_of
from tallyd.engine.audit.findings import Finding, Findings
from tallyd.engine.audit.followups import FollowUps
from tallyd.engine.audit.invoice_lines import LineAudit
from tallyd.engine.audit.invoices import InvoiceAudit
from tallyd.engine.audit.rerates import RerateAudit
from tallyd.engine.audit.rollups import RollupSums
from tallyd.engine.audit.subscriptions import SubscriptionAudit
from tallyd.engine.audit.voids import VoidAudit
from tallyd.engine.audit.wallet import Shelf
from tallyd.engine.counting import main_feature
from tallyd.engine.rating import NoPrice
from tallyd.engine.rerating import event_of
from tallyd.engine.rows import ChargeRow, EventRow, RerateRow, RollupDelta, RollupKey
from tallyd.model.event import UsageEvent
from tallyd.model.ledger_entries import Entry, EntryKind
from tallyd.model.money import ZERO, plain
from tallyd.model.subscription import Subscription

_Chained = EventRow | RerateRow | Entry
_NAMES: Final = {EventRow: "event", Entry: "ledger entry"}


class _Ledger:
    __slots__ = ("chain", "position", "rerates")

    def __init__(self, rerates: Iterable[RerateRow]) -> None:
        self.position = 0
        self.chain = chain.GENESIS
        self.rerates = deque(rerates)


class Auditor:
    """Give it events and ledger entries in order of their ids, then what the books say; it reports what is wrong.

    Args:
        basis: customers, plans, price versions and weights.
        rerates: re-ratings by customer, in order of position.
        findings: where it reports.
        shelf: rows that the replay looks up.

    Attributes:
        counters: what the replay has made of counters.
        credits: the audit of pools, grants, links and holds.
        subscriptions: the audit of subscriptions.
        invoices: the audit of invoices.
        dues: the audit of what falls due.
        events: events seen.
        charges: charges seen.
        entries: ledger entries seen.
    """

    def __init__(
        self,
        basis: Basis,
        rerates: Mapping[int, list[RerateRow]],
        findings: Findings,
        shelf: Shelf | None = None,
    ) -> None:
        self._basis = basis
        self._findings = findings
        self._waiting = dict(rerates)
        self._ledgers: dict[int, _Ledger] = {}
        self._follow_ups = FollowUps(findings)
        self.counters = Counters(findings)
        self._charges = ChargeAudit(basis, self.counters, findings)
        self._rollups = RollupSums()
        every = (row for rows in rerates.values() for row in rows)
        self._rerates = RerateAudit(every, basis, self._charges, self._rollups, findings)
        books = (basis, self.counters)
        self._voids = VoidAudit(*books, self._rollups, self._rerates, self._follow_ups, findings, shelf)
        self.credits = CreditAudit(basis, self._follow_ups, findings, shelf)
        self._follow_billing(findings, shelf)
        self.dues = DueAudit(self.subscriptions, findings)
        self.events = self.charges = self.entries = 0

    def _follow_billing(self, findings: Findings, shelf: Shelf | None) -> None:
        basis, follow_ups, credit = self._basis, self._follow_ups, self.credits
        prices, lines = BasePrices(basis), LineAudit(basis, self.counters, follow_ups, findings)
        self._access = Access(basis, prices, lines, credit.allocations, credit.wallet, follow_ups)
        self.subscriptions = SubscriptionAudit(
            basis, self.counters, prices, lines, self._access, follow_ups, findings
        )
        self.invoices = InvoiceAudit(basis, prices, lines, self._access, follow_ups, findings, shelf)

    # Events and entries

    def event(self, row: EventRow, charges: list[ChargeRow], caused: Sequence[Entry] = ()) -> None:
        """Check one event and its charges, and add them to the running sums.

        Args:
            row: the event.
            charges: its charges.
            caused: the entries that come after it because of it.
        """
        self.events += 1
        self.charges += len(charges)
        with self._findings.guard("event", row.id):
            self._event(row, charges, caused)

    def entry(self, entry: Entry) -> None:
        """Check one ledger entry, and play it."""
        place = ("ledger entry", entry.id)
        self.entries += 1
        with self._findings.guard(*place):
            ledger = self._reach(entry.customer, entry.position)
            self._extend(ledger, entry.customer, entry.position, entry, place)
        self.dues.decided(entry.customer, entry.written_at)
        with self._findings.guard(*place):
            check_form(entry, self._findings)
            details = details_of(entry)
            self._before(entry, details)
            if entry.kind in OF_BILLING:
                self._bill(entry, details)
            else:
                self.credits.entry(entry, details)

    def _before(self, entry: Entry, details: Any) -> None:
        """See that what must come before an entry has come."""
        subject = details if isinstance(details, Subscription) else None
        self._access.before(entry.customer, entry, subject)
        self.credits.before(entry)
        self._follow_ups.before(entry.customer, EntryKind(entry.kind))

    def _bill(self, entry: Entry, details: Any) -> None:
        kind = EntryKind(entry.kind)
        if kind is EntryKind.SUBSCRIPTION:
            self.subscriptions.entry(entry, details)
        elif kind is EntryKind.INVOICE_MADE:
            self.invoices.made(entry, details)
        elif kind is EntryKind.INVOICE_CHANGED:
            self.invoices.changed(entry, details)
        else:
            self._voids.entry(entry, details)

    def _reach(self, customer: int, position: int) -> _Ledger:
        """Return a customer's ledger, gone through its re-ratings up to a position."""
        ledger = self._ledger(customer)
        while ledger.rerates and ledger.rerates[0].position < position:
            self._rerate(ledger, ledger.rerates.popleft())
        return ledger

    def _event(self, row: EventRow, charges: list[ChargeRow], caused: Sequence[Entry]) -> None:
        ledger = self._reach(row.customer, row.position)
        row, charges = self._rerates.as_first(row, charges)
        where = f"customer {row.customer} position {row.position}"
        self._extend(ledger, row.customer, row.position, row, ("ledger", where))
        self.dues.decided(row.customer, row.received_at)
        with self._findings.guard("event", row.id):
            self._close(row.customer)
            self.credits.event(row, charges)
        event = event_of(row)
        with self._findings.guard("event", row.id):
            self._basis.check_owner(row)
            self._basis.check_enrolled(row, event, charges)
        with self._findings.guard("event", row.id):
            self._check_event(row, event, charges)
        paid = Paid(caused, self._basis.weights, self.credits.pools_of(row.customer), self._findings)
        self._charges.event(row, event, charges, paid)
        self._rollups.add(row, event, charges)

    def _ledger(self, customer: int) -> _Ledger:
        ledger = self._ledgers.get(customer)
        if ledger is None:
            ledger = self._ledgers[customer] = _Ledger(self._waiting.pop(customer, ()))
        return ledger

    def _extend(
        self, ledger: _Ledger, customer: int, position: int, row: _Chained, place: tuple[str, object]
    ) -> None:
        where = f"customer {customer} position {position}"
        self._findings.same("ledger", where, "position", position, ledger.position + 1)
        *fields, link = msgspec.structs.astuple(row)
        if chain.link(ledger.chain, tuple(fields)) != link:
            name = f"event {row.event}" if isinstance(row, RerateRow) else f"{_NAMES[type(row)]} {row.id}"
            message = f"the row of {name} was changed, or one before it: the chain breaks at {where}"
            self._findings.add(*place, message)
        ledger.position = position
        ledger.chain = link

    def _check_event(self, row: EventRow, event: UsageEvent, charges: list[ChargeRow]) -> None:
        same = self._findings.same
        for field in ("name", "model", "provider"):
            same("event", row.id, field, getattr(row, field), getattr(event, field))
        same("event", row.id, "cost", row.cost, self._basis.cost(row, event))
        revenue, source = _revenue(row, event, charges)
        same("event", row.id, "revenue", row.revenue, revenue)
        same("event", row.id, "revenue_source", row.revenue_source, source)
        same("event", row.id, "units", row.units, plain(_units(row, event, charges)))
        reasons = {charge.no_price for charge in charges if charge.no_price is not None}
        if row.no_price is None:
            explained = not reasons
        else:
            explained = NoPrice(row.no_price) is NoPrice.UNKNOWN_MODEL or row.no_price in reasons
        if not explained:
            message = f"no_price is {row.no_price!r}, but its charges say {sorted(reasons)}"
            self._findings.add("event", row.id, message)

    # Re-ratings

    def _rerate(self, ledger: _Ledger, rerate: RerateRow) -> None:
        with self._findings.guard("ledger", f"customer {rerate.customer} position {rerate.position}"):
            where = f"customer {rerate.customer} position {rerate.position}"
            self._extend(ledger, rerate.customer, rerate.position, rerate, ("ledger", where))
            self._rerates.rerate(rerate)
            if rerate.event in self._voids.events:
                self._findings.add("ledger", where, f"event {rerate.event} was voided before, and is priced again")

    # What the books say

    def ledger(self, customer: int, position: int, link: bytes) -> None:
        """Check where a customer's ledger stands."""
        held = self._ledger(customer)
        del self._ledgers[customer]
        while held.rerates:
            self._rerate(held, held.rerates.popleft())
        self._close(customer)
        self._findings.same("ledger", f"customer {customer}", "position", position, held.position)
        if link != held.chain:
            self._findings.add("ledger", f"customer {customer}", "the last hash is not that of its last row")

    def _close(self, customer: int) -> None:
        """See that all has come that must come after a customer's entries."""
        with self._findings.guard("ledger", f"customer {customer}"):
            self._access.before(customer, None)
            self.credits.close(customer)
            self._follow_ups.before(customer, None)

    def due(self, rows: Iterable[tuple[int, int]]) -> None:
        """Check the rows of `dues`. Ledgers and links come before, subscriptions, pools and counters after."""
        for life in self._basis.lives.values():
            with self._findings.guard("subscription", life.state.number):
                self.dues.life(life)
        for held in self.credits.wallets():
            self.dues.wallet(held)
        for customer, due_at in rows:
            with self._findings.guard("due", f"customer {customer}"):
                self.dues.row(customer, due_at)
        self.dues.finish()

    def rollup(self, key: RollupKey, stands: RollupDelta) -> None:
        """Check a roll-up row."""
        should = self._rollups.take(key)
        if should is None:
            self._findings.add("rollup", tuple(key), "no event explains it")
            return
        for field in RollupDelta.__struct_fields__:
            self._findings.same("rollup", tuple(key), field, getattr(stands, field), getattr(should, field))

    def finish(self) -> None:
        """Report what the events explain but the books do not have."""
        for customer in (*self._ledgers, *self._waiting):
            self._findings.add("ledger", f"customer {customer}", "has events or entries but no ledger")
        self._rerates.finish()
        self.counters.finish()
        self._follow_ups.finish()
        self.subscriptions.finish()
        self.invoices.finish()
        self.credits.finish()
        for rollup in self._rollups.left():
            self._findings.add("rollup", tuple(rollup), "is missing")


def _revenue(row: EventRow, event: UsageEvent, charges: list[ChargeRow]) -> tuple[str | None, str | None]:
    if row.capped:
        return "0", "plan"
    if event.revenue_amount is not None:
        return plain(event.revenue_amount), "sent"
    amounts = [Decimal(charge.amount) for charge in charges if charge.amount is not None]
    return (plain(sum(amounts, ZERO)), "plan") if amounts else (None, None)


def _units(row: EventRow, event: UsageEvent, charges: list[ChargeRow]) -> Decimal:
    if row.capped:
        return ZERO
    main = main_feature(row.feature, [charge.feature for charge in charges])
    for charge in charges:
        if charge.feature == main:
            return Decimal(charge.units)
    return event.units or ZERO


__all__ = ["Auditor", "Basis", "Finding", "Findings"]
