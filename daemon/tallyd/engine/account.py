"""One customer's books in memory: subscriptions, counters, ledger position.

An account changes in one way only: a rule decides from it what changes, and `apply` makes those changes. Whoever
owns the account (its actor) sends the same changes to the store.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from tallyd.engine.chain import GENESIS
from tallyd.engine.counters import EMPTY, LIFETIME, Counter, CounterKey
from tallyd.engine.credits.book import NEVER, CreditBook, CreditChanges
from tallyd.engine.enrolment import Denial, Enrolled, Enrolment, denial, enrolments_of
from tallyd.engine.rating import PricedFeature
from tallyd.engine.rows import ChargeRow, EventRow, Rerated, RollupDelta, RollupKey
from tallyd.model.customer import Customer
from tallyd.model.event import UsageEvent
from tallyd.model.invoice import Invoice, InvoiceStatus
from tallyd.model.ledger_entries import Entry
from tallyd.model.subscription import Subscription

_DUE: Final = InvoiceStatus.DUE


class Account:
    """All of one customer that rules need. See the module's docstring for how it changes.

    Counters of periods before `counters_from` that are billed are not in memory: whoever needs one has it loaded.
    """

    __slots__ = (
        "billing_at",
        "chain",
        "counters",
        "counters_from",
        "credits",
        "customer",
        "enrolments",
        "invoices",
        "known",
        "position",
        "seen",
        "serial",
    )

    def __init__(
        self,
        customer: Customer,
        *,
        known: bool,
        enrolments: list[Enrolment] | None = None,
        counters: dict[CounterKey, Counter] | None = None,
        seen: dict[CounterKey, set[str]] | None = None,
        credits: CreditBook | None = None,  # noqa: A002 - what they are called
        invoices: dict[int, Invoice] | None = None,
        serial: int = 0,
        position: int = 0,
        chain: bytes = GENESIS,
        counters_from: int = 0,
    ) -> None:
        self.customer = customer
        self.known = known
        self.enrolments = enrolments if enrolments is not None else []
        self.counters = counters if counters is not None else {}
        self.seen = seen if seen is not None else {}
        self.credits = credits
        self.invoices = invoices if invoices is not None else {}
        self.serial = serial
        self.position = position
        self.chain = chain
        self.counters_from = counters_from
        self.billing_at = billing_due(self)

    @property
    def due_at(self) -> int:
        """When time alone changes something next; may be early, never late."""
        held = self.credits
        return self.billing_at if held is None or held.due_at > self.billing_at else held.due_at

    def copy(self) -> "Account":
        """Return an account that can be changed without changing this one."""
        return Account(
            self.customer,
            known=self.known,
            enrolments=list(self.enrolments),
            counters=dict(self.counters),
            seen={key: set(values) for key, values in self.seen.items()},
            credits=None if self.credits is None else self.credits.copy(),
            invoices=dict(self.invoices),
            serial=self.serial,
            position=self.position,
            chain=self.chain,
            counters_from=self.counters_from,
        )

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
            return enrolments[0] if enrolments[0].active_at(moment) else None
        active = [each for each in enrolments if each.active_at(moment)]
        if len(active) > 1:
            for each in active:
                if each.subscription.id == event.subscription_id:
                    return each
            for each in active:
                if each.plan.counted_by(event):
                    return each
        return active[0] if active else None

    def granting(self, feature_key: str, moment: int) -> tuple[Enrolment, PricedFeature] | None:
        """Return the first active subscription whose plan has a feature, and it; one with access before others."""
        found = None
        for each in self.enrolments:
            feature = each.plan.features.get(feature_key)
            if feature is not None and each.active_at(moment):
                if found is None:
                    found = (each, feature)
                if self.denied(each.subscription, moment) is None:
                    return each, feature
        return found

    def denied(self, subscription: Subscription, moment: int) -> "Denial | None":
        """Say why a running subscription gives no access at the instant, or None when it does (C1, D6)."""
        if not self.invoices and not subscription.pauses:
            return None
        return denial(self.invoices.values(), subscription, moment)

    def subscription(self, number: int) -> Enrolled | None:
        """Return a subscription by its row number, with the plans of its phases."""
        mine = [each for each in self.enrolments if each.subscription.number == number]
        if not mine:
            return None
        subscription = mine[0].subscription
        plans = {(each.plan.key, each.plan.version): each.plan for each in mine}
        return subscription, tuple(plans[phase.plan_key, phase.plan_version] for phase in subscription.phases)

    def enrolment_at(self, number: int, moment: int) -> Enrolment:
        """Return the phase of a subscription that is in force at an instant, or was last, or is first."""
        phases = [each for each in self.enrolments if each.subscription.number == number]
        begun = [each for each in phases if each.starts_at <= moment]
        return begun[-1] if begun else phases[0]

    def phases_at(self, moment: int) -> list[Enrolment]:
        """Return each subscription with its phase at an instant, those that do not run then included."""
        return [self.enrolment_at(each.number, moment) for each in self.subscriptions()]

    def subscriptions(self) -> list[Subscription]:
        """Return the customer's subscriptions, in order."""
        return list({each.subscription.number: each.subscription for each in self.enrolments}.values())


class Changes(msgspec.Struct, kw_only=True, gc=False):
    """What one decision changes: applied to the account in memory and written to the books, as one.

    Attributes:
        customer: the customer's row, when it is new.
        event: the new ledger row, if any.
        charges: its charges.
        counters: new values of the counters touched.
        seen: values newly seen by `unique` meters.
        unseen: values that no event has any more.
        rollups: what is added to the roll-ups.
        price_versions: bases of cost to keep: (id, content).
        subscriptions: new states of subscriptions, by number, with the plans of their phases.
        invoices: new states of invoices, by number.
        rerated: an event that got the prices it lacked.
        entries: ledger rows of credits and billing, in order.
        credits: what happened to pools, grants and holds.
        late: whether it touches usage of a subscription that has ended, which is then billed once more.
        position: the account's ledger position afterwards.
        chain: the account's chain hash afterwards.
    """

    customer: Customer | None = None
    event: EventRow | None = None
    charges: list[ChargeRow] = []
    counters: dict[CounterKey, Counter] = {}
    seen: list[tuple[CounterKey, str]] = []
    unseen: list[tuple[CounterKey, str]] = []
    rollups: list[tuple[RollupKey, RollupDelta]] = []
    price_versions: dict[int, str] = {}
    subscriptions: dict[int, Enrolled] = {}
    invoices: dict[int, Invoice] = {}
    rerated: Rerated | None = None
    entries: list[Entry] = []
    credits: CreditChanges | None = None
    late: bool = False
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
    for key, value in changes.unseen:
        account.seen.get(key, set()).discard(value)
    if changes.subscriptions:
        _put_subscriptions(account, changes.subscriptions)
    for number, invoice in changes.invoices.items():
        account.serial = max(account.serial, invoice.serial)
        if invoice.open:
            account.invoices[number] = invoice
        else:
            account.invoices.pop(number, None)
    if changes.credits is not None:
        if account.credits is None:
            account.credits = CreditBook()
        account.credits.apply(changes.credits)
    account.position = changes.position
    account.chain = changes.chain
    if changes.subscriptions or changes.invoices or changes.late:
        account.billing_at = billing_due(account)


def _put_subscriptions(account: Account, changed: dict[int, Enrolled]) -> None:
    known = {each.subscription.number for each in account.enrolments}
    rows = dict.fromkeys([*(each.subscription.number for each in account.enrolments), *changed])
    enrolments: list[Enrolment] = []
    for number in rows:
        if number in changed:
            enrolments += enrolments_of(changed[number])
        elif number in known:
            enrolments += [each for each in account.enrolments if each.subscription.number == number]
    account.enrolments = enrolments


def billing_due(account: Account) -> int:
    """Return when a period ends, an invoice falls overdue or late usage after the end is billed next."""
    due = min((each.overdue_at for each in account.invoices.values() if each.status is _DUE), default=NEVER)
    for subscription in account.subscriptions():
        due = min(due, renewal_at(subscription, account.counters))
    return due


def renewal_at(subscription: Subscription, counters: Mapping[CounterKey, Counter]) -> int:
    """Return when the period ends that a subscription was renewed for; of one that has ended, when it matters."""
    if subscription.renewed_to < subscription.starts_at:
        return subscription.starts_at
    end = subscription.period_at(subscription.renewed_to).end
    ends_at = subscription.ends_at
    if ends_at is None or end <= ends_at:
        return end
    if subscription.renewed_to < ends_at:
        return ends_at
    waits = any(
        key.subscription == subscription.number and key.period_start != LIFETIME and counter.unbilled
        for key, counter in counters.items()
    )
    return end if waits else NEVER


__all__ = [
    "EMPTY",
    "LIFETIME",
    "Account",
    "Changes",
    "Counter",
    "CounterKey",
    "Denial",
    "Enrolled",
    "Enrolment",
    "apply",
    "billing_due",
    "denial",
    "enrolments_of",
    "renewal_at",
]
