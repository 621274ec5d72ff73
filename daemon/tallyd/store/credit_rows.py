"""Credits as rows: how pools, grants, links and holds are kept, and how they are read back."""

import sqlite3
from collections.abc import Callable
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, TypeVar

import msgspec

from tallyd.engine.credits.book import Alert, CreditBook, CreditChanges, book_of
from tallyd.model.catalog import CreditModel
from tallyd.model.credits import Grant, GrantTerms, HeldUnits, Hold, HoldPart, HoldStatus, HoldTerms, Link, Pool
from tallyd.model.ledger_entries import Entry, EntryKind, text
from tallyd.store import tables
from tallyd.store.tables import Row, Table

NounT = TypeVar("NounT")

_encode = msgspec.json.Encoder(order="deterministic").encode
_model_of = lru_cache(maxsize=256)(msgspec.json.Decoder(CreditModel).decode)
_decode_grant = msgspec.json.Decoder(GrantTerms, float_hook=Decimal).decode
_decode_hold = msgspec.json.Decoder(HoldTerms, float_hook=Decimal).decode
_decode_parts = msgspec.json.Decoder(list[HoldPart]).decode
_decode_deltas = msgspec.json.Decoder(list[tuple[int, str]]).decode
_decode_units = msgspec.json.Decoder(list[HeldUnits]).decode


def pool_row(pool: Pool) -> Row:
    """Return a pool's columns."""
    return (
        pool.number,
        pool.customer,
        pool.model.key,
        _encode(pool.model).decode(),
        pool.name,
        text(pool.balance),
        text(pool.overage),
        text(pool.held),
        text(pool.overage_held),
        text(pool.granted),
        text(pool.consumed),
        text(pool.expired),
        text(pool.reversed),
        pool.frozen,
        pool.archived,
        pool.opened_at,
        pool.modified_at,
        pool.recurred_at,
        pool.topped_up,
        pool.topped_up_in,
    )


def pool_of(row: Row) -> Pool:
    """Read a row of `pools`."""
    number, customer, _, model, name, *amounts = row[:13]
    frozen, archived, opened_at, modified_at, recurred_at, topped_up, topped_up_in = row[13:]
    balance, overage, held, overage_held, granted, consumed, expired, reversed_ = map(Decimal, amounts)
    return Pool(
        number=number,
        customer=customer,
        model=_model_of(model),
        name=name,
        balance=balance,
        overage=overage,
        held=held,
        overage_held=overage_held,
        granted=granted,
        consumed=consumed,
        expired=expired,
        reversed=reversed_,
        frozen=bool(frozen),
        archived=bool(archived),
        opened_at=opened_at,
        modified_at=modified_at,
        recurred_at=recurred_at,
        topped_up=topped_up,
        topped_up_in=topped_up_in,
    )


def grant_row(grant: Grant) -> Row:
    """Return a grant's columns."""
    return (
        grant.number,
        grant.pool,
        grant.customer,
        text(grant.amount),
        text(grant.remaining),
        text(grant.held),
        grant.created_at,
        _encode(grant.terms).decode(),
    )


def grant_of(row: Row) -> Grant:
    """Read a row of `grants`."""
    number, pool, customer, amount, remaining, held, created_at, terms = row
    return Grant(
        number=number,
        pool=pool,
        customer=customer,
        amount=Decimal(amount),
        remaining=Decimal(remaining),
        held=Decimal(held),
        created_at=created_at,
        terms=_decode_grant(terms),
    )


def link_row(link: Link) -> Row:
    """Return a link's columns."""
    limit = None if link.draw_limit is None else text(link.draw_limit)
    return (
        link.pool,
        link.subscription,
        link.customer,
        link.priority,
        limit,
        text(link.drawn),
        link.drawn_in,
        link.allocated_in,
        link.withheld,
        text(link.included),
    )


def link_of(row: Row) -> Link:
    """Read a row of `pool_links`."""
    pool, subscription, customer, priority, limit, drawn, drawn_in, allocated_in, withheld, included = row
    return Link(
        pool=pool,
        subscription=subscription,
        customer=customer,
        priority=priority,
        draw_limit=None if limit is None else Decimal(limit),
        drawn=Decimal(drawn),
        drawn_in=drawn_in,
        allocated_in=allocated_in,
        withheld=bool(withheld),
        included=Decimal(included),
    )


def hold_row(hold: Hold) -> Row:
    """Return a hold's columns."""
    return (
        hold.number,
        hold.customer,
        hold.status,
        hold.opened_at,
        hold.closed_at,
        _encode(hold.parts).decode(),
        _encode(hold.units).decode(),
        hold.event,
        hold.key,
        _encode(hold.terms).decode(),
    )


def hold_of(row: Row) -> Hold:
    """Read a row of `holds`."""
    number, customer, status, opened_at, closed_at, parts, units, event, key, terms = row
    return Hold(
        number=number,
        customer=customer,
        status=HoldStatus(status),
        opened_at=opened_at,
        closed_at=closed_at,
        parts=_decode_parts(parts),
        units=_decode_units(units),
        event=event,
        key=key,
        terms=_decode_hold(terms),
    )


class Latest:
    """The last value of each pool, grant, link and hold that a batch changes; earlier ones are never written.

    Of pools and grants that are in the books already, only what movements change is written again.
    """

    def __init__(self) -> None:
        self._anew: set[int] = set()
        self._pools: dict[int, Pool] = {}
        self._grants: dict[int, Grant] = {}
        self._links: dict[tuple[int, int], Link] = {}
        self._holds: dict[int, Hold] = {}

    def take(self, changes: CreditChanges, entries: list[Entry]) -> None:
        """Take one decision's changes, in order, with its ledger entries."""
        self._anew.update([_made_by(entry) for entry in entries if entry.kind in _MAKING])
        self._pools.update(changes.pools)
        self._grants.update(changes.grants)
        self._links.update(changes.links)
        self._holds.update(changes.holds)

    def rows(self) -> dict[Table, list[Row]]:
        """Return the rows to write."""
        return {
            tables.POOLS: [pool_row(pool) for pool in self._pools.values() if pool.number in self._anew],
            tables.GRANTS: [grant_row(grant) for grant in self._grants.values() if grant.number in self._anew],
            tables.MOVED_POOLS: [
                _moved_pool(pool) for pool in self._pools.values() if pool.number not in self._anew
            ],
            tables.MOVED_GRANTS: [
                (grant.number, text(grant.remaining), text(grant.held))
                for grant in self._grants.values()
                if grant.number not in self._anew
            ],
            tables.POOL_LINKS: [link_row(link) for link in self._links.values()],
            tables.HOLDS: [hold_row(hold) for hold in self._holds.values()],
        }


_MAKING: Final = frozenset({EntryKind.POOL_OPENED, EntryKind.POOL_CHANGED, EntryKind.GRANT, EntryKind.ADJUSTMENT})


def _made_by(entry: Entry) -> int:
    """Return the number of the pool or grant that an entry makes, or writes anew."""
    return entry.pool or entry.id if entry.kind == EntryKind.POOL_CHANGED else entry.id


def _moved_pool(pool: Pool) -> Row:
    """Return what movements change of a pool."""
    return (
        pool.number,
        text(pool.balance),
        text(pool.overage),
        text(pool.held),
        text(pool.overage_held),
        text(pool.granted),
        text(pool.consumed),
        text(pool.expired),
        text(pool.reversed),
        pool.frozen,
        pool.modified_at,
        pool.recurred_at,
        pool.topped_up,
        pool.topped_up_in,
    )


def load_credits(connection: sqlite3.Connection, customer: int, due_at: int) -> CreditBook | None:
    """Read what a customer's credits are now; None when it never had any.

    `due_at` is when something is due for the customer next: never later than for its credits.
    """
    mine = (customer,)

    def every(sql: str, make: Callable[[Row], NounT]) -> list[NounT]:
        return [make(row) for row in connection.execute(sql, mine)]

    pools = every("SELECT * FROM pools WHERE customer = ? ORDER BY number", pool_of)
    holds = every("SELECT * FROM holds WHERE customer = ? AND status = 'HELD' ORDER BY number", hold_of)
    if not pools and not holds:
        return None
    return book_of(
        pools,
        every("SELECT * FROM grants WHERE customer = ? AND remaining <> '0' ORDER BY number", grant_of),
        holds,
        every("SELECT * FROM pool_links WHERE customer = ? ORDER BY pool, subscription", link_of),
        due_at,
    )


class EntryQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which ledger entries of a pool to list, newest first. Absent: any.

    Attributes:
        pool: number of the pool.
        beside: numbers of further pools.
        kinds: kinds of entry.
        causes: causes of entry.
        start: microseconds UTC, included.
        end: microseconds UTC, not included.
        limit: most entries a page; negative: all.
        offset: how many come before it.
    """

    pool: int
    beside: tuple[int, ...] = ()
    kinds: tuple[str, ...] = ()
    causes: tuple[str, ...] = ()
    start: int | None = None
    end: int | None = None
    limit: int = 50
    offset: int = 0


def list_entries(connection: sqlite3.Connection, query: EntryQuery) -> tuple[list[Entry], int]:
    """Return a page of a pool's entries, and how many there are in all."""
    where, values = _where(query)
    (total,) = connection.execute(f"SELECT count(*) FROM ledger_entries {where}", values).fetchone()
    rows = connection.execute(
        f"SELECT * FROM ledger_entries {where} ORDER BY id DESC LIMIT ? OFFSET ?",
        (*values, query.limit, query.offset),
    )
    return [Entry(*row) for row in rows], total


def _where(query: EntryQuery) -> tuple[str, list[Any]]:
    parts: list[str] = []
    values: list[Any] = []
    among = (("pool", (query.pool, *query.beside)), ("kind", query.kinds), ("cause", query.causes))
    for column, wanted in among:
        if wanted:
            parts.append(f"{column} IN ({','.join('?' * len(wanted))})")
            values += wanted
    for condition, value in (("at >= ?", query.start), ("at < ?", query.end)):
        if value is not None:
            parts.append(condition)
            values.append(value)
    return "WHERE " + " AND ".join(parts), values


def entry_by_number(connection: sqlite3.Connection, number: int) -> Entry | None:
    """Return a ledger entry by its row number."""
    row = connection.execute("SELECT * FROM ledger_entries WHERE id = ?", (number,)).fetchone()
    return None if row is None else Entry(*row)


def entries_of_event(connection: sqlite3.Connection, event: int) -> list[Entry]:
    """Return the ledger entries an event caused, in order."""
    rows = connection.execute("SELECT * FROM ledger_entries WHERE event = ? ORDER BY id", (event,))
    return [Entry(*row) for row in rows]


def pool_by_number(connection: sqlite3.Connection, number: int) -> Pool | None:
    """Return a pool as it was last written."""
    row = connection.execute("SELECT * FROM pools WHERE number = ?", (number,)).fetchone()
    return None if row is None else pool_of(row)


def pools_of_model(connection: sqlite3.Connection, model: str, limit: int, offset: int) -> list[Pool]:
    """Return a page of the pools of a credit model, by customer: of each the first that is not archived."""
    rows = connection.execute(
        "SELECT * FROM pools AS mine WHERE model_key = ? AND NOT archived AND NOT EXISTS"
        " (SELECT 1 FROM pools WHERE model_key = mine.model_key AND customer = mine.customer"
        " AND number < mine.number AND NOT archived)"
        " ORDER BY customer LIMIT ? OFFSET ?",
        (model, limit, offset),
    )
    return [pool_of(row) for row in rows]


def hold_by_number(connection: sqlite3.Connection, number: int) -> Hold | None:
    """Return a hold as it was last written."""
    row = connection.execute("SELECT * FROM holds WHERE number = ?", (number,)).fetchone()
    return None if row is None else hold_of(row)


def grants_of(connection: sqlite3.Connection, pool: int) -> list[Grant]:
    """Return all grants of a pool, used up ones too, in order."""
    rows = connection.execute("SELECT * FROM grants WHERE pool = ? ORDER BY number", (pool,))
    return [grant_of(row) for row in rows]


def grants_by_number(connection: sqlite3.Connection, numbers: list[int]) -> dict[int, Grant]:
    """Return grants by their numbers, used up ones too."""
    rows = connection.execute(
        "SELECT grants.* FROM json_each(?) AS wanted CROSS JOIN grants ON number = wanted.value",
        (_encode(numbers).decode(),),
    )
    return {row[0]: grant_of(row) for row in rows}


def outbox_after(connection: sqlite3.Connection, number: int, limit: int) -> list[Alert]:
    """Return what was put on the outbox after a number, in order."""
    rows = connection.execute("SELECT * FROM outbox WHERE number > ? ORDER BY number LIMIT ?", (number, limit))
    return [Alert(*row) for row in rows]


def to_reverse(connection: sqlite3.Connection, number: int) -> tuple[Entry, dict[int, Grant], int | None]:
    """Return a transaction, the grants it touched, and what reversed it."""
    entry = entry_by_number(connection, number)
    assert entry is not None, f"entry {number} is in the books"
    touched = grants_by_number(connection, [grant for grant, _ in _decode_deltas(entry.grants)])
    by = connection.execute("SELECT id FROM ledger_entries WHERE reverses = ?", (number,)).fetchone()
    return entry, touched, by[0] if by else None
