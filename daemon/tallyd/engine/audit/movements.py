"""What each movement of credits must look like, given where pools, grants and holds stood before it."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final

from tallyd.engine.audit import credit_dues
from tallyd.engine.audit.allocations import INCLUDED, Allocations
from tallyd.engine.audit.basis import Basis
from tallyd.engine.audit.entry_form import Deltas, deltas_of
from tallyd.engine.audit.findings import Findings
from tallyd.engine.audit.lives import Life
from tallyd.engine.audit.wallet import Grant, Link, Pool, Shelf, Wallet, amount_of
from tallyd.model.credits import GrantTerms, GrantType, HoldStatus
from tallyd.model.ledger_entries import Cause, Entry, EntryKind, text
from tallyd.model.money import ZERO
from tallyd.model.periods import calendar_month

_INCLUDING: Final = (Cause.PLAN, Cause.WITHHELD, Cause.UPGRADED)
_FORGIVEN: Final = {
    Cause.OVERAGE_FORGIVEN: "forgive_at_reset",
    Cause.OVERAGE_CHARGED: "invoice_at_billing",
    Cause.OVERAGE_REPAID: "carry_deficit_auto_repay",
}


class MovementRules:
    """Checks entries before they are played; it changes links only, by what was drawn over them."""

    def __init__(self, basis: Basis, allocations: Allocations, findings: Findings, shelf: Shelf | None) -> None:
        self._basis = basis
        self._allocations = allocations
        self._findings = findings
        self._shelf = shelf

    def check(self, held: Wallet, pool: Pool, entry: Entry, details: Any, deltas: Deltas) -> None:
        """Report what an entry does that its kind, or the state of the books before it, does not allow."""
        rules = {
            EntryKind.GRANT: self._grant,
            EntryKind.DEDUCTION: self._deduction,
            EntryKind.EXPIRATION: self._expiration,
            EntryKind.REVERSAL: self._reversal,
            EntryKind.ADJUSTMENT: self._adjustment,
        }
        rule = rules.get(EntryKind(entry.kind))
        for message in rule(held, pool, entry, details, deltas) if rule else ():
            self._findings.add("ledger entry", entry.id, message)
        if pool.archived:
            self._findings.add("ledger entry", entry.id, f"pool {pool.number} is archived")
        overage = amount_of(entry.overage_after) - amount_of(entry.overage_before)
        if EntryKind(entry.kind) in (EntryKind.GRANT, EntryKind.EXPIRATION) and overage:
            self._findings.add("ledger entry", entry.id, "it changes the overage")

    def check_owner(self, entry: Entry, subscription: int) -> None:
        """Check that a subscription is the customer's."""
        found = self._basis.subscription_numbered(subscription)
        owner = None if found is None else found.customer
        what = f"the customer of subscription {subscription}"
        self._findings.same("ledger entry", entry.id, what, owner, entry.customer)

    # Kinds

    def _grant(self, held: Wallet, pool: Pool, entry: Entry, terms: GrantTerms, deltas: Deltas) -> Iterator[str]:
        if [number for number, _ in deltas] != [entry.id]:
            yield f"it grants to {entry.grants}"
        if entry.cause in _INCLUDING:
            yield from self._included(held, pool, entry, terms)
        elif terms.type in INCLUDED:
            yield f"the cause {entry.cause} gives no credits of type {terms.type}"
        if entry.cause == Cause.RECURRING:
            yield from _recurring(pool, entry, terms)
        elif entry.cause == Cause.TOP_UP:
            yield from _topped_up(pool, entry, terms)

    def _included(self, held: Wallet, pool: Pool, entry: Entry, terms: GrantTerms) -> Iterator[str]:
        number = -1 if terms.subscription is None else terms.subscription
        life, link = self._basis.lives.get(number), held.links.get((pool.number, number))
        included = self._allocations.included(life.state, pool, entry.at) if life else None
        if life is None or link is None or included is None:
            yield f"the plan of subscription {number} includes no credits in pool {pool.number}"
            return
        period = life.state.period_at(entry.at)
        if terms.type is not GrantType.PLAN_INCLUDED or terms.period_start != period.start:
            yield f"it is for the period from {terms.period_start}, should be {period.start}"
        amount = included.amount
        if entry.cause == Cause.PLAN:
            yield from self._begun(held, life, link, entry)
        elif not self._allocations.came(entry, number):
            yield f"no credits come by the cause {entry.cause}"
        if entry.cause == Cause.UPGRADED:
            amount = self._allocations.more(life, link, pool, entry.at)
        if amount_of(entry.amount) != amount or terms.priority != included.grant_priority:
            yield f"the plan includes {text(amount)} at priority {included.grant_priority}"
        if pool.model.rollover.policy == "NONE" and not (terms.expires_at and terms.expires_at <= period.end):
            yield f"it ends at {terms.expires_at}, after the period"
        if life.entered:  # books that knew no invoices do not count them
            link.included = included.amount

    def _begun(self, held: Wallet, life: Life, link: Link, entry: Entry) -> Iterator[str]:
        """Check that the credits of a period come when it begins, once, and with access."""
        start = life.state.period_at(entry.at).start
        if link.allocated_in >= start:
            yield f"the credits of the period from {start} were granted before"
        elif link.begins != entry.at and not link.loose:
            yield f"no period begins at {entry.at}"
        if life.denied_at(entry.at):
            yield "there is no access: they are withheld"
        self._allocations.allocate(held, link, start)

    def _deduction(self, held: Wallet, pool: Pool, entry: Entry, _: Any, deltas: Deltas) -> Iterator[str]:
        at, lifted = entry.at, held.lifted
        kept = lifted is not None and lifted.hold == entry.hold
        overage = amount_of(entry.overage_after) - amount_of(entry.overage_before)
        if entry.event is not None:
            at = max(at, held.used.occurred_at)
            if entry.event != held.used.event:
                yield f"event {entry.event} is not the customer's last before it"
        elif overage or entry.amount == "0":
            yield "a deduction by hand draws from the balance"
        if pool.frozen and not kept and (deltas or overage):  # what is waived draws nothing
            yield f"pool {pool.number} is frozen"
        if entry.hold is not None and not kept:
            yield from self._after_its_end(entry)
        limit = pool.model.overage.limit if pool.model.overage else ZERO
        allowed = kept or limit is None or amount_of(entry.overage_after) <= limit  # a hold's own was allowed then
        if overage < ZERO or (overage and not allowed):
            yield f"the overage goes from {entry.overage_before} to {entry.overage_after}"
        yield from _drawn_while_live(held, deltas, at)

    def _after_its_end(self, entry: Entry) -> Iterator[str]:
        """Check that a hold which is not open had ended by itself: only then may its usage still come."""
        row = self._shelf.hold_again(entry.hold or -1) if self._shelf else None
        if row is None or row[1:3] != (entry.customer, HoldStatus.EXPIRED.value):
            yield f"hold {entry.hold} is not one of the customer's that had ended by itself"

    def _expiration(self, held: Wallet, pool: Pool, entry: Entry, _: Any, deltas: Deltas) -> Iterator[str]:
        if len(deltas) != 1:
            yield f"it ends {entry.grants}"
            return
        (number, delta), *_rest = deltas
        grant = held.grants[number]
        if entry.cause == Cause.EXPIRY:
            ends = grant.terms.expires_at
            if ends is None or not (entry.at == ends or ends < entry.at == pool.back_at):
                yield f"at is {entry.at!r}, grant {number} ends at {ends!r}"
            if grant.remaining != -delta:
                yield f"grant {number} has {text(grant.remaining)} left, all of which ends"
            return
        if not self._allocations.forfeits(entry, number):
            yield from self._at_period_end(entry, grant)
        if grant.free < -delta:
            yield f"grant {number} has only {text(grant.free)} free"

    def _at_period_end(self, entry: Entry, grant: Grant) -> Iterator[str]:
        """Check that the entry stands at the start of a period of the subscription that includes the grant."""
        subscription = self._basis.subscription_numbered(grant.terms.subscription or -1)
        if subscription is None or grant.terms.type not in INCLUDED:
            yield f"grant {grant.number} is not included with a plan"
        elif subscription.period_at(entry.at).start != entry.at:
            yield f"no period of subscription {subscription.number} begins at {entry.at}"

    def _adjustment(self, held: Wallet, pool: Pool, entry: Entry, terms: Any, deltas: Deltas) -> Iterator[str]:
        overage = amount_of(entry.overage_after) - amount_of(entry.overage_before)
        if entry.cause == Cause.ROLLOVER:
            yield from self._rollover(held, entry, terms, deltas)
            if overage:
                yield "it changes the overage"
            return
        if entry.cause == Cause.OVERAGE_BACK:
            if deltas or entry.amount != "0" or not self._allocations.overage_came(pool, overage):
                yield f"no invoice of {text(overage)} overage was voided"
            return
        if pool.model.overage is None or pool.model.overage.behavior != _FORGIVEN[Cause(entry.cause)]:
            yield f"the pool does not say {entry.cause}"
        if entry.cause == Cause.OVERAGE_REPAID:
            if len(deltas) != 1 or overage != amount_of(entry.amount) or overage >= ZERO:
                yield f"it repays {text(-overage)} with {entry.grants}"
        elif deltas or entry.amount != "0" or entry.overage_after != "0" or overage >= ZERO:
            yield f"it leaves an overage of {entry.overage_after}"

    def _rollover(self, held: Wallet, entry: Entry, terms: GrantTerms, deltas: Deltas) -> Iterator[str]:
        if len(deltas) != 2 or deltas[1][0] != entry.id or deltas[1][1] <= ZERO:  # noqa: PLR2004 - from one to another
            yield f"it carries over {entry.grants}"
            return
        old = held.grants[deltas[0][0]]
        yield from self._at_period_end(entry, old)
        fixed = (terms.parent, terms.rollovers, terms.type, terms.subscription)
        if fixed != (old.number, old.terms.rollovers + 1, GrantType.ROLLOVER, old.terms.subscription):
            yield f"its terms do not follow from those of grant {old.number}"
        if old.free < deltas[1][1]:
            yield f"grant {old.number} has only {text(old.free)} free"

    def _reversal(self, held: Wallet, pool: Pool, entry: Entry, _: Any, deltas: Deltas) -> Iterator[str]:
        before = self._shelf.entry(entry.reverses or -1) if self._shelf else None
        kinds = (EntryKind.GRANT, EntryKind.DEDUCTION)
        if before is None or before.kind not in kinds or before.pool != pool.number or before.id >= entry.id:
            yield f"entry {entry.reverses} is no transaction before it that can be reversed"
            return
        if (before.event, before.feature) != (entry.event, entry.feature):
            yield f"it names another event or feature than entry {before.id}"
        overage = amount_of(entry.overage_after) - amount_of(entry.overage_before)
        if before.kind == EntryKind.GRANT:
            grant = held.grants[before.id]
            if deltas != [(grant.number, -grant.free)] or not grant.free or overage:
                yield f"grant {grant.number} has {text(grant.free)} free, all of which goes back"
            return
        added = amount_of(before.overage_after) - amount_of(before.overage_before)
        if deltas != [(number, -delta) for number, delta in deltas_of(before)]:
            yield f"it gives back {entry.grants}, entry {before.id} took {before.grants}"
        if overage != -min(amount_of(entry.overage_before), added):
            yield f"overage_after is {entry.overage_after}, entry {before.id} added {text(added)}"

    # Links

    def count_drawn(self, held: Wallet, entry: Entry, subscription: int | None, total: Decimal) -> None:
        """Count what an event drew towards its subscription's draw limit."""
        link = held.links.get((entry.pool or 0, subscription or 0))
        if link is None or not total:
            return
        start = self._period_start(link, entry.written_at)
        drawn = (link.drawn if link.drawn_in == start else ZERO) + total
        link.drawn, link.drawn_in = drawn, start
        if link.draw_limit is not None and drawn > link.draw_limit and entry.hold is None:
            message = f"{text(drawn)} drawn in a period, the limit is {text(link.draw_limit)}"
            self._findings.add("ledger entry", entry.id, message)

    def _period_start(self, link: Link, moment: int) -> int:
        subscription = self._basis.subscription_numbered(link.subscription)
        return -1 if subscription is None else subscription.period_at(max(moment, subscription.starts_at)).start


def _drawn_while_live(held: Wallet, deltas: Deltas, at: int) -> Iterator[str]:
    for number, delta in deltas:
        grant = held.grants[number]
        if delta >= ZERO:
            yield f"it draws {text(-delta)} from grant {number}"
        if grant.terms.expires_at is not None and at >= grant.terms.expires_at:
            yield f"grant {number} had ended at {grant.terms.expires_at}"


def _recurring(pool: Pool, entry: Entry, terms: GrantTerms) -> Iterator[str]:
    rule = pool.model.recurring
    if rule is None or amount_of(entry.amount) != rule.amount or terms.type is not GrantType.SYSTEM:
        yield f"pool {pool.number} has no recurring credits of {entry.amount}"
        return
    following = credit_dues.next_recurrence(pool, pool.recurred_at or pool.opened_at)
    opening = not pool.recurred_at and entry.at == pool.opened_at
    if entry.at != following and not opening:
        yield f"at is {entry.at}, recurring credits come at {following}"
    if rule.expires and terms.expires_at != credit_dues.next_recurrence(pool, entry.at):
        yield f"it ends at {terms.expires_at}, not when the next ones come"


def _topped_up(pool: Pool, entry: Entry, terms: GrantTerms) -> Iterator[str]:
    rule = pool.model.top_up
    if rule is None or amount_of(entry.amount) != rule.amount or terms.type is not GrantType.SYSTEM:
        yield f"pool {pool.number} has no top-up of {entry.amount}"
        return
    if pool.balance - pool.held >= rule.below:
        yield f"{text(pool.balance - pool.held)} are available, a top-up comes below {text(rule.below)}"
    times = pool.topped_up if pool.topped_up_in == calendar_month(entry.at).start else 0
    if times >= rule.most_a_month:
        yield f"it is top-up {times + 1} of the month"
