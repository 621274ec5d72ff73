"""What time alone does: holds and grants expire, periods end, invoices come and fall overdue, credits come.

Everything is done in the order of its own instant, which its entries carry, so that it makes no difference whether
a timer ran (P7). Whoever decides lets this be written first; whoever only looks asks for the account as it is now.
"""

import heapq
from collections.abc import Callable
from itertools import count
from typing import Final

from tallyd.engine.account import Account, Changes, apply
from tallyd.engine.billing import renewing
from tallyd.engine.credits import passing as credit_dues
from tallyd.engine.credits.book import NEVER
from tallyd.engine.credits.draft import Draft
from tallyd.engine.credits.giving import next_look, top_up
from tallyd.engine.draft import Numbers
from tallyd.engine.dues import Due, DueKind

UNWRITTEN: Final = 1 << 62
"""Numbers of what is only thought of."""

_ACTS: Final[dict[int, Callable[[Draft, Due], list[Due]]]] = {
    **credit_dues.ACTS,
    DueKind.OVERDUE: renewing.fall_overdue,
    DueKind.RENEWAL: renewing.renew,
}
_OF_BILLING: Final = frozenset({DueKind.OVERDUE, DueKind.RENEWAL})


def current(account: Account, now: int) -> Account:
    """Return the account as it is at an instant: itself, or a copy with what time has done; nothing is kept.

    A slice of what is due may be enough for the actor; a reader gets all of it.
    """
    if account.due_at > now:
        return account
    written = account
    account = account.copy()
    number = count(UNWRITTEN).__next__
    while (changes := pass_time(account, now, number)) is not None:
        apply(account, changes)
    account.position, account.chain = written.position, written.chain  # what an answer rests on is written
    return account


def as_of(account: Account, now: int) -> Draft:
    """Return a customer's credits as they are at an instant, to read from: nothing of it is written."""
    return Draft(current(account, now), now, count(UNWRITTEN).__next__)


def pass_time(account: Account, now: int, number: Numbers, most: int = 0) -> Changes | None:
    """Do what is due by `now`: all of it, or instant by instant until `most` things are done. None: nothing is."""
    if account.due_at > now:
        return None
    draft = Draft(account, now, number)
    dues = [*credit_dues.dues(draft), *renewing.dues(draft)]
    heapq.heapify(dues)
    made, done = 0, 0
    due: Due = (NEVER, 0, 0, 0)
    while dues and dues[0][0] <= now and (not most or done < most or dues[0][0] == due[0]):
        due = heapq.heappop(dues)
        done += 1
        for follows in _ACTS[due[1]](draft, due):
            heapq.heappush(dues, follows)
        if not dues or dues[0][0] > due[0]:  # the instant is over: what came with it is there
            for pool in sorted(draft.expired):
                top_up(draft, pool, due[0])
                again = next_look(draft.pool(pool))
                if again is not None and again > due[0]:
                    heapq.heappush(dues, (again, DueKind.TOP_UP, pool, 0))
            draft.expired.clear()
        for grant in draft.made[made:]:  # top-ups expire, too
            if grant.terms.expires_at is not None:
                heapq.heappush(dues, (grant.terms.expires_at, DueKind.GRANT, grant.number, grant.pool))
        made = len(draft.made)
    draft.due_at = min((each[0] for each in dues if each[1] not in _OF_BILLING), default=NEVER)
    return draft.changes()
