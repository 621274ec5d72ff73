"""The credits in a decision that is being made. Every movement is checked here, in production too (P3)."""

from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Any, Final

import msgspec

from tallyd.engine.account import Account, Changes
from tallyd.engine.credits.alerts import alerts_of
from tallyd.engine.credits.balance import BooksError, Delta, check_grants, check_movement
from tallyd.engine.credits.book import CreditBook, CreditChanges, LinkKey
from tallyd.engine.draft import NO_DETAILS, LedgerDraft, Numbers
from tallyd.model.credits import OVERAGE, Grant, GrantTerms, Hold, HoldPart, HoldStatus, Link, Pool
from tallyd.model.ledger_entries import Cause, Entry, EntryKind, json_text, text
from tallyd.model.money import ZERO

_replace: Final = msgspec.structs.replace
_EMPTY: Final = CreditBook()
_TOTAL_OF: Final = {
    EntryKind.GRANT: ("granted", 1),
    EntryKind.DEDUCTION: ("consumed", -1),
    EntryKind.EXPIRATION: ("expired", -1),
    EntryKind.REVERSAL: ("reversed", 1),
    EntryKind.ADJUSTMENT: ("consumed", -1),
}


class Draft(LedgerDraft):
    """A decision with all it may move: entries, subscriptions, invoices, counters and credits.

    Attributes:
        expired: pools that lost credits to time, and nobody has looked at since.
        made: new grants, as they were made.
    """

    __slots__ = (
        "_holds_on",
        "_moved",
        "base",
        "due_at",
        "expired",
        "grants",
        "holds",
        "links",
        "made",
        "pools",
    )

    def __init__(self, account: Account, now: int, number: Numbers) -> None:
        super().__init__(account, now, number)
        self.base = account.credits or _EMPTY
        self.pools: dict[int, Pool] = {}
        self.grants: dict[int, Grant] = {}
        self.holds: dict[int, Hold] = {}
        self.links: dict[LinkKey, Link] = {}
        self.due_at = self.base.due_at
        self.expired: set[int] = set()
        self.made: list[Grant] = []
        self._moved: set[int] = set()
        self._holds_on: dict[int, list[int]] | None = None

    # Reading

    def pool(self, number: int) -> Pool:
        """Return a pool as it would be."""
        found = self.pools.get(number)
        return self.base.pools[number] if found is None else found

    def all_pools(self) -> Iterator[Pool]:
        """Return all pools, in order of opening."""
        for number in self.base.pools:
            yield self.pools.get(number) or self.base.pools[number]
        for number, pool in self.pools.items():
            if number not in self.base.pools:
                yield pool

    def grant(self, number: int, pool: int) -> Grant:
        """Return a grant that has something left, or is in this draft."""
        found = self.grants.get(number)
        return self.base.grants[pool][number] if found is None else found

    def grants_of(self, pool: int) -> list[Grant]:
        """Return the grants of a pool that have something left, in order of number."""
        held = self.base.grants.get(pool, {})
        if not self.grants:
            return list(held.values())
        merged = {number: self.grants.get(number, grant) for number, grant in held.items()}
        merged.update((number, each) for number, each in self.grants.items() if each.pool == pool)
        return [merged[number] for number in sorted(merged) if merged[number].remaining]

    def open_holds(self) -> Iterator[Hold]:
        """Return the holds that are open, in order of number."""
        for number, hold in self.base.holds.items():
            current = self.holds.get(number, hold)
            if current.status is HoldStatus.HELD:
                yield current
        for number, hold in self.holds.items():
            if number not in self.base.holds and hold.status is HoldStatus.HELD:
                yield hold

    def hold(self, number: int) -> Hold | None:
        """Return a hold, or None when it is not open and not in this draft."""
        return self.holds.get(number) or self.base.holds.get(number)

    def link(self, pool: int, subscription: int) -> Link | None:
        """Return a pool's link to a subscription, or None."""
        key = (pool, subscription)
        return self.links.get(key) or self.base.links.get(key)

    def all_links(self) -> Iterator[Link]:
        """Return all links."""
        for key, link in self.base.links.items():
            yield self.links.get(key, link)
        for key, link in self.links.items():
            if key not in self.base.links:
                yield link

    def held_units(self, subscription: int, feature: str, period_start: int) -> Decimal:
        """Return the units that open holds set aside of a counter's limit."""
        held = self.base.held_units.get((subscription, feature, period_start), ZERO)
        for number, hold in self.holds.items():
            if hold.terms.subscription != subscription:
                continue
            before = self.base.holds.get(number)
            held += hold.units_of(feature, period_start)
            held -= before.units_of(feature, period_start) if before is not None else ZERO
        return held

    # Changing

    def note_due(self, moment: int | None) -> None:
        """Note an instant at which time alone will change something; what is due by now has been done."""
        if moment is not None and self.now < moment < self.due_at:
            self.due_at = moment

    def put_pool(self, pool: Pool) -> None:
        """Take a pool's new state; its amounts must not have changed."""
        self.pools[pool.number] = pool

    def put_link(self, link: Link) -> None:
        """Take a link's new state."""
        self.links[link.pool, link.subscription] = link

    def put_hold(self, hold: Hold) -> None:
        """Take a hold's new state: what it sets aside is held in grants and pools accordingly."""
        before = self.hold(hold.number)
        self._set_aside(before.parts if before and before.status is HoldStatus.HELD else (), -1)
        self._set_aside(hold.parts if hold.status is HoldStatus.HELD else (), 1)
        self.holds[hold.number] = hold
        if before is None:
            self._index(hold)

    def _set_aside(self, parts: Iterable[HoldPart], sign: int) -> None:
        for part in parts:
            pool, amount = self.pool(part.pool), sign * part.amount
            if part.grant == OVERAGE:
                self.pools[pool.number] = _replace(pool, overage_held=pool.overage_held + amount)
                continue
            grant = self.grant(part.grant, part.pool)
            self.grants[grant.number] = _replace(grant, held=grant.held + amount)
            self.pools[pool.number] = _replace(pool, held=pool.held + amount)

    def drop_held(self, grant: Grant) -> Grant:
        """Take from holds what they hold of a grant that is gone; return the grant, free."""
        if self._holds_on is None:
            self._holds_on = {}
            for hold in self.open_holds():
                self._index(hold)
        for number in self._holds_on.pop(grant.number, ()):
            held = self.hold(number)
            if held is not None and held.status is HoldStatus.HELD:
                self.put_hold(_replace(held, parts=[part for part in held.parts if part.grant != grant.number]))
        return self.grant(grant.number, grant.pool)

    def _index(self, hold: Hold) -> None:
        if self._holds_on is not None:
            for part in hold.parts:
                self._holds_on.setdefault(part.grant, []).append(hold.number)

    def give(
        self,
        pool: int,
        amount: Decimal,
        terms: GrantTerms,
        cause: Cause,
        *,
        at: int,
        key: str | None = None,
        taken_from: Grant | None = None,
    ) -> Grant:
        """Make a grant: of new credits, or of what another grant has left."""
        number = self._number()
        customer = self.account.customer.number
        self.grants[number] = Grant(
            number=number,
            pool=pool,
            customer=customer,
            amount=amount,
            remaining=ZERO,
            created_at=at,
            terms=terms,
        )
        deltas: list[Delta] = [(number, amount)]
        kind, moved = EntryKind.GRANT, amount
        if taken_from is not None:
            deltas.insert(0, (taken_from.number, -amount))
            kind, moved = EntryKind.ADJUSTMENT, ZERO
        self.move(pool, kind, cause, moved, deltas, at=at, key=key, details=json_text(terms), number=number)
        self.note_due(terms.expires_at)
        self.made.append(self.grants[number])
        return self.grants[number]

    def move(
        self,
        pool_number: int,
        kind: EntryKind,
        cause: Cause,
        amount: Decimal = ZERO,
        deltas: Sequence[Delta] = (),
        *,
        at: int,
        overage: Decimal = ZERO,
        event: int | None = None,
        feature: str | None = None,
        hold: int | None = None,
        reverses: int | None = None,
        key: str | None = None,
        details: str = NO_DETAILS,
        number: int | None = None,
    ) -> int:
        """Move a pool's balance and its grants, and write the entry that says so; return its number.

        Raises:
            BooksError: the pool would not balance afterwards.
        """
        before = self.pool(pool_number)
        for grant_number, delta in deltas:
            grant = self.grant(grant_number, pool_number)
            remaining = grant.remaining + delta
            if not ZERO <= grant.held <= remaining <= grant.amount:
                raise BooksError(f"grant {grant_number} of {grant.amount} would have {remaining} left")
            self.grants[grant_number] = _replace(grant, remaining=remaining)
        changed: dict[str, Any] = {"modified_at": at}
        if amount:
            total, sign = _TOTAL_OF[kind]
            changed[total] = getattr(before, total) + sign * amount
            changed["balance"] = before.balance + amount
        if overage:
            changed["overage"] = before.overage + overage
        after = _replace(before, **changed)
        self.pools[pool_number] = after
        check_movement(after, amount, deltas)
        self._moved.add(pool_number)
        number = self._number() if number is None else number
        space = "credit" if key is not None else ""
        self._append(
            number,
            kind,
            cause,
            pool_number,
            text(amount),
            text(before.balance),
            text(after.balance),
            text(before.overage),
            text(after.overage),
            at,
            self.now,
            json_text([(grant, text(delta)) for grant, delta in deltas]),
            event,
            feature,
            hold,
            reverses,
            space,
            key,
            details,
        )
        return number

    # The outcome

    @property
    def changed(self) -> bool:
        """Whether anything would be written."""
        return super().changed or bool(self.links or self.holds or self.due_at != self.base.due_at)

    def finish(self, entries: list[Entry], position: int, link: bytes) -> Changes:
        """Return all changes; `entries`, `position` and `link` are what came before, the event's row included."""
        for number in self._moved:
            check_grants(self.pools[number], self.base.grants.get(number, {}), self.grants)
        changes = super().finish(entries, position, link)
        due_at = self.due_at
        for hold in self.holds.values():
            if hold.status is HoldStatus.HELD:
                due_at = min(due_at, hold.terms.expires_at)
        as_before = due_at == self.base.due_at and self.account.credits is not None
        touched = self.pools or self.grants or self.holds or self.links
        if not touched and (as_before or self.account.credits is None):
            return changes
        credit = CreditChanges(
            pools=self.pools,
            grants=self.grants,
            holds=self.holds,
            links=self.links,
            alerts=alerts_of(self.base.pools, self.pools, self.account.customer.number, self.now, self._number),
            due_at=None if as_before else due_at,
        )
        changes.credits = credit
        return changes
