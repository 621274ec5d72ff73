"""Do the books balance? What every pool says of itself, held against its grants and its last entry (P3)."""

import sqlite3
from collections.abc import Iterable
from decimal import Decimal
from functools import lru_cache
from typing import Final

import msgspec

from tallyd.model.money import ZERO

POOLS_A_SCAN: Final = 500
"""Pools looked at in one go, so that a look at all of them holds nobody up."""

_POOLS: Final = """
SELECT number, balance, overage, held, granted, consumed, expired, reversed,
       (SELECT group_concat(remaining || ' ' || held, ' ') FROM grants INDEXED BY grants_alive
         WHERE customer = pools.customer AND remaining <> '0' AND pool = pools.number),
       (SELECT balance_after || ' ' || overage_after FROM ledger_entries
         WHERE pool = pools.number AND balance_after IS NOT NULL ORDER BY id DESC LIMIT 1)
  FROM json_each(?) AS wanted CROSS JOIN pools ON number = wanted.value"""
_NO_ENTRY: Final = "0 0"


def unbalanced_pools(connection: sqlite3.Connection, pools: Iterable[int]) -> list[int]:
    """Return which of these pools do not balance in the file; what cannot be read does not balance."""
    asked = list(pools)
    if not asked:
        return []
    try:
        rows = connection.execute(_POOLS, (msgspec.json.encode(asked).decode(),)).fetchall()
    except sqlite3.Error:
        return asked
    balanced = {row[0] for row in rows if _balances(row[1:])}
    return [pool for pool in asked if pool not in balanced]


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


def _balances(row: tuple[str | None, ...]) -> bool:
    try:
        return _agree(row)
    except (ArithmeticError, ValueError, TypeError):
        return False  # what was written cannot be made sense of: that is the finding


_decimal: Final = lru_cache(maxsize=4_096)(Decimal)
"""Many amounts are the same from one commit to the next, and most are 0."""


def _agree(row: tuple[str | None, ...]) -> bool:
    *amounts, grants, last = row
    balance, overage, held, granted, consumed, expired, reversed_ = [_decimal(each or "") for each in amounts]
    balance_after, overage_after = [_decimal(each) for each in (last or _NO_ENTRY).split(" ")]
    parts = [_decimal(each) for each in grants.split(" ")] if grants else []
    remaining, set_aside = parts[::2], parts[1::2]
    return (
        balance == sum(remaining, ZERO) == granted - consumed - expired + reversed_ == balance_after
        and held == sum(set_aside, ZERO)
        and ZERO <= overage == overage_after
        and all(ZERO <= aside <= left for left, aside in zip(remaining, set_aside, strict=True))
    )
