"""The auditor's own credits: their entries are played again, and pools, grants, links and holds must follow.

It shares the nouns and the arithmetic of periods with the engine, and none of its bookkeeping (P3, P10).
"""

from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any, Final

import msgspec

from tallyd.engine.audit import credit_dues, wallet
from tallyd.engine.audit.allocations import Allocations
from tallyd.engine.audit.basis import Basis
from tallyd.engine.audit.entry_form import deltas_of
from tallyd.engine.audit.findings import Findings
from tallyd.engine.audit.followups import FollowUps
from tallyd.engine.audit.movements import MovementRules
from tallyd.engine.audit.overage import demand_line
from tallyd.engine.audit.wallet import (
    Grant,
    Hold,
    Link,
    Pool,
    Row,
    Shelf,
    Used,
    Wallet,
    amount_of,
    compare,
    encode,
)
from tallyd.engine.credits.alerts import BALANCE_LOW, DEPLETED
from tallyd.engine.credits.granting import LinkTerms, PoolTerms
from tallyd.engine.credits.holding import HoldEnd, HoldLeft
from tallyd.engine.rows import ChargeRow, EventRow
from tallyd.model.credits import OVERAGE, GrantTerms, HoldPart, HoldStatus, HoldTerms
from tallyd.model.event import event_uuid
from tallyd.model.ledger_entries import Cause, Entry, EntryKind, text
from tallyd.model.money import ZERO
from tallyd.model.periods import calendar_month

_TOTALS: Final = {
    EntryKind.GRANT: ("granted", 1),
    EntryKind.DEDUCTION: ("consumed", -1),
    EntryKind.EXPIRATION: ("expired", -1),
    EntryKind.REVERSAL: ("reversed", 1),
    EntryKind.ADJUSTMENT: ("consumed", -1),
}
_ENDS: Final = {
    Cause.EVENT: HoldStatus.SETTLED,
    Cause.MANUAL: HoldStatus.RELEASED,
    Cause.EXPIRY: HoldStatus.EXPIRED,
}


class CreditAudit:
    """Give it entries, events and alerts in order of their numbers, then what the books say.

    Attributes:
        allocations: what follows links through the periods.
        pools: rows of pools compared.
        grants: grants made.
        holds: holds opened.
    """

    def __init__(
        self, basis: Basis, follow_ups: FollowUps, findings: Findings, shelf: Shelf | None = None
    ) -> None:
        self._basis = basis
        self._follow_ups = follow_ups
        self._findings = findings
        self._shelf = shelf
        self._wallets: dict[int, Wallet] = {}
        self.allocations = Allocations(basis, follow_ups, findings)
        self._rules = MovementRules(basis, self.allocations, findings, shelf)
        self.pools = self.grants = self.holds = 0
        self._act: dict[EntryKind, Callable[[Wallet, Entry, Any], None]] = {
            EntryKind.POOL_OPENED: self._open_pool,
            EntryKind.POOL_CHANGED: self._change_pool,
            EntryKind.POOL_LINKED: self._link_pool,
            EntryKind.HOLD_OPENED: self._open_hold,
            EntryKind.HOLD_DRAWN: self._draw_hold,
            EntryKind.HOLD_CLOSED: self._close_hold,
        }

    def wallet(self, customer: int) -> Wallet | None:
        """Return a customer's credits; None when there never were any."""
        return self._wallets.get(customer)

    def wallets(self) -> Iterable[Wallet]:
        """Return every customer's credits."""
        return self._wallets.values()

    def pools_of(self, customer: int) -> list[Pool]:
        """Return a customer's pools as the entries so far have left them."""
        held = self._wallets.get(customer)
        return list(held.pools.values()) if held else []

    # In order of their numbers

    def event(self, row: EventRow, charges: list[ChargeRow]) -> None:
        """Take note of an event, whose deductions come next."""
        held = self._wallets.get(row.customer)
        if held is None:
            return
        self._check_put_down(held)
        held.used = Used(row.id, row.subscription, row.occurred_at)
        held.used.units = {charge.feature: Decimal(charge.units) for charge in charges}

    def before(self, entry: Entry) -> None:
        """Take note of an entry of any kind, before it is played."""
        held = self._wallets.get(entry.customer)
        if held is not None:
            held.written_at = entry.written_at
            self.allocations.settle(held, entry)

    def close(self, customer: int) -> None:
        """Before an event, or at the end: what entries lead to without one of their own has come."""
        held = self._wallets.get(customer)
        if held is not None:
            self.allocations.settle(held, None)

    def entry(self, entry: Entry, details: Any) -> None:
        """Play an entry; it may raise whatever damaged rows lead to."""
        held = self._wallets.get(entry.customer)
        if held is None:
            held = self._wallets[entry.customer] = Wallet(entry.customer)
            held.written_at = entry.written_at
        if entry.kind in (EntryKind.REVERSAL, EntryKind.POOL_CHANGED):
            held.loose_at = entry.written_at
        act = self._act.get(EntryKind(entry.kind))
        if act is not None:
            act(held, entry, details)
        else:
            self._move(held, entry, details)

    def alert(self, row: Row) -> None:
        """Check a row of `outbox`: it says how its pool stands right then."""
        number, customer, kind, at, body = row
        held = self._wallets.get(customer)
        said = msgspec.json.decode(body)["poolId"]
        pools = held.pools.values() if held else ()
        pool = next((each for each in pools if event_uuid(each.number) == said), None)
        if held is None or pool is None:
            self._findings.add("outbox", number, "no entry of its customer explains it")
            return
        mark = pool.model.low_at
        should = {
            "poolId": said,
            "creditModel": pool.model.key,
            "denomination": pool.model.denomination,
            "balance": text(pool.balance),
            "threshold": None if mark is None else text(mark),
        }
        self._findings.same("outbox", number, "at", at, held.written_at)
        self._findings.same("outbox", number, "type", kind, BALANCE_LOW if pool.balance else DEPLETED)
        self._findings.same("outbox", number, "body", body, encode(should).decode())

    def _check_put_down(self, held: Wallet) -> None:
        if held.lifted is not None:
            where, held.lifted = held.lifted.hold, None
            self._findings.add("hold", where, "was drawn by an event, but no entry says what is left of it")

    # Pools and links

    def _open_pool(self, held: Wallet, entry: Entry, terms: PoolTerms) -> None:
        self._same(entry, "pool", entry.pool, entry.id)
        held.pools[entry.id] = Pool(entry.id, entry.customer, terms.model, terms.name, entry.at, entry.at)

    def _change_pool(self, held: Wallet, entry: Entry, terms: PoolTerms) -> None:
        pool = held.pools[_given(entry.pool)]
        self._same(entry, "archived before it", pool.archived, False)
        if terms.archived:
            self._same(entry, "left in the archived pool", text(pool.balance + pool.overage_held), "0")
        if terms.model.recurring != pool.model.recurring:
            pool.recurred_at = entry.at  # what recurs begins then
        pool.name, pool.model, pool.archived = terms.name, terms.model, terms.archived
        pool.modified_at = entry.at

    def _link_pool(self, held: Wallet, entry: Entry, terms: LinkTerms) -> None:
        pool = held.pools[_given(entry.pool)]
        place = (pool.number, terms.subscription)
        self._rules.check_owner(entry, terms.subscription)
        link = held.links.setdefault(place, Link(*place, entry.customer, allocated_in=terms.allocated_in))
        if terms.allocated_in < link.allocated_in:
            self._same(entry, "allocated_in", terms.allocated_in, link.allocated_in)
        link.priority, link.draw_limit = terms.priority, terms.draw_limit
        link.allocated_in = terms.allocated_in
        life = self._basis.lives[terms.subscription]
        link.loose = link.loose or not life.entered
        if terms.allocated_in < 0 and life.state.starts_at <= entry.at:
            self.allocations.begin_link(held, link, entry.at)

    # Movements

    def _move(self, held: Wallet, entry: Entry, details: Any) -> None:
        pool = held.pools[_given(entry.pool)]
        self._same(entry, "balance_before", entry.balance_before, text(pool.balance))
        self._same(entry, "overage_before", entry.overage_before, text(pool.overage))
        kind, amount = EntryKind(entry.kind), amount_of(entry.amount)
        deltas = deltas_of(entry)
        hold = held.holds.get(entry.hold) if entry.hold is not None else None
        if hold is not None:
            held.lift(hold)
        for number, _ in deltas:
            self._fetch(held, pool, number, entry.id)
        self._rules.check(held, pool, entry, details, deltas)
        if kind is EntryKind.GRANT or entry.cause == Cause.ROLLOVER:
            self._make_grant(held, pool, entry, details, deltas)
        for number, delta in deltas:
            self._change(held, pool, entry, number, delta)
        if kind in _TOTALS:
            total, sign = _TOTALS[kind]
            setattr(pool, total, getattr(pool, total) + sign * amount)
        pool.balance, pool.overage = amount_of(entry.balance_after), amount_of(entry.overage_after)
        pool.modified_at = entry.at
        self._follow(held, pool, entry)
        totals = pool.granted - pool.consumed - pool.expired + pool.reversed
        if totals != pool.balance:
            self._same(entry, "the pool's balance by its totals", text(pool.balance), text(totals))
        for number, _ in deltas:
            self._let_go(held, number)

    def _fetch(self, held: Wallet, pool: Pool, number: int, before: int) -> None:
        """Have a grant at hand again that was let go because nothing was left of it."""
        if number in held.grants or self._shelf is None or number >= before:
            return
        row = self._shelf.grant_again(number)
        if row is not None and row[1] == pool.number and row[2] == held.customer:
            terms = msgspec.json.decode(row[7], type=GrantTerms)
            held.grants[number] = Grant(number, row[1], row[2], amount_of(row[3]), row[6], terms, row[7], row)

    def _make_grant(self, held: Wallet, pool: Pool, entry: Entry, terms: GrantTerms, deltas: Any) -> None:
        self.grants += 1
        amount = dict(deltas)[entry.id]
        stands = self._shelf.grant(entry.id) if self._shelf else None
        held.grants[entry.id] = Grant(
            entry.id, pool.number, entry.customer, amount, entry.at, terms, entry.details, stands
        )

    def _change(self, held: Wallet, pool: Pool, entry: Entry, number: int, delta: Decimal) -> None:
        grant = held.grants[number]
        self._same(entry, f"the pool of grant {number}", grant.pool, pool.number)
        if entry.kind == EntryKind.EXPIRATION and grant.remaining == -delta and grant.held:
            held.drop_held(number)
        grant.remaining += delta
        if not ZERO <= grant.held <= grant.remaining <= grant.amount:
            amounts = f"{text(grant.remaining)} left and {text(grant.held)} held of {text(grant.amount)}"
            self._findings.add("ledger entry", entry.id, f"grant {number} would have {amounts}")
        if held.lifted is not None and entry.hold == held.lifted.hold:
            _use(held.lifted.kept, (pool.number, number), -delta)

    def _let_go(self, held: Wallet, number: int) -> None:
        """Compare a grant that has nothing left, and forget it if its row says the same."""
        grant = held.grants.get(number)
        if grant is None or grant.remaining or grant.held or grant.stands is None:
            return
        quiet = Findings()
        if compare(quiet, ("grant", number), wallet.GRANT_COLUMNS, grant.stands, grant.row()):
            del held.grants[number]

    def _follow(self, held: Wallet, pool: Pool, entry: Entry) -> None:
        """Change what else an entry changes."""
        kind, cause = entry.kind, entry.cause
        if kind in (EntryKind.FREEZE, EntryKind.UNFREEZE):
            self._same(entry, "frozen before it", pool.frozen, kind == EntryKind.UNFREEZE)
            pool.frozen = kind == EntryKind.FREEZE
        elif kind == EntryKind.REVERSAL:
            pool.back_at = entry.at
            self._follow_ups.came(held.customer, (EntryKind.REVERSAL, entry.reverses))
        elif cause == Cause.OVERAGE_CHARGED:
            demand_line(self._basis, self._follow_ups, held, pool, entry)
        elif cause == Cause.RECURRING:
            pool.recurred_at = entry.at
        elif cause == Cause.TOP_UP:
            month = calendar_month(entry.at).start
            pool.topped_up = pool.topped_up + 1 if pool.topped_up_in == month else 1
            pool.topped_up_in = month
        elif kind == EntryKind.DEDUCTION and cause == Cause.EVENT:
            overage = amount_of(entry.overage_after) - amount_of(entry.overage_before)
            if held.lifted is not None and held.lifted.hold == entry.hold:
                _use(held.lifted.kept, (pool.number, OVERAGE), overage)
            total = overage - amount_of(entry.amount)
            self._rules.count_drawn(held, entry, held.used.subscription, total)

    # Holds

    def _open_hold(self, held: Wallet, entry: Entry, terms: HoldTerms) -> None:
        self.holds += 1
        self._same(entry, "hold", entry.hold, entry.id)
        self._same(entry, "feature", entry.feature, terms.feature)
        self._rules.check_owner(entry, terms.subscription)
        if terms.expires_at <= entry.at:
            self._findings.add("ledger entry", entry.id, f"the hold ends at {terms.expires_at}, before it begins")
        stands = self._shelf.hold(entry.id) if self._shelf else None
        fixed = (entry.id, entry.customer, entry.at, entry.key, terms, entry.details, stands)
        held.holds[entry.id] = Hold(*fixed, parts=terms.parts, units=terms.units)
        held.set_aside(terms.parts, 1)

    def _draw_hold(self, held: Wallet, entry: Entry, left: HoldLeft) -> None:
        hold = held.holds[_given(entry.hold)]
        kept = held.lift(hold).kept
        held.lifted = None
        parts = [HoldPart(pool, grant, amount) for (pool, grant), amount in kept.items()]
        self._same(entry, "the parts that are left", left.parts, parts)
        self._same(entry, "event", entry.event, held.used.event)
        used = held.used.units
        units = [
            msgspec.structs.replace(each, units=each.units - used.get(each.feature, ZERO)) for each in hold.units
        ]
        self._same(entry, "the units that are left", left.units, [each for each in units if each.units > ZERO])
        hold.parts, hold.units, hold.event = left.parts, left.units, entry.event
        held.set_aside(left.parts, 1)

    def _close_hold(self, held: Wallet, entry: Entry, end: HoldEnd) -> None:
        hold = held.holds.pop(_given(entry.hold))
        held.lift(hold)
        held.lifted = None
        self._same(entry, "status", end.status, _ENDS[Cause(entry.cause)])
        if end.status is HoldStatus.EXPIRED:
            self._same(entry, "at", entry.at, hold.terms.expires_at)
        elif entry.at >= hold.terms.expires_at:
            self._findings.add("ledger entry", entry.id, f"the hold had ended at {hold.terms.expires_at}")
        if entry.event is not None:
            self._same(entry, "event", entry.event, held.used.event)
            hold.event = entry.event
        hold.status, hold.closed_at, hold.parts, hold.units = end.status, entry.at, [], []
        self._compare("hold", hold.number, wallet.HOLD_COLUMNS, hold.stands, hold.row())

    # What the books say

    def pool(self, row: Row) -> None:
        """Check a row of `pools`."""
        self.pools += 1
        held = self._wallets.get(row[1])
        pool = held.pools.pop(row[0], None) if held else None
        if pool is None:
            self._findings.add("pool", row[0], "no entry of its customer explains it")
            return
        self._compare("pool", row[0], wallet.POOL_COLUMNS, row, pool.row())

    def link(self, row: Row) -> None:
        """Check a row of `pool_links`. Pools come after: what is included depends on them."""
        where = f"pool {row[0]} subscription {row[1]}"
        held = self._wallets.get(row[2])
        link = held.links.pop((row[0], row[1]), None) if held else None
        if held is None or link is None:
            self._findings.add("pool link", where, "no entry of its customer explains it")
            return
        allocated_in = self.allocations.allocated_in(held, link, row[7])
        credit_dues.note_link(held, self._basis.subscription_numbered(link.subscription), allocated_in)
        self._compare("pool link", where, wallet.LINK_COLUMNS, row, link.row(allocated_in))

    def finish(self) -> None:
        """Report what the entries explain but the books do not have."""
        for held in self._wallets.values():
            self._check_put_down(held)
            for kind, columns, stands, should in held.left():
                self._compare(kind, should[0], columns, stands, should)
            for number in held.pools:
                self._findings.add("pool", number, "is missing")
            for number, subscription in held.links:
                self._findings.add("pool link", f"pool {number} subscription {subscription}", "is missing")

    def _compare(
        self, kind: str, where: object, columns: tuple[str, ...], stands: Row | None, should: tuple[object, ...]
    ) -> None:
        compare(self._findings, (kind, where), columns, stands, should)

    def _same(self, entry: Entry, what: str, stands: object, should: object) -> None:
        self._findings.same("ledger entry", entry.id, what, stands, should)


def _given(number: int | None) -> int:
    """Return a number that must be there.

    Raises:
        ValueError: it is absent.
    """
    if number is None:
        raise ValueError("it names none")
    return number


def _use(kept: dict[wallet.Place, Decimal], place: wallet.Place, drawn: Decimal) -> None:
    """Take from what a lifted hold had set aside what its event drew."""
    left = kept.get(place, ZERO) - drawn
    if left > ZERO:
        kept[place] = left
    else:
        kept.pop(place, None)
