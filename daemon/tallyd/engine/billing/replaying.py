"""A subscription's events, counted and priced again as if it had been on another plan all along.

Nothing is kept: a fresh account is put on the plan and the events are recorded in it, in ledger order, by the code
that recorded them first.
"""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import count
from typing import Final

import msgspec

from tallyd.engine import rating
from tallyd.engine.account import LIFETIME, Account, Counter, CounterKey, Enrolment, apply, enrolments_of
from tallyd.engine.costs import CostSource, Versions
from tallyd.engine.rating import Marginal, PricedPlan
from tallyd.engine.recording import Recorded, Recording
from tallyd.engine.rerating import event_of
from tallyd.engine.rows import EventRow
from tallyd.engine.terms import Terms
from tallyd.model.customer import Customer
from tallyd.model.event import UsageEvent
from tallyd.model.money import ZERO
from tallyd.model.periods import Period
from tallyd.model.subscription import Phase, Subscription
from tallyd.pricing.seam import Measure

_replace: Final = msgspec.structs.replace


class PastLimit(msgspec.Struct, gc=False):
    """Usage that came when a limit had been reached: refused where it was asked for, counted as zero where not.

    Attributes:
        limit: most units of a period.
        events: how many came too late.
        units: what they would have added.
    """

    limit: Decimal
    events: int = 0
    units: Decimal = ZERO


class Ignored(msgspec.Struct, gc=False):
    """Usage that names a feature and is counted nowhere."""

    events: int = 0
    units: Decimal = ZERO


def on_target(subscription: Subscription, target: PricedPlan) -> Subscription:
    """Return the subscription as if it had been on a plan from its start, its periods and pauses as they were."""
    phases: list[Phase] = []
    for each in subscription.phases:
        if not phases or phases[-1].cycle != each.cycle:
            phases.append(Phase(each.starts_at, target.key, target.version, each.cycle))
    return _replace(subscription, phases=phases, change=None, cancellation=None, renewed_to=subscription.starts_at)


class Replay:
    """See the module's docstring.

    Args:
        customer: whose events they are.
        subscription: it was on; on the target by `on_target` here.
        target: the plan.
        periods: the billing periods asked about; others only where usage accumulates through all of them.
        named: whether events are to be counted on this subscription by its name, where they give one (Retempo's).
        marginal: asks a model for one event's charge.
    """

    def __init__(
        self,
        customer: Customer,
        subscription: Subscription,
        target: PricedPlan,
        periods: Sequence[Period],
        *,
        named: bool = True,
        marginal: Marginal = rating.marginal,
    ) -> None:
        self._subscription = on_target(subscription, target)
        self.enrolments: list[Enrolment] = enrolments_of(
            (self._subscription, (target,) * len(self._subscription.phases))
        )
        self._target = target
        self._account = Account(customer, known=True, enrolments=list(self.enrolments))
        self._terms = Terms(prices={}, default_cost=None, versions=Versions(), currency=target.currency)
        self._marginal = marginal
        self._number = count(1).__next__
        self._named = named
        self._asked = {period.start for period in periods}
        features = target.features.values()
        accumulates = any(each.accumulates for each in features)
        self.since = subscription.starts_at if accumulates else periods[0].start
        self.until = periods[-1].end
        self._by_cost = any(each.model.measure is Measure.TOKENS for each in features)
        self._by_rule = any(each.cost is not None for each in features)
        self.events = 0
        self.past_limit: dict[str, PastLimit] = {}
        self.ignored: dict[str, Ignored] = {}

    def event(self, row: EventRow) -> None:
        """Count and price an event of the subscription; they come in ledger order, voided ones left out."""
        if not self.since <= row.occurred_at < self.until:
            return
        event = self._event(row)
        # What the rules are told of the time is when the subscription began: before anything of it is due or late.
        now = self._subscription.starts_at
        recording = Recording(self._account, event, self._number, now, self._terms, self._marginal)
        phase = recording.enrolment
        assert phase is not None, "the subscription runs at that time"
        if phase.period_at(row.occurred_at).start in self._asked:
            self._note(event, recording)
        recorded = recording.record()
        assert isinstance(recorded, Recorded), "without credits a fact is never denied"
        apply(self._account, recorded.changes)

    def _note(self, event: UsageEvent, recording: Recording) -> None:
        self.events += 1
        for each in recording.counts:
            if each.capped:
                assert each.feature.limit is not None, "only a limit caps"
                past = self.past_limit.setdefault(each.feature.key, PastLimit(each.feature.limit))
                past.events += 1
                past.units += each.units
        if event.feature_key and event.feature_key not in self._target.features:
            ignored = self.ignored.setdefault(event.feature_key, Ignored())
            ignored.events += 1
            ignored.units += event.units or ZERO

    def counters(self) -> Iterator[tuple[Enrolment, CounterKey, Counter]]:
        """Return what has been counted in the periods asked about, each with the phase it was counted in."""
        for key, counter in self._account.counters.items():
            if key.period_start != LIFETIME and key.period_start in self._asked:
                phases = [each for each in self.enrolments if each.starts_at <= key.period_start]
                yield phases[-1], key, counter

    def _event(self, row: EventRow) -> UsageEvent:
        event = event_of(row)
        if event.key_space and not self._named:
            event = _replace(event, key_space="")
        if self._by_cost and event.cost_amount is None:
            event = _replace(event, cost_amount=self._cost(row, event))
        return event

    def _cost(self, row: EventRow, event: UsageEvent) -> Decimal | None:
        """Return what an event costs us under the target: by its rule, or as the books have it.

        An event past a limit has no cost in the books, and none here: under a markup it stays unpriced.
        """
        if self._by_rule:
            rule = next((each.cost for each in self._target.counted_by(event) if each.cost), None)
            amount = None if rule is None else rule.cost(event)
            if amount is not None:
                return amount
        known = row.cost is not None and row.cost_source != CostSource.CAPPED
        return Decimal(row.cost) if known and row.cost is not None else None
