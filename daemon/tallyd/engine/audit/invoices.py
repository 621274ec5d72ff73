"""Invoices replayed: each follows from its subscription, its counters and the invoices before it (P5, P6)."""

from datetime import timedelta
from typing import Final

import msgspec

from tallyd.engine.audit.access import Access
from tallyd.engine.audit.base_lines import BasePrices, Priced
from tallyd.engine.audit.basis import Basis
from tallyd.engine.audit.findings import Findings
from tallyd.engine.audit.followups import FollowUps
from tallyd.engine.audit.invoice_lines import LineAudit, by_counter
from tallyd.engine.audit.lives import TO_PAY, Life, running
from tallyd.engine.audit.wallet import Row, Shelf, compare, encode
from tallyd.model.invoice import (
    OF_PERIODS,
    OPEN,
    Invoice,
    InvoiceKind,
    InvoiceStatus,
    InvoiceUpdate,
    Line,
    LineKind,
)
from tallyd.model.ledger_entries import Cause, Entry
from tallyd.model.money import ZERO, plain
from tallyd.model.periods import Period, local_date, midnight
from tallyd.model.subscription import Subscription

COLUMNS: Final = Invoice.__struct_fields__
_BILLS_USAGE: Final = frozenset({InvoiceKind.IN_ADVANCE, InvoiceKind.FINAL})
_PAYABLE: Final = frozenset({InvoiceStatus.DUE, InvoiceStatus.PAID})


class _Allowed(msgspec.Struct, frozen=True):
    """From which statuses to which an invoice may go by a cause, and what else changes with it."""

    before: frozenset[InvoiceStatus]
    after: frozenset[InvoiceStatus]
    fields: frozenset[str] = frozenset()


_ALLOWED: Final = {
    Cause.CLOSED: _Allowed(
        frozenset({InvoiceStatus.PENDING}),
        _PAYABLE,
        frozenset({"period_end", "due_at", "overdue_at", "amount", "lines"}),
    ),
    Cause.CANCELLED: _Allowed(frozenset({InvoiceStatus.PENDING}), frozenset({InvoiceStatus.CANCELLED})),
    Cause.PAID: _Allowed(TO_PAY, frozenset({InvoiceStatus.PAID})),
    Cause.OVERDUE: _Allowed(frozenset({InvoiceStatus.DUE}), frozenset({InvoiceStatus.PAST_DUE})),
    Cause.VOIDED: _Allowed(OPEN, frozenset({InvoiceStatus.VOID})),
    Cause.REVISED: _Allowed(TO_PAY, TO_PAY | {InvoiceStatus.PAID}, frozenset({"amount", "lines"})),
}
_MAY_CHANGE: Final = ("period_end", "due_at", "overdue_at", "amount", "lines")
_SETTLED: Final = frozenset({InvoiceStatus.PAID, InvoiceStatus.VOID, InvoiceStatus.CANCELLED})


class InvoiceAudit:
    """Plays the entries of invoices, and compares the rows.

    Attributes:
        invoices: invoices made.
    """

    def __init__(
        self,
        basis: Basis,
        prices: BasePrices,
        lines: LineAudit,
        access: Access,
        follow_ups: FollowUps,
        findings: Findings,
        shelf: Shelf | None,
    ) -> None:
        self._basis = basis
        self._prices = prices
        self._lines = lines
        self._access = access
        self._follow_ups = follow_ups
        self._findings = findings
        self._shelf = shelf
        self._open: dict[int, tuple[Invoice, Row | None]] = {}
        self._serials: dict[int, int] = {}
        self.invoices = 0

    # One is made

    def made(self, entry: Entry, invoice: Invoice) -> None:
        """Check a new invoice, and take it."""
        self.invoices += 1
        stands = self._shelf.invoice(entry.id) if self._shelf else None
        self._keep(invoice, stands)
        serial = self._serials[entry.customer] = self._serials.get(entry.customer, 0) + 1
        fixed = {
            "number": entry.id,
            "customer": entry.customer,
            "serial": serial,
            "issued_at": entry.at,
            "position": entry.position,
        }
        for field, should in fixed.items():
            self._same(invoice, field, getattr(invoice, field), should)
        life = self._basis.lives.get(invoice.subscription)
        if life is None or life.state.customer != entry.customer:
            message = f"subscription {invoice.subscription} is none of the customer's"
            self._findings.add("invoice", invoice.number, message)
            return
        with self._findings.guard("invoice", invoice.number):
            self._check_kind(entry, life, invoice)
        with self._findings.guard("invoice", invoice.number):
            self._check_dates(entry, life, invoice)
        with self._findings.guard("invoice", invoice.number):
            self._check_lines(entry, life, invoice)
        if invoice.status in OPEN:
            life.open[invoice.number] = invoice

    def _check_kind(self, entry: Entry, life: Life, invoice: Invoice) -> None:
        """Check that the invoice was to come, for a period that has none yet (P6)."""
        number, at = life.state.number, entry.at
        demanded = self._follow_ups.came(entry.customer, (invoice.kind, number))
        if not demanded and invoice.kind is not InvoiceKind.FINAL:
            self._findings.add("invoice", invoice.number, f"nothing asks for an invoice {invoice.kind} at {at}")
        if invoice.kind in OF_PERIODS:
            if _of_period(invoice) in life.invoiced:
                message = f"the period from {invoice.period_start} has its invoice already"
                self._findings.add("invoice", invoice.number, message)
            life.invoiced.add(_of_period(invoice))
        stands = Period(invoice.period_start, invoice.period_end)
        periods = _periods(life, invoice.kind, at, anew=self._prices.anew(life, at))
        if stands not in periods:
            self._same(invoice, "the period", stands, periods[0])
        plan = self._basis.plan_at(life.state, at)
        self._same(invoice, "currency", invoice.currency, plan.currency if plan else None)

    def _check_dates(self, entry: Entry, life: Life, invoice: Invoice) -> None:
        state, pending = life.state, invoice.kind is InvoiceKind.IN_ARREARS
        due_at = max(running(state, entry.at).end if pending else entry.at, state.created_at)
        self._same(invoice, "due_at", invoice.due_at, due_at)
        self._same(invoice, "overdue_at", invoice.overdue_at, _overdue_at(state, due_at))
        status = InvoiceStatus.PENDING if pending else _status(invoice)
        self._same(invoice, "status", invoice.status, status)
        settled_at = entry.at if status is InvoiceStatus.PAID else None
        self._same(invoice, "settled_at", invoice.settled_at, settled_at)

    def _check_lines(self, entry: Entry, life: Life, invoice: Invoice) -> None:
        at, adjusts = entry.at, invoice.kind is InvoiceKind.ADJUSTMENT
        self._lines.sums(life, invoice)
        if invoice.kind is InvoiceKind.CREDIT or (adjusts and _ended_at(life, at)):
            stand = [(line.kind, -line.exact) for line in invoice.lines]
            self._same(invoice, "what it gives back", stand, [(LineKind.PRORATION, life.credit)])
        else:
            self._lines.base(invoice, self._base(life, invoice, at))
        may = invoice.kind in _BILLS_USAGE or (adjusts and self._prices.anew(life, at))
        self._bill(entry, life, invoice, may=may)

    def _base(self, life: Life, invoice: Invoice, at: int) -> list[Priced]:
        """Return what a new invoice should have of base prices."""
        if invoice.kind in (InvoiceKind.IN_ADVANCE, InvoiceKind.IN_ADVANCE_INITIAL):
            return self._prices.in_advance(life, at)
        if invoice.kind is InvoiceKind.ADJUSTMENT:
            anew = self._prices.anew(life, at)
            return self._prices.in_advance(life, at) if anew else self._prices.upgraded(life, at)
        if invoice.kind is not InvoiceKind.FINAL:
            return []
        if _ended_at(life, at):
            return self._access.base_at_end(life, at)
        return self._prices.given_back(life, at)

    def _bill(self, entry: Entry, life: Life, invoice: Invoice, *, may: bool) -> None:
        """Check lines of usage and overage; an invoice that may have them has all there is to bill."""
        overage = self._lines.overage(entry, invoice)
        self._lines.usage(life, invoice, invoice.lines, entry.position - overage)
        if may:
            self._lines.nothing_left(life, entry.at, ("invoice", invoice.number))
        elif overage or by_counter(invoice.lines):
            self._findings.add("invoice", invoice.number, f"an invoice {invoice.kind} bills usage")

    # One is changed

    def changed(self, entry: Entry, update: InvoiceUpdate) -> None:
        """Check what an entry changes of an invoice, and take it."""
        held, stands = self._open.get(update.invoice, (None, None))
        if held is None or held.customer != entry.customer:
            message = f"invoice {update.invoice} is none of the customer's that are open"
            self._findings.add("ledger entry", entry.id, message)
            return
        invoice = _updated(held, update, entry)
        self._keep(invoice, stands)
        life = self._basis.lives.get(invoice.subscription)
        if life is None:
            return
        with self._findings.guard("ledger entry", entry.id):
            self._check_change(entry, held, update)
        with self._findings.guard("invoice", invoice.number):
            self._follow(entry, life, held, invoice)
        life.open.pop(invoice.number, None)
        if invoice.status in OPEN:
            life.open[invoice.number] = invoice
        revised = entry.cause == Cause.REVISED and invoice.status is InvoiceStatus.PAID
        if revised or entry.cause == Cause.PAID:
            self._access.restored(entry.customer, life, entry.at)
        elif entry.cause == Cause.VOIDED:
            self._access.voided(life, entry)

    def _check_change(self, entry: Entry, held: Invoice, update: InvoiceUpdate) -> None:
        """Check which status the invoice goes to, and what changes with it."""
        allowed = _ALLOWED[Cause(entry.cause)]
        if held.status not in allowed.before or update.status not in allowed.after:
            message = f"invoice {held.number} goes from {held.status} to {update.status} by {entry.cause}"
            self._findings.add("ledger entry", entry.id, message)
        changed = {field for field in _MAY_CHANGE if getattr(update, field) is not None}
        self._findings.same("ledger entry", entry.id, "what changes", sorted(changed), sorted(allowed.fields))
        settled_at = entry.at if update.status in _SETTLED else None
        self._findings.same("ledger entry", entry.id, "settled_at", update.settled_at, settled_at)
        if entry.cause == Cause.OVERDUE:
            self._findings.same("ledger entry", entry.id, "at", entry.at, held.overdue_at)

    def _follow(self, entry: Entry, life: Life, held: Invoice, invoice: Invoice) -> None:
        """Check what a change makes of the lines and of what they bill."""
        cause = Cause(entry.cause)
        if invoice.kind in OF_PERIODS and cause in (Cause.CANCELLED, Cause.VOIDED):
            life.invoiced.discard(_of_period(invoice))
        if cause is Cause.CLOSED:
            self._same(invoice, "period_end", invoice.period_end, entry.at)
            due_at = max(entry.at, life.state.created_at)
            self._same(invoice, "due_at", invoice.due_at, due_at)
            self._same(invoice, "overdue_at", invoice.overdue_at, _overdue_at(life.state, due_at))
            self._same(invoice, "status", invoice.status, _status(invoice))
            self._lines.sums(life, invoice)
            ran = Period(invoice.period_start, entry.at)
            self._lines.base(invoice, self._prices.in_arrears(life, ran))
            self._bill(entry, life, invoice, may=True)
        elif cause is Cause.REVISED:
            self._lines.sums(life, invoice)
            self._revise(entry, life, held, invoice)
        elif cause is Cause.CANCELLED:
            self._same(invoice, "period_start", invoice.period_start, entry.at)
        elif cause is Cause.VOIDED:
            self._lines.give_back(held, held.lines)
            again = life.voided if life.voided_to + 1 == entry.position else []
            life.voided, life.voided_to = [*again, held], entry.position

    def _revise(self, entry: Entry, life: Life, held: Invoice, invoice: Invoice) -> None:
        """Check that the lines of one counter are new, and all others as they were."""
        before, after = by_counter(held.lines), by_counter(invoice.lines)
        billed = [each for each in {**before, **after} if before.get(each) != after.get(each)]
        self._same(invoice, "how many counters are billed anew", len(billed), 1)
        self._same(invoice, "its other lines", _others(invoice.lines), _others(held.lines))
        status = InvoiceStatus.PAID if invoice.amount <= ZERO else held.status
        self._same(invoice, "status", invoice.status, status)
        for each in billed:
            self._lines.give_back(held, before.get(each, []))
            self._lines.usage(life, invoice, after.get(each, []), entry.position)

    # What the books say

    def _keep(self, invoice: Invoice, stands: Row | None) -> None:
        """Keep an invoice while it is open; compare it with its row when it is not."""
        self._open.pop(invoice.number, None)
        if invoice.status in OPEN:
            self._open[invoice.number] = invoice, stands
        else:
            self._compare(invoice, stands)

    def _compare(self, invoice: Invoice, stands: Row | None) -> None:
        compare(self._findings, ("invoice", invoice.number), COLUMNS, stands, _row_of(invoice))

    def finish(self) -> None:
        """Compare the invoices that are still open."""
        for invoice, stands in self._open.values():
            self._compare(invoice, stands)

    def _same(self, invoice: Invoice, what: str, stands: object, should: object) -> None:
        self._findings.same("invoice", invoice.number, what, stands, should)


def _of_period(invoice: Invoice) -> tuple[int, bool]:
    """Return what there is one invoice of: a period may be paid in advance, and at once begin anew in arrears."""
    return invoice.period_start, invoice.kind is InvoiceKind.IN_ARREARS


def _ended_at(life: Life, at: int) -> bool:
    """Whether the subscription was ended at once at an instant."""
    return life.turn is not None and (life.turn.at, life.turn.cause) == (at, Cause.CANCELLED)


def _periods(life: Life, kind: InvoiceKind, at: int, *, anew: bool) -> list[Period]:
    """Return the periods that an invoice of a kind may be named for."""
    state = life.state
    if kind in OF_PERIODS or (kind is InvoiceKind.ADJUSTMENT and anew):
        return [running(state, at)]
    if kind is InvoiceKind.CREDIT or (kind is InvoiceKind.ADJUSTMENT and _ended_at(life, at)):
        return [Period(at, life.credit_to)]
    if kind is InvoiceKind.ADJUSTMENT:
        before = life.turn.before if life.turn else state
        return [Period(at, before.period_at(at).end)]
    started = state.period_at(max(at - 1, state.starts_at)).start
    return [Period(started, at), Period(state.period_at(at).start, at)]


def _status(invoice: Invoice) -> InvoiceStatus:
    """Return where a final invoice begins: nothing to pay is paid."""
    return InvoiceStatus.PAID if invoice.amount <= ZERO else InvoiceStatus.DUE


def _overdue_at(state: Subscription, due_at: int) -> int:
    """Return the midnight, where the subscriber is, that ends the grace days (CONTRACTS D6)."""
    zone = state.phases[-1].cycle.zone
    return midnight(local_date(due_at, zone) + timedelta(days=state.grace_days + 1), zone)


def _updated(invoice: Invoice, update: InvoiceUpdate, entry: Entry) -> Invoice:
    """Return an invoice with what an entry changes of it."""
    names = ("status", "settled_at", *_MAY_CHANGE)
    changed = {name: value for name in names if (value := getattr(update, name)) is not None}
    if update.lines is not None:
        changed["position"] = entry.position
    return msgspec.structs.replace(invoice, **changed)


def _others(lines: list[Line]) -> list[Line]:
    return [line for line in lines if line.counter_start is None and line.kind is not LineKind.TRIAL]


def _row_of(invoice: Invoice) -> tuple[object, ...]:
    """Return what its row should say."""
    values = {name: getattr(invoice, name) for name in COLUMNS}
    lines = encode(invoice.lines).decode()
    values.update(kind=invoice.kind.value, status=invoice.status.value, amount=plain(invoice.amount), lines=lines)
    return tuple(values.values())
