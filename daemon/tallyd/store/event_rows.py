"""Reading events and their charges."""

import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from decimal import Decimal
from itertools import islice
from typing import Any, Final

import msgspec

from tallyd.engine.rows import ChargeRow, EventRow
from tallyd.model.customer import CustomerRef, RefKind
from tallyd.model.event import Source

KeyPair = tuple[str, str]
"""(key space, key)."""

KEYED: Final = ("events", "ledger_entries")
"""The tables whose rows have idempotency keys."""

CREDIT_SPACES: Final = ("hold", "credit")
"""The key spaces of `ledger_entries`: of holds, and of grants and deductions."""

_KNOWN_EVENTS: Final = (
    "SELECT events.key, events.id, customer, body FROM json_each(?) AS wanted"
    " CROSS JOIN events ON events.key = wanted.value AND key_space = ?"
)
_KNOWN_CREDITS: Final = (
    "SELECT ledger_entries.key, ledger_entries.id, customer, details FROM json_each(?) AS wanted"
    " CROSS JOIN ledger_entries ON ledger_entries.key = wanted.value AND key_space = ?"
)


class KnownEvent(msgspec.Struct, frozen=True, gc=False):
    """What is known of an event, or a credit entry, whose key came again; `body` of an entry is its details."""

    id: int
    customer: int
    body: str


class Used(msgspec.Struct, frozen=True, gc=False):
    """What an event used: units as they count, and the LLM model, if any."""

    units: Decimal
    model: str | None


class EventQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which events to list, newest first by their own time. Absent: any.

    Attributes:
        customer: row number of the customer.
        name: event name.
        start: microseconds UTC, included.
        end: microseconds UTC, not included.
        unpriced: only those that still lack a price.
        shared_keys: only those whose keys are in the account's own space: all but Retempo's.
        source: only those that came in through one contract.
        limit: most events a page.
        offset: how many come before it.
    """

    customer: int | None = None
    name: str | None = None
    start: int | None = None
    end: int | None = None
    unpriced: bool = False
    shared_keys: bool = False
    source: Source | None = None
    limit: int = 50
    offset: int = 0


def known_keys(connection: sqlite3.Connection, pairs: Iterable[KeyPair]) -> dict[KeyPair, KnownEvent]:
    """Return the events already recorded under any of the keys."""
    spaces: dict[str, list[str]] = {}
    for space, key in pairs:
        spaces.setdefault(space, []).append(key)
    known = {}
    for space, keys in spaces.items():
        rows = connection.execute(
            _KNOWN_CREDITS if space in CREDIT_SPACES else _KNOWN_EVENTS,
            (msgspec.json.encode(keys).decode(), space),
        )
        for key, row, customer, body in rows:
            known[space, key] = KnownEvent(row, customer, body)
    return known


def keys_after(connection: sqlite3.Connection, *, table: str, row: int, limit: int) -> list[tuple[int, KeyPair]]:
    """Return the keys of the rows after a row number, in order; `table` is one of `KEYED`."""
    rows = connection.execute(
        f"SELECT id, key_space, key FROM {table} WHERE id > ? AND key IS NOT NULL ORDER BY id LIMIT ?",
        (row, limit),
    )
    return [(number, (space, key)) for number, space, key in rows]


def event_by_key(connection: sqlite3.Connection, key: str, space: str = "") -> EventRow | None:
    """Return the event recorded under a key, matched exactly."""
    row = connection.execute("SELECT * FROM events WHERE key = ? AND key_space = ?", (key, space)).fetchone()
    return None if row is None else EventRow(*row)


def event_by_number(connection: sqlite3.Connection, number: int) -> EventRow | None:
    """Return an event by its row number."""
    row = connection.execute("SELECT * FROM events WHERE id = ?", (number,)).fetchone()
    return None if row is None else EventRow(*row)


def used_by(connection: sqlite3.Connection, events: Iterable[int]) -> dict[int, Used]:
    """Return what events used, by row number."""
    rows = connection.execute(
        "SELECT events.id, units, model FROM json_each(?) AS wanted CROSS JOIN events ON events.id = wanted.value",
        (msgspec.json.encode(list(events)).decode(),),
    )
    return {number: Used(Decimal(units), model) for number, units, model in rows}


def event_keys(connection: sqlite3.Connection, numbers: Iterable[int]) -> dict[int, str]:
    """Return the idempotency keys of events, by row number."""
    rows = connection.execute(
        "SELECT events.id, events.key FROM json_each(?) AS wanted CROSS JOIN events ON events.id = wanted.value",
        (msgspec.json.encode(list(numbers)).decode(),),
    )
    return dict(rows.fetchall())


def charges_of(connection: sqlite3.Connection, events: Iterable[int]) -> dict[int, list[ChargeRow]]:
    """Return the charges of events, by event."""
    charges: dict[int, list[ChargeRow]] = {}
    rows = connection.execute(
        "SELECT charges.* FROM json_each(?) AS wanted CROSS JOIN charges ON charges.event = wanted.value",
        (msgspec.json.encode(list(events)).decode(),),
    )
    for row in rows:
        charges.setdefault(row[0], []).append(ChargeRow(*row))
    return charges


def customer_number(connection: sqlite3.Connection, name: str) -> int | None:
    """Return the row number of the customer that goes by a name: see `customer_names`."""
    refs = [
        CustomerRef(RefKind.REFERENCE, name),
        CustomerRef(RefKind.STRIPE, name),
        CustomerRef(RefKind.ID, name),
    ]
    for ref in refs:
        row = connection.execute("SELECT number FROM customers WHERE id = ?", (ref.customer_id(),)).fetchone()
        if row is not None:
            return int(row[0])
    return None


def customer_names(connection: sqlite3.Connection, numbers: Iterable[int]) -> dict[int, str]:
    """Return what customers go by, as `Customer.label` has it, by row number."""
    rows = connection.execute(
        "SELECT number, coalesce(reference, stripe_id, customers.id) FROM json_each(?) AS wanted"
        " CROSS JOIN customers ON number = wanted.value",
        (msgspec.json.encode(list(numbers)).decode(),),
    )
    return dict(rows.fetchall())


def event_with_charges(connection: sqlite3.Connection, number: int) -> tuple[EventRow, list[ChargeRow]]:
    """Return an event that is in the books, and its charges."""
    row = event_by_number(connection, number)
    assert row is not None, f"event {number} is in the books"
    return row, charges_of(connection, [number]).get(number, [])


def price_version_content(connection: sqlite3.Connection, version: int) -> str | None:
    """Return what a price version holds, JSON."""
    row = connection.execute("SELECT content FROM price_versions WHERE id = ?", (version,)).fetchone()
    return None if row is None else str(row[0])


def list_events(
    connection: sqlite3.Connection, query: EventQuery, matches: Callable[[EventRow], bool] | None = None
) -> list[EventRow]:
    """Return a page of events, newest first.

    `matches` leaves out events that only Python can tell, before they are counted into pages. Rows come off
    an index one at a time, so that memory is bounded by the page, whatever is left out.
    """
    where, values = _where(query)
    statement = f"SELECT * FROM events {where} ORDER BY occurred_at DESC, id DESC"
    if matches is None:
        rows = connection.execute(f"{statement} LIMIT ? OFFSET ?", (*values, query.limit, query.offset))
        return [EventRow(*row) for row in rows]
    with closing(connection.execute(statement, values)) as cursor:
        found = filter(matches, (EventRow(*row) for row in cursor))
        return list(islice(found, query.offset, query.offset + query.limit))


def count_events(connection: sqlite3.Connection, query: EventQuery) -> int:
    """Count the events of all pages."""
    where, values = _where(query)
    number: int = connection.execute(f"SELECT count(*) FROM events {where}", values).fetchone()[0]
    return number


def _where(query: EventQuery) -> tuple[str, list[Any]]:
    conditions = {
        "customer = ?": query.customer,
        "name = ?": query.name,
        "occurred_at >= ?": query.start,
        "occurred_at < ?": query.end,
    }
    asked = {condition: value for condition, value in conditions.items() if value is not None}
    fixed = {  # written out, not bound: a partial index serves no other way
        "no_price IS NOT NULL": query.unpriced,
        "key_space = ''": query.shared_keys,
        f"source = '{query.source}'": query.source,
    }
    parts = [*asked, *(condition for condition, wanted in fixed.items() if wanted)]
    return ("WHERE " + " AND ".join(parts) if parts else ""), list(asked.values())


def customer_ids(connection: sqlite3.Connection, customers: Iterable[int]) -> dict[int, str]:
    """Return the UUIDs of customers, by row number."""
    numbers = msgspec.json.encode(list(customers)).decode()
    return dict(
        connection.execute(
            "SELECT number, customers.id FROM json_each(?) AS wanted"
            " CROSS JOIN customers ON number = wanted.value",
            (numbers,),
        )
    )
