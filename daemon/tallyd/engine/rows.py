"""The rows that a decision makes: events, charges, re-ratings and roll-ups, as the books have them."""

from decimal import Decimal
from typing import NamedTuple

import msgspec

from tallyd.model.money import ZERO


class ChargeRow(msgspec.Struct, frozen=True, gc=False):
    """What one event added to one feature of a plan. Fields are the columns of `charges`, in order.

    Attributes:
        event: row number of the event.
        customer: row number of the customer.
        feature: feature key.
        subscription: row number of the subscription.
        period_start: start of the billing period, microseconds UTC.
        plan_key: the plan.
        plan_version: the price version.
        used_before: cumulative units before this event, in the counter that decides limit and price.
        units: units it added.
        before: cumulative priced quantities before it, JSON, in the dimensions of `quantity`.
        quantity: priced quantities it added, JSON; `{}` when the plan did not price it.
        amount: exact charge, or None while unpriced.
        currency: of the amount.
        no_price: why there is no amount.
    """

    event: int
    customer: int
    feature: str
    subscription: int
    period_start: int
    plan_key: str
    plan_version: int
    used_before: str
    units: str
    before: str
    quantity: str
    amount: str | None
    currency: str
    no_price: str | None


class EventRow(msgspec.Struct, frozen=True, gc=False):
    """A ledger row: an event as counted, costed and charged. Fields are the columns of `events`, in order.

    Attributes:
        id: row number, ascending in order of acceptance.
        customer: row number of the customer.
        position: the customer's own sequence, 1, 2, 3, …
        key_space: see `UsageEvent`.
        key: idempotency key.
        source: the contract it came in through.
        name: event name.
        feature: the feature it names, or None.
        occurred_at: microseconds UTC.
        received_at: microseconds UTC.
        subscription: row number of the subscription it counts on, or None.
        units: what it counts for: 0 past a cap.
        cost: exact provider cost, or None.
        cost_source: see `CostSource`.
        cost_version: row of `price_versions` that explains a computed cost.
        revenue: exact, sum of its charges or as sent, or None.
        revenue_source: `plan` or `sent`.
        currency: of the revenue.
        no_price: why cost or charge is missing, or None.
        capped: 1 when a usage cap was already reached and the event was stored with zeros.
        model: the provider's model.
        provider: the model's provider.
        body: canonical JSON of what was sent.
        chain: hash of this row and the customer's row before it.
    """

    id: int
    customer: int
    position: int
    key_space: str
    key: str
    source: str
    name: str
    feature: str | None
    occurred_at: int
    received_at: int
    subscription: int | None
    units: str
    cost: str | None
    cost_source: str | None
    cost_version: int | None
    revenue: str | None
    revenue_source: str | None
    currency: str
    no_price: str | None
    capped: int
    model: str | None
    provider: str | None
    body: str
    chain: bytes


class RollupKey(NamedTuple):
    """Which sums a roll-up row holds; the columns of its primary key. Empty text stands for "none"."""

    hour: int
    customer: int
    feature: str
    model: str
    provider: str
    name: str
    currency: str


class RollupDelta(msgspec.Struct, gc=False):
    """What is added to a roll-up row."""

    events: int = 0
    units: Decimal = ZERO
    input_tokens: Decimal = ZERO
    output_tokens: Decimal = ZERO
    cost: Decimal = ZERO
    revenue: Decimal = ZERO
    unpriced: int = 0

    def add(self, other: "RollupDelta") -> None:
        """Add another delta to this one."""
        self.events += other.events
        self.units += other.units
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.cost += other.cost
        self.revenue += other.revenue
        self.unpriced += other.unpriced


class RerateRow(msgspec.Struct, frozen=True, gc=False):
    """A ledger row: prices found later for an event. Fields are the columns of `rerates`, in order.

    Attributes:
        customer: row number of the customer.
        position: in the customer's own sequence.
        event: row number of the event.
        rated_at: microseconds UTC.
        before: JSON of the priced columns before.
        after: JSON of the priced columns after.
        chain: hash of this row and the customer's row before it.
    """

    customer: int
    position: int
    event: int
    rated_at: int
    before: str
    after: str
    chain: bytes


class Rerated(msgspec.Struct, frozen=True, gc=False):
    """An event and its charges as they stand once prices were found, and the ledger row that says so."""

    row: RerateRow
    event: EventRow
    charges: list[ChargeRow]
