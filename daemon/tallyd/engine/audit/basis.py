"""What the auditor holds events against: customers, plans, subscriptions and price versions."""

from collections.abc import Callable
from typing import Any

import msgspec

from tallyd.engine.audit.findings import Findings
from tallyd.engine.audit.lives import Life
from tallyd.engine.costs import CostRule, CostSource, version_id
from tallyd.engine.credits.prices import Price, price_id
from tallyd.engine.credits.weights import NO_WEIGHTS, Weight, Weights, weight_id
from tallyd.engine.events import customer_ref, decode_body
from tallyd.engine.rating import PricedFeature, PricedPlan
from tallyd.engine.rows import ChargeRow, EventRow
from tallyd.model.customer import Customer, CustomerRef, RefKind
from tallyd.model.event import Source, UsageEvent
from tallyd.model.money import plain
from tallyd.model.subscription import Subscription
from tallyd.pricing.prices import TokenPrices


class Basis:
    """Collects what events refer to, checking what can be checked of it alone.

    Attributes:
        weights: what usage costs in credits.
        lives: subscriptions by row number, as the ledger has led to so far.
    """

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._customers: dict[int, str] = {}
        self._plans: dict[tuple[str, int], PricedPlan] = {}
        self._prices: dict[int, CostRule | TokenPrices] = {}
        self._weights: list[Weight] = []
        self.weights = NO_WEIGHTS
        self.lives: dict[int, Life] = {}

    def customer(self, customer: Customer) -> None:
        """Take a customer; its id must be the one that its names lead to."""
        self._customers[customer.number] = customer.id
        names = {RefKind.REFERENCE: customer.reference, RefKind.STRIPE: customer.stripe_id}
        for kind, name in names.items():
            if name is not None and CustomerRef(kind, name).customer_id() != customer.id:
                message = f"id {customer.id!r} does not belong to {kind} {name!r}"
                self._findings.add("customer", customer.number, message)

    def plan(self, plan: PricedPlan) -> None:
        """Take a version of a plan."""
        self._plans[plan.key, plan.version] = plan

    def subscription(self, subscription: Subscription) -> None:
        """Take a subscription from books that knew no invoices: events may come before its first ledger entry."""
        self.lives[subscription.number] = Life(subscription)

    def price_version(self, number: int, content: str) -> None:
        """Take a price version; its number must be its content's hash, and the content be readable."""
        self._findings.same("price version", number, "the content's number", version_id(content), number)
        self._prices[number] = _read_basis(content)

    def weight(self, row: Weight) -> None:
        """Take a scheduled weight; its id must be its content's hash."""
        self._findings.same("credit weight", row.id, "the content's id", weight_id(row), row.id)
        self._check_published("credit weight", row)
        self._weights.append(row)

    def price(self, row: Price) -> None:
        """Check a scheduled price of credits; its id must be its content's hash."""
        self._findings.same("credit price", row.id, "the content's id", price_id(row), row.id)
        self._check_published("credit price", row)

    def _check_published(self, kind: str, row: Weight | Price) -> None:
        always = row.effective_from == 0  # the catalog's first weights hold for all time
        if row.created_at <= 0 or not (always or row.created_at <= row.effective_from):
            message = f"created_at is {row.created_at!r}, should be at most {row.effective_from!r}"
            self._findings.add(kind, row.id, message)

    def close_weights(self) -> None:
        """Say that all weights were given."""
        self.weights = Weights(self._weights)

    def subscription_numbered(self, number: int) -> Subscription | None:
        """Return a subscription by its row number, as its latest entry has it."""
        life = self.lives.get(number)
        return None if life is None else life.state

    def plan_named(self, key: str, version: int) -> PricedPlan | None:
        """Return a version of a plan."""
        return self._plans.get((key, version))

    def plan_at(self, subscription: Subscription, moment: int) -> PricedPlan | None:
        """Return the plan that a subscription is on at an instant."""
        phase = subscription.phase_at(moment)
        return self._plans.get((phase.plan_key, phase.plan_version))

    def knows(self, customer: int) -> bool:
        """Whether there is such a customer."""
        return customer in self._customers

    def feature(self, charge: ChargeRow, version: int) -> PricedFeature | None:
        """Return the feature a charge names, as a version of its plan has it."""
        plan = self._plans.get((charge.plan_key, version))
        return plan.features.get(charge.feature) if plan else None

    def cost(self, row: EventRow, event: UsageEvent) -> str | None:
        """Recompute the cost from the price version the row names."""
        if row.capped:
            return "0"
        if event.cost_amount is not None:
            return plain(event.cost_amount)
        if row.cost_version is None:
            return None
        basis = self._prices.get(row.cost_version)
        if isinstance(basis, CostRule):
            amount = basis.cost(event)
        elif basis is not None:
            tokens = event.tokens or ({"input": event.units} if event.units else {})
            amount = basis.cost(tokens)
        else:
            return f"by price version {row.cost_version}, which is gone"
        return None if amount is None else plain(amount)

    def check_owner(self, row: EventRow) -> None:
        """Check that the event belongs to the customer whom its body names."""
        body = decode_body(row.body)
        stands = self._customers.get(row.customer)
        if stands is None:
            self._findings.add("event", row.id, f"customer {row.customer} is gone")
        elif body.customer_id or body.stripe_customer_id or body.customer_reference_id:
            self._findings.same("event", row.id, "customer's id", stands, customer_ref(body).customer_id())

    def check_enrolled(self, row: EventRow, event: UsageEvent, charges: list[ChargeRow]) -> None:
        """Check that the event's subscription covers it, and that each feature which counts it has a charge."""
        if row.subscription is None:
            for charge in charges:
                where = f"event {row.id} feature {charge.feature}"
                self._findings.add("charge", where, "the event is on no subscription")
            return
        life = self.lives.get(row.subscription)
        if life is None:
            self._findings.add("event", row.id, f"subscription {row.subscription} is gone, or was made later")
            return
        self._check_covers(life.state, row)
        plan = self.plan_at(life.state, row.occurred_at)
        if plan is None:
            self._findings.add("event", row.id, f"the plan of subscription {row.subscription} is gone")
            return
        self._findings.same("event", row.id, "currency", row.currency, plan.currency)
        counting = plan.counted_by(event)
        stand, should = sorted(charge.feature for charge in charges), sorted(each.key for each in counting)
        if stand != should:
            message = f"{stand} are charged, but the plan counts the event in {should}"
            self._findings.add("charge", f"event {row.id}", message)
        self._check_late(life, row, [each.key for each in counting if each.late_events == "refuse"])

    def _check_late(self, life: Life, row: EventRow, refusing: list[str]) -> None:
        """Check that a feature which takes no late events has none."""
        renewed_to = life.state.renewed_to
        late = life.entered and row.occurred_at < renewed_to
        if late and refusing and life.segment_at(row.occurred_at).end <= renewed_to:
            self._findings.add("event", row.id, f"its period was over, and {refusing} take no late events")

    def _check_covers(self, subscription: Subscription, row: EventRow) -> None:
        where = f"event {row.id} subscription {subscription.number}"
        self._findings.same("subscription", where, "customer", subscription.customer, row.customer)
        if not subscription.active_at(row.occurred_at):
            range_ = f"[{subscription.starts_at}, {subscription.ends_at})"
            message = f"the event's time {row.occurred_at} is not in the subscription's {range_}"
            self._findings.add("subscription", where, message)
        if row.source == Source.RETEMPO:
            self._findings.same("subscription", where, "id", subscription.id, row.key_space)

    def check_charge(self, row: EventRow, charge: ChargeRow) -> None:
        """Check that the charge, as it was first, belongs to its event, its subscription and that one's plan."""
        where = f"event {charge.event} feature {charge.feature}"
        same = self._findings.same
        same("charge", where, "customer", charge.customer, row.customer)
        same("charge", where, "subscription", charge.subscription, row.subscription)
        same("charge", where, "currency", charge.currency, row.currency)
        life = self.lives.get(charge.subscription)
        if life is not None:
            phase = life.state.phase_at(row.occurred_at)
            same("charge", where, "plan_key", charge.plan_key, phase.plan_key)
            same("charge", where, "plan_version", charge.plan_version, phase.plan_version)
            same("charge", where, "period_start", charge.period_start, life.segment_at(row.occurred_at).start)


def _read_basis(content: str) -> CostRule | TokenPrices:
    raw: dict[str, Any] = msgspec.json.decode(content)
    shape: Callable[..., Any] = msgspec.convert
    wanted = TokenPrices if CostSource(raw["kind"]) is CostSource.TABLE else CostRule
    basis: CostRule | TokenPrices = shape(raw["basis"], wanted)
    return basis
