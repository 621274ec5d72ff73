"""Granting credits: whatever the cause, the same rules of expiry and of repaying overage."""

from decimal import Decimal
from typing import Final

import msgspec

from tallyd.engine.credits.draft import Draft
from tallyd.model.credits import Grant, GrantTerms, GrantType, Pool
from tallyd.model.ledger_entries import Cause, EntryKind
from tallyd.model.moments import DAY_US
from tallyd.model.periods import calendar_month
from tallyd.model.problems import Code, Problem, ProblemError

_replace: Final = msgspec.structs.replace


def conflict(message: str) -> ProblemError:
    """Return the error for what the pool's state does not allow."""
    return ProblemError(Problem(code=Code.CONFLICT, message=message))


def short_of(message: str) -> ProblemError:
    """Return the error for credits that are not there."""
    return ProblemError(Problem(code=Code.INSUFFICIENT_CREDITS, message=message))


def give(
    draft: Draft,
    pool_number: int,
    amount: Decimal,
    terms: GrantTerms,
    cause: Cause,
    *,
    at: int,
    key: str | None = None,
    default_expiry: bool = True,
) -> Grant:
    """Grant credits; where the credit model says so, they repay overage first.

    Raises:
        ProblemError: the pool is archived.
    """
    pool = draft.pool(pool_number)
    if pool.archived:
        raise conflict("the pool is archived and takes no credits")
    days = pool.model.expires_after_days
    if default_expiry and terms.expires_at is None and days is not None:
        terms = _replace(terms, expires_at=at + days * DAY_US)
    grant = draft.give(pool_number, amount, terms, cause, at=at, key=key)
    overage = pool.model.overage
    if overage is not None and overage.behavior == "carry_deficit_auto_repay" and pool.overage:
        repaid = min(amount, pool.overage)
        deltas = [(grant.number, -repaid)]
        draft.move(
            pool_number, EntryKind.ADJUSTMENT, Cause.OVERAGE_REPAID, -repaid, deltas, at=at, overage=-repaid
        )
    return draft.grant(grant.number, pool_number)


def top_up(draft: Draft, pool_number: int, at: int) -> None:
    """Grant the pool's threshold top-up when what is available is below its mark.

    Once the month's number is used up, the pool is looked at again when the next month begins.
    """
    pool = draft.pool(pool_number)
    rule = pool.model.top_up
    if rule is None or pool.archived or pool.available >= rule.below:
        return
    month = calendar_month(at).start
    times = pool.topped_up if pool.topped_up_in == month else 0
    if times >= rule.most_a_month:
        return
    pool = _replace(pool, topped_up=times + 1, topped_up_in=month)
    draft.put_pool(pool)
    draft.note_due(next_look(pool))
    give(draft, pool_number, rule.amount, GrantTerms(type=GrantType.SYSTEM), Cause.TOP_UP, at=at)


def next_look(pool: Pool) -> int | None:
    """Return when a pool whose top-ups of a month are used up is looked at again, or was; None: they are not."""
    rule = pool.model.top_up
    if rule is None or pool.archived or pool.topped_up < rule.most_a_month:
        return None
    return calendar_month(pool.topped_up_in).end
