"""What an invoice will be: the books are lived on to the end of the period, and nothing of it is kept."""

from itertools import count

from tallyd.engine.account import Account, apply, renewal_at
from tallyd.engine.credits.book import NEVER
from tallyd.engine.passing import UNWRITTEN, pass_time
from tallyd.model.invoice import Invoice, InvoiceKind, InvoiceStatus


def upcoming(account: Account, number: int) -> Invoice | None:
    """Return the next invoice of a subscription as it would be if nothing happened until then, or None.

    Args:
        account: the customer's books, as they are now.
        number: row number of the subscription.
    """
    found = account.subscription(number)
    at = NEVER if found is None else renewal_at(found[0], account.counters)
    if at == NEVER:
        return None
    account, made = account.copy(), dict[int, Invoice]()
    numbers = count(UNWRITTEN).__next__
    while (changes := pass_time(account, at, numbers)) is not None:
        apply(account, changes)
        made.update(changes.invoices)
    for invoice in made.values():
        closed = invoice.kind is InvoiceKind.IN_ARREARS and invoice.period_end == at
        comes = invoice.status is not InvoiceStatus.PENDING and (closed or invoice.issued_at == at)
        if invoice.subscription == number and comes:
            return invoice
    return None
