"""What an invoice should have of base prices, from the subscription and its plans (CONTRACTS D4, D5, D7, D8)."""

from collections.abc import Iterable
from decimal import Decimal

from tallyd.engine.audit.basis import Basis
from tallyd.engine.audit.lives import Life, left_of, running, waived
from tallyd.engine.rating import PricedPlan
from tallyd.model.invoice import Invoice, LineKind
from tallyd.model.ledger_entries import Cause
from tallyd.model.money import ZERO, divide
from tallyd.model.periods import Period
from tallyd.model.subscription import Subscription

Priced = tuple[LineKind, Decimal]
"""A line's kind and exact amount."""


class BasePrices:
    """Knows what base prices come to."""

    def __init__(self, basis: Basis) -> None:
        self._basis = basis

    def in_advance(self, life: Life, at: int) -> list[Priced]:
        """Return the base of the rest of a period that is paid in advance, with what an upgrade gives back."""
        plan, back = self._basis.plan_at(life.state, at), self.given_back(life, at) if self.anew(life, at) else []
        if plan is None or not plan.price_amount or life.in_trial(at):
            return [(LineKind.BASE, ZERO), *back]
        rest = running(life.state, at).end - at
        return [(LineKind.BASE, _part(plan, rest, _whole(life.state, at))), *back]

    def in_arrears(self, life: Life, ran: Period) -> list[Priced]:
        """Return the base of a period that has run: each plan's part, pauses left out."""
        state, found = life.state, list[Priced]()
        if life.in_trial(ran.start):
            return []
        changes = {phase.starts_at for phase in state.phases if ran.start < phase.starts_at < ran.end}
        starts = sorted({ran.start, *changes})
        ends = [*starts[1:], ran.end]
        for start, end in zip(starts, ends, strict=True):
            plan = self._basis.plan_at(state, start)
            until = end if state.ends_at is None else min(end, state.ends_at)
            if plan is not None and plan.price_amount and until > start:
                length = until - start - _paused(state, start, until)
                found.append((LineKind.BASE, _part(plan, length, _whole(state, start))))
        return found

    def upgraded(self, life: Life, at: int) -> list[Priced]:
        """Return what an upgrade charges for the rest of a period that is paid for, and gives back of it."""
        back, plan = self.given_back(life, at), self._basis.plan_at(life.state, at)
        if life.turn is None or not self.paid_for(life, at) or plan is None or not plan.price_amount:
            return back
        exact = _part(plan, life.turn.before.charged_to - at, _whole(life.state, at))
        return [(LineKind.PRORATION, exact), *back]

    def given_back(self, life: Life, at: int) -> list[Priced]:
        """Return what the upgrade of an instant gives back of a period paid for in advance."""
        turn = life.turn
        if turn is None or not self.paid_for(life, at):
            return []
        old = self._basis.plan_at(turn.before, at)
        if old is None:
            return []
        paid = _part(old, turn.before.charged_to - at, _whole(turn.before, at)) - left_of(turn.before.waived, at)
        return [(LineKind.PRORATION, -paid)] if paid else []

    def anew(self, life: Life, at: int) -> bool:
        """Whether an upgrade at the instant has begun a new period."""
        turn = life.turn
        upgraded = turn is not None and (turn.at, turn.cause) == (at, Cause.UPGRADED)
        return turn is not None and upgraded and not self.keeps_rhythm(turn.before, life.state, at)

    def keeps_rhythm(self, before: Subscription, after: Subscription, at: int) -> bool:
        """Whether the period runs on through a change of plan: same interval and timing, or a trial."""
        old, new = self._basis.plan_at(before, at), self._basis.plan_at(after, at)
        trial = before.trial_ends_at is not None and at < before.trial_ends_at
        if new is None or old is None or trial:
            return True
        return (old.interval_months, old.interval_days, old.timing) == (
            new.interval_months,
            new.interval_days,
            new.timing,
        )

    def paid_for(self, life: Life, at: int) -> bool:
        """Whether the subscription was upgraded at the instant, in a period that was paid for in advance."""
        turn = life.turn
        if turn is None or (turn.at, turn.cause) != (at, Cause.UPGRADED) or life.in_trial(at):
            return False
        old = self._basis.plan_at(turn.before, at)
        return old is not None and old.timing == "IN_ADVANCE" and turn.before.charged_to > at

    def unused(self, life: Life, at: int, voided: Iterable[Invoice]) -> Decimal:
        """Return what is paid for in advance and not used when a subscription ends at once.

        What was waived, or was on invoices that were voided with it, is not given back; less than zero is charged.
        """
        plan, charged_to = self._basis.plan_at(life.state, at), life.state.charged_to
        if plan is None or life.in_trial(at) or life.turn is None or life.turn.before.renewed_to < 0:
            return ZERO
        in_advance = plan.timing == "IN_ADVANCE" and charged_to > at
        paid = _part(plan, charged_to - at, _whole(life.state, at)) if in_advance else ZERO
        gone = [*life.state.waived, *(each for invoice in voided for each in waived(invoice, at))]
        return paid - left_of(gone, at)


def _part(plan: PricedPlan, length: int, whole: int) -> Decimal:
    """Return the price of some microseconds of a whole period."""
    return plan.price_amount if length == whole else divide(plan.price_amount * length, Decimal(whole))


def _whole(subscription: Subscription, moment: int) -> int:
    start, end = subscription.phase_at(moment).cycle.whole_at(moment)
    return end - start


def _paused(subscription: Subscription, start: int, end: int) -> int:
    """Return for how many microseconds of a time the subscription was paused."""
    total = 0
    for begin, until in subscription.pauses:
        total += max(0, (end if until is None else min(until, end)) - max(begin, start))
    return total
