"""One customer's books in memory: subscriptions, counters, ledger position.

An account changes in one way only: a rule decides from it what changes, and `apply` makes those changes. Whoever
owns the account (its actor) sends the same changes to the store.
"""

from decimal import Decimal
from typing import Final, NamedTuple

import msgspec

from tallyd.engine.chain import GENESIS
from tallyd.engine.credits.book import CreditBook, CreditChanges
from tallyd.engine.rating import PricedFeature, PricedPlan
from tallyd.model.customer import Customer
from tallyd.model.event import UsageEvent
from tallyd.model.money import ZERO
from tallyd.model.periods import Period
from tallyd.model.subscription import Subscription

LIFETIME: Final = -1
"""In place of a period's start: the counter of a feature whose usage accumulates through all periods."""


class CounterKey(NamedTuple):
    """Which usage a counter counts."""

    subscription: int
    feature: str
    period_start: int


class Counter(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Usage of one feature in one period of one subscription.

    Attributes:
        used: units, what limits are compared with.
        rated: quantities the plan has priced, by dimension.
        charged: sum of the plan's charges, exact.
        sent: sum of revenues that came with the events instead.
        events: events counted.
        unpriced: events among them that have no charge yet.
        latest_at: time of the latest event, for `last` meters.
    """

    used: Decimal = ZERO
    rated: dict[str, Decimal] = {}
    charged: Decimal = ZERO
    sent: Decimal = ZERO
    events: int = 0
    unpriced: int = 0
    latest_at: int = 0


EMPTY: Final = Counter()


class Enrolment:
    """A subscription with its plan, and the period last asked for (asking for it again costs nothing)."""

    __slots__ = ("_period", "plan", "subscription")

    def __init__(self, subscription: Subscription, plan: PricedPlan) -> None:
        self.subscription = subscription
        self.plan = plan
        self._period = Period(0, 0)

    def period_at(self, moment: int) -> Period:
        """Return the billing period that contains the instant."""
        period = self._period
        if period.start <= moment < period.end:
            return period
        period = self._period = self.subscription.period_at(moment)
        return period

    def counter_key(self, feature: PricedFeature, moment: int) -> CounterKey:
        """Return the counter that decides limit and price of a feature at an instant."""
        start = LIFETIME if feature.accumulates else self.period_at(moment).start
        return CounterKey._make((self.subscription.number, feature.key, start))  # _make: a third of the time


class Account:
    """All of one customer that rules need. See the module's docstring for how it changes."""

    __slots__ = ("chain", "counters", "credits", "customer", "enrolments", "known", "position", "seen")

    def __init__(
        self,
        customer: Customer,
        *,
        known: bool,
        enrolments: list[Enrolment] | None = None,
        counters: dict[CounterKey, Counter] | None = None,
        seen: dict[CounterKey, set[str]] | None = None,
        credits: CreditBook | None = None,  # noqa: A002 - what they are called
        position: int = 0,
        chain: bytes = GENESIS,
    ) -> None:
        self.customer = customer
        self.known = known
        self.enrolments = enrolments if enrolments is not None else []
        self.counters = counters if counters is not None else {}
        self.seen = seen if seen is not None else {}
        self.credits = credits
        self.position = position
        self.chain = chain

    def counter(self, key: CounterKey) -> Counter:
        """Return a counter, empty when nothing was counted yet."""
        return self.counters.get(key, EMPTY)

    def enrolment_for(self, event: UsageEvent) -> Enrolment | None:
        """Return the subscription an event counts on, or None when none covers its time.

        The one it names, if it covers the event's time; else the first that counts it; else the first. An event
        whose key belongs to a subscription (Retempo's) counts on that one or on none.
        """
        moment, enrolments = event.occurred_at, self.enrolments
        if event.key_space and event.key_space == event.subscription_id:
            enrolments = [each for each in enrolments if each.subscription.id == event.subscription_id]
        if len(enrolments) == 1:
            return enrolments[0] if enrolments[0].subscription.active_at(moment) else None
        active = [each for each in enrolments if each.subscription.active_at(moment)]
        if len(active) > 1:
            for each in active:
                if each.subscription.id == event.subscription_id:
                    return each
            for each in active:
                if each.plan.counted_by(event):
                    return each
        return active[0] if active else None

    def granting(self, feature_key: str, moment: int) -> tuple[Enrolment, PricedFeature] | None:
        """Return the first active subscription whose plan has a feature, and the feature."""
        for each in self.enrolments:
            feature = each.plan.features.get(feature_key)
            if feature is not None and each.subscription.active_at(moment):
                return each, feature
        return None


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


class Changes(msgspec.Struct, kw_only=True, gc=False):
    """What one decision changes: applied to the account in memory and written to the books, as one.

    Attributes:
        customer: the customer's row, when it is new.
        event: the new ledger row, if any.
        charges: its charges.
        counters: new values of the counters touched.
        seen: values newly seen by `unique` meters.
        rollups: what is added to the roll-ups.
        price_versions: bases of cost to keep: (id, content).
        subscription: a new subscription with its plan.
        rerated: an event that got the prices it lacked.
        credits: what happened to pools, grants and holds.
        position: the account's ledger position afterwards.
        chain: the account's chain hash afterwards.
    """

    customer: Customer | None = None
    event: EventRow | None = None
    charges: list[ChargeRow] = []
    counters: dict[CounterKey, Counter] = {}
    seen: list[tuple[CounterKey, str]] = []
    rollups: list[tuple[RollupKey, RollupDelta]] = []
    price_versions: dict[int, str] = {}
    subscription: tuple[Subscription, PricedPlan] | None = None
    rerated: Rerated | None = None
    credits: CreditChanges | None = None
    position: int
    chain: bytes


def apply(account: Account, changes: Changes) -> None:
    """Make a decision's changes to the account: the only way an account changes."""
    if changes.customer is not None:
        account.customer = changes.customer
        account.known = True
    account.counters.update(changes.counters)
    for key, value in changes.seen:
        account.seen.setdefault(key, set()).add(value)
    if changes.subscription is not None:
        account.enrolments.append(Enrolment(*changes.subscription))
    if changes.credits is not None:
        if account.credits is None:
            account.credits = CreditBook()
        account.credits.apply(changes.credits)
    account.position = changes.position
    account.chain = changes.chain
