"""The auditor's own counters: what the events, voids and invoices so far have made of them."""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Final

import msgspec

from tallyd.engine.audit.findings import Findings
from tallyd.engine.counters import EMPTY, LIFETIME, Counter, CounterKey
from tallyd.engine.voiding import VoidedPart
from tallyd.model.event import UsageEvent
from tallyd.model.money import ZERO
from tallyd.model.subscription import Subscription

_replace: Final = msgspec.structs.replace
_Owned = tuple[int, CounterKey]


class Counters:
    """Counters and the values that `unique` meters have seen, by customer and key."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._held: dict[_Owned, Counter] = {}
        self._seen: dict[_Owned, set[str]] = {}
        self._touched: dict[int, set[_Owned]] = {}

    def get(self, customer: int, key: CounterKey) -> Counter:
        """Return a counter, empty when nothing was counted yet."""
        return self._held.get((customer, key), EMPTY)

    def known(self, customer: int, key: CounterKey) -> bool:
        """Whether something was counted."""
        return (customer, key) in self._held

    def put(self, customer: int, key: CounterKey, counter: Counter) -> None:
        """Take a counter's new state."""
        self._held[customer, key] = counter
        self._touched.setdefault(key.subscription, set()).add((customer, key))

    def seen(self, customer: int, key: CounterKey) -> set[str]:
        """Return the values seen, to be changed."""
        return self._seen.setdefault((customer, key), set())

    # Billing

    def unbilled(self, subscription: int) -> Iterator[tuple[CounterKey, Counter]]:
        """Return the counters of a subscription that the next invoice has something to say of."""
        touched = self._touched.get(subscription, set())
        for owned in list(touched):
            counter = self._held.get(owned, EMPTY)
            if counter.billed_to and counter.charged == counter.billed:
                touched.discard(owned)
            elif owned[1].period_start != LIFETIME:
                yield owned[1], counter

    def bill(self, customer: int, key: CounterKey, amount: Decimal, until: int) -> None:
        """Add what an invoice bills of a counter."""
        counter = self.get(customer, key)
        self.put(customer, key, _replace(counter, billed=counter.billed + amount, billed_to=until))

    def give_back(self, customer: int, key: CounterKey, amount: Decimal, after: int) -> None:
        """Take off what an invoice no longer bills of a counter."""
        self.bill(customer, key, -amount, min(after, self.get(customer, key).billed_to))

    def carry_over(self, subscription: Subscription, position: int) -> None:
        """Note that the usage of periods that were over counts as billed: the books knew no invoices."""
        for owned in self._touched.get(subscription.number, ()):
            if LIFETIME < owned[1].period_start < subscription.renewed_to:
                counter = self._held[owned]
                self._held[owned] = _replace(counter, billed=counter.charged, billed_to=position)

    # What the books say

    def compare(self, customer: int, key: CounterKey, stands: Counter) -> None:
        """Check a row of `counters`."""
        should = self._held.pop((customer, key), None)
        where = place_of(customer, key)
        if should is None:
            self._findings.add("counter", where, f"no event explains it: it holds {stands.used} used")
            return
        for field in Counter.__struct_fields__:
            self._findings.same("counter", where, field, getattr(stands, field), getattr(should, field))

    def compare_seen(self, customer: int, key: CounterKey, value: str) -> None:
        """Check a row of `seen_values`."""
        should = self._seen.get((customer, key), set())
        if value not in should:
            self._findings.add("seen value", place_of(customer, key), f"no event explains {value!r}")
        should.discard(value)

    def finish(self) -> None:
        """Report what the events explain but the books do not have."""
        for customer, key in self._held:
            self._findings.add("counter", place_of(customer, key), "is missing")
        for (customer, key), values in self._seen.items():
            for value in sorted(values):
                self._findings.add("seen value", place_of(customer, key), f"{value!r} is missing")


def place_of(customer: int, key: CounterKey) -> str:
    """Say which counter it is."""
    return f"customer {customer} {key.feature} subscription {key.subscription} period {key.period_start}"


def counted(counter: Counter, event: UsageEvent, units: Decimal, *, unpriced: bool) -> Counter:
    """Return a counter after one more event."""
    return _replace(
        counter,
        used=counter.used + units,
        events=counter.events + 1,
        unpriced=counter.unpriced + unpriced,
        latest_at=max(counter.latest_at, event.occurred_at),
    )


def rated(counter: Counter, quantity: Mapping[str, Decimal], amount: Decimal) -> Counter:
    """Return a counter with more that the plan has priced."""
    return _replace(counter, rated=_sum(counter.rated, quantity), charged=counter.charged + amount)


def paid(counter: Counter, covered: Mapping[str, Decimal], credited: Decimal) -> Counter:
    """Return a counter with more that credits have paid for."""
    return _replace(counter, covered=_sum(counter.covered, covered), credited=counter.credited + credited)


def without(counter: Counter, part: VoidedPart, latest_at: int) -> Counter:
    """Return a counter without what a void takes off it."""
    return _replace(
        counter,
        used=counter.used - part.units,
        rated=_difference(counter.rated, part.quantity),
        charged=counter.charged - part.amount,
        sent=counter.sent - part.sent,
        events=counter.events - 1,
        unpriced=counter.unpriced - part.unpriced,
        latest_at=latest_at,
        covered=_difference(counter.covered, part.covered),
        credited=counter.credited - part.credited,
    )


def _sum(left: Mapping[str, Decimal], right: Mapping[str, Decimal]) -> dict[str, Decimal]:
    together = dict(left)
    for dimension, value in right.items():
        together[dimension] = together.get(dimension, ZERO) + value
    return together


def _difference(left: Mapping[str, Decimal], right: Mapping[str, Decimal]) -> dict[str, Decimal]:
    return _sum(left, {dimension: -value for dimension, value in right.items()})
