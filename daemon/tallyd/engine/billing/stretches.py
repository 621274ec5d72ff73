"""Which billing periods a what-if is about: those that begin in the range, each of them whole."""

from collections.abc import Iterator
from datetime import date
from typing import Final

import msgspec

from tallyd.engine.account import Enrolled
from tallyd.engine.billing.invoicing import in_trial, zone_of
from tallyd.engine.rating import PricedPlan
from tallyd.model.customer import Customer
from tallyd.model.moments import DAY_US
from tallyd.model.periods import Cycle, Period, local_date, midnight
from tallyd.model.subscription import Phase, Subscription

NOBODYS: Final = 0
"""Row number of the subscription that somebody without one is taken to have been on."""


class Span(msgspec.Struct, frozen=True):
    """The range that is asked about, `[start, end)`: instants, or dates as the subscriber's zone has them."""

    start: date | int
    end: date | int

    def within(self, zone: str) -> Period:
        """Return the range, where the zone is."""
        start, end = (each if isinstance(each, int) else midnight(each, zone) for each in (self.start, self.end))
        return Period(start, end)

    def widest(self) -> Period:
        """Return a time that holds the range, wherever it is."""
        start, end = self.within("UTC")
        return Period(start - DAY_US, end + DAY_US)


class Stretch(msgspec.Struct, frozen=True):
    """The periods of a subscription that are asked about, with the plans of its phases.

    Attributes:
        enrolled: the subscription; without plans where nobody was on it.
        periods: in order, at least one.
        runs: whether the last of them is not over yet.
    """

    enrolled: Enrolled
    periods: list[Period]
    runs: bool

    @property
    def subscription(self) -> Subscription:
        """The subscription."""
        return self.enrolled[0]

    @property
    def paid(self) -> list[Period]:
        """Periods that are not on trial."""
        return [each for each in self.periods if not in_trial(self.subscription, each.start)]


def stretch_of(enrolled: Enrolled, span: Span, now: int, on: str | None = None) -> Stretch | None:
    """Return the periods of a subscription that begin in the range and by now; None: there are none.

    `on` leaves only those in which the plan of that key was in force.
    """
    subscription, plans = enrolled
    start, end = span.within(zone_of(subscription))
    if subscription.ends_at is not None:
        end = min(end, subscription.ends_at)
    periods = [
        each
        for each in _periods(subscription, max(start, subscription.starts_at), min(end, now + 1))
        if each.start >= start and (on is None or on in _plans_in(subscription, each))
    ]
    return Stretch((subscription, plans), periods, runs=periods[-1].end > now) if periods else None


def _periods(subscription: Subscription, moment: int, until: int) -> Iterator[Period]:
    while moment < until:
        start, end = subscription.period_at(moment)
        last = end if subscription.ends_at is None else min(end, subscription.ends_at)
        yield Period(start, last)
        moment = end


def _plans_in(subscription: Subscription, period: Period) -> set[str]:
    return {
        subscription.phase_at(period.start).plan_key,
        *(each.plan_key for each in subscription.phases if period.start < each.starts_at < period.end),
    }


def runs_in(subscription: Subscription, span: Span) -> bool:
    """Whether a subscription runs at some time of the range."""
    start, end = span.within(zone_of(subscription))
    return subscription.starts_at < end and (subscription.ends_at is None or subscription.ends_at > start)


def unsubscribed(customer: Customer, target: PricedPlan, span: Span, zone: str, now: int) -> Stretch | None:
    """Return the range as somebody's first periods on the target; None: it has not begun."""
    start, end = span.within(zone)
    if start > now:
        return None
    months = target.interval_months or (0 if target.interval_days else 1)
    cycle = Cycle(start, local_date(start, zone).day, months, target.interval_days, zone)
    subscription = Subscription(
        number=NOBODYS,
        id="",
        customer=customer.number,
        starts_at=start,
        ends_at=end,
        created_at=start,
        phases=[Phase(start, target.key, target.version, cycle)],
    )
    return Stretch((subscription, ()), list(_periods(subscription, start, min(end, now + 1))), runs=end > now)
