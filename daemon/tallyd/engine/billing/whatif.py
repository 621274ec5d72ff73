"""What a time that has been would have come to under another plan. Nothing is changed by asking.

Both sides are made by the same rules, so that their difference is the plan's alone:

- The billing periods that begin in the range count, each of them whole. So the answers for January, February and
  March add up to the one for the quarter. Of a period that still runs, the usage so far and the whole base price.
- The subscription is taken to have been on the target from its start, in the same periods: usage begins at zero
  with each of them (where it accumulates, with the subscription), and the target's meters, tiers and limits hold.
- Before credits: what credits paid for stands at the plan's price on both sides; credits that come with a plan and
  overage are left out.
- Base prices are those of the time that is charged: trials free, pauses as the plan's timing has them. Whether an
  invoice was paid, voided or credited is not asked. Of a target with another interval, the part that the time is.
- Usage is billed as if all of it had come in time. Each line is exact, and rounded once (P9).

A customer who has no subscription in the range is taken to have been on the target through all of it.
"""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from enum import StrEnum
from typing import Final

import msgspec

from tallyd.engine import rating
from tallyd.engine.account import LIFETIME, Counter, CounterKey, Enrolment, enrolments_of
from tallyd.engine.billing import lines as lines_of
from tallyd.engine.billing.base_prices import base_lines
from tallyd.engine.billing.invoicing import in_trial
from tallyd.engine.billing.replaying import PastLimit, Replay
from tallyd.engine.billing.stretches import NOBODYS, Stretch
from tallyd.engine.counting import added
from tallyd.engine.rating import Marginal, PricedFeature, PricedPlan
from tallyd.engine.rows import EventRow
from tallyd.model.customer import Customer
from tallyd.model.invoice import Line
from tallyd.model.money import ZERO

_replace: Final = msgspec.structs.replace


class Part(msgspec.Struct, gc=False):
    """What a base price or a feature comes to.

    Attributes:
        exact: with every digit.
        amount: the sum of its lines, each rounded once.
        used: units.
        events: events counted.
        unpriced: events among them that have no price: what they would cost is not in the amounts.
    """

    exact: Decimal = ZERO
    amount: Decimal = ZERO
    used: Decimal = ZERO
    events: int = 0
    unpriced: int = 0

    def bill(self, lines: Iterable[Line]) -> None:
        """Add some lines."""
        for each in lines:
            self.exact += each.exact
            self.amount += each.amount

    def count(self, counter: Counter) -> None:
        """Add what a counter has counted."""
        self.used += counter.used
        self.events += counter.events
        self.unpriced += counter.unpriced


class Side(msgspec.Struct):
    """One side of the comparison.

    Attributes:
        base: base prices.
        features: usage, by feature.
        credited: what credits paid of it.
    """

    base: Part
    features: dict[str, Part]
    credited: Decimal = ZERO

    @property
    def exact(self) -> Decimal:
        """All of it, with every digit."""
        return sum((each.exact for each in self.features.values()), self.base.exact)

    @property
    def amount(self) -> Decimal:
        """All of it, as the lines are rounded."""
        return sum((each.amount for each in self.features.values()), self.base.amount)

    @property
    def unpriced(self) -> int:
        """Events without a price, by feature they count in."""
        return sum(each.unpriced for each in self.features.values())

    def feature(self, key: str) -> Part:
        """Return a feature's part, to add to."""
        return self.features.setdefault(key, Part())


class LeftOutReason(StrEnum):
    """Why somebody cannot be compared: a closed list."""

    NO_PERIOD = "no_period"  # on a subscription, but none of its billing periods begins in the range
    CURRENCY = "currency"  # pays in another currency than the target's
    NOT_ON_PLAN = "not_on_plan"  # asked for by name, and not on the plan asked for
    NOTHING = "nothing"  # asked for by name: neither a subscription nor an event in the range


class LeftOut(msgspec.Struct, frozen=True):
    """A customer who is not compared, and why."""

    customer: Customer
    reason: LeftOutReason


class Compared(msgspec.Struct, kw_only=True):
    """A customer's two sides.

    Attributes:
        customer: who.
        target: the plan.
        stretches: the periods compared.
        was: as the books have it.
        would_be: under the target.
        events: events of the periods.
        past_limit: usage that a limit of the target would have kept out, by feature.
        missing: features that the target does not have, with what was used of them: free there.
        unsubscribed: events in that time that are on no subscription: not charged on either side.
    """

    customer: Customer
    target: PricedPlan
    stretches: list[Stretch]
    was: Side
    would_be: Side
    events: int = 0
    past_limit: dict[str, PastLimit]
    missing: dict[str, Decimal]
    unsubscribed: int = 0


class Comparison:
    """Compares one customer: give it the events in ledger order, voided ones left out; then the counters.

    Args:
        customer: who.
        target: the plan.
        stretches: the periods, at least one.
        marginal: asks a model for one event's charge.
    """

    def __init__(
        self,
        customer: Customer,
        target: PricedPlan,
        stretches: Sequence[Stretch],
        marginal: Marginal = rating.marginal,
    ) -> None:
        self._marginal = marginal
        self._replays = {
            each.subscription.number: Replay(
                customer,
                each.subscription,
                target,
                each.periods,
                named=bool(each.enrolled[1]),
                marginal=marginal,
            )
            for each in stretches
        }
        self.since = min(each.since for each in self._replays.values())
        self.until = max(each.until for each in self._replays.values())
        self._result = Compared(
            customer=customer,
            target=target,
            stretches=list(stretches),
            was=Side(base=Part(), features={}),
            would_be=Side(base=Part(), features={}),
            past_limit={},
            missing={},
        )

    def event(self, row: EventRow) -> None:
        """Take an event between `since` and `until`."""
        replay = self._replays.get(NOBODYS if row.subscription is None else row.subscription)
        if replay is not None:
            replay.event(row)
        elif row.subscription is None and self._in_periods(row.occurred_at):
            self._result.unsubscribed += 1

    def _in_periods(self, moment: int) -> bool:
        return any(
            period.start <= moment < period.end for each in self._result.stretches for period in each.periods
        )

    def result(self, counters: Mapping[CounterKey, Counter]) -> Compared:
        """Return the comparison; `counters` are the customer's, as the books have them."""
        result = self._result
        for stretch in result.stretches:
            replay = self._replays[stretch.subscription.number]
            self._was(stretch, counters)
            self._would_be(stretch, replay)
            result.events += replay.events
            for key, past in replay.past_limit.items():
                whole = result.past_limit.setdefault(key, PastLimit(past.limit))
                whole.events += past.events
                whole.units += past.units
            if not stretch.enrolled[1]:  # nothing in the books tells what was used of it
                for key, ignored in replay.ignored.items():
                    result.missing[key] = result.missing.get(key, ZERO) + ignored.units
        for key, part in result.was.features.items():
            if part.events and key not in result.target.features:
                result.missing[key] = part.used
        return result

    def _was(self, stretch: Stretch, counters: Mapping[CounterKey, Counter]) -> None:
        if not stretch.enrolled[1]:
            return
        side, phases = self._result.was, enrolments_of(stretch.enrolled)
        for period in stretch.paid:
            side.base.bill(base_lines(stretch.subscription, phases, period))
        for key, counter in sorted(counters.items()):
            if key.subscription == stretch.subscription.number and key.period_start != LIFETIME:
                phase = [each for each in phases if each.starts_at <= key.period_start][-1]
                if any(each.start <= key.period_start < each.end for each in stretch.periods):
                    priced = before_credits(counter, phase.plan.features[key.feature], self._marginal)
                    if not in_trial(stretch.subscription, key.period_start):
                        side.credited += priced.charged - counter.charged
                    _bill(side, stretch, phase, key, priced)

    def _would_be(self, stretch: Stretch, replay: Replay) -> None:
        side = self._result.would_be
        for period in stretch.paid:
            side.base.bill(base_lines(stretch.subscription, replay.enrolments, period))
        for phase, key, counter in replay.counters():
            _bill(side, stretch, phase, key, counter)


def _bill(side: Side, stretch: Stretch, phase: Enrolment, key: CounterKey, counter: Counter) -> None:
    """Add a counter to a side, billed for the first time; that of a trial is only counted."""
    part = side.feature(key.feature)
    part.count(counter)
    if not in_trial(stretch.subscription, key.period_start):
        part.bill(lines_of.usage(phase, key, counter, phase.segment_at(key.period_start), 0))


def before_credits(counter: Counter, feature: PricedFeature, marginal: Marginal = rating.marginal) -> Counter:
    """Return a counter as if nothing had been billed of it, and credits had paid for nothing.

    What they paid for in units is priced after all that the plan has priced: by the law of pricing models the
    order makes no difference.
    """
    charged, rated = counter.charged + counter.credited, counter.rated
    if counter.covered:
        amount, _ = marginal(feature, rated, counter.covered)
        charged, rated = charged + (amount or ZERO), added(rated, counter.covered)
    return _replace(counter, charged=charged, rated=rated, credited=ZERO, covered={}, billed=ZERO, billed_to=0)
