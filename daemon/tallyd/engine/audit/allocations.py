"""Credits included with plans: given when a period begins, withheld without access, more after an upgrade.

Where a plan includes nothing in a pool, or access is denied, a period begins for a link without an entry of its
own; the auditor knows it by the subscription's.
"""

from decimal import Decimal
from typing import Final

from tallyd.engine.audit.basis import Basis
from tallyd.engine.audit.findings import Findings
from tallyd.engine.audit.followups import Demand, FollowUps
from tallyd.engine.audit.lives import Life
from tallyd.engine.audit.wallet import Link, Pool, Wallet
from tallyd.model.catalog import PlanCredits
from tallyd.model.credits import GrantType
from tallyd.model.ledger_entries import Cause, Entry, EntryKind
from tallyd.model.money import ZERO
from tallyd.model.subscription import Subscription

INCLUDED: Final = (GrantType.PLAN_INCLUDED, GrantType.ROLLOVER)
_BY_TIME: Final = {
    EntryKind.SUBSCRIPTION: {Cause.RENEWED, Cause.SUBSCRIBED, Cause.ENDED},
    EntryKind.INVOICE_MADE: {Cause.PERIOD},
    EntryKind.INVOICE_CHANGED: {Cause.CLOSED, Cause.OVERDUE},
    EntryKind.GRANT: {Cause.PLAN, Cause.RECURRING, Cause.TOP_UP},
    EntryKind.EXPIRATION: {Cause.EXPIRY, Cause.FORFEIT},
    EntryKind.ADJUSTMENT: {
        Cause.ROLLOVER,
        Cause.OVERAGE_FORGIVEN,
        Cause.OVERAGE_CHARGED,
        Cause.OVERAGE_REPAID,
    },
    EntryKind.HOLD_CLOSED: {Cause.EXPIRY},
}
_GIVING: Final = frozenset({EntryKind.GRANT, EntryKind.ADJUSTMENT, EntryKind.INVOICE_MADE, EntryKind.SUBSCRIPTION})
_UNTIL_OVERAGE: Final = frozenset(
    {EntryKind.INVOICE_CHANGED, EntryKind.SUBSCRIPTION, EntryKind.EXPIRATION, EntryKind.ADJUSTMENT}
)


class Allocations:
    """Follows the links of pools to subscriptions through the periods."""

    def __init__(self, basis: Basis, follow_ups: FollowUps, findings: Findings) -> None:
        self._basis = basis
        self._follow_ups = follow_ups
        self._findings = findings

    def included(self, subscription: Subscription, pool: Pool, moment: int) -> PlanCredits | None:
        """Return what a subscription's plan includes in a pool at an instant."""
        plan = self._basis.plan_at(subscription, moment)
        found = (each for each in plan.credits if each.credit_model == pool.model.key) if plan else iter(())
        return next(found, None)

    # A period begins

    def begin(self, held: Wallet, life: Life, at: int) -> None:
        """Note that a period has begun: its credits come next."""
        start = life.state.period_at(at).start
        for link in _links_of(held, life):
            if link.allocated_in < start:
                self.begin_link(held, link, at)
                link.loose = False

    def begin_link(self, held: Wallet, link: Link, at: int) -> None:
        """Note that a period has begun for one link."""
        link.begins = at
        held.beginning.add((link.pool, link.subscription))

    def settle(self, held: Wallet, entry: Entry | None) -> None:
        """See that what was to come has come, before an event (None) or an entry that time did not make then."""
        if not held.beginning:
            return
        by_time = entry is not None and entry.cause in _BY_TIME.get(EntryKind(entry.kind), ())
        for place in list(held.beginning):
            link = held.links[place]
            if entry is None or not by_time or entry.at > (link.begins or 0):
                self._settle(held, link)

    def _settle(self, held: Wallet, link: Link) -> None:
        life, pool, at = self._basis.lives[link.subscription], held.pools[link.pool], link.begins or 0
        included = self.included(life.state, pool, at)
        denied = life.denied_at(at)
        self.allocate(held, link, life.state.period_at(at).start)
        link.withheld = included is not None and denied
        if included is not None and not denied and not pool.archived:
            where = f"pool {link.pool} subscription {link.subscription}"
            message = f"the credits of the period from {link.allocated_in} were not granted"
            self._findings.add("pool link", where, message)

    def allocate(self, held: Wallet, link: Link, start: int) -> None:
        """Note that a period's credits were dealt with."""
        link.allocated_in, link.withheld, link.begins, link.included = start, False, None, ZERO
        held.beginning.discard((link.pool, link.subscription))

    # What others lead to

    def restore(self, held: Wallet, life: Life, at: int) -> None:
        """Access is back: what was withheld of the running period must come."""
        for link in _links_of(held, life):
            if link.withheld:
                link.withheld = False
                pool = held.pools[link.pool]
                if self.included(life.state, pool, at) is not None:
                    self._expect(held, link, Cause.WITHHELD)

    def upgrade(self, held: Wallet, life: Life, at: int) -> None:
        """The plan is another in a period that runs on: the difference must come."""
        for link in _links_of(held, life):
            if not link.withheld and self.more(life, link, held.pools[link.pool], at) > ZERO:
                self._expect(held, link, Cause.UPGRADED)

    def more(self, life: Life, link: Link, pool: Pool, at: int) -> Decimal:
        """Return what the plan includes more than the one before the last change, and than what has come."""
        after = self.included(life.state, pool, at)
        before = self.included(life.turn.before, pool, at) if life.turn else None
        return (after.amount if after else ZERO) - max(link.included, before.amount if before else ZERO)

    def _expect(self, held: Wallet, link: Link, cause: Cause) -> None:
        if held.pools[link.pool].archived:
            return
        where = f"pool {link.pool} subscription {link.subscription}"
        demand = Demand("pool link", where, f"included credits should come, by the cause {cause}", _GIVING)
        self._follow_ups.expect(held.customer, (cause, link.pool, link.subscription), demand)

    def expect_overage(self, pool: Pool, quantity: Decimal, invoice: int) -> None:
        """Demand that overage comes back, whose invoice is void."""
        pool.overage_back += quantity
        message = f"{quantity} overage on it does not come back to pool {pool.number}"
        demand = Demand("invoice", invoice, message, _UNTIL_OVERAGE)
        self._follow_ups.expect(pool.customer, (Cause.OVERAGE_BACK, pool.number), demand)

    def overage_came(self, pool: Pool, quantity: Decimal) -> bool:
        """Say whether overage was to come back, and note that it did."""
        wanted = ZERO < quantity <= pool.overage_back
        pool.overage_back -= quantity
        if not pool.overage_back:
            self._follow_ups.came(pool.customer, (Cause.OVERAGE_BACK, pool.number))
        return wanted

    def came(self, entry: Entry, subscription: int) -> bool:
        """Whether included credits were to come by an entry's cause."""
        return self._follow_ups.came(entry.customer, (Cause(entry.cause), entry.pool, subscription))

    def forfeit(self, held: Wallet, subscription: int) -> None:
        """The subscription ended at once: what it included and nobody used or holds must go."""
        for grant in held.grants.values():
            if grant.terms.type in INCLUDED and grant.terms.subscription == subscription and grant.free > ZERO:
                message = f"its subscription {subscription} ended at once, and it did not"
                demand = Demand("grant", grant.number, message, frozenset({EntryKind.EXPIRATION}))
                self._follow_ups.expect(held.customer, (Cause.FORFEIT, grant.number), demand)

    def forfeits(self, entry: Entry, grant: int) -> bool:
        """Whether a grant was to go because its subscription ended at once."""
        return self._follow_ups.came(entry.customer, (Cause.FORFEIT, grant))

    # What the books say

    def allocated_in(self, held: Wallet, link: Link, stands: int) -> int:
        """Return where a link's allocation should stand.

        In books that knew no invoices a period began without any entry where the plan includes nothing: any start
        of a period since then will do.
        """
        life, pool = self._basis.lives.get(link.subscription), held.pools.get(link.pool)
        if not link.loose or life is None or pool is None or stands <= link.allocated_in:
            return link.allocated_in
        silent = pool.archived or self.included(life.state, pool, stands) is None
        return stands if silent and life.state.period_at(stands).start == stands else link.allocated_in


def _links_of(held: Wallet, life: Life) -> list[Link]:
    return [link for link in held.links.values() if link.subscription == life.state.number]
