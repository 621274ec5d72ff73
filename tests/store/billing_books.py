"""Books with subscriptions, invoices and voids, made by the engine without a daemon: for tests of verify."""

import random
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import msgspec

from store.credit_books import DAY, START, Bookkeeper
from support import MODELS
from tallyd.engine import rerating, voiding
from tallyd.engine.account import Changes, Enrolment
from tallyd.engine.billing import changing, paying
from tallyd.engine.catalog import check_catalog, price_plan, read_catalog
from tallyd.engine.costs import Versions
from tallyd.engine.credits.draft import Draft
from tallyd.engine.credits.weights import Weights
from tallyd.engine.rating import PricedFeature
from tallyd.engine.rows import ChargeRow
from tallyd.engine.terms import Terms
from tallyd.model.credits import HoldStatus
from tallyd.model.customer import Customer
from tallyd.model.invoice import Invoice, InvoiceStatus
from tallyd.model.ledger_entries import Cause, EntryKind
from tallyd.model.problems import ProblemError
from tallyd.model.subscription import Subscription
from tallyd.store import catalog_rows, credit_rows, event_rows, sqlite, tables, void_rows
from tallyd.store.accounts import load_account, load_counters
from tallyd.store.batch import Work, merge

CATALOG: Final = """
[[meters]]
key = "seats"
event_name = "seat"
aggregation = { type = "unique", key = "who" }
[[meters]]
key = "level"
event_name = "level"
aggregation = { type = "last", key = "n" }
[[meters]]
key = "peak"
event_name = "level"
aggregation = { type = "max", key = "n" }

[[features]]
key = "api"
[[features]]
key = "chat"
[[features]]
key = "disk"
[[features]]
key = "capped"
[[features]]
key = "money"
[[features]]
key = "sealed"
[[features]]
key = "seats"
[[features]]
key = "guests"
[[features]]
key = "level"
[[features]]
key = "peak"

[[plans]]
key = "basic"
name = "Basic"
price_amount = 10
[[plans.features]]
feature = "api"
late_events = "reopen"
pricing = { model = "usage", usage_unit_type = "c", price_per_unit = "0.105" }
[[plans.features]]
feature = "chat"
pricing = { model = "llm_tokens", rates = { known = { input = 1, output = 2 } } }
[[plans.features]]
feature = "disk"
pricing = { model = "graduated", usage_unit_type = "c", reset_mode = "accumulate", tiers = [
    { up_to = 10, price_per_unit = 0, flat_fee = 2 }, { up_to = "inf", price_per_unit = "0.333" } ] }
[[plans.features]]
feature = "capped"
pricing = { model = "usage", usage_unit_type = "c", price_per_unit = 1, max_usage = 5 }
units_per_credit = 3
[[plans.features]]
feature = "money"
credit_model = "usd"
late_events = "reopen"
pricing = { model = "graduated", usage_unit_type = "c", tiers = [
    { up_to = 10, price_per_unit = 1, flat_fee = 5 }, { up_to = "inf", price_per_unit = "0.75" } ] }
[[plans.features]]
feature = "sealed"
late_events = "refuse"
pricing = { model = "usage", usage_unit_type = "c", price_per_unit = 2 }
[[plans.features]]
feature = "seats"
meter = "seats"
pricing = { model = "usage", usage_unit_type = "c", price_per_unit = 2, max_usage = 3 }
[[plans.features]]
feature = "guests"
meter = "seats"
pricing = { model = "usage", usage_unit_type = "c", price_per_unit = "0.5", reset_mode = "accumulate" }
[[plans.features]]
feature = "level"
meter = "level"
pricing = { model = "usage", usage_unit_type = "c", price_per_unit = 2, reset_mode = "accumulate" }
[[plans.features]]
feature = "peak"
meter = "peak"
pricing = { model = "usage", usage_unit_type = "c", price_per_unit = "0.25" }
[[plans.credits]]
credit_model = "tokens"
amount = 100
draw_limit = 90
grant_priority = 1

[[plans]]
key = "pro"
name = "Pro"
price_amount = 30
grace_days = 0
[[plans.features]]
feature = "api"
pricing = { model = "usage", usage_unit_type = "c", price_per_unit = "0.05" }
[[plans.features]]
feature = "disk"
pricing = { model = "usage", usage_unit_type = "c", price_per_unit = "0.2", reset_mode = "accumulate" }
[[plans.features]]
feature = "seats"
meter = "seats"
late_events = "reopen"
pricing = { model = "usage", usage_unit_type = "c", price_per_unit = 3 }
[[plans.features]]
feature = "capped"
pricing = { model = "usage", usage_unit_type = "c", price_per_unit = 1, max_usage = 50 }
[[plans.credits]]
credit_model = "tokens"
amount = 150

[[plans]]
key = "yearly"
name = "Yearly"
price_amount = 100
interval_months = 12
[[plans.features]]
feature = "api"
pricing = { model = "usage", usage_unit_type = "c", price_per_unit = "0.04" }
[[plans.features]]
feature = "chat"
pricing = { model = "llm_tokens", rates = { known = { input = 1, output = 2 } } }
[[plans.credits]]
credit_model = "tokens"
amount = 500

[[plans]]
key = "later"
name = "Later"
price_amount = 20
billing_timing = "IN_ARREARS"
[[plans.features]]
feature = "api"
late_events = "reopen"
pricing = { model = "usage", usage_unit_type = "c", price_per_unit = "0.1" }
[[plans.features]]
feature = "capped"
pricing = { model = "usage", usage_unit_type = "c", price_per_unit = 1, max_usage = 5 }
[[plans.features]]
feature = "peak"
meter = "peak"
late_events = "reopen"
pricing = { model = "usage", usage_unit_type = "c", price_per_unit = "0.25" }
[[plans.credits]]
credit_model = "open"
amount = 3

[[plans]]
key = "weekly"
name = "Weekly"
price_amount = 7
interval_days = 7
billing_timing = "IN_ARREARS"
[[plans.features]]
feature = "api"
pricing = { model = "usage", usage_unit_type = "c", price_per_unit = "0.09" }

[[plans]]
key = "free"
name = "Free"
trial_days = 10
[[plans.features]]
feature = "api"
pricing = { model = "usage", usage_unit_type = "c", price_per_unit = "0.2" }
[[plans.features]]
feature = "peak"
meter = "peak"
pricing = { model = "usage", usage_unit_type = "c", price_per_unit = "0.333" }
[[plans.features]]
feature = "chat"
pricing = { model = "llm_tokens", markup_percent = 30 }

[[credit_models]]
key = "tokens"
hard_limit = false
features = ["api"]
rollover = { policy = "PERCENTAGE", percentage = 50, expires_after_days = 45 }
low_at = 60
[[credit_models]]
key = "open"
hard_limit = false
features = ["chat", "capped"]
precision = 2
overage = { limit = 25, behavior = "invoice_at_billing", price_per_unit = "0.35", currency = "USD" }
top_up = { below = 3, amount = 4, most_a_month = 2 }
[[credit_models]]
key = "usd"
currency = "USD"
charge = "price"
hard_limit = false
[[credit_models]]
key = "wallet"
charge = "nothing"
"""
NEWER: Final = CATALOG.replace("rates = { known =", 'rates = { "*" = { input = 3, output = 4 }, known =')
READ: Final = [read_catalog(text, "test.toml") for text in (CATALOG, NEWER)]
for _read in READ:
    check_catalog(_read, MODELS, "test.toml")
METERS: Final = {meter.key: meter for meter in READ[0].meters}
PLANS: Final = {
    (plan.key, version): price_plan(plan, version, METERS, MODELS)
    for version, read in enumerate(READ, start=1)
    for plan in read.plans
}
CREDIT_MODELS: Final = {model.key: model for model in READ[0].credit_models}
TERMS: Final = Terms(prices={}, default_cost=None, versions=Versions(), currency="USD", weights=Weights([]))

_encode: Final = msgspec.json.Encoder(order="deterministic").encode


class Biller(Bookkeeper):
    """Decides as a customer's actor does, and commits each decision at once.

    `reloads`: now and then the account is loaded from what was written, as after an eviction.

    Attributes:
        connection: the books.
        kept: the last state of each invoice, by number.
    """

    models = CREDIT_MODELS
    terms = TERMS
    newest = PLANS["basic", 2]

    def __init__(self, *, reloads: random.Random | None = None) -> None:
        self.connection = sqlite.open_writer(Path(":memory:"))
        self.kept: dict[int, Invoice] = {}
        self._evicts, self._subscriptions, self._changes = reloads, 0, 0
        super().__init__()

    def _begin(self, customer: Customer) -> None:
        self._commit(Work(rows=_fixed_rows(customer)))

    def _keep(self, changes: Changes) -> None:
        super()._keep(changes)
        self._commit(self.works.pop())
        self.kept.update(changes.invoices)
        if self._evicts is not None and self._evicts.random() < 0.15:
            rows = load_account(self.connection, self.account.customer.id)
            assert rows is not None, "it is known"
            self.account = rows.account(PLANS)

    def _commit(self, work: Work) -> None:
        self.works.append(work)
        assert sqlite.commit(self.connection, merge([work])) == []

    def write(self, path: Path) -> Path:
        """Write the books to a file."""
        self.connection.execute("VACUUM INTO ?", (str(path),))
        return path

    # Subscriptions

    def subscribe(self, plan: str, *, since: int = 0, lasts: int | None = None, **how: Any) -> int:
        """Put the customer on a plan; `since` microseconds ago. Return the subscription's number."""
        priced = PLANS[plan, 1]
        starts_at = self.now - since
        anchor, zone = how.pop("anchor", None), how.pop("zone", "UTC")
        phase, trial_ends_at = changing.first_phase(priced, starts_at=starts_at, anchor_day=anchor, zone=zone)
        self._subscriptions += 1
        new = Subscription(
            number=self._subscriptions,
            id=f"subscription-{self._subscriptions}",
            customer=1,
            starts_at=starts_at,
            ends_at=None if lasts is None else starts_at + lasts,
            created_at=self.now,
            phases=[phase],
            trial_ends_at=trial_ends_at,
            **{"grace_days": priced.grace_days, **how},
        )
        self.do(lambda draft: self._subscribe(draft, new, priced))
        return self._subscriptions

    def upgrade(self, number: int, plan: str) -> None:
        """Change the plan now."""
        self._change(changing.upgrade, number, plan)

    def downgrade(self, number: int, plan: str) -> None:
        """Change the plan when the period ends."""
        self._change(changing.downgrade, number, plan)

    def _change(self, act: Callable[..., None], number: int, plan: str) -> None:
        self._changes += 1
        self.do(lambda draft: act(draft, number, PLANS[plan, 1], f"change-{self._changes}"))

    def act(self, deed: Callable[[Draft, int], None], number: int) -> None:
        """Do one of the deeds of `changing` that need no more than a subscription."""
        self.do(lambda draft: deed(draft, number))

    def old(self, plan: str) -> int:
        """Begin a subscription as books that knew no invoices did: without an entry, and no period is renewed."""
        priced = PLANS[plan, 1]
        phase, _ = changing.first_phase(priced, starts_at=self.now, anchor_day=None, zone="UTC")
        self._subscriptions += 1
        subscription = Subscription(
            number=self._subscriptions,
            id=f"subscription-{self._subscriptions}",
            customer=1,
            starts_at=self.now,
            ends_at=None,
            created_at=self.now,
            phases=[phase],
        )
        self.account.enrolments = [*self.account.enrolments, Enrolment(subscription, priced)]
        return self._subscriptions

    def carry_over(self, number: int) -> None:
        """Give a subscription of old its first entry: the usage of periods that are over counts as billed."""
        enrolled = self.account.subscription(number)
        assert enrolled is not None, "it was begun"
        subscription, plans = enrolled
        carried = msgspec.structs.replace(subscription, renewed_to=subscription.period_at(self.now).start)
        draft = Draft(self.account, self.now, self.number)
        for key, counter in draft.counters_of(number):
            if key.period_start < carried.renewed_to:
                billed = msgspec.structs.replace(counter, billed=counter.charged, billed_to=draft.position)
                draft.put_counter(key, billed)
        draft.put_subscription(carried, Cause.CARRIED_OVER, at=self.now, plans=plans)
        self._keep(draft.changes())

    # Invoices

    def unpaid(self) -> list[int]:
        """The numbers of the invoices that are to be paid."""
        self._let_time_pass()
        return [each.number for each in self.account.invoices.values() if each.status != InvoiceStatus.PENDING]

    def pay(self, number: int) -> None:
        """Mark an invoice as paid."""
        self._let_time_pass()
        self.do(lambda draft: paying.pay(draft, self.kept[number]))

    def pay_all(self) -> None:
        """Mark all that is to be paid as paid."""
        for number in self.unpaid():
            self.pay(number)

    def void_invoice(self, number: int) -> None:
        """Void an invoice."""
        self._let_time_pass()
        self.do(lambda draft: paying.void(draft, self.kept[number]))

    # Usage

    def _record(self, act: Callable[..., Any], asked: Any, **how: Any) -> int | None:
        self._load_counters(asked.occurred_at)
        return super()._record(act, asked, **how)

    def _status(self, hold: int) -> HoldStatus:
        held = credit_rows.hold_by_number(self.connection, hold)
        assert held is not None, "it was made"
        return held.status

    def _load_counters(self, moment: int) -> None:
        """Have those counters in memory that an eviction has left in the books."""
        self._let_time_pass()
        if moment < self.account.counters_from:
            for key, counter in load_counters(self.connection, 1).items():
                self.account.counters.setdefault(key, counter)
            self.account.counters_from = 0

    def void(self, event: int) -> None:
        """Take an event back."""
        self._load_counters(0)
        try:
            given = void_rows.to_void(self.connection, event, _feature_of)
            changes = voiding.void(Draft(self.account, self.now, self.number), given, "a mistake")
        except ProblemError:
            return
        self._keep(changes)
        self._let_time_pass()

    def rerate(self) -> None:
        """Price what lacked a price by newer plans."""
        self._load_counters(0)
        for number in self.events:
            if void_rows.is_voided(self.connection, number):
                continue
            self._let_time_pass()
            row, charges = event_rows.event_with_charges(self.connection, number)
            changes = rerating.decide(
                self.account,
                row,
                charges,
                now=self.now,
                terms=self.terms,
                latest=lambda key: PLANS[key, 2],
            )
            if changes is not None:
                self._keep(changes)
                self._load_counters(0)


def _feature_of(charge: ChargeRow) -> PricedFeature | None:
    return PLANS[charge.plan_key, charge.plan_version].features.get(charge.feature)


def _fixed_rows(customer: Customer) -> list[tuple[tables.Table, Any]]:
    rows: list[tuple[tables.Table, Any]] = [(tables.CUSTOMERS, msgspec.structs.astuple(customer))]
    for version, read in enumerate(READ, start=1):
        meters = _encode(read.meters).decode()
        rows += [
            (tables.PLAN_VERSIONS, (plan.key, version, _encode(plan).decode(), meters, START, "catalog", "{}"))
            for plan in read.plans
        ]
    for model in READ[0].credit_models:
        stored = catalog_rows.StoredCreditModel(
            key=model.key,
            id=f"id-{model.key}",
            source="catalog",
            definition=model,
            created_at=START,
            updated_at=START,
        )
        rows.append((tables.CREDIT_MODELS, catalog_rows.credit_model_row(stored)))
    return rows


def everything() -> Biller:
    """Books with every kind of entry of subscriptions and invoices, by every cause."""
    books = Biller()
    old = books.old("basic")
    books.use("api", "30")
    books.wait(40 * DAY)
    books.use("api", "3")
    books.carry_over(old)
    books.use("api", "2", late=35 * DAY)
    books.act(changing.cancel_now, old)  # nothing of it was paid in advance here
    _a_plan_in_advance(books)
    _a_plan_in_arrears(books)
    _ends(books)
    return books


def _a_plan_in_advance(books: Biller) -> None:
    """Unpaid, paid, upgraded, past due, paid again, paused, resumed, downgraded."""
    number = books.subscribe("basic", zone="Europe/Berlin")
    books.open("usd")
    books.give("usd", "12")
    books.wait(DAY)
    books.pay_all()  # what was withheld comes
    books.use("api", "60")
    books.use("api", "60")  # credits cover a part
    books.use("money", "4")  # and pay a part
    books.use("disk", "25")
    mistaken = books.use("disk", "7")
    books.use("chat", model="unknown", input_tokens=1000)
    books.use("chat", model="known", input_tokens=1000, output_tokens=300)
    seat = books.use(None, name="seat", meta={"who": "a"})
    books.use(None, name="seat", meta={"who": "b"})
    books.use(None, name="seat", meta={"who": "a"})
    level = books.use(None, name="level", meta={"n": 9})
    books.use(None, name="level", meta={"n": 4})
    books.use("capped", "8")
    books.use("capped", "1")
    books.use("api", "1", revenue_amount="9")
    books.use("sealed", "1", late=3 * DAY)  # not taken: its period is over
    books.wait(9 * DAY)
    for event in (mistaken, seat, level):
        books.void(event or 0)
    books.upgrade(number, "pro")  # an adjustment, and more credits
    books.pay_all()
    books.use("api", "200")
    books.rerate()
    books.wait(23 * DAY)
    late = books.use("api", "7", late=DAY * 25, subscription_id=f"subscription-{number}")
    books.wait(31 * DAY)  # past due: nothing more is invoiced
    books.void(late or 0)
    books.void_invoice(books.unpaid()[0])
    books.pay_all()  # the rest of the period is
    books.wait(DAY)
    books.act(changing.pause, number)
    books.wait(40 * DAY)
    books.act(changing.resume, number)
    books.pay_all()
    books.downgrade(number, "basic")
    books.act(changing.revert_change, number)
    books.downgrade(number, "basic")
    books.wait(35 * DAY)
    books.pay_all()
    books.act(changing.cancel_at_period_end, number)
    books.act(changing.revert_cancellation, number)
    books.upgrade(number, "yearly")  # a period of another length begins
    books.use("api", "11")


def _a_plan_in_arrears(books: Biller) -> None:
    """Pending, due, revised, past due; credits beyond the balance; a change as soon as it began."""
    trial = books.subscribe("free", grace_days=0)
    books.use(None, name="level", meta={"n": 5}, subscription_id=f"subscription-{trial}")
    books.act(changing.cancel_now, 2)
    number = books.subscribe("later", anchor=31, grace_days=20)
    books.use("capped", "45", subscription_id=f"subscription-{number}")  # draws more than there is
    books.use(None, name="level", meta={"n": 7})
    books.wait(40 * DAY)
    books.use("api", "12", late=20 * DAY, subscription_id=f"subscription-{number}")
    again = books.use("api", "9", late=20 * DAY, subscription_id=f"subscription-{number}")
    books.void(again or 0)
    books.act(changing.pause, number)
    books.wait(5 * DAY)
    books.act(changing.resume, number)
    books.wait(20 * DAY)
    books.void_invoice(books.unpaid()[0])  # what was drawn beyond the balance is charged again
    books.upgrade(number, "weekly")
    books.upgrade(number, "later")  # the invoice that has only begun is cancelled
    books.wait(3 * DAY)


def _ends(books: Biller) -> None:
    """By itself, with its period, at once."""
    books.subscribe("pro", lasts=20 * DAY)
    leaving = books.subscribe("yearly")
    books.pay_all()
    books.act(changing.cancel_at_period_end, leaving)
    books.wait(25 * DAY)
    books.use("api", "3", late=10 * DAY, subscription_id="subscription-5")
    books.wait(35 * DAY)  # what came late is billed
    books.act(changing.cancel_now, leaving)  # what is not used is given back
    last = books.subscribe("pro")
    books.pay_all()
    books.use("api", "10", subscription_id=f"subscription-{last}")
    books.reserve("capped", "2", ttl=90 * DAY)
    books.wait(33 * DAY)  # the next ones are due, and those without grace days past due
    books.use("api", "1", subscription_id=f"subscription-{last}")
    books.subscribe("basic")


def anything(seed: int, steps: int = 70) -> Biller:
    """Books after whatever chance does with one customer; the same for the same seed."""
    chance = random.Random(seed)  # noqa: S311 - to be the same again is what is wanted
    books = Biller(reloads=chance)
    zone = chance.choice(["UTC", "Europe/Berlin", "America/Santiago"])
    _join(books, chance, zone)
    for model in ("open", "usd", "wallet"):
        if chance.random() < 0.6:
            books.open(model)
    holds: list[tuple[int, str | None, dict[str, Any]]] = []
    for _ in range(steps):
        if chance.random() < 0.5:
            books.wait(chance.choice([1, DAY // 24, DAY, 3 * DAY, 9 * DAY, 31 * DAY, 60 * DAY]))
        if chance.random() < 0.15 and books.account.due_at < books.now + 500 * DAY:
            books.wait(max(0, books.account.due_at - books.now))
        _step(books, chance, holds, zone)
    return books


def _join(books: Biller, chance: random.Random, zone: str) -> None:
    if books._subscriptions < 3:
        books.subscribe(
            chance.choice([key for key, version in PLANS if version == 1]),
            since=chance.choice([0, 0, 1, 5 * DAY, 100 * DAY, -3 * DAY]),
            lasts=chance.choice([None, None, None, 50 * DAY]),
            anchor=chance.choice([None, 1, 31]),
            zone=zone,
            grace_days=chance.choice([0, 3, 20]),
        )


def _usage(chance: random.Random) -> tuple[str | None, dict[str, Any]]:
    feature = chance.choice(["api", "api", "chat", "disk", "capped", "money", "sealed", "seat", "level"])
    if feature == "chat":
        tokens = {"input_tokens": chance.randint(0, 9_000), "output_tokens": chance.randint(0, 900)}
        return feature, {"model": chance.choice(["known", "unknown"]), **tokens}
    if feature in {"seat", "level"}:
        return None, {"name": feature, "meta": {"who": chance.choice("abcde"), "n": chance.randint(0, 9)}}
    return feature, {"units": str(Decimal(chance.randint(0, 300)) / chance.choice([1, 10, 16]))}


def _step(
    books: Biller, chance: random.Random, holds: list[tuple[int, str | None, dict[str, Any]]], zone: str
) -> None:
    """Do one thing: what happens often stands there often."""
    number = chance.randint(1, books._subscriptions)
    feature, fields = _usage(chance)
    plan = chance.choice([key for key, version in PLANS if version == 1])
    invoices = list(books.kept) or [0]
    events = list(books.events)
    held = books.account.credits
    models = [each.model.key for each in held.pools.values()] if held else []

    def use() -> None:
        sent = {"revenue_amount": "3"} if chance.random() < 0.1 else {}
        late = chance.choice([0, 0, 0, DAY, 20 * DAY, 40 * DAY, -DAY // 2])
        books.use(feature, late=late, **fields, **sent)

    def reserve() -> None:
        if feature is not None:
            made = books.reserve(feature, ttl=chance.choice([1_000_000, DAY, 40 * DAY]), **fields)
            holds.extend([] if made is None else [(made, feature, fields)])

    def settle() -> None:
        if holds:
            hold, held_feature, held_fields = chance.choice(holds)
            books.settle(hold, held_feature or "api", final=chance.random() < 0.6, **held_fields)

    def give() -> None:
        if models:
            expires_at = books.now + chance.choice([1, 30]) * DAY if chance.random() < 0.6 else None
            books.give(chance.choice(models), str(chance.randint(1, 400)), expires_at=expires_at)

    def reverse() -> None:
        kinds = (EntryKind.GRANT, EntryKind.DEDUCTION)
        entries = [entry.id for entry in books.entries() if entry.kind in kinds]
        if entries:
            books.reverse(chance.choice(entries))

    deeds: dict[str, Callable[[], Any]] = {
        "u": use,
        "v": lambda: books.void(chance.choice(events)) if events else None,
        "h": reserve,
        "s": settle,
        "g": give,
        "b": reverse,
        "R": books.rerate,
        "p": books.pay_all,
        "q": lambda: books.pay(chance.choice(books.unpaid() or [0])) if books.unpaid() else None,
        "x": lambda: books.void_invoice(chance.choice(invoices)) if books.kept else None,
        "U": lambda: books.upgrade(number, plan),
        "D": lambda: books.downgrade(number, plan),
        "k": lambda: books.act(changing.revert_change, number),
        "z": lambda: books.act(changing.pause, number),
        "Z": lambda: books.act(changing.resume, number),
        "l": lambda: books.act(changing.cancel_at_period_end, number),
        "L": lambda: books.act(changing.revert_cancellation, number),
        "e": lambda: books.act(changing.cancel_now, number) if chance.random() < 0.3 else None,
        "j": lambda: _join(books, chance, zone),
        "a": lambda: books.archive(chance.choice(models)) if models and chance.random() < 0.1 else None,
    }
    deeds[chance.choice("uuuuuuuuuuuuvvvhhsggbRpppqxUUDkzZZlLeja")]()


__all__ = ["PLANS", "Biller", "anything", "everything"]
