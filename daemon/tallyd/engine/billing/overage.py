"""Billing credits that were drawn beyond the balance, where their model says that they are invoiced."""

from tallyd.engine.billing import lines as lines_of
from tallyd.engine.credits.draft import Draft
from tallyd.engine.rating import PricedPlan
from tallyd.model.credits import Pool
from tallyd.model.invoice import Invoice, Line, LineKind
from tallyd.model.ledger_entries import Cause, EntryKind
from tallyd.model.periods import Period


def lines(draft: Draft, number: int, plan: PricedPlan, period: Period, *, at: int) -> list[Line]:
    """Charge the overage of a subscription's pools that is to be invoiced, and return the lines that bill it."""
    found = []
    for link in list(draft.all_links()):
        pool = draft.pool(link.pool)
        if link.subscription == number and pool.overage and pool.overage_currency == plan.currency:
            found.append(_line(pool, plan, period))
            draft.move(pool.number, EntryKind.ADJUSTMENT, Cause.OVERAGE_CHARGED, at=at, overage=-pool.overage)
    return found


def restore(draft: Draft, invoice: Invoice) -> None:
    """Put the overage on an invoice that was voided back where it came from: it is charged again."""
    for line in invoice.lines:
        if line.pool is not None and line.quantity and not draft.pool(line.pool).archived:
            draft.move(line.pool, EntryKind.ADJUSTMENT, Cause.OVERAGE_BACK, at=draft.now, overage=line.quantity)


def _line(pool: Pool, plan: PricedPlan, period: Period) -> Line:
    rule = pool.model.overage
    assert rule is not None, "it is invoiced"
    assert rule.price_per_unit is not None, "it is invoiced"
    return lines_of.line(
        LineKind.OVERAGE,
        f"{pool.name}: {pool.model.denomination.lower()} beyond the balance",
        pool.overage * rule.price_per_unit,
        plan,
        period,
        quantity=pool.overage,
        unit_price=rule.price_per_unit,
        pool=pool.number,
    )
