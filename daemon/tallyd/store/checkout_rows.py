"""Checkout sessions as rows, and how they are looked up."""

import sqlite3
from collections.abc import Iterable
from typing import Final

import msgspec

from tallyd.model.checkout import HostedCheckout
from tallyd.model.invoice import Invoice
from tallyd.store.subscription_rows import invoice_by_number
from tallyd.store.tables import Row

_FIELDS: Final = HostedCheckout.__struct_fields__
_SELECT: Final = f"SELECT {', '.join(_FIELDS)} FROM checkouts"


class Found(msgspec.Struct, frozen=True, gc=False):
    """A checkout session and its invoice, as they stand in the books."""

    checkout: HostedCheckout
    invoice: Invoice


def checkout_by_id(connection: sqlite3.Connection, checkout_id: str) -> Found | None:
    """Return a checkout session by its id, with its invoice."""
    row = connection.execute(f"{_SELECT} WHERE id = ?", (checkout_id,)).fetchone()
    return None if row is None else _found(connection, row)


def pending_checkouts(connection: sqlite3.Connection, invoices: Iterable[int]) -> list[Found]:
    """Return the PENDING checkout sessions of some invoices, named by row number; the latest last."""
    rows = connection.execute(
        f"{_SELECT} INDEXED BY checkouts_open WHERE status = 'PENDING'"
        " AND invoice IN (SELECT value FROM json_each(?)) ORDER BY created_at, id",
        (msgspec.json.encode(list(invoices)).decode(),),
    )
    return [_found(connection, row) for row in rows.fetchall()]


def open_pages(connection: sqlite3.Connection, now: int, limit: int) -> list[Found]:
    """Return the checkout sessions whose pages are open now, microseconds UTC; those first that close last."""
    rows = connection.execute(
        f"{_SELECT} INDEXED BY checkouts_open WHERE status = 'PENDING' AND expires_at > ?"
        " ORDER BY expires_at DESC LIMIT ?",
        (now, limit),
    )
    return [_found(connection, row) for row in rows.fetchall()]


def _found(connection: sqlite3.Connection, row: Row) -> Found:
    checkout = msgspec.convert(dict(zip(_FIELDS, row, strict=True)), HostedCheckout)
    invoice = invoice_by_number(connection, checkout.invoice)
    assert invoice is not None, "an invoice does not go away"
    return Found(checkout, invoice)
