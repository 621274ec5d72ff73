"""What people do to subscriptions and invoices: subscribe, change plan, pause, cancel, pay, void.

Each function changes a draft whose time has passed already. What is asked wrongly is refused with a problem, and
nothing is changed then, as the draft is thrown away.
"""

from datetime import timedelta
from decimal import Decimal
from typing import Final, Literal

import msgspec

from tallyd.engine.account import Enrolment
from tallyd.engine.billing import invoicing, overage, renewing
from tallyd.engine.billing import lines as lines_of
from tallyd.engine.billing.paying import base_ahead
from tallyd.engine.credits.draft import Draft
from tallyd.engine.credits.passing import forfeit_included, include_more
from tallyd.engine.dues import DueKind
from tallyd.engine.rating import PricedPlan
from tallyd.model.invoice import Invoice, InvoiceKind, Line, LineKind
from tallyd.model.ledger_entries import Cause
from tallyd.model.money import ZERO
from tallyd.model.periods import Cycle, Period, local_date, midnight
from tallyd.model.problems import Code, Problem, ProblemError, invalid
from tallyd.model.subscription import Cancellation, Change, Phase, Subscription, without_future

_replace: Final = msgspec.structs.replace
PERIODS_BACK_MAX: Final = 400
"""Periods that may lie between a subscription's start in the past and the day it is made."""


# Beginning


def first_phase(
    plan: PricedPlan, *, starts_at: int, anchor_day: int | None, zone: str
) -> tuple[Phase, int | None]:
    """Return the first phase of a subscription, and when its trial ends, if it has one.

    Periods are counted from the end of the trial; without an anchor day, from the day that is. A trial lasts whole
    days where the subscriber is, whatever the clocks do meanwhile.
    """
    trial_ends_at = None
    if plan.trial_days:
        day = local_date(starts_at, zone)
        trial_ends_at = starts_at - midnight(day, zone) + midnight(day + timedelta(days=plan.trial_days), zone)
    origin = starts_at if trial_ends_at is None else trial_ends_at
    return Phase(starts_at, plan.key, plan.version, cycle_of(plan, origin, anchor_day, zone)), trial_ends_at


def cycle_of(plan: PricedPlan, origin: int, anchor_day: int | None, zone: str) -> Cycle:
    """Return how the periods of a plan follow each other from an instant on."""
    day = local_date(origin, zone).day if anchor_day is None else anchor_day
    return Cycle(origin, day, plan.interval_months, plan.interval_days, zone)


def subscribe(draft: Draft, subscription: Subscription, plan: PricedPlan) -> None:
    """Put the customer on a plan, and live through what has been of it since its start.

    Raises:
        ProblemError: it starts too long ago.
    """
    if subscription.starts_at > draft.now:
        draft.put_subscription(subscription, Cause.SUBSCRIBED, at=draft.now, plans=(plan,))
    draft.subscriptions[subscription.number] = (subscription, (plan,))
    periods = 0
    while (due := draft.renewal_at(subscription.number)) <= draft.now:
        periods += 1
        if periods > PERIODS_BACK_MAX:
            raise invalid("startsAt", f"lies more than {PERIODS_BACK_MAX} periods of the plan back")
        renewing.renew(draft, (due, DueKind.RENEWAL, subscription.number, 0))


# Changing the plan


def upgrade(draft: Draft, number: int, plan: PricedPlan, change_id: str) -> None:
    """Put a subscription on another plan at once (CONTRACTS D8).

    With the same interval and billing timing the period runs on: paid in advance, the rest of it is charged at the
    new price and given back at the old one; in arrears, its invoice has both. Else a new period begins, and what
    was charged in advance for time to come is given back. A cancellation that has not come is taken back.

    Raises:
        ProblemError: it has ended, or is on the plan already, or the currencies differ.
    """
    subscription, old = _to_change(draft, number, plan)
    now, cycle = draft.now, subscription.phase_at(draft.now).cycle
    trial = invoicing.in_trial(subscription, now)
    keeps = _same_rhythm(old.plan, plan) or trial
    if not _same_rhythm(old.plan, plan):
        origin = now if subscription.trial_ends_at is None else max(now, subscription.trial_ends_at)
        cycle = cycle_of(plan, origin, None, cycle.zone)
    charged = old.plan.timing == "IN_ADVANCE" and subscription.charged_to > now and not trial
    rest = Period(now, subscription.period_at(now).end)
    back = _given_back(subscription, old, now) if charged else []
    phases = [each for each in without_future(subscription.phases, now) if each.starts_at < now]
    phases.append(Phase(now, plan.key, plan.version, cycle))
    change = _change("UPGRADE", change_id, old.plan, plan, at=now, now=now)
    ends_at = _end_without_cancellation(subscription)
    changed = _replace(subscription, phases=phases, change=change, ends_at=ends_at, cancellation=None, waived=[])
    if not keeps:
        renewing.close_period(draft, number, now)
        changed = _replace(changed, charged_to=min(changed.charged_to, now))
    draft.put_subscription(changed, Cause.UPGRADED, at=now, plans=_plans(draft, number, changed, plan))
    new = draft.enrolment_at(number, now)
    again = subscription.renewed_to == now
    if not keeps:
        renewing.begin_anew(draft, number, now, back, at_once=charged or again, again=again)
    elif charged:
        found = [*_charged_ahead(changed, new, now), *back]
        if any(each.exact for each in found):
            kind, currency = InvoiceKind.ADJUSTMENT, plan.currency
            invoicing.make(draft, changed, kind, rest, found, at=now, currency=currency)
    if keeps or again:
        include_more(draft, old, new)
    else:
        draft.due_at = now  # the credits of the period that ends and of the new one: time does it, at once


def downgrade(draft: Draft, number: int, plan: PricedPlan, change_id: str) -> None:
    """Put a subscription on another plan when its period ends; it can be taken back until then (CONTRACTS D8).

    Periods of another length are counted from there, and keep the anchor day.

    Raises:
        ProblemError: it has ended or is cancelled, or is on the plan already, or the currencies differ.
    """
    subscription, old = _to_change(draft, number, plan)
    if subscription.cancellation is not None:
        raise _conflict("the subscription is cancelled at the end of the period; revert that first")
    now, cycle = draft.now, subscription.phase_at(draft.now).cycle
    at = subscription.period_at(now).end
    if _ended(subscription, at):
        raise _wrong("the subscription ends with this period; subscribe to the other plan then")
    if not _same_rhythm(old.plan, plan):
        cycle = cycle_of(plan, at, cycle.anchor_day if cycle.months else None, cycle.zone)
    phases = [*without_future(subscription.phases, now), Phase(at, plan.key, plan.version, cycle)]
    change = _change("DOWNGRADE", change_id, old.plan, plan, at=at, now=now)
    changed = _replace(subscription, phases=phases, change=change)
    draft.put_subscription(changed, Cause.DOWNGRADED, at=now, plans=_plans(draft, number, changed, plan))


def revert_change(draft: Draft, number: int) -> None:
    """Take back a change of plan that has not come yet.

    Raises:
        ProblemError: there is none.
    """
    subscription = draft.subscription(number)
    change = subscription.change
    if change is None or change.cancelled or change.effective_at <= draft.now:
        raise _wrong("no change of plan is scheduled")
    phases = without_future(subscription.phases, draft.now)
    changed = _replace(subscription, phases=phases, change=_replace(change, cancelled=True))
    draft.put_subscription(changed, Cause.REVERTED, at=draft.now, plans=_plans(draft, number, changed))


def _to_change(draft: Draft, number: int, plan: PricedPlan) -> tuple[Subscription, Enrolment]:
    subscription = draft.subscription(number)
    if not subscription.active_at(draft.now):
        raise _wrong("the subscription has ended" if subscription.starts_at <= draft.now else "it has not begun")
    old = draft.enrolment_at(number, draft.now)
    if old.plan.key == plan.key and old.plan.version == plan.version:
        raise _wrong(f"the subscription is on {plan.key!r} already")
    if old.plan.currency != plan.currency:
        text = f"the subscription is paid in {old.plan.currency}, {plan.key!r} in {plan.currency}"
        raise _wrong(f"{text}; cancel it and subscribe to the other")
    return subscription, old


def _change(
    kind: Literal["UPGRADE", "DOWNGRADE"], change_id: str, old: PricedPlan, new: PricedPlan, *, at: int, now: int
) -> Change:
    return Change(id=change_id, type=kind, from_plan=old.key, to_plan=new.key, effective_at=at, created_at=now)


def _same_rhythm(old: PricedPlan, new: PricedPlan) -> bool:
    return (old.interval_months, old.interval_days, old.timing) == (
        new.interval_months,
        new.interval_days,
        new.timing,
    )


def _plans(draft: Draft, number: int, changed: Subscription, *new: PricedPlan) -> tuple[PricedPlan, ...]:
    """Return the plans of a subscription's phases, some of which may be new."""
    before, held = draft.enrolled(number)
    known = {(phase.plan_key, phase.plan_version): plan for phase, plan in zip(before.phases, held, strict=True)}
    known.update({(plan.key, plan.version): plan for plan in new})
    return tuple(known[phase.plan_key, phase.plan_version] for phase in changed.phases)


def _charged_ahead(subscription: Subscription, enrolment: Enrolment, at: int) -> list[Line]:
    """Return the base price of what is left of a period that is charged in advance."""
    if not enrolment.plan.price_amount:
        return []
    whole = subscription.phase_at(at).cycle.whole_at(at)
    return [lines_of.prorated(enrolment.plan, Period(at, subscription.charged_to), whole)]


def _given_back(subscription: Subscription, enrolment: Enrolment, at: int) -> list[Line]:
    """Return what is given back of a period that was charged in advance: not what was waived."""
    whole = subscription.phase_at(at).cycle.whole_at(at)
    rest = Period(at, subscription.charged_to)
    exact = lines_of.part_of(enrolment.plan.price_amount, rest.end - at, whole.end - whole.start)
    exact -= _waived(subscription, at)
    if not exact:
        return []
    words = f"{enrolment.plan.name}: unused time"
    return [lines_of.line(LineKind.PRORATION, words, -exact, enrolment.plan, rest)]


def _waived(subscription: Subscription, at: int) -> Decimal:
    """Return the part of base prices that were waived for the time from an instant on."""
    return sum((_unused(each.exact, each.start, each.end, at) for each in subscription.waived), ZERO)


# Pausing


def pause(draft: Draft, number: int) -> None:
    """Stop access and what is invoiced from now on; usage that is reported all the same is charged.

    Raises:
        ProblemError: it does not run, or is paused already.
    """
    subscription = draft.subscription(number)
    if not subscription.active_at(draft.now) or subscription.paused_at(draft.now):
        raise _wrong("the subscription does not run, or is paused already")
    pauses = [*subscription.pauses, (draft.now, None)]
    draft.put_subscription(_replace(subscription, pauses=pauses), Cause.PAUSED, at=draft.now)


def resume(draft: Draft, number: int) -> None:
    """End a pause: paid in advance, what is left of the period is invoiced, unless it was before.

    Raises:
        ProblemError: it is not paused.
    """
    subscription = draft.subscription(number)
    if not subscription.paused_at(draft.now):
        raise _wrong("the subscription is not paused")
    begun = subscription.pauses[-1][0]
    pauses = [*subscription.pauses[:-1], (begun, draft.now)]
    draft.put_subscription(_replace(subscription, pauses=pauses), Cause.RESUMED, at=draft.now)
    renewing.restore(draft, number, draft.now)


# Ending


def cancel_at_period_end(draft: Draft, number: int) -> None:
    """Let a subscription end with its period; that can be taken back until then (CONTRACTS D7).

    Raises:
        ProblemError: it has ended, or will already.
    """
    subscription = draft.subscription(number)
    if subscription.cancellation is not None or _ended(subscription, draft.now):
        raise _wrong("the subscription is cancelled already, or has ended")
    ends_at = renewing.running(subscription, max(draft.now, subscription.starts_at)).end
    phases = [each for each in subscription.phases if each.starts_at < ends_at]
    change = _without_future_change(subscription, draft.now)
    cancellation = Cancellation(mode="END_OF_PERIOD", requested_at=draft.now, instead_of=subscription.ends_at)
    changed = _replace(subscription, phases=phases, ends_at=ends_at, change=change, cancellation=cancellation)
    draft.put_subscription(changed, Cause.CANCELLED, at=draft.now, plans=_plans(draft, number, changed))


def revert_cancellation(draft: Draft, number: int) -> None:
    """Take back a cancellation that has not come yet.

    Raises:
        ProblemError: there is none.
    """
    subscription = draft.subscription(number)
    cancellation = subscription.cancellation
    if cancellation is None or cancellation.mode == "IMMEDIATE" or _ended(subscription, draft.now):
        raise _wrong("no cancellation is scheduled")
    changed = _replace(subscription, ends_at=_end_without_cancellation(subscription), cancellation=None)
    draft.put_subscription(changed, Cause.REVERTED, at=draft.now)


def _without_future_change(subscription: Subscription, now: int) -> Change | None:
    """Return the latest change of plan, cancelled if it has not come yet."""
    change = subscription.change
    return change if change is None or change.effective_at <= now else _replace(change, cancelled=True)


def _ended(subscription: Subscription, now: int) -> bool:
    return subscription.ends_at is not None and subscription.ends_at <= now


def _end_without_cancellation(subscription: Subscription) -> int | None:
    """Return when a subscription ends by itself, if it does."""
    cancellation = subscription.cancellation
    return subscription.ends_at if cancellation is None else cancellation.instead_of


def cancel_now(draft: Draft, number: int) -> None:
    """End a subscription at once (CONTRACTS D7).

    Open invoices are void, included credits end. Paid in advance, what is paid for and not used is given back; in
    arrears, what has run is charged. Usage so far is invoiced.

    Raises:
        ProblemError: it has ended.
    """
    subscription, now = draft.subscription(number), draft.now
    if _ended(subscription, now):
        raise _wrong("the subscription has ended already")
    begun = subscription.renewed_to >= 0
    old = draft.enrolment_at(number, now)
    ran = Period(subscription.period_at(now).start if begun else now, now)
    voided = [invoicing.void(draft, each, at=now) for each in draft.open_invoices(number)]
    ends_at = max(now, subscription.starts_at)
    phases = without_future(subscription.phases, now)
    changed = _replace(
        subscription,
        phases=phases,
        ends_at=ends_at,
        renewed_to=ends_at,
        change=_without_future_change(subscription, now),
        cancellation=Cancellation(mode="IMMEDIATE", requested_at=now),
    )
    draft.put_subscription(changed, Cause.CANCELLED, at=now, plans=_plans(draft, number, changed))
    forfeit_included(draft, number, now)
    for each in voided:
        overage.restore(draft, each)
    if not begun:
        return
    found = renewing.base_of(draft, changed, ran) if old.plan.timing == "IN_ARREARS" else []
    found += renewing.left_to_bill(draft, number, ran, at=now)
    renewing.make_final(draft, changed, ran, found, at=now)
    _credit(draft, changed, old, voided, now)


def _credit(draft: Draft, subscription: Subscription, old: Enrolment, voided: list[Invoice], now: int) -> None:
    """Give back what is paid for and not used: of the base price, what was neither waived nor on a voided invoice.

    If more than that was given back before, by a change to a cheaper plan, the difference is charged.
    """
    if invoicing.in_trial(subscription, now):
        return
    unused, rest = -_waived(subscription, now), Period(now, max(subscription.charged_to, now))
    if old.plan.timing == "IN_ADVANCE" and rest.end > now:
        whole = subscription.phase_at(now).cycle.whole_at(now)
        unused += lines_of.part_of(old.plan.price_amount, rest.end - now, whole.end - whole.start)
    for line in base_ahead(voided, now):
        unused -= _unused(line.exact, line.period_start, line.period_end, now)
        rest = Period(now, max(rest.end, line.period_end))
    if unused:
        kind, currency = InvoiceKind.CREDIT if unused > ZERO else InvoiceKind.ADJUSTMENT, old.plan.currency
        words = f"{old.plan.name}: unused time"
        line = lines_of.line(LineKind.PRORATION, words, -unused, old.plan, rest)
        invoicing.make(draft, subscription, kind, rest, [line], at=now, currency=currency)


def _unused(exact: Decimal, start: int, end: int, now: int) -> Decimal:
    """Return the part of a base price that is for the time from an instant on."""
    return ZERO if end <= now else lines_of.part_of(exact, end - max(start, now), end - start)


def _wrong(message: str) -> ProblemError:
    return ProblemError(Problem(code=Code.VALIDATION_FAILED, message=message))


def _conflict(message: str) -> ProblemError:
    return ProblemError(Problem(code=Code.CONFLICT, message=message))
