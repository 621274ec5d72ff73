"""The auditor's view of subscriptions: each as its latest ledger entry has it, with its invoices that are open."""

from collections.abc import Iterable
from decimal import Decimal
from typing import Final

import msgspec

from tallyd.model.invoice import Invoice, InvoiceKind, InvoiceStatus, LineKind
from tallyd.model.ledger_entries import Cause
from tallyd.model.money import ZERO, divide
from tallyd.model.periods import Period
from tallyd.model.subscription import Subscription, Waived

NOWHERE: Final = Period(0, 0)
OF_BASE: Final = frozenset({LineKind.BASE, LineKind.PRORATION})
TO_PAY: Final = frozenset({InvoiceStatus.DUE, InvoiceStatus.PAST_DUE})


def segment_of(subscription: Subscription, moment: int) -> Period:
    """Return the part of a billing period that has one plan: what counters count."""
    start, end = subscription.period_at(moment)
    ends = [end, *(phase.starts_at for phase in subscription.phases if phase.starts_at > moment)]
    if subscription.ends_at is not None:
        ends.append(subscription.ends_at)
    return Period(max(start, subscription.phase_at(moment).starts_at), min(ends))


def running(subscription: Subscription, moment: int) -> Period:
    """Return the period that contains an instant, cut where the subscription is known to end."""
    start, end = subscription.period_at(moment)
    return Period(start, end if subscription.ends_at is None else min(end, subscription.ends_at))


class Turn(msgspec.Struct, frozen=True):
    """The last change of plan, or cancellation: when, which, and the subscription as it was before it."""

    at: int
    cause: Cause
    before: Subscription


class Life(msgspec.Struct):
    """One subscription.

    Attributes:
        state: as its latest entry has it.
        entered: whether the ledger has had an entry of it: books that knew no invoices have subscriptions without.
        turn: see `Turn`; None before the first.
        open: its open invoices, by number.
        invoiced: starts of the periods that have their invoice, in arrears or not (P6).
        restores_at: when an invoice of it was voided and nothing has come since: access may be back.
        voided: the invoices that were voided last, one right after the other.
        voided_to: ledger position of the last of them.
        waits_for_waiver: when an invoice was voided that charges for time to come: the subscription notes it.
        credit: what is given back, paid and not used, when it was cancelled at once.
        credit_to: the end of the time that this is for.
    """

    state: Subscription
    entered: bool = False
    turn: Turn | None = None
    open: dict[int, Invoice] = {}
    invoiced: set[tuple[int, bool]] = set()
    restores_at: int | None = None
    voided: list[Invoice] = []
    voided_to: int = 0
    waits_for_waiver: bool = False
    credit: Decimal = ZERO
    credit_to: int = 0
    _segment: Period = NOWHERE

    def take(self, state: Subscription) -> None:
        """Take a new state."""
        self.state = state
        self.entered = True
        self._segment = NOWHERE

    def segment_at(self, moment: int) -> Period:
        """Return the segment that contains an instant; asked again for the same one it costs nothing."""
        segment = self._segment
        if not segment.start <= moment < segment.end:
            segment = self._segment = segment_of(self.state, moment)
        return segment

    def denied_at(self, moment: int) -> bool:
        """Whether there is no access at an instant: paused, not paid for yet, or past due (CONTRACTS C1, D6)."""
        if self.state.paused_at(moment):
            return True
        unpaid = (each for each in self.open.values() if each.status in TO_PAY)
        return any(each.kind is InvoiceKind.IN_ADVANCE_INITIAL or each.overdue_at <= moment for each in unpaid)

    def in_trial(self, moment: int) -> bool:
        """Whether an instant lies in its trial."""
        return self.state.trial_ends_at is not None and moment < self.state.trial_ends_at


def again(life: Life, at: int) -> bool:
    """Whether a period had begun at the very instant of the change that began another."""
    return life.turn is not None and life.turn.before.renewed_to == at


def waived(invoice: Invoice, at: int) -> list[Waived]:
    """Return the base prices, charged or given back, that an invoice has for time to come."""
    lines = (line for line in invoice.lines if line.kind in OF_BASE and line.period_end > at and line.exact)
    return [Waived(line.period_start, line.period_end, line.exact) for line in lines]


def left_of(bases: Iterable[Waived], at: int) -> Decimal:
    """Return what base prices come to for the time from an instant on."""
    total = ZERO
    for start, end, exact in map(msgspec.structs.astuple, bases):
        if end > at:
            begins = max(start, at)
            total += exact if begins == start else divide(exact * (end - begins), Decimal(end - start))
    return total
