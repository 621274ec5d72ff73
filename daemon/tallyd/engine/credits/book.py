"""One customer's credits in memory: pools, what is left of their grants, open holds, links to subscriptions."""

from decimal import Decimal
from typing import Final

import msgspec

from tallyd.model.credits import Grant, Hold, HoldStatus, Link, Pool
from tallyd.model.money import ZERO

NEVER: Final = 2**62
"""When nothing is due."""

CLOSED_REMEMBERED: Final = 4_096
"""Holds whose end is remembered: more than can wait to be written for one customer."""

Counted = tuple[int, str, int]
"""(subscription, feature, period start): a `CounterKey`."""
LinkKey = tuple[int, int]
"""(pool, subscription)."""


class Alert(msgspec.Struct, frozen=True, gc=False):
    """Something the app wants to hear of. Fields are the columns of `outbox`, in order; `body` is JSON."""

    number: int
    customer: int
    type: str
    at: int
    body: str


class CreditChanges(msgspec.Struct, kw_only=True, gc=False):
    """What one decision changes in a customer's credits.

    Attributes:
        pools: new states, by number.
        grants: new states, by number.
        holds: new states, by number.
        links: new states, by (pool, subscription).
        alerts: what goes on the outbox.
        due_at: when time alone changes something next; may be early, never late. None: as before.
    """

    pools: dict[int, Pool] = {}
    grants: dict[int, Grant] = {}
    holds: dict[int, Hold] = {}
    links: dict[LinkKey, Link] = {}
    alerts: list[Alert] = []
    due_at: int | None = None


class CreditBook:
    """A customer's credits. It changes by `apply` only; rules work on a `Draft` of it.

    Attributes:
        pools: all pools, by number, in order of opening.
        grants: by pool and number, in order, those with something left.
        holds: open ones, by number.
        links: by (pool, subscription).
        closed: how holds ended lately, by number: what is not open and not here ended longer ago.
        held_units: units set aside by open holds, by counter.
        due_at: when time alone changes something next; may be early, never late.
    """

    __slots__ = ("closed", "due_at", "grants", "held_units", "holds", "links", "pools")

    def __init__(self) -> None:
        self.pools: dict[int, Pool] = {}
        self.grants: dict[int, dict[int, Grant]] = {}
        self.holds: dict[int, Hold] = {}
        self.links: dict[LinkKey, Link] = {}
        self.closed: dict[int, HoldStatus] = {}
        self.held_units: dict[Counted, Decimal] = {}
        self.due_at = NEVER

    def copy(self) -> "CreditBook":
        """Return a book that can be changed without changing this one."""
        book = CreditBook()
        book.pools = dict(self.pools)
        book.grants = {pool: dict(grants) for pool, grants in self.grants.items()}
        book.holds = dict(self.holds)
        book.links = dict(self.links)
        book.closed = dict(self.closed)
        book.held_units = dict(self.held_units)
        book.due_at = self.due_at
        return book

    def apply(self, changes: CreditChanges) -> None:
        """Make a decision's changes."""
        self.pools.update(changes.pools)
        for number, grant in changes.grants.items():
            held = self.grants.setdefault(grant.pool, {})
            if grant.remaining:
                comes_back = number not in held and bool(held) and number < next(reversed(held))
                held[number] = grant
                if comes_back:  # a reversal fills a grant again: it is as old as ever
                    self.grants[grant.pool] = dict(sorted(held.items()))
            else:
                held.pop(number, None)
        for number, hold in changes.holds.items():
            self._count_units(self.holds.pop(number, None), -1)
            if hold.status is HoldStatus.HELD:
                self.holds[number] = hold
                self._count_units(hold, 1)
            else:
                self._remember(hold)
        self.links.update(changes.links)
        if changes.due_at is not None:
            self.due_at = changes.due_at

    def _remember(self, hold: Hold) -> None:
        if len(self.closed) >= CLOSED_REMEMBERED:
            del self.closed[next(iter(self.closed))]
        self.closed[hold.number] = hold.status

    def _count_units(self, hold: Hold | None, sign: int) -> None:
        if hold is None:
            return
        for each in hold.units:
            key = (hold.terms.subscription, each.feature, each.period_start)
            left = self.held_units.get(key, ZERO) + sign * each.units
            if left:
                self.held_units[key] = left
            else:
                self.held_units.pop(key, None)


def book_of(
    pools: list[Pool], grants: list[Grant], holds: list[Hold], links: list[Link], due_at: int
) -> CreditBook:
    """Return a book as loaded from the books."""
    book = CreditBook()
    changes = CreditChanges(
        pools={pool.number: pool for pool in pools},
        grants={grant.number: grant for grant in grants},
        holds={hold.number: hold for hold in holds},
        links={(link.pool, link.subscription): link for link in links},
        due_at=due_at,
    )
    book.apply(changes)
    return book
