"""Overage that was charged: where it has a price, an invoice has a line for it."""

from typing import Final

from tallyd.engine.audit.basis import Basis
from tallyd.engine.audit.followups import Demand, FollowUps
from tallyd.engine.audit.wallet import Pool, Wallet, amount_of
from tallyd.model.invoice import LineKind
from tallyd.model.ledger_entries import Entry, EntryKind

_INVOICING: Final = frozenset({EntryKind.ADJUSTMENT, EntryKind.INVOICE_MADE, EntryKind.INVOICE_CHANGED})


def demand_line(basis: Basis, follow_ups: FollowUps, held: Wallet, pool: Pool, entry: Entry) -> None:
    """Demand a line for overage that an entry charges, if it has a price in the currency of a subscription.

    A pool that serves subscriptions in several currencies may be charged without one, at a period's end.
    """
    rule = pool.model.overage
    lives = [basis.lives.get(link.subscription) for link in held.links.values() if link.pool == pool.number]
    plans = [basis.plan_at(life.state, entry.at) for life in lives if life is not None]
    currencies = {plan.currency for plan in plans if plan is not None}
    if rule is None or rule.price_per_unit is None or rule.currency not in currencies:
        return
    message = "no invoice has a line for it" if len(currencies) == 1 else ""
    what = (LineKind.OVERAGE, pool.number, amount_of(entry.overage_before), rule.price_per_unit)
    follow_ups.expect(held.customer, what, Demand("ledger entry", entry.id, message, _INVOICING))
