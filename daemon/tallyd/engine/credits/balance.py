"""The books balance: checked for every movement before it can reach them, in production too (P3)."""

from collections.abc import Mapping, Sequence
from decimal import Decimal

from tallyd.model.credits import Grant, Pool
from tallyd.model.money import ZERO

Delta = tuple[int, Decimal]
"""(grant, signed amount)."""


class BooksError(Exception):
    """A movement that would leave a pool out of balance: a defect, stopped before it reaches the books."""


def check_movement(pool: Pool, amount: Decimal, deltas: Sequence[Delta]) -> None:
    """Check one movement, and the totals of the pool after it.

    Raises:
        BooksError: it does not balance.
    """
    totals = pool.granted - pool.consumed - pool.expired + pool.reversed
    moved = sum([delta for _, delta in deltas], ZERO)
    if not (moved == amount and pool.balance == totals and pool.overage >= ZERO):
        raise BooksError(f"pool {pool.number} would have {pool.balance}, its totals {totals}; {moved} moved")


def check_grants(pool: Pool, before: Mapping[int, Grant], changed: Mapping[int, Grant]) -> None:
    """Check at the end of a decision that what a pool's grants have left is its balance.

    Args:
        pool: the pool afterwards.
        before: its grants before, by number.
        changed: all grants that changed, of any pool.

    Raises:
        BooksError: it is not.
    """
    left = ZERO
    for number, grant in before.items():
        left += (changed.get(number) or grant).remaining
    for number, grant in changed.items():
        if grant.pool == pool.number and number not in before:
            left += grant.remaining
    if left != pool.balance:
        raise BooksError(f"pool {pool.number} would have {pool.balance}, its grants {left}")
