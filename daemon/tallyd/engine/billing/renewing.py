"""What time does to subscriptions: periods end and begin, invoices come with them, and fall overdue."""

from collections.abc import Iterable
from typing import Final

import msgspec

from tallyd.engine.account import Enrolment
from tallyd.engine.billing import invoicing, overage
from tallyd.engine.billing import lines as lines_of
from tallyd.engine.credits.draft import Draft
from tallyd.engine.credits.passing import give_withheld
from tallyd.engine.dues import Due, DueKind
from tallyd.engine.rating import PricedPlan
from tallyd.model.invoice import InvoiceKind, InvoiceStatus, InvoiceUpdate, Line, LineKind
from tallyd.model.ledger_entries import Cause
from tallyd.model.money import ZERO
from tallyd.model.periods import Period
from tallyd.model.subscription import Subscription

_replace: Final = msgspec.structs.replace


def dues(draft: Draft) -> list[Due]:
    """Return what falls due of subscriptions and invoices next."""
    found: list[Due] = []
    for subscription in draft.account.subscriptions():
        found.append((draft.renewal_at(subscription.number), DueKind.RENEWAL, subscription.number, 0))
        found += falling_overdue(draft, subscription.number)
    return found


def falling_overdue(draft: Draft, number: int) -> list[Due]:
    """Return when the invoices of a subscription that are to be paid fall overdue."""
    return [
        (each.overdue_at, DueKind.OVERDUE, each.number, number)
        for each in draft.open_invoices(number)
        if each.status is InvoiceStatus.DUE
    ]


def fall_overdue(draft: Draft, due: Due) -> list[Due]:
    """Note that an invoice was not paid within its grace days: there is no access until it is (CONTRACTS D6)."""
    at, _, number, subscription = due
    for invoice in draft.open_invoices(subscription):
        if invoice.number == number and invoice.status is InvoiceStatus.DUE and invoice.overdue_at <= at:
            update = InvoiceUpdate(invoice=number, status=InvoiceStatus.PAST_DUE)
            invoicing.change(draft, invoice, update, Cause.OVERDUE, at=at)
    return []


def renew(draft: Draft, due: Due) -> list[Due]:
    """End a period and begin the next; or end the subscription; or, after that, bill what came late."""
    at, _, number, _ = due
    subscription = draft.subscription(number)
    known = set(falling_overdue(draft, number))
    if subscription.ends_at is None or at < subscription.ends_at:
        begin_period(draft, number, at)
    else:
        end(draft, number, at)
    follows = (draft.renewal_at(number), DueKind.RENEWAL, number, 0)
    return [follows, *(each for each in falling_overdue(draft, number) if each not in known)]


# A period begins


def begin_period(draft: Draft, number: int, at: int) -> None:
    """Close the period that ends at an instant, if one does, and invoice the one that begins with it."""
    subscription = draft.subscription(number)
    first = subscription.renewed_to < 0
    if not first:
        close_period(draft, number, at)
    before = None if first else _before(draft, subscription, at)
    kind = InvoiceKind.IN_ADVANCE_INITIAL if first else InvoiceKind.IN_ADVANCE
    renewed = _charged(draft, _replace(subscription, renewed_to=at), at)
    draft.put_subscription(renewed, Cause.SUBSCRIBED if first else Cause.RENEWED, at=at)
    invoice_period(draft, renewed, at, before=before, kind=kind)


def begin_anew(draft: Draft, number: int, at: int, back: Iterable[Line], *, at_once: bool, again: bool) -> None:
    """Begin a period of another rhythm in the middle of one, whose invoice is closed.

    Args:
        draft: the books.
        number: the subscription.
        at: the instant.
        back: what is given back of the period that ends.
        at_once: whether the new period is invoiced even while there is no access, as the one that ends was.
        again: a period has begun at this very instant before, and had its own invoice (P6): this one adjusts it.
    """
    subscription = draft.subscription(number)
    kind = InvoiceKind.ADJUSTMENT if again else InvoiceKind.IN_ADVANCE
    renewed = _charged(draft, _replace(subscription, renewed_to=at), at, at_once=at_once)
    draft.put_subscription(renewed, Cause.RENEWED, at=at)
    invoice_period(draft, renewed, at, before=_before(draft, subscription, at), kind=kind, more=back)


def close_period(draft: Draft, number: int, at: int) -> None:
    """Close the invoice of the period that ends at an instant, where periods are invoiced when they are over.

    One that has only begun with it never comes to be billed.
    """
    subscription = draft.subscription(number)
    for invoice in draft.open_invoices(number):
        if invoice.status is not InvoiceStatus.PENDING:
            continue
        if invoice.period_start == at:
            invoicing.cancel(draft, invoice, at=at)
            continue
        ran = Period(invoice.period_start, at)
        found = [*base_of(draft, subscription, ran), *left_to_bill(draft, number, ran, at=at)]
        invoicing.close(draft, subscription, invoice, found, at=at)


def left_to_bill(draft: Draft, number: int, ran: Period, *, at: int) -> list[Line]:
    """Bill the usage whose time is over and the overage that is invoiced; `ran` is the period that led here."""
    plan = draft.enrolment_at(number, ran.start).plan
    found = [*invoicing.usage_until(draft, number, at), *overage.lines(draft, number, plan, ran, at=at)]
    return invoicing.without_trial_usage(draft.subscription(number), plan, found)


def base_of(draft: Draft, subscription: Subscription, ran: Period) -> list[Line]:
    """Return the base prices of a period that has run: each plan in force for its part, pauses left out."""
    if invoicing.in_trial(subscription, ran.start):
        return []
    found = []
    for phase in _phases_in(draft, subscription, ran):
        end = ran.end if phase.ends_at is None else min(ran.end, phase.ends_at)
        part = Period(max(ran.start, phase.starts_at), end)
        if phase.plan.price_amount and part.end > part.start:
            whole = subscription.phase_at(part.start).cycle.whole_at(part.start)
            found.append(lines_of.base(phase.plan, part, whole, less=_paused(subscription, part)))
    return found


def _phases_in(draft: Draft, subscription: Subscription, period: Period) -> list[Enrolment]:
    starts = {each.starts_at for each in subscription.phases if period.start < each.starts_at < period.end}
    return [draft.enrolment_at(subscription.number, moment) for moment in sorted({period.start, *starts})]


def _paused(subscription: Subscription, period: Period) -> int:
    """Return for how many microseconds of a period the subscription was paused."""
    total = 0
    for begin, until in subscription.pauses:
        end = period.end if until is None else min(until, period.end)
        total += max(0, end - max(begin, period.start))
    return total


def _charged(draft: Draft, subscription: Subscription, at: int, *, at_once: bool = False) -> Subscription:
    """Return a subscription as charged for the period that contains an instant, where that is done in advance.

    In advance nothing is invoiced while there is no access: it follows when access comes back (`restore`).
    """
    in_advance = draft.enrolment_at(subscription.number, at).plan.timing == "IN_ADVANCE"
    if not in_advance or (not at_once and draft.denied(subscription.number, at) is not None):
        return subscription
    return _replace(subscription, charged_to=running(subscription, at).end)


def running(subscription: Subscription, at: int) -> Period:
    """Return the period that contains an instant, cut where the subscription is known to end."""
    start, end = subscription.period_at(at)
    return Period(start, end if subscription.ends_at is None else min(end, subscription.ends_at))


def invoice_period(
    draft: Draft,
    subscription: Subscription,
    at: int,
    *,
    before: Period | None,
    kind: InvoiceKind,
    more: Iterable[Line] = (),
) -> None:
    """Invoice the period that contains an instant, from that instant on, unless it is not charged in advance.

    Args:
        draft: the books.
        subscription: as it is from now on.
        at: the instant.
        before: the period, or the part of one, that ended with it; None for a subscription's first.
        kind: of the invoice, in advance.
        more: lines to go with it.
    """
    number = subscription.number
    plan, period = draft.enrolment_at(number, at).plan, running(subscription, at)
    if plan.timing == "IN_ADVANCE" and subscription.charged_to <= at:
        return
    lines = [*more, *([] if before is None else left_to_bill(draft, number, before, at=at))]
    if plan.timing == "IN_ARREARS":
        if lines:  # what a plan that was paid in advance has left behind
            ran = period if before is None else before
            invoicing.make(draft, subscription, InvoiceKind.FINAL, ran, lines, at=at, currency=plan.currency)
        invoicing.make_pending(draft, subscription, period, at=at, currency=plan.currency)
        return
    lines += _base_in_advance(subscription, plan, Period(at, period.end))
    if not any(each.kind is LineKind.BASE for each in lines):
        lines.append(_nothing(subscription, plan, period))
    invoicing.make(draft, subscription, kind, period, lines, at=at, currency=plan.currency)


def _before(draft: Draft, subscription: Subscription, at: int) -> Period:
    """Return the period that an instant ends, or the part of its own period before it."""
    moment = max(at - 1, subscription.starts_at)
    return Period(draft.subscription(subscription.number).period_at(moment).start, at)


def _base_in_advance(subscription: Subscription, plan: PricedPlan, rest: Period) -> list[Line]:
    if not plan.price_amount or invoicing.in_trial(subscription, rest.start):
        return []
    whole = subscription.phase_at(rest.start).cycle.whole_at(rest.start)
    return [lines_of.base(plan, rest, whole)]


def _nothing(subscription: Subscription, plan: PricedPlan, period: Period) -> Line:
    free = invoicing.in_trial(subscription, period.start)
    words = f"{plan.name}: free while on trial" if free else f"{plan.name}: base price"
    return lines_of.line(LineKind.BASE, words, ZERO, plan, period)


# It ends


def end(draft: Draft, number: int, at: int) -> None:
    """End a subscription, or look at it again after its end: what is left to bill is invoiced."""
    subscription = draft.subscription(number)
    close_period(draft, number, at)
    ran = _before(draft, subscription, at)
    make_final(draft, subscription, ran, left_to_bill(draft, number, ran, at=at), at=at)
    draft.put_subscription(_replace(subscription, renewed_to=at), Cause.ENDED, at=at)


def make_final(draft: Draft, subscription: Subscription, ran: Period, lines: list[Line], *, at: int) -> None:
    """Invoice what a subscription that has ended still owes, if anything."""
    if lines:
        currency = draft.enrolment_at(subscription.number, ran.start).plan.currency
        invoicing.make(draft, subscription, InvoiceKind.FINAL, ran, lines, at=at, currency=currency)


# Access comes back


def restore(draft: Draft, number: int, at: int) -> None:
    """Do what had to wait for access, once it is back: included credits, and the invoice of the running period."""
    subscription = draft.subscription(number)
    if draft.denied(number, at) is not None or not subscription.active_at(at):
        return
    give_withheld(draft, number, at)
    begun = 0 <= subscription.renewed_to <= at
    if begun and draft.enrolment_at(number, at).plan.timing == "IN_ADVANCE" and subscription.charged_to <= at:
        before = _before(draft, subscription, at)
        charged = _charged(draft, subscription, at)
        draft.put_subscription(charged, Cause.RESUMED, at=at)
        invoice_period(draft, charged, at, before=before, kind=InvoiceKind.IN_ADVANCE)
