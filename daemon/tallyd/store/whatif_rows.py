"""What a what-if reads from the books: who is asked about, their subscriptions, counters and events."""

import sqlite3
from array import array
from collections.abc import Iterable, Iterator
from typing import Final

from tallyd.engine.account import Counter, CounterKey
from tallyd.engine.rows import EventRow
from tallyd.model.customer import Customer, CustomerRef, RefKind
from tallyd.model.periods import Period
from tallyd.model.subscription import Subscription
from tallyd.store.accounts import counter_of
from tallyd.store.subscription_rows import subscription_of

_RUNS_IN: Final = "starts_at < ? AND (ends_at IS NULL OR ends_at > ?)"
_IN_RANGE: Final = (
    "SELECT number FROM customers WHERE"
    f" EXISTS (SELECT 1 FROM subscriptions WHERE customer = customers.number AND {_RUNS_IN})"
    " OR EXISTS (SELECT 1 FROM events WHERE customer = customers.number AND occurred_at >= ? AND occurred_at < ?)"
    " ORDER BY number"
)
_ON_PLAN: Final = (
    f"SELECT DISTINCT customer FROM subscriptions WHERE {_RUNS_IN}"
    " AND EXISTS (SELECT 1 FROM json_each(phases) WHERE value ->> 'plan_key' = ?) ORDER BY customer"
)
# Only numbers are sorted; the rows come off the table one at a time, so that memory does not depend on how many.
_NUMBERS: Final = "SELECT id FROM events WHERE customer = ? AND occurred_at >= ? AND occurred_at < ?"
_EVENTS: Final = (
    f"SELECT * FROM events NOT INDEXED WHERE id IN ({_NUMBERS}) AND NOT EXISTS"
    " (SELECT 1 FROM ledger_entries AS voids WHERE voids.event = events.id AND voids.kind = 'EVENT_VOIDED')"
    " ORDER BY id"
)


def customers_in(connection: sqlite3.Connection, window: Period, on: str | None = None) -> "array[int]":
    """Return the row numbers of customers who were subscribed in a time or have events of it, in order.

    With `on` only those with a subscription that was ever on the plan of that key.
    """
    times = (window.end, window.start)
    rows = (
        connection.execute(_IN_RANGE, (*times, window.start, window.end))
        if on is None
        else connection.execute(_ON_PLAN, (*times, on))
    )
    return array("q", (number for (number,) in rows))


def customers_named(connection: sqlite3.Connection, names: Iterable[str]) -> dict[str, int | None]:
    """Return the row numbers of customers by the app's id, tallyd's or Stripe's; None for nobody."""
    found: dict[str, int | None] = {}
    for name in names:
        ids = [CustomerRef(kind, name).customer_id() for kind in (RefKind.REFERENCE, RefKind.ID, RefKind.STRIPE)]
        rows = [
            connection.execute("SELECT number FROM customers WHERE id = ?", (each,)).fetchone() for each in ids
        ]
        found[name] = next((row[0] for row in rows if row is not None), None)
    return found


def customer_of(connection: sqlite3.Connection, number: int) -> Customer:
    """Return a customer by row number."""
    row = connection.execute("SELECT * FROM customers WHERE number = ?", (number,)).fetchone()
    return Customer(**dict(zip(Customer.__struct_fields__, row, strict=True)))


def subscriptions_of(connection: sqlite3.Connection, customer: int) -> list[Subscription]:
    """Return a customer's subscriptions, in order."""
    rows = connection.execute("SELECT * FROM subscriptions WHERE customer = ? ORDER BY number", (customer,))
    return [subscription_of(row) for row in rows]


def counters_of(
    connection: sqlite3.Connection, customer: int, subscription: int, window: Period
) -> dict[CounterKey, Counter]:
    """Return the counters of a subscription that begin in a time."""
    rows = connection.execute(
        "SELECT * FROM counters"
        " WHERE customer = ? AND subscription = ? AND period_start >= ? AND period_start < ?",
        (customer, subscription, *window),
    )
    return {CounterKey(*row[1:4]): counter_of(row[4:]) for row in rows}


def count_events_of(connection: sqlite3.Connection, customer: int, window: Period) -> int:
    """Return how many events of a time a customer has, voided ones included."""
    number: int = connection.execute(f"SELECT count(*) FROM ({_NUMBERS})", (customer, *window)).fetchone()[0]
    return number


def events_of(connection: sqlite3.Connection, customer: int, window: Period) -> Iterator[EventRow]:
    """Return a customer's events of a time in ledger order, voided ones left out; streamed."""
    for row in connection.execute(_EVENTS, (customer, *window)):
        yield EventRow(*row)
