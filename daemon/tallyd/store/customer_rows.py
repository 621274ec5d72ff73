"""Customers as rows: listed by what is known about them."""

import sqlite3
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from tallyd.model.customer import Customer

_NAME: Final = (
    "coalesce(profile ->> '$.name',"
    " nullif(trim(coalesce(profile ->> '$.firstName', '') || ' ' || coalesce(profile ->> '$.lastName', '')), ''),"
    " reference, stripe_id, id)"
)
"""What a person is called: as one name, or as first and last name, or as the app names it."""


class CustomerQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which customers to list, newest first. Absent: any.

    Attributes:
        email: the whole of it.
        name: a part of it, upper or lower case.
        first: created then or later, microseconds UTC.
        last: created then or earlier.
        limit: most customers a page.
        offset: how many come before it.
    """

    email: str | None = None
    name: str | None = None
    first: int | None = None
    last: int | None = None
    limit: int
    offset: int = 0


def list_customers(connection: sqlite3.Connection, query: CustomerQuery) -> list[Customer]:
    """Return a page of customers."""
    conditions = {
        "profile ->> '$.email' = ?": query.email,
        f"instr(lower({_NAME}), lower(?)) > 0": query.name,
        "created_at >= ?": query.first,
        "created_at <= ?": query.last,
    }
    asked: dict[str, Any] = {text: value for text, value in conditions.items() if value is not None}
    where = "WHERE " + " AND ".join(asked) if asked else ""
    rows = connection.execute(
        f"SELECT * FROM customers {where} ORDER BY number DESC LIMIT ? OFFSET ?",
        (*asked.values(), query.limit, query.offset),
    )
    return [_customer_of(row) for row in rows]


def customers_by_id(connection: sqlite3.Connection, ids: Iterable[str]) -> list[Customer]:
    """Return customers by their UUIDs, in order of creation."""
    rows = connection.execute(
        "SELECT customers.* FROM json_each(?) AS wanted CROSS JOIN customers ON customers.id = wanted.value"
        " ORDER BY number",
        (msgspec.json.encode(list(ids)).decode(),),
    )
    return [_customer_of(row) for row in rows]


def _customer_of(row: tuple[Any, ...]) -> Customer:
    return Customer(**dict(zip(Customer.__struct_fields__, row, strict=True)))
