"""Subscriptions and invoices as rows, and how they are looked up."""

import sqlite3
from collections.abc import Iterable
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, Literal

import msgspec

from tallyd.model.invoice import Invoice, InvoiceKind, InvoiceStatus, Line
from tallyd.model.money import plain
from tallyd.model.subscription import Cancellation, Change, Phase, Subscription, Waived
from tallyd.store.tables import Row

_encode: Final = msgspec.json.Encoder(order="deterministic").encode
_decode_phases: Final = lru_cache(maxsize=4_096)(msgspec.json.Decoder(list[Phase]).decode)
"""Many subscriptions began on the same day with the same plan: they share phases, which are never changed."""
_decode_pauses: Final = msgspec.json.Decoder(list[tuple[int, int | None]]).decode
_decode_waived: Final = msgspec.json.Decoder(list[Waived]).decode
_decode_change: Final = msgspec.json.Decoder(Change).decode
_decode_cancellation: Final = msgspec.json.Decoder(Cancellation).decode
_decode_lines: Final = msgspec.json.Decoder(list[Line]).decode


def subscription_row(subscription: Subscription) -> Row:
    """Return a subscription's columns."""
    change, cancellation = subscription.change, subscription.cancellation
    return (
        subscription.number,
        subscription.id,
        subscription.customer,
        subscription.starts_at,
        subscription.ends_at,
        subscription.created_at,
        _encode(subscription.phases).decode(),
        subscription.trial_ends_at,
        subscription.grace_days,
        subscription.renewed_to,
        subscription.charged_to,
        _encode(subscription.pauses).decode(),
        _encode(subscription.waived).decode(),
        None if change is None else _encode(change).decode(),
        None if cancellation is None else _encode(cancellation).decode(),
        subscription.metadata,
    )


def subscription_of(row: Row) -> Subscription:
    """Read a row of `subscriptions`."""
    number, subscription_id, customer, starts_at, ends_at, created_at, phases, trial_ends_at, *rest = row
    grace_days, renewed_to, charged_to, pauses, waived, change, cancellation, metadata = rest
    return Subscription(
        number=number,
        id=subscription_id,
        customer=customer,
        starts_at=starts_at,
        ends_at=ends_at,
        created_at=created_at,
        phases=_decode_phases(phases),
        trial_ends_at=trial_ends_at,
        grace_days=grace_days,
        renewed_to=renewed_to,
        charged_to=charged_to,
        pauses=_decode_pauses(pauses) if pauses != "[]" else [],
        waived=_decode_waived(waived) if waived != "[]" else [],
        change=None if change is None else _decode_change(change),
        cancellation=None if cancellation is None else _decode_cancellation(cancellation),
        metadata=metadata,
    )


def invoice_row(invoice: Invoice) -> Row:
    """Return an invoice's columns."""
    return (
        invoice.number,
        invoice.customer,
        invoice.subscription,
        invoice.serial,
        invoice.kind,
        invoice.status,
        invoice.currency,
        invoice.period_start,
        invoice.period_end,
        invoice.issued_at,
        invoice.due_at,
        invoice.overdue_at,
        plain(invoice.amount),
        _encode(invoice.lines).decode(),
        invoice.position,
        invoice.settled_at,
    )


def invoice_of(row: Row) -> Invoice:
    """Read a row of `invoices`."""
    number, customer, subscription, serial, kind, status, currency, *dates, amount, lines, position, settled_at = (
        row
    )
    period_start, period_end, issued_at, due_at, overdue_at = dates
    return Invoice(
        number=number,
        customer=customer,
        subscription=subscription,
        serial=serial,
        kind=InvoiceKind(kind),
        status=InvoiceStatus(status),
        currency=currency,
        period_start=period_start,
        period_end=period_end,
        issued_at=issued_at,
        due_at=due_at,
        overdue_at=overdue_at,
        amount=Decimal(amount),
        lines=_decode_lines(lines),
        position=position,
        settled_at=settled_at,
    )


# Looking up


def load_open_invoices(connection: sqlite3.Connection, customer: int) -> tuple[dict[int, Invoice], int]:
    """Return the invoices of a customer that may still change, by number, and the last serial given."""
    rows = connection.execute(
        "SELECT * FROM invoices INDEXED BY invoices_open WHERE customer = ?"
        " AND status IN ('PENDING', 'DUE', 'PAST_DUE') ORDER BY number",
        (customer,),
    )
    found = {row[0]: invoice_of(row) for row in rows}
    last = connection.execute("SELECT max(serial) FROM invoices WHERE customer = ?", (customer,)).fetchone()
    return found, last[0] or 0


def subscriptions_by_id(connection: sqlite3.Connection, ids: Iterable[str]) -> dict[str, Subscription]:
    """Return subscriptions by their public ids."""
    rows = connection.execute(
        "SELECT subscriptions.* FROM json_each(?) AS wanted"
        " CROSS JOIN subscriptions ON subscriptions.id = wanted.value",
        (_encode(list(ids)).decode(),),
    )
    return {row[1]: subscription_of(row) for row in rows}


def subscription_ids(connection: sqlite3.Connection, numbers: Iterable[int]) -> dict[int, str]:
    """Return the public ids of subscriptions, by row number."""
    rows = connection.execute(
        "SELECT number, subscriptions.id FROM json_each(?) AS wanted"
        " CROSS JOIN subscriptions ON number = wanted.value",
        (_encode(list(numbers)).decode(),),
    )
    return dict(rows.fetchall())


class SubscriptionQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which subscriptions to list, newest first. Absent: any.

    Attributes:
        customer: row number of the customer.
        plan: key of a plan that one of the phases has.
        created_from: microseconds UTC, included.
        created_until: microseconds UTC, included.
        limit: most a page; negative: all.
        offset: how many come before it.
    """

    customer: int | None = None
    plan: str | None = None
    created_from: int | None = None
    created_until: int | None = None
    limit: int = 50
    offset: int = 0


def list_subscriptions(connection: sqlite3.Connection, query: SubscriptionQuery) -> tuple[list[Subscription], int]:
    """Return a page of subscriptions, and how many there are in all."""
    conditions = {
        "customer = ?": query.customer,
        "EXISTS (SELECT 1 FROM json_each(phases) WHERE value ->> 'plan_key' = ?)": query.plan,
        "created_at >= ?": query.created_from,
        "created_at <= ?": query.created_until,
    }
    return _page(connection, "subscriptions", conditions, query.limit, query.offset, subscription_of)


class InvoiceQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which invoices to list, newest first. Absent: any.

    Attributes:
        customer: row number of the customer.
        subscription: row number of the subscription.
        status: see `InvoiceStatus`.
        start: of the period it is named for, microseconds UTC, included.
        end: of the same, not included.
        limit: most a page; negative: all.
        offset: how many come before it.
    """

    customer: int | None = None
    subscription: int | None = None
    status: str | None = None
    start: int | None = None
    end: int | None = None
    limit: int = 50
    offset: int = 0


def list_invoices(connection: sqlite3.Connection, query: InvoiceQuery) -> tuple[list[Invoice], int]:
    """Return a page of invoices, and how many there are in all."""
    conditions = {
        "customer = ?": query.customer,
        "subscription = ?": query.subscription,
        "status = ?": query.status,
        "period_start >= ?": query.start,
        "period_start < ?": query.end,
    }
    return _page(connection, "invoices", conditions, query.limit, query.offset, invoice_of)


def _page(
    connection: sqlite3.Connection,
    table: Literal["subscriptions", "invoices"],
    conditions: dict[str, Any],
    limit: int,
    offset: int,
    read: Any,
) -> tuple[list[Any], int]:
    asked = {condition: value for condition, value in conditions.items() if value is not None}
    where = "WHERE " + " AND ".join(asked) if asked else ""
    values = list(asked.values())
    (total,) = connection.execute(f"SELECT count(*) FROM {table} {where}", values).fetchone()
    rows = connection.execute(
        f"SELECT * FROM {table} {where} ORDER BY number DESC LIMIT ? OFFSET ?", (*values, limit, offset)
    )
    return [read(row) for row in rows], total


def subscription_by_number(connection: sqlite3.Connection, number: int) -> Subscription | None:
    """Return a subscription by its row number."""
    row = connection.execute("SELECT * FROM subscriptions WHERE number = ?", (number,)).fetchone()
    return None if row is None else subscription_of(row)


def invoice_by_number(connection: sqlite3.Connection, number: int) -> Invoice | None:
    """Return an invoice by its row number."""
    row = connection.execute("SELECT * FROM invoices WHERE number = ?", (number,)).fetchone()
    return None if row is None else invoice_of(row)


def invoice_by_serial(connection: sqlite3.Connection, customer: int, serial: int) -> Invoice | None:
    """Return an invoice by its number as people quote it: the customer's row number, and the invoice's own."""
    row = connection.execute(
        "SELECT * FROM invoices WHERE customer = ? AND serial = ?", (customer, serial)
    ).fetchone()
    return None if row is None else invoice_of(row)


_BY_THE_DAEMONS_CLOCK: Final = (
    " FROM dues CROSS JOIN customers ON number = dues.customer"
    " WHERE NOT EXISTS (SELECT 1 FROM test_clocks WHERE test_clocks.customer = customers.id)"
)


def due_customers(connection: sqlite3.Connection, now: int, limit: int) -> list[str]:
    """Return the ids of customers for whom something is due, the longest due first; test clocks left out."""
    rows = connection.execute(
        f"SELECT customers.id {_BY_THE_DAEMONS_CLOCK} AND due_at <= ? ORDER BY due_at LIMIT ?", (now, limit)
    )
    return [row[0] for row in rows]


def next_due(connection: sqlite3.Connection) -> int | None:
    """Return when something is due next for anybody; test clocks left out."""
    row = connection.execute(f"SELECT due_at {_BY_THE_DAEMONS_CLOCK} ORDER BY due_at LIMIT 1").fetchone()
    return None if row is None else int(row[0])


def any_ledger(connection: sqlite3.Connection) -> bool:
    """Whether anything has happened to anybody."""
    return connection.execute("SELECT 1 FROM ledgers WHERE position > 0 LIMIT 1").fetchone() is not None
