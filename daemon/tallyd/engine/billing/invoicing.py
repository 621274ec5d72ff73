"""Making invoices, and what becomes of them: due, paid, overdue, void.

Usage is billed by one rule: an invoice bills of every counter whose time is over what is charged and not billed
yet, and notes that it did. So nothing is billed twice, and nothing is forgotten (P5).
"""

from collections.abc import Iterable
from datetime import timedelta
from typing import Final

import msgspec

from tallyd.engine.account import CounterKey
from tallyd.engine.billing import lines as lines_of
from tallyd.engine.draft import LedgerDraft
from tallyd.engine.rating import PricedPlan
from tallyd.model.invoice import Invoice, InvoiceKind, InvoiceStatus, InvoiceUpdate, Line, LineKind
from tallyd.model.ledger_entries import Cause, EntryKind, json_text
from tallyd.model.money import ZERO
from tallyd.model.periods import Period, local_date, midnight
from tallyd.model.problems import Code, Problem, ProblemError
from tallyd.model.subscription import Subscription

_replace: Final = msgspec.structs.replace
TO_PAY: Final = frozenset({InvoiceStatus.DUE, InvoiceStatus.PAST_DUE})
_BILLS_COUNTERS: Final = frozenset({LineKind.USAGE, LineKind.COVERED, LineKind.CREDITED, LineKind.LATE})


def zone_of(subscription: Subscription) -> str:
    """Return the time zone in whose midnights a subscription lives."""
    return subscription.phases[-1].cycle.zone


def overdue_at(subscription: Subscription, due_at: int) -> int:
    """Return when the grace days after a due date are over: at midnight, where the subscriber is (D6)."""
    zone = zone_of(subscription)
    return midnight(local_date(due_at, zone) + timedelta(days=1 + subscription.grace_days), zone)


def usage_until(draft: LedgerDraft, number: int, at: int) -> list[Line]:
    """Bill all usage whose time is over at an instant and that is not billed yet; return the lines."""
    found = []
    for key, counter in draft.counters_of(number):
        enrolment = draft.enrolment_at(number, key.period_start)
        segment = enrolment.segment_at(key.period_start)
        if segment.end <= at and counter.unbilled:
            found += lines_of.usage(enrolment, key, counter, segment, draft.position)
            draft.put_counter(key, _replace(counter, billed=counter.charged, billed_to=draft.position))
    return found


def in_trial(subscription: Subscription, moment: int) -> bool:
    """Whether an instant lies in a subscription's trial."""
    return subscription.trial_ends_at is not None and moment < subscription.trial_ends_at


def without_trial_usage(subscription: Subscription, plan: PricedPlan, lines: list[Line]) -> list[Line]:
    """Return the lines with one more, where there is usage of the trial: the trial takes it back."""
    free = [each for each in lines if each.counter_start is not None and in_trial(subscription, each.period_start)]
    given = sum((each.exact for each in free), ZERO)
    rounded = sum((each.amount for each in free), ZERO)
    if not given and not rounded:
        return lines
    trial = Period(subscription.starts_at, subscription.trial_ends_at or subscription.starts_at)
    words = "Usage while on trial is free"
    return [*lines, lines_of.line(LineKind.TRIAL, words, -given, plan, trial, amount=-rounded)]


def make(
    draft: LedgerDraft,
    subscription: Subscription,
    kind: InvoiceKind,
    period: Period,
    lines: Iterable[Line],
    *,
    at: int,
    currency: str,
) -> Invoice:
    """Make an invoice that is due at once, or paid already if nothing is to be paid."""
    rows = list(lines)
    amount = sum((each.amount for each in rows), ZERO)
    paid = amount <= ZERO
    due_at = _due_at(subscription, at)
    return _make(
        draft,
        Invoice(
            number=draft.new_number(),
            customer=subscription.customer,
            subscription=subscription.number,
            serial=draft.serial + 1,
            kind=kind,
            status=InvoiceStatus.PAID if paid else InvoiceStatus.DUE,
            currency=currency,
            period_start=period.start,
            period_end=period.end,
            issued_at=at,
            due_at=due_at,
            overdue_at=overdue_at(subscription, due_at),
            amount=amount,
            lines=rows,
            position=draft.position,
            settled_at=at if paid else None,
        ),
        at,
    )


def make_pending(
    draft: LedgerDraft, subscription: Subscription, period: Period, *, at: int, currency: str
) -> Invoice:
    """Make the invoice of a period that is billed when it is over: nothing is on it yet."""
    due_at = _due_at(subscription, period.end)
    return _make(
        draft,
        Invoice(
            number=draft.new_number(),
            customer=subscription.customer,
            subscription=subscription.number,
            serial=draft.serial + 1,
            kind=InvoiceKind.IN_ARREARS,
            status=InvoiceStatus.PENDING,
            currency=currency,
            period_start=period.start,
            period_end=period.end,
            issued_at=at,
            due_at=due_at,
            overdue_at=overdue_at(subscription, due_at),
            amount=ZERO,
            lines=[],
            position=draft.position,
        ),
        at,
    )


def _due_at(subscription: Subscription, at: int) -> int:
    """Return when an invoice of an instant is due: at once, and never before the subscription was made."""
    return max(at, subscription.created_at)


def _make(draft: LedgerDraft, invoice: Invoice, at: int) -> Invoice:
    draft.serial = invoice.serial
    draft.put_invoice(invoice)
    draft.note(EntryKind.INVOICE_MADE, Cause.PERIOD, at=at, details=json_text(invoice), number=invoice.number)
    return invoice


def change(draft: LedgerDraft, invoice: Invoice, update: InvoiceUpdate, cause: Cause, *, at: int) -> Invoice:
    """Change an open invoice, and write down what changed."""
    fields = {"status", "settled_at", "period_end", "due_at", "overdue_at", "amount", "lines"}
    changed = {name: value for name in fields if (value := getattr(update, name)) is not None}
    if "lines" in changed:
        changed["position"] = draft.position
    after = _replace(invoice, **changed)
    draft.put_invoice(after)
    draft.note(EntryKind.INVOICE_CHANGED, cause, at=at, details=json_text(update))
    return after


def close(
    draft: LedgerDraft, subscription: Subscription, invoice: Invoice, lines: Iterable[Line], *, at: int
) -> Invoice:
    """Close the invoice of a period that is over: its lines are final and it is due, or paid if it is nothing.

    The period may have been cut short by a change of plan.
    """
    rows = list(lines)
    amount = sum((each.amount for each in rows), ZERO)
    paid, due_at = amount <= ZERO, _due_at(subscription, at)
    update = InvoiceUpdate(
        invoice=invoice.number,
        status=InvoiceStatus.PAID if paid else InvoiceStatus.DUE,
        settled_at=at if paid else None,
        period_end=at,
        due_at=due_at,
        overdue_at=overdue_at(subscription, due_at),
        amount=amount,
        lines=rows,
    )
    return change(draft, invoice, update, Cause.CLOSED, at=at)


def cancel(draft: LedgerDraft, invoice: Invoice, *, at: int) -> Invoice:
    """Cancel the invoice of a period that another has taken the place of at its very beginning."""
    update = InvoiceUpdate(invoice=invoice.number, status=InvoiceStatus.CANCELLED, settled_at=at)
    return change(draft, invoice, update, Cause.CANCELLED, at=at)


def void(draft: LedgerDraft, invoice: Invoice, *, at: int) -> Invoice:
    """Void an open invoice; the usage on it goes back to its counters, and is billed by the next one.

    Raises:
        ProblemError: it is closed already.
    """
    if not invoice.open:
        raise _not_open(invoice, "voided")
    for each in invoice.lines:
        if each.counter_start is not None and each.kind in _BILLS_COUNTERS:
            key = CounterKey(invoice.subscription, each.feature, each.counter_start)
            counter = draft.counter(key)
            billed_to = min(counter.billed_to, each.after)
            draft.put_counter(key, _replace(counter, billed=counter.billed - each.exact, billed_to=billed_to))
    update = InvoiceUpdate(invoice=invoice.number, status=InvoiceStatus.VOID, settled_at=at)
    return change(draft, invoice, update, Cause.VOIDED, at=at)


def pay(draft: LedgerDraft, invoice: Invoice, *, at: int) -> Invoice:
    """Mark an invoice as paid; one that is paid already stays as it is (CONTRACTS D4).

    Raises:
        ProblemError: it is not to be paid: still open to usage, void or cancelled.
    """
    if invoice.status is InvoiceStatus.PAID:
        return invoice
    if invoice.status not in TO_PAY:
        raise _not_open(invoice, "paid")
    update = InvoiceUpdate(invoice=invoice.number, status=InvoiceStatus.PAID, settled_at=at)
    return change(draft, invoice, update, Cause.PAID, at=at)


def _not_open(invoice: Invoice, deed: str) -> ProblemError:
    advice = "; it can be when its period is over" if invoice.status is InvoiceStatus.PENDING else ""
    text = f"an invoice that is {invoice.status} cannot be {deed}{advice}"
    return ProblemError(Problem(code=Code.CONFLICT, message=text))
