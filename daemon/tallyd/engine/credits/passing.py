"""What time alone does to credits: holds and grants expire, periods end, included and recurring credits come."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final, Literal

import msgspec

from tallyd.engine.account import Enrolment
from tallyd.engine.credits.draft import Draft
from tallyd.engine.credits.giving import give, next_look
from tallyd.engine.credits.holding import close
from tallyd.engine.dues import Due, DueKind
from tallyd.model.catalog import PlanCredits, Rollover
from tallyd.model.credits import Grant, GrantTerms, GrantType, HoldStatus, Link, Pool
from tallyd.model.ledger_entries import Cause, EntryKind
from tallyd.model.moments import DAY_US, from_micros, to_micros
from tallyd.model.money import ZERO, floor_to
from tallyd.model.periods import add_months

_replace: Final = msgspec.structs.replace
_HUNDRED: Final = Decimal(100)
_PERCENT_DIGITS: Final = 18
_INCLUDED: Final = (GrantType.PLAN_INCLUDED, GrantType.ROLLOVER)


def dues(draft: Draft) -> list[Due]:
    """Return what time will do to a customer's credits, each at its instant."""
    found: list[Due] = [(hold.terms.expires_at, DueKind.HOLD, hold.number, 0) for hold in draft.open_holds()]
    for pool in draft.all_pools():
        for grant in draft.grants_of(pool.number):
            expires_at = grant.terms.expires_at
            found += [] if expires_at is None else [(expires_at, DueKind.GRANT, grant.number, pool.number)]
        if pool.model.recurring is not None and not pool.archived:
            found.append((next_recurrence(pool), DueKind.RECURRING, pool.number, 0))
        again = next_look(pool)
        if again is not None and again >= draft.base.due_at:  # else it was looked at when that was due
            found.append((again, DueKind.TOP_UP, pool.number, 0))
    for link in draft.all_links():
        found.extend(_next_period(draft, link))
    return found


def _next_period(draft: Draft, link: Link) -> list[Due]:
    enrolment = enrolment_of(draft, link.subscription)
    if enrolment is None:
        return []
    subscription = enrolment.subscription
    if link.allocated_in < 0:
        never = subscription.ends_at is not None and subscription.ends_at <= subscription.starts_at
        return [] if never else [(subscription.starts_at, DueKind.ALLOCATION, link.pool, link.subscription)]
    end = subscription.period_at(link.allocated_in).end
    if subscription.ends_at is not None and end >= subscription.ends_at:
        return []
    return [(end, DueKind.PERIOD_END, link.pool, link.subscription)]


def enrolment_of(draft: Draft, subscription: int) -> Enrolment | None:
    """Return the phase of a customer's subscription that is in force, by the subscription's row number."""
    if subscription not in draft.subscriptions and draft.account.subscription(subscription) is None:
        return None
    return draft.enrolment_at(subscription, draft.now)


# Expiry


def _expire_hold(draft: Draft, due: Due) -> list[Due]:
    at, _, number, _ = due
    hold = draft.hold(number)
    if hold is not None and hold.status is HoldStatus.HELD:
        close(draft, hold, HoldStatus.EXPIRED, Cause.EXPIRY, at=at)
    return []


def _expire_grant(draft: Draft, due: Due) -> list[Due]:
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


def _end_period(draft: Draft, due: Due) -> list[Due]:
    at, _, pool_number, subscription = due
    pool = draft.pool(pool_number)
    roll_over(draft, pool, subscription, at)
    if pool.overage_currency != draft.enrolment_at(subscription, at - 1).plan.currency:  # else its invoice does it
        reset_overage(draft, pool_number, at)
    return [(at, DueKind.ALLOCATION, pool_number, subscription)]


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


def _allocate(draft: Draft, due: Due) -> list[Due]:
    at, _, pool_number, subscription = due
    enrolment, link = draft.enrolment_at(subscription, at), draft.link(pool_number, subscription)
    assert link is not None, "a due of its link"
    allocate(draft, enrolment, link, at)
    current = draft.link(pool_number, subscription)
    return [] if current is None else _next_period(draft, current)


def allocate(draft: Draft, enrolment: Enrolment, link: Link, at: int) -> None:
    """Begin the period that contains the instant: grant what the plan includes, once (CONTRACTS E7).

    Without access nothing is given: it follows when access comes back in this period (`give_withheld`).
    """
    pool, period = draft.pool(link.pool), enrolment.period_at(at)
    if link.allocated_in >= period.start:
        return
    included = included_credits(enrolment, pool)
    withheld = included is not None and draft.denied(link.subscription, at) is not None
    draft.put_link(_replace(link, allocated_in=period.start, withheld=withheld, included=ZERO))
    draft.note_due(period.end)
    if included is not None and not withheld:
        _grant_included(draft, enrolment, pool, included.amount, at, Cause.PLAN)


def give_withheld(draft: Draft, subscription: int, at: int) -> None:
    """Grant the running period's included credits that were not given because access was denied."""
    for link in list(draft.all_links()):
        if link.subscription == subscription and link.withheld:
            draft.put_link(_replace(link, withheld=False))
            enrolment, pool = draft.enrolment_at(subscription, at), draft.pool(link.pool)
            included = included_credits(enrolment, pool)
            if included is not None:
                _grant_included(draft, enrolment, pool, included.amount, at, Cause.WITHHELD)


def _grant_included(
    draft: Draft, enrolment: Enrolment, pool: Pool, amount: Decimal, at: int, cause: Cause
) -> None:
    if pool.archived:
        return
    included, period = included_credits(enrolment, pool), enrolment.period_at(at)
    assert included is not None, "the plan includes them"
    terms = GrantTerms(
        type=GrantType.PLAN_INCLUDED,
        priority=included.grant_priority,
        expires_at=_included_until(included, pool, at, period.end),
        subscription=enrolment.subscription.number,
        period_start=period.start,
    )
    give(draft, pool.number, amount, terms, cause, at=at, default_expiry=False)
    link = draft.link(pool.number, enrolment.subscription.number)
    assert link is not None, "credits are included over it"
    draft.put_link(_replace(link, included=included.amount))


def forfeit_included(draft: Draft, subscription: int, at: int) -> None:
    """Take what a subscription that ends at once included and nobody used or holds; bought credits stay."""
    for pool in list(draft.all_pools()):
        for grant in draft.grants_of(pool.number):
            if grant.terms.type in _INCLUDED and grant.terms.subscription == subscription and grant.free:
                expire(draft, grant, grant.free, Cause.FORFEIT, at)


def include_more(draft: Draft, old: Enrolment, new: Enrolment) -> None:
    """Grant, after an upgrade, what the new plan includes beyond what the period has brought, in each pool.

    So a plan that is left and taken again brings nothing twice.
    """
    for link in list(draft.all_links()):
        if link.subscription == new.subscription.number and not link.withheld:
            pool = draft.pool(link.pool)
            before, after = included_credits(old, pool), included_credits(new, pool)
            more = (after.amount if after else ZERO) - max(link.included, before.amount if before else ZERO)
            if more > ZERO:
                _grant_included(draft, new, pool, more, draft.now, Cause.UPGRADED)


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


def _top_up_again(draft: Draft, due: Due) -> list[Due]:
    """Look at a pool again whose top-ups of last month were used up."""
    _, _, number, _ = due
    draft.expired.add(number)  # once, when the instant is over
    return []


def _recur(draft: Draft, due: Due) -> list[Due]:
    at, _, number, _ = due
    recur(draft, number, at)
    return [(next_recurrence(draft.pool(number)), DueKind.RECURRING, number, 0)]


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


ACTS: Final[dict[int, Callable[[Draft, Due], list[Due]]]] = {
    DueKind.HOLD: _expire_hold,
    DueKind.GRANT: _expire_grant,
    DueKind.PERIOD_END: _end_period,
    DueKind.RECURRING: _recur,
    DueKind.ALLOCATION: _allocate,
    DueKind.TOP_UP: _top_up_again,
}
"""What is done when something falls due; each returns what follows from it."""
