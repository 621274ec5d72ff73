"""Usage of a period that is over: what comes late, or is taken back, and the invoice it belongs on.

By a feature's `late_events` a late event is charged on the next invoice (`adjust`), goes on its period's invoice
while that is in its grace days (`reopen`), or is not taken (`refuse`). What is voided follows on any invoice that
is not closed. A closed invoice is never rewritten: the next one adjusts.
"""

from typing import Final

import msgspec

from tallyd.engine.account import CounterKey, Enrolment
from tallyd.engine.billing import invoicing, renewing
from tallyd.engine.billing import lines as lines_of
from tallyd.engine.counting import Count
from tallyd.engine.credits.draft import Draft
from tallyd.engine.draft import LedgerDraft
from tallyd.model.event import UsageEvent
from tallyd.model.invoice import Invoice, InvoiceKind, InvoiceStatus, InvoiceUpdate, Line, LineKind
from tallyd.model.ledger_entries import Cause
from tallyd.model.moments import iso
from tallyd.model.money import ZERO
from tallyd.model.problems import invalid

_replace: Final = msgspec.structs.replace


def late_counts(enrolment: Enrolment, counts: list[Count], event: UsageEvent) -> list[Count]:
    """Return in which features an event counts for a period that is over.

    Raises:
        ProblemError: one of them does not take late events.
    """
    segment = enrolment.segment_at(event.occurred_at)
    if segment.end > enrolment.subscription.renewed_to:
        return []
    for count in counts:
        if count.feature.late_events == "refuse":
            ended = f"lies in a period that ended at {iso(segment.end)}"
            raise invalid("occurredAt", f"{ended}; late events of {count.feature.key!r} are refused")
    return counts


def reopen(draft: Draft, key: CounterKey, *, in_grace: bool) -> bool:
    """Write the lines of a counter anew on the invoice that bills it, if that may still be changed; say whether.

    If nothing is left to pay, it is paid, and access comes back with it.

    Args:
        draft: the books, with the counter as it is now.
        key: the counter.
        in_grace: only while the invoice is due and its grace days are not over.
    """
    enrolment = draft.enrolment_at(key.subscription, key.period_start)
    segment = enrolment.segment_at(key.period_start)
    invoice = _bearer(draft, key, segment.end)
    if invoice is None or (
        in_grace and (invoice.status is not InvoiceStatus.DUE or invoice.overdue_at <= draft.now)
    ):
        return False
    own = [each for each in invoice.lines if _bills(each, key)]
    others = [each for each in invoice.lines if not _bills(each, key) and each.kind is not LineKind.TRIAL]
    counter = draft.counter(key)
    billed = counter.billed - sum((each.exact for each in own), ZERO)
    billed_to = min([counter.billed_to, *(each.after for each in own)])
    counter = _replace(counter, billed=billed, billed_to=billed_to)
    lines = [*others, *lines_of.usage(enrolment, key, counter, segment, draft.position)]
    lines = invoicing.without_trial_usage(enrolment.subscription, enrolment.plan, lines)
    draft.put_counter(key, _replace(counter, billed=counter.charged, billed_to=draft.position))
    amount = sum((each.amount for each in lines), ZERO)
    paid = amount <= ZERO
    update = InvoiceUpdate(
        invoice=invoice.number,
        status=InvoiceStatus.PAID if paid else invoice.status,
        settled_at=draft.now if paid else None,
        amount=amount,
        lines=lines,
    )
    invoicing.change(draft, invoice, update, Cause.REVISED, at=draft.now)
    if paid:
        renewing.restore(draft, key.subscription, draft.now)
    return True


def _bills(line: Line, key: CounterKey) -> bool:
    return line.counter_start == key.period_start and line.feature == key.feature


def _bearer(draft: LedgerDraft, key: CounterKey, end: int) -> Invoice | None:
    """Return the invoice that is to be paid and bills a counter, or would if there had been usage by its end."""
    to_pay = [each for each in draft.open_invoices(key.subscription) if each.status in invoicing.TO_PAY]
    for invoice in reversed(to_pay):
        if any(_bills(line, key) for line in invoice.lines):
            return invoice
    if draft.counter(key).billed_to:
        return None
    for invoice in to_pay:
        in_arrears = invoice.kind is InvoiceKind.IN_ARREARS and invoice.period_start < end <= invoice.period_end
        if in_arrears or (invoice.kind is InvoiceKind.IN_ADVANCE and invoice.issued_at == end):
            return invoice
    return None
