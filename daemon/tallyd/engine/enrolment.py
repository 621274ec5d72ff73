"""A customer on a plan, for the rules: the phases of a subscription, and whether it gives access."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

from tallyd.engine.counters import LIFETIME, CounterKey
from tallyd.engine.rating import PricedFeature, PricedPlan
from tallyd.model.invoice import Invoice, InvoiceKind, InvoiceStatus
from tallyd.model.periods import Period
from tallyd.model.subscription import Subscription


class Denial(StrEnum):
    """Why a subscription that runs gives no access."""

    PAUSED = "paused"
    UNPAID = "unpaid"
    PAST_DUE = "past_due"


_TO_PAY: Final = frozenset({InvoiceStatus.DUE, InvoiceStatus.PAST_DUE})


class Enrolment:
    """A phase of a subscription with its plan: what an event of its time is counted and priced by.

    Attributes:
        subscription: the subscription.
        plan: the version of the plan in force.
        starts_at: when the phase begins.
        ends_at: when it ends, with the next phase or with the subscription; None while no end is known.
    """

    __slots__ = ("_period", "_segment", "ends_at", "plan", "starts_at", "subscription")

    def __init__(
        self, subscription: Subscription, plan: PricedPlan, starts_at: int = -1, ends_at: int | None = None
    ) -> None:
        self.subscription = subscription
        self.plan = plan
        self.starts_at = subscription.starts_at if starts_at < 0 else starts_at
        self.ends_at = subscription.ends_at if ends_at is None else ends_at
        self._period = Period(0, 0)  # what was asked for last costs nothing to ask for again
        self._segment = Period(0, 0)

    def active_at(self, moment: int) -> bool:
        """Whether the phase covers the instant."""
        return self.starts_at <= moment and (self.ends_at is None or moment < self.ends_at)

    def period_at(self, moment: int) -> Period:
        """Return the billing period that contains the instant."""
        period = self._period
        if period.start <= moment < period.end:
            return period
        period = self._period = self.subscription.period_at(moment)
        return period

    def segment_at(self, moment: int) -> Period:
        """Return the part of the billing period that has this plan: what counters count."""
        segment = self._segment
        if segment.start <= moment < segment.end:
            return segment
        start, end = self.subscription.period_at(moment)
        segment = Period(max(start, self.starts_at), end if self.ends_at is None else min(end, self.ends_at))
        self._segment = segment
        return segment

    def counter_key(self, feature: PricedFeature, moment: int) -> CounterKey:
        """Return the counter that decides limit and price of a feature at an instant."""
        start = LIFETIME if feature.accumulates else self.segment_at(moment).start
        return CounterKey._make((self.subscription.number, feature.key, start))  # _make: a third of the time


Enrolled = tuple[Subscription, tuple[PricedPlan, ...]]
"""A subscription with the plan of each of its phases, in order."""


def enrolments_of(enrolled: Enrolled) -> list[Enrolment]:
    """Return the phases of a subscription, each with its plan."""
    subscription, plans = enrolled
    last = subscription.ends_at
    ends = [*(phase.starts_at for phase in subscription.phases[1:]), last]
    return [
        Enrolment(
            subscription, plan, phase.starts_at, until if last is None or until is None else min(until, last)
        )
        for phase, plan, until in zip(subscription.phases, plans, ends, strict=True)
    ]


def denial(invoices: Iterable[Invoice], subscription: Subscription, moment: int) -> Denial | None:
    """Say why a running subscription gives no access at the instant, given the open invoices, or None."""
    if subscription.paused_at(moment):
        return Denial.PAUSED
    for each in invoices:
        if each.subscription == subscription.number and each.status in _TO_PAY:
            if each.kind is InvoiceKind.IN_ADVANCE_INITIAL:
                return Denial.UNPAID
            if each.overdue_at <= moment:
                return Denial.PAST_DUE
    return None
