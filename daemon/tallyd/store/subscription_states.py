"""Subscriptions by what is true of them now, which no column says: it follows from dates and open invoices."""

import sqlite3
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice

import msgspec

from tallyd.model.invoice import Invoice
from tallyd.model.subscription import Subscription
from tallyd.store.subscription_rows import load_open_invoices, subscription_of

Matches = Callable[[Subscription, str, Callable[[], Iterable[Invoice]]], bool]
"""Whether a subscription is asked for: given it, its customer's id, and what reads the open invoices."""


class StateQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which subscriptions to look at, newest first. Absent: any.

    Attributes:
        customer: row number of the customer.
        created_from: microseconds UTC, included.
        created_until: microseconds UTC, included.
        before: row number of a subscription: only older ones.
        limit: most that are returned.
    """

    customer: int | None = None
    created_from: int | None = None
    created_until: int | None = None
    before: int | None = None
    limit: int


def matching_subscriptions(
    connection: sqlite3.Connection, query: StateQuery, matches: Matches
) -> list[tuple[str, Subscription]]:
    """Return the first that match, each with its customer's id; they are read until there are enough."""
    conditions = {
        "customer = ?": query.customer,
        "subscriptions.created_at >= ?": query.created_from,
        "subscriptions.created_at <= ?": query.created_until,
        "subscriptions.number < ?": query.before,
    }
    asked = {condition: value for condition, value in conditions.items() if value is not None}
    where = "WHERE " + " AND ".join(asked) if asked else ""
    rows = connection.execute(
        "SELECT customers.id, subscriptions.* FROM subscriptions CROSS JOIN customers"
        f" ON customers.number = subscriptions.customer {where} ORDER BY subscriptions.number DESC",
        list(asked.values()),
    )
    read = ((customer_id, subscription_of(tuple(row))) for customer_id, *row in rows)
    found = (
        (customer_id, subscription)
        for customer_id, subscription in read
        if matches(subscription, customer_id, partial(_open_invoices, connection, subscription.customer))
    )
    return list(islice(found, query.limit))


def _open_invoices(connection: sqlite3.Connection, customer: int) -> Iterable[Invoice]:
    return load_open_invoices(connection, customer)[0].values()
