"""What plans charge for a period before usage, whoever was on them: the base price of the time that is charged."""

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from tallyd.engine.account import Enrolment
from tallyd.engine.billing import lines as lines_of
from tallyd.engine.rating import PricedPlan
from tallyd.model.invoice import Line
from tallyd.model.periods import Cycle, Period
from tallyd.model.subscription import Subscription

_replace: Final = msgspec.structs.replace


def base_lines(subscription: Subscription, phases: Iterable[Enrolment], period: Period) -> Iterator[Line]:
    """Return what the plans of some phases charge for a period before usage, each for its part."""
    for each in phases:
        end = period.end if each.ends_at is None else min(period.end, each.ends_at)
        part = Period(max(period.start, each.starts_at), end)
        if part.start < part.end and each.plan.price_amount:
            cycle = _cycle_of(each.plan, subscription.phase_at(part.start).cycle)
            for piece in _pieces(cycle, part):
                less = _not_charged(subscription, each.plan, piece)
                if less < piece.end - piece.start:
                    yield lines_of.base(each.plan, piece, cycle.whole_at(piece.start), less=less)


def _cycle_of(plan: PricedPlan, cycle: Cycle) -> Cycle:
    """Return how a plan's own periods follow each other for a subscriber whose periods follow a cycle."""
    if not plan.interval_months and not plan.interval_days:  # a draft that does not say yet
        return cycle
    return _replace(cycle, months=plan.interval_months, days=plan.interval_days)


def _pieces(cycle: Cycle, part: Period) -> Iterator[Period]:
    moment = part.start
    while moment < part.end:
        end = min(cycle.whole_at(moment).end, part.end)
        yield Period(moment, end)
        moment = end


def _not_charged(subscription: Subscription, plan: PricedPlan, piece: Period) -> int:
    """Return for how many microseconds nothing is charged: in advance, of pauses that are on at the start."""
    total = 0
    for begin, until in subscription.pauses:
        if plan.timing == "IN_ARREARS" or begin <= piece.start:
            end = piece.end if until is None else min(until, piece.end)
            total += max(0, end - max(begin, piece.start))
    return total
