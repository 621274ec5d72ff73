"""What time alone does to credits: holds and grants expire, periods end, included and recurring credits come.

Everything is done in the order of its own instant, which its entries carry, so that it makes no difference whether
a timer ran (P7).
"""

import heapq
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Final, Literal

import msgspec

from tallyd.engine.account import Account, Enrolment
from tallyd.engine.credits.book import NEVER
from tallyd.engine.credits.draft import Draft
from tallyd.engine.credits.giving import give, next_look, top_up
from tallyd.engine.credits.holding import close
from tallyd.model.catalog import PlanCredits, Rollover
from tallyd.model.credit_entries import Cause, EntryKind
from tallyd.model.credits import Grant, GrantTerms, GrantType, HoldStatus, Link, Pool
from tallyd.model.moments import DAY_US, from_micros, to_micros
from tallyd.model.money import ZERO, floor_to
from tallyd.model.periods import add_months

_UNWRITTEN: Final = 1 << 62
"""Numbers of what is only thought of."""

_replace: Final = msgspec.structs.replace
_HUNDRED: Final = Decimal(100)
_PERCENT_DIGITS: Final = 18
_INCLUDED: Final = (GrantType.PLAN_INCLUDED, GrantType.ROLLOVER)
# In this order at one instant.
_HOLD, _GRANT, _PERIOD_END, _RECURRING, _ALLOCATION, _TOP_UP = range(6)

_Due = tuple[int, int, int, int]
"""(instant, kind, hold or grant or pool, subscription or the grant's pool)."""


def as_of(account: Account, now: int) -> Draft:
    """Return a customer's credits as they are at an instant, to read from: nothing of it is written."""
    draft = Draft(account, now, count(_UNWRITTEN).__next__)
    pass_time(draft)
    return draft


def pass_time(draft: Draft, most: int = 0) -> None:
    """Do what is due up to the draft's instant: all of it, or instant by instant until `most` things are done."""
    if draft.base.due_at > draft.now:
        return
    dues = list(_dues(draft))
    heapq.heapify(dues)
    act: dict[int, Callable[[Draft, _Due], list[_Due]]] = {
        _HOLD: _expire_hold,
        _GRANT: _expire_grant,
        _PERIOD_END: _end_period,
        _RECURRING: _recur,
        _ALLOCATION: _allocate,
        _TOP_UP: _top_up_again,
    }
    made, done = len(draft.made), 0
    due: _Due = (NEVER, 0, 0, 0)
    while dues and dues[0][0] <= draft.now and (not most or done < most or dues[0][0] == due[0]):
        due = heapq.heappop(dues)
        done += 1
        for follows in act[due[1]](draft, due):
            heapq.heappush(dues, follows)
        if not dues or dues[0][0] > due[0]:  # the instant is over: what came with it is there
            for pool in sorted(draft.expired):
                top_up(draft, pool, due[0])
                again = next_look(draft.pool(pool))
                if again is not None and again > due[0]:
                    heapq.heappush(dues, (again, _TOP_UP, pool, 0))
            draft.expired.clear()
        for grant in draft.made[made:]:  # top-ups expire, too
            if grant.terms.expires_at is not None:
                heapq.heappush(dues, (grant.terms.expires_at, _GRANT, grant.number, grant.pool))
        made = len(draft.made)
    draft.due_at = dues[0][0] if dues else NEVER


def _dues(draft: Draft) -> list[_Due]:
    dues: list[_Due] = [(hold.terms.expires_at, _HOLD, hold.number, 0) for hold in draft.open_holds()]
    for pool in draft.all_pools():
        for grant in draft.grants_of(pool.number):
            expires_at = grant.terms.expires_at
            dues += [] if expires_at is None else [(expires_at, _GRANT, grant.number, pool.number)]
        if pool.model.recurring is not None and not pool.archived:
            dues.append((next_recurrence(pool), _RECURRING, pool.number, 0))
        again = next_look(pool)
        if again is not None and again >= draft.base.due_at:  # else it was looked at when that was due
            dues.append((again, _TOP_UP, pool.number, 0))
    for link in draft.all_links():
        dues.extend(_next_period(draft, link))
    return dues


def _next_period(draft: Draft, link: Link) -> list[_Due]:
    enrolment = enrolment_of(draft, link.subscription)
    if enrolment is None:
        return []
    subscription = enrolment.subscription
    if link.allocated_in < 0:
        return [(subscription.starts_at, _ALLOCATION, link.pool, link.subscription)]
    end = subscription.period_at(link.allocated_in).end
    if subscription.ends_at is not None and end >= subscription.ends_at:
        return []
    return [(end, _PERIOD_END, link.pool, link.subscription)]


def enrolment_of(draft: Draft, subscription: int) -> Enrolment | None:
    """Return the customer's subscription by its row number."""
    return next((each for each in draft.account.enrolments if each.subscription.number == subscription), None)


# Expiry


def _expire_hold(draft: Draft, due: _Due) -> list[_Due]:
    at, _, number, _ = due
    hold = draft.hold(number)
    if hold is not None and hold.status is HoldStatus.HELD:
        close(draft, hold, HoldStatus.EXPIRED, Cause.EXPIRY, at=at)
    return []


def _expire_grant(draft: Draft, due: _Due) -> list[_Due]:
    at, _, number, pool = due
    grant = draft.grants.get(number) or draft.base.grants[pool].get(number)
    if grant is not None and grant.remaining:
        expire(draft, grant, grant.remaining, Cause.EXPIRY, at)
    return []


def expire(draft: Draft, grant: Grant, amount: Decimal, cause: Cause, at: int) -> None:
    """Take credits that are past their time; holds lose what they hold of a grant that is gone."""
    if amount == grant.remaining and grant.held:
        grant = draft.drop_held(grant)
    draft.expired.add(grant.pool)
    draft.move(grant.pool, EntryKind.EXPIRATION, cause, -amount, [(grant.number, -amount)], at=at)


# Periods


def _end_period(draft: Draft, due: _Due) -> list[_Due]:
    at, _, pool_number, subscription = due
    pool = draft.pool(pool_number)
    roll_over(draft, pool, subscription, at)
    reset_overage(draft, pool_number, at)
    return [(at, _ALLOCATION, pool_number, subscription)]


def roll_over(draft: Draft, pool: Pool, subscription: int, at: int) -> None:
    """Apply the rollover policy to what a plan included and nobody used or holds; no other grant is touched."""
    policy = pool.model.rollover
    grants = [
        grant
        for grant in draft.grants_of(pool.number)
        if grant.terms.type in _INCLUDED and grant.terms.subscription == subscription and grant.free
    ]
    cap_left = policy.cap or ZERO
    kept: dict[int, Decimal] = {}
    for grant in reversed(grants):  # the newest stay
        kept[grant.number] = _kept(policy, grant, cap_left, pool.model.precision)
        cap_left -= kept[grant.number]
    for grant in grants:
        stays = kept[grant.number]
        goes = grant.free - stays
        if stays and _moves(policy):
            _carry_over(draft, grant, stays, policy, at)
        if goes:
            expire(draft, draft.grant(grant.number, pool.number), goes, Cause.FORFEIT, at)


def _kept(policy: Rollover, grant: Grant, cap_left: Decimal, precision: int | None) -> Decimal:
    if policy.policy == "NONE" or (policy.max_count is not None and grant.terms.rollovers >= policy.max_count):
        return ZERO
    if policy.policy == "CAPPED":
        return min(grant.free, cap_left)
    if policy.policy == "PERCENTAGE":
        digits = _PERCENT_DIGITS if precision is None else precision
        return floor_to(grant.free * (policy.percentage or ZERO) / _HUNDRED, digits)
    return grant.free


def _moves(policy: Rollover) -> bool:
    dated = policy.expires_after_days is not None or policy.max_count is not None
    return dated or policy.policy == "PERCENTAGE"


def _carry_over(draft: Draft, grant: Grant, kept: Decimal, policy: Rollover, at: int) -> None:
    days = policy.expires_after_days
    terms = _replace(
        grant.terms,
        type=GrantType.ROLLOVER,
        parent=grant.number,
        rollovers=grant.terms.rollovers + 1,
        expires_at=grant.terms.expires_at if days is None else at + days * DAY_US,
    )
    draft.give(grant.pool, kept, terms, Cause.ROLLOVER, at=at, taken_from=grant)


def reset_overage(draft: Draft, pool_number: int, at: int) -> None:
    """Do at a period's end what the credit model says of overage (CONTRACTS 2.6)."""
    pool = draft.pool(pool_number)
    model = pool.model.overage
    if model is None or not pool.overage:
        return
    causes = {"forgive_at_reset": Cause.OVERAGE_FORGIVEN, "invoice_at_billing": Cause.OVERAGE_CHARGED}
    cause = causes.get(model.behavior)
    if cause is not None:
        draft.move(pool_number, EntryKind.ADJUSTMENT, cause, at=at, overage=-pool.overage)


def _allocate(draft: Draft, due: _Due) -> list[_Due]:
    at, _, pool_number, subscription = due
    enrolment, link = enrolment_of(draft, subscription), draft.link(pool_number, subscription)
    assert enrolment is not None, "a due of its link"
    assert link is not None, "a due of its link"
    allocate(draft, enrolment, link, at)
    current = draft.link(pool_number, subscription)
    return [] if current is None else _next_period(draft, current)


def allocate(draft: Draft, enrolment: Enrolment, link: Link, at: int) -> None:
    """Begin the period that contains the instant: grant what the plan includes, once (CONTRACTS E7)."""
    pool, period = draft.pool(link.pool), enrolment.period_at(at)
    if link.allocated_in >= period.start:
        return
    draft.put_link(_replace(link, allocated_in=period.start))
    draft.note_due(period.end)
    included = included_credits(enrolment, pool)
    if included is None or pool.archived:
        return
    terms = GrantTerms(
        type=GrantType.PLAN_INCLUDED,
        priority=included.grant_priority,
        expires_at=_included_until(included, pool, at, period.end),
        subscription=link.subscription,
        period_start=period.start,
    )
    give(draft, pool.number, included.amount, terms, Cause.PLAN, at=at, default_expiry=False)


def included_credits(enrolment: Enrolment, pool: Pool) -> PlanCredits | None:
    """Return what a subscription's plan includes in a pool, if anything."""
    return next((each for each in enrolment.plan.credits if each.credit_model == pool.model.key), None)


def _included_until(included: PlanCredits, pool: Pool, given: int, end: int) -> int | None:
    """Return when included credits end: by the plan, and with NONE at the period's end at the latest.

    Their life begins when they are given, so that what a late subscriber gets has not expired already.
    """
    ends = []
    if included.expires_after_months is not None:
        ends.append(add_months(given, included.expires_after_months))
    elif pool.model.expires_after_days is not None:
        ends.append(given + pool.model.expires_after_days * DAY_US)
    if pool.model.rollover.policy == "NONE":
        ends.append(end)
    return min(ends, default=None)


# Top-ups


def _top_up_again(draft: Draft, due: _Due) -> list[_Due]:
    """Look at a pool again whose top-ups of last month were used up."""
    _, _, number, _ = due
    draft.expired.add(number)  # once, when the instant is over
    return []


def _recur(draft: Draft, due: _Due) -> list[_Due]:
    at, _, number, _ = due
    recur(draft, number, at)
    return [(next_recurrence(draft.pool(number)), _RECURRING, number, 0)]


def recur(draft: Draft, number: int, at: int) -> None:
    """Grant a pool's recurring credits for the day, week or month that begins or, at opening, has begun."""
    pool = draft.pool(number)
    rule = pool.model.recurring
    assert rule is not None, "a recurring pool"
    draft.put_pool(_replace(pool, recurred_at=at))
    following = _next_start(rule.every, at)
    draft.note_due(following)
    terms = GrantTerms(type=GrantType.SYSTEM, expires_at=following if rule.expires else None)
    give(draft, number, rule.amount, terms, Cause.RECURRING, at=at, default_expiry=not rule.expires)


def next_recurrence(pool: Pool) -> int:
    """Return when a pool's recurring credits come next."""
    assert pool.model.recurring is not None, "a recurring pool"
    return _next_start(pool.model.recurring.every, pool.recurred_at or pool.opened_at)


def _next_start(every: Literal["day", "week", "month"], moment: int) -> int:
    """Return the first 00:00 UTC of a day, Monday or 1st after the instant."""
    day = from_micros(moment).replace(hour=0, minute=0, second=0, microsecond=0)
    if every == "day":
        return to_micros(day + timedelta(days=1))
    if every == "week":
        return to_micros(day + timedelta(days=7 - day.weekday()))
    return to_micros(datetime(day.year + day.month // 12, day.month % 12 + 1, 1, tzinfo=UTC))
