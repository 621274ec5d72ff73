"""When time alone must change a customer's credits next."""

from datetime import UTC, datetime, timedelta
from typing import Final

from tallyd.engine.audit.wallet import Pool, Wallet
from tallyd.model.moments import from_micros, to_micros
from tallyd.model.subscription import Subscription

_MONTHS: Final = 12


def earliest(held: Wallet) -> int:
    """Return the latest instant that credits let `due_at` stand at: holds, grants, recurring credits, periods.

    A threshold top-up that waits for the next month is not looked at: its due is found anew with each decision.
    """
    moments = [held.period_due, *(hold.terms.expires_at for hold in held.holds.values())]
    moments += [
        grant.terms.expires_at
        for grant in held.grants.values()
        if grant.terms.expires_at is not None and grant.remaining
    ]
    moments += [
        next_recurrence(pool, pool.recurred_at or pool.opened_at)
        for pool in held.pools.values()
        if pool.model.recurring is not None and not pool.archived
    ]
    return min(moments)


def note_link(held: Wallet, subscription: Subscription | None, allocated_in: int) -> None:
    """Note when a link's next period begins."""
    if subscription is None:
        return
    moment = subscription.starts_at if allocated_in < 0 else subscription.period_at(allocated_in).end
    if subscription.ends_at is not None and moment >= subscription.ends_at:
        return
    held.period_due = min(held.period_due, moment)


def next_recurrence(pool: Pool, after: int) -> int:
    """Return the first 00:00 UTC of a day, Monday or 1st after an instant."""
    every = pool.model.recurring.every if pool.model.recurring else "day"
    then = from_micros(after)
    midnight = datetime(then.year, then.month, then.day, tzinfo=UTC)
    if every == "month":
        year, month = divmod(then.year * _MONTHS + then.month, _MONTHS)
        return to_micros(datetime(year, month + 1, 1, tzinfo=UTC))
    days = 1 if every == "day" else 7 - midnight.weekday()
    return to_micros(midnight + timedelta(days=days))
