"""One customer in the engine, driven as its actor does it; deeds have the names they have in the naive books."""

import itertools
from collections.abc import Callable
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from engine.billing import naive_biller as naive
from support import MODELS, priced, terms
from support import event as happening
from tallyd.engine import recording, voiding
from tallyd.engine.account import Account, Changes, apply
from tallyd.engine.audit.findings import Finding
from tallyd.engine.billing import changing, paying
from tallyd.engine.catalog import read_catalog
from tallyd.engine.credits.book import NEVER
from tallyd.engine.credits.draft import Draft
from tallyd.engine.credits.granting import include
from tallyd.engine.passing import pass_time
from tallyd.engine.rating import PricedPlan
from tallyd.engine.recording import Recorded
from tallyd.engine.rows import ChargeRow, EventRow
from tallyd.engine.voiding import ToVoid
from tallyd.model.catalog import CreditModel, PlanCredits
from tallyd.model.credits import Grant
from tallyd.model.customer import Customer, CustomerRef, RefKind
from tallyd.model.invoice import Invoice
from tallyd.model.ledger_entries import Entry, EntryKind
from tallyd.model.problems import Code, Problem, ProblemError
from tallyd.model.subscription import Subscription
from tallyd.store import tables
from tallyd.store.accounts import load_account, load_counters
from tallyd.store.audit import audit
from tallyd.store.batch import Work, merge
from tallyd.store.sqlite import commit, open_writer

TERMS = terms()
_encode = msgspec.json.Encoder(order="deterministic").encode
_decode_deltas = msgspec.json.Decoder(list[tuple[int, Decimal]]).decode
REFERENCE = CustomerRef(RefKind.REFERENCE, "acme")
CUSTOMER = REFERENCE.customer_id()


def toml(feature: str, price: naive.Price) -> str:
    """Write a price list as a catalog has it."""
    mode = "accumulate" if price.for_ever else "reset"
    shared = f'usage_unit_type = "units", reset_mode = "{mode}"'
    if len(price.tiers) == 1 and not price.tiers[0].fee:
        pricing = f'{{ model = "usage", {shared}, price_per_unit = "{price.tiers[0].each}" }}'
    else:
        tiers = ", ".join(
            f'{{ up_to = "{"inf" if tier.up_to is None else tier.up_to}",'
            f' price_per_unit = "{tier.each}", flat_fee = "{tier.fee}" }}'
            for tier in price.tiers
        )
        pricing = f'{{ model = "graduated", {shared}, tiers = [{tiers}] }}'
    return f'[[plans.features]]\nfeature = "{feature}"\nlate_events = "{price.late}"\npricing = {pricing}\n'


@cache
def priced_as(plan: naive.Plan) -> PricedPlan:
    """Return a plan of the naive books as the engine has it, through the catalog."""
    return priced(catalog_of(plan))


def catalog_of(plan: naive.Plan) -> str:
    """Return the catalog that has a plan of the naive books."""
    features = "".join(f'[[features]]\nkey = "{feature}"\n' for feature, _ in plan.prices)
    timing = "IN_ADVANCE" if plan.in_advance else "IN_ARREARS"
    return (
        f'{features}[[plans]]\nkey = "{plan.name}"\nname = "{plan.name}"\ncurrency = "{plan.currency}"\n'
        f'price_amount = "{plan.price}"\ninterval_months = {plan.months or 1}\ninterval_days = {plan.days}\n'
        f'billing_timing = "{timing}"\ntrial_days = {plan.trial_days}\n'
        + "".join(toml(feature, price) for feature, price in plan.prices)
    )


class Books:
    """A customer's rows, so that a daemon can stop at any commit and find them again."""

    def __init__(self) -> None:
        self.connection = open_writer(Path(":memory:"))
        self._due_written = NEVER

    def write(self, changes: list[Changes], due_at: int) -> None:
        """Write one decision and what follows from it, in a transaction, and when something is due next."""
        work = Work(1, changes)
        if due_at != self._due_written:
            work.due_at = self._due_written = due_at
        assert not commit(self.connection, merge([work])), "pools balance"

    def write_plan(self, text: str) -> None:
        """Write the plan of a catalog."""
        written = _encode(read_catalog(text, "test.toml").plans[0])
        key = msgspec.json.decode(written)["key"]
        row = (key, 1, written.decode(), "[]", 0, "catalog", "{}")
        commit(self.connection, merge([Work(rows=[(tables.PLAN_VERSIONS, row)])]))

    def read(self, plans: dict[tuple[str, int], PricedPlan]) -> Account:
        """Return the customer as the books have it."""
        rows = load_account(self.connection, CUSTOMER)
        assert rows is not None
        return rows.account(plans)

    def findings(self) -> list[Finding]:
        """Return what `tallyd verify` would find wrong."""
        return audit(self.connection, MODELS, lambda _done, _all: None).findings


class Driven:
    """One customer in the engine.

    Attributes:
        account: its books in memory.
        now: never goes back.
        invoices: all of them as they stand, by number.
        entries: all ledger rows that are no events, in order.
        rows: events by key.
        charges: by event.
        gone: by event, what voids took of its charges, exact.
        began: by subscription, when its periods began.
        grants: all grants of credits, by number.
        books: where everything is written, if anywhere.
        included: credits that every plan includes, and their rules.
    """

    def __init__(
        self, books: Books | None = None, included: tuple[PlanCredits, CreditModel] | None = None
    ) -> None:
        customer = Customer(number=1, id=CUSTOMER, reference="acme", stripe_id=None, created_at=0)
        self.account = Account(customer, known=False)
        self.books = books
        self.included = included
        self.now = 0
        self.number: Callable[[], int] = itertools.count(1).__next__
        self.plans: dict[tuple[str, int], PricedPlan] = {}
        self.invoices: dict[int, Invoice] = {}
        self.entries: list[Entry] = []
        self.rows: dict[str, EventRow] = {}
        self.charges: dict[int, list[ChargeRow]] = {}
        self.gone: dict[int, Decimal] = {}
        self.began: dict[int, list[int]] = {}
        self.grants: dict[int, Grant] = {}

    # Time

    def pass_to(self, now: int, most: int = 0) -> None:
        """Let time pass, and write what it has done; in slices of `most` things each, if that is given."""
        self.now = max(self.now, now)
        while (changes := pass_time(self.account, self.now, self.number, most)) is not None:
            self._write([self._take(changes)])

    def pass_slices(self, now: int, slices: int) -> None:
        """Let time pass until so many slices of one thing each are written; the clock may be further on."""
        self.now = max(self.now, now)
        for _ in range(slices):
            changes = pass_time(self.account, self.now, self.number, 1)
            if changes is not None:
                self._write([self._take(changes)])

    def restart(self) -> Account:
        """Forget all that is in memory and read it from the books; return what was forgotten."""
        assert self.books is not None
        before = self.account
        self.account = self.books.read(self.plans)
        return before

    # Deeds

    def subscribe(
        self,
        number: int,
        plan: naive.Plan,
        *,
        start: int,
        anchor: int | None,
        zone: str,
        grace: int,
        periods: int | None = None,
    ) -> None:
        """Put the customer on a plan."""
        engine_plan = self._plan(plan)
        phase, trial_ends_at = changing.first_phase(engine_plan, starts_at=start, anchor_day=anchor, zone=zone)
        subscription = Subscription(
            number=number,
            id=f"subscription-{number}",
            customer=1,
            starts_at=start,
            ends_at=None if periods is None else phase.cycle.end_of(periods),
            created_at=self.now,
            phases=[phase],
            trial_ends_at=trial_ends_at,
            grace_days=grace,
        )

        def subscribe(draft: Draft) -> None:
            changing.subscribe(draft, subscription, engine_plan)
            if self.included is not None:
                include(draft, draft.enrolment_at(number, self.now), *self.included)

        self._decide(subscribe)

    def use(self, event: str, number: int, feature: str, units: Decimal, when: int) -> None:
        """Record usage."""
        self._counters_since(when)
        happened = happening(
            "call",
            event,
            feature_key=feature,
            usage_units=units,
            at=when,
            subscription_id=f"subscription-{number}",
        )
        decided = recording.record(self.account, happened, number=self.number, now=self.now, terms=TERMS)
        assert isinstance(decided, Recorded), "no credits are asked for"
        self.rows[event] = decided.row
        self.charges[decided.row.id] = decided.charges
        self._keep(decided.changes)

    def take_back(self, event: str) -> None:
        """Void an event."""
        self._counters_since(0)
        row = self.rows[event]
        if row.id in self.gone:
            raise ProblemError(Problem(code=Code.CONFLICT, message="the event has been voided already"))
        draft = Draft(self.account, self.now, self.number)
        drawn = [
            (entry, {number: self.grants[number] for number, _ in _decode_deltas(entry.grants)})
            for entry in self.entries
            if entry.event == row.id and entry.kind == EntryKind.DEDUCTION
        ]
        given = ToVoid(row=row, charges=self.charges[row.id], deductions=drawn)
        changes = voiding.void(draft, given, "wrong")
        self._keep(changes)
        voided = next(entry for entry in changes.entries if entry.kind == EntryKind.EVENT_VOIDED)
        told = msgspec.json.decode(voided.details, type=voiding.VoidTerms)
        self.gone[row.id] = sum((part.amount for part in told.parts), Decimal(0))

    def upgrade(self, number: int, plan: naive.Plan) -> None:
        """Change the plan now."""
        engine_plan = self._plan(plan)
        self._decide(lambda draft: changing.upgrade(draft, number, engine_plan, f"change-{self.now}"))

    def downgrade(self, number: int, plan: naive.Plan) -> None:
        """Change the plan at the period's end."""
        engine_plan = self._plan(plan)
        self._decide(lambda draft: changing.downgrade(draft, number, engine_plan, f"change-{self.now}"))

    def keep_plan(self, number: int) -> None:
        """Take back a downgrade."""
        self._decide(lambda draft: changing.revert_change(draft, number))

    def pause(self, number: int) -> None:
        """Pause."""
        self._decide(lambda draft: changing.pause(draft, number))

    def resume(self, number: int) -> None:
        """End the pause."""
        self._decide(lambda draft: changing.resume(draft, number))

    def leave(self, number: int) -> None:
        """Cancel at the period's end."""
        self._decide(lambda draft: changing.cancel_at_period_end(draft, number))

    def stay(self, number: int) -> None:
        """Take that back."""
        self._decide(lambda draft: changing.revert_cancellation(draft, number))

    def end_now(self, number: int) -> None:
        """Cancel at once."""
        self._decide(lambda draft: changing.cancel_now(draft, number))

    def pay(self, serial: int) -> None:
        """Mark an invoice as paid."""
        self._decide(lambda draft: paying.pay(draft, self.invoice(serial)))

    def void(self, serial: int) -> None:
        """Void an invoice."""
        self._decide(lambda draft: paying.void(draft, self.invoice(serial)))

    def invoice(self, serial: int) -> Invoice:
        """Return an invoice by its place among the customer's."""
        return next(each for each in self.invoices.values() if each.serial == serial)

    def do(self, at: int, what: str, details: dict[str, Any]) -> ProblemError | None:
        """Do what a fact of the naive books says; return why it is refused, if it is."""
        self.pass_to(at)
        try:
            getattr(self, what)(**details)
        except ProblemError as error:
            return error
        return None

    # Keeping

    def _plan(self, plan: naive.Plan) -> PricedPlan:
        engine_plan = priced_as(plan)
        if self.included is not None:
            engine_plan = msgspec.structs.replace(engine_plan, credits=(self.included[0],))
        key = engine_plan.key, engine_plan.version
        if key not in self.plans and self.books is not None:
            self.books.write_plan(catalog_of(plan))
        self.plans[key] = engine_plan
        return engine_plan

    def _counters_since(self, moment: int) -> None:
        if self.books is not None and moment < self.account.counters_from:
            for key, counter in load_counters(self.books.connection, 1).items():
                self.account.counters.setdefault(key, counter)
            self.account.counters_from = 0

    def _decide(self, decide: Callable[[Draft], object]) -> None:
        draft = Draft(self.account, self.now, self.number)
        decide(draft)
        if draft.changed:
            changes = draft.changes()
            changes.customer = None if self.account.known else self.account.customer
            self._keep(changes)

    def _keep(self, changes: Changes) -> None:
        """Take and write a decision, with what time does because of it, as one."""
        made = [self._take(changes)]
        while (follows := pass_time(self.account, self.now, self.number)) is not None:
            made.append(self._take(follows))
        self._write(made)

    def _take(self, changes: Changes) -> Changes:
        apply(self.account, changes)
        self.invoices.update(changes.invoices)
        if changes.credits is not None:
            self.grants.update(changes.credits.grants)
        self.entries += changes.entries
        for entry in changes.entries:
            if entry.kind == EntryKind.SUBSCRIPTION:
                subscription = msgspec.json.decode(entry.details, type=Subscription)
                began = self.began.setdefault(subscription.number, [-1])
                if subscription.renewed_to != began[-1]:
                    began.append(subscription.renewed_to)
        return changes

    def _write(self, made: list[Changes]) -> None:
        if self.books is not None:
            self.books.write(made, self.account.due_at)
