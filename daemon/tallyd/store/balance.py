"""Do the books balance? What every pool says of itself, held against its grants and its last entry (P3)."""

import sqlite3
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, Final

from tallyd.model.money import ZERO

POOLS_A_SCAN: Final = 500
"""Pools looked at in one go, so that a look at all of them holds nobody up."""

_POOL: Final = (
    "SELECT customer, balance, overage, held, granted, consumed, expired, reversed FROM pools WHERE number = ?"
)
_GRANTS: Final = (
    "SELECT remaining, held FROM grants INDEXED BY grants_alive"
    " WHERE customer = ? AND remaining <> '0' AND pool = ?"
)
_LAST_ENTRY: Final = (
    "SELECT balance_after, overage_after FROM credit_entries"
    " WHERE pool = ? AND balance_after IS NOT NULL ORDER BY id DESC LIMIT 1"
)
_NO_ENTRY: Final = ("0", "0")


def unbalanced_pools(connection: sqlite3.Connection, pools: Iterable[int]) -> list[int]:
    """Return which of these pools do not balance in the file; what cannot be read does not balance."""
    return [pool for pool in pools if not _balances(connection, pool)]


def unbalanced_after(connection: sqlite3.Connection, number: int) -> tuple[int | None, int, list[int]]:
    """Look at the next pools after a number, in one consistent view.

    Returns:
        where to go on, or None at the end; how many were looked at; which do not balance.
    """
    connection.execute("BEGIN")
    try:
        statement = "SELECT number FROM pools WHERE number > ? ORDER BY number LIMIT ?"
        pools = [row[0] for row in connection.execute(statement, (number, POOLS_A_SCAN))]
        more = pools[-1] if len(pools) == POOLS_A_SCAN else None
        return more, len(pools), unbalanced_pools(connection, pools)
    finally:
        connection.execute("COMMIT")


def _balances(connection: sqlite3.Connection, number: int) -> bool:
    execute = connection.execute
    try:
        row = execute(_POOL, (number,)).fetchone()
        if row is None:
            return False
        grants = execute(_GRANTS, (row[0], number)).fetchall()
        last = execute(_LAST_ENTRY, (number,)).fetchone()
        return _agree(row, grants, last or _NO_ENTRY)
    except (sqlite3.Error, ArithmeticError, ValueError, TypeError):
        return False  # after the commit: the outcome is known, and what it wrote cannot be made sense of


def _agree(row: tuple[Any, ...], grants: list[tuple[str, str]], last: tuple[str, str]) -> bool:
    balance, overage, held, granted, consumed, expired, reversed_ = map(Decimal, row[1:])
    remaining = held_of_grants = ZERO
    for left, set_aside in grants:
        part, aside = Decimal(left), Decimal(set_aside)
        if not ZERO <= aside <= part:
            return False
        remaining += part
        held_of_grants += aside
    return (
        balance == remaining == granted - consumed - expired + reversed_ == Decimal(last[0])
        and held == held_of_grants
        and ZERO <= overage == Decimal(last[1])
    )
