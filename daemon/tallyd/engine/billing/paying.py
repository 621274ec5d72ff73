"""What people decide of an invoice: it is paid, or void."""

from collections.abc import Iterable, Iterator

import msgspec

from tallyd.engine.billing import invoicing, overage, renewing
from tallyd.engine.credits.draft import Draft
from tallyd.model.invoice import Invoice, InvoiceStatus, Line, LineKind
from tallyd.model.ledger_entries import Cause
from tallyd.model.problems import Code, Problem, ProblemError
from tallyd.model.subscription import Waived


def pay(draft: Draft, invoice: Invoice) -> Invoice:
    """Mark an invoice as paid; access comes back with it. Paid already, nothing changes (CONTRACTS D4).

    Raises:
        ProblemError: it is not to be paid.
    """
    paid = invoicing.pay(draft, invoice, at=draft.now)
    if invoice.status is not InvoiceStatus.PAID:
        renewing.restore(draft, invoice.subscription, draft.now)
    return paid


def void(draft: Draft, invoice: Invoice) -> Invoice:
    """Void an invoice that is to be paid: the usage on it is billed by the next one, its base price is waived.

    Raises:
        ProblemError: it is closed, or its period still runs.
    """
    if invoice.status is InvoiceStatus.PENDING:
        message = "the invoice's period still runs; void it when it is due"
        raise ProblemError(Problem(code=Code.VALIDATION_FAILED, message=message))
    voided = invoicing.void(draft, invoice, at=draft.now)
    subscription = draft.subscription(invoice.subscription)
    waived = [each for each in subscription.waived if each.end > draft.now]
    ahead = base_ahead([invoice], draft.now)
    waived += [Waived(line.period_start, line.period_end, line.exact) for line in ahead]
    if waived != subscription.waived:
        draft.put_subscription(msgspec.structs.replace(subscription, waived=waived), Cause.VOIDED, at=draft.now)
    overage.restore(draft, invoice)
    renewing.restore(draft, invoice.subscription, draft.now)
    return voided


def base_ahead(invoices: Iterable[Invoice], now: int) -> Iterator[Line]:
    """Return the lines of invoices that charge a base price, or give one back, for time to come."""
    kinds = {LineKind.BASE, LineKind.PRORATION}
    base = (line for each in invoices for line in each.lines if line.kind in kinds and line.exact)
    return (line for line in base if line.period_end > now)
