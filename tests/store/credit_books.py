"""Books with credits, made by the engine without a daemon: for tests of verify."""

import itertools
import random
import sqlite3
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import msgspec

from support import MODELS, NOW, enrolment, event
from tallyd.engine import recording, rerating, reserving
from tallyd.engine.account import Account, Changes, apply
from tallyd.engine.billing import changing
from tallyd.engine.catalog import check_catalog, price_plan, read_catalog
from tallyd.engine.costs import Versions
from tallyd.engine.credits import giving, granting, holding
from tallyd.engine.credits.book import NEVER
from tallyd.engine.credits.draft import Draft
from tallyd.engine.credits.prices import new_price
from tallyd.engine.credits.weights import Weights, new_weight
from tallyd.engine.passing import pass_time
from tallyd.engine.rating import PricedPlan
from tallyd.engine.recording import Recorded
from tallyd.engine.reserving import Reserved
from tallyd.engine.terms import Terms
from tallyd.model.catalog import CreditPrice, CreditWeight, Overage, Recurring, TopUp
from tallyd.model.credits import GrantTerms, GrantType, HoldStatus, Pool
from tallyd.model.customer import Customer, CustomerRef, RefKind
from tallyd.model.ledger_entries import Cause, Entry
from tallyd.model.problems import ProblemError
from tallyd.model.subscription import Subscription
from tallyd.store import catalog_rows, credit_rows, sqlite, tables
from tallyd.store.audit import AuditReport, audit
from tallyd.store.batch import Work, merge

START: Final = 1_788_220_800_000_000  # 2026-09-01
DAY: Final = 86_400_000_000
CATALOG: Final = """
[[features]]
key = "api"
[[features]]
key = "chat"
[[features]]
key = "capped"
[[features]]
key = "money"

[[plans]]
key = "plan"
name = "Plan"
[[plans.features]]
feature = "api"
pricing = { model = "usage", usage_unit_type = "c", price_per_unit = "0.10" }
[[plans.features]]
feature = "chat"
pricing = { model = "llm_tokens", rates = { known = { input = 1, output = 2 } } }
[[plans.features]]
feature = "capped"
pricing = { model = "usage", usage_unit_type = "c", price_per_unit = 1, max_usage = 5 }
units_per_credit = 3
[[plans.features]]
feature = "money"
credit_model = "usd"
pricing = { model = "graduated", usage_unit_type = "c", tiers = [
    { up_to = 10, price_per_unit = 1, flat_fee = 5 }, { up_to = "inf", price_per_unit = "0.75" } ] }
[[plans.credits]]
credit_model = "tokens"
amount = 100
draw_limit = 90
grant_priority = 1

[[credit_models]]
key = "tokens"
hard_limit = false
features = ["api"]
rollover = { policy = "PERCENTAGE", percentage = 50, expires_after_days = 45 }
low_at = 60
[[credit_models]]
key = "open"
denomination = "CREDITS"
hard_limit = false
features = ["chat", "capped"]
precision = 2
overage = { limit = 25, behavior = "invoice_at_billing" }
top_up = { below = 3, amount = 4, most_a_month = 2 }
[[credit_models]]
key = "usd"
currency = "USD"
charge = "price"
on_shortfall = "waive"
recurring = { amount = 20, every = "week" }
[[credit_models]]
key = "wallet"
charge = "nothing"
expires_after_days = 10
"""
DEFINITIONS: Final = read_catalog(CATALOG, "test.toml")
check_catalog(DEFINITIONS, MODELS, "test.toml")
PLAN: Final = price_plan(DEFINITIONS.plans[0], 1, {}, MODELS)
NEWER: Final = CATALOG.replace("rates = { known =", 'rates = { "*" = { input = 3, output = 4 }, known =')
NEWER_PLAN: Final = price_plan(read_catalog(NEWER, "test.toml").plans[0], 2, {}, MODELS)
CREDIT_MODELS: Final = {model.key: model for model in DEFINITIONS.credit_models}
WEIGHTS: Final = [
    new_weight(given, START, START)
    for given in (
        CreditWeight(feature="api", weight=Decimal("1.5")),
        CreditWeight(feature="api", weight=Decimal(2), model="big"),
        CreditWeight(feature="chat", weight=Decimal("0.003"), kind="input"),
        CreditWeight(feature="chat", weight=Decimal("0.007"), kind="output", model="known"),
    )
]
PRICES: Final = [new_price(CreditPrice(credit_model="usd", price=Decimal("1.25")), START, START)]
TERMS: Final = Terms(prices={}, default_cost=None, versions=Versions(), currency="USD", weights=Weights(WEIGHTS))

_encode: Final = msgspec.json.Encoder(order="deterministic").encode


class Bookkeeper:
    """Decides for one customer as its actor does, at a time that is moved by hand, and keeps what is written.

    `reloads`: now and then the account is read back from what was written, as after an eviction; zeros are then
    other zeros.

    Attributes:
        models: the credit models there are, by key.
        terms: what holds for the whole account.
        newest: the plan that re-ratings find newest.
    """

    models = CREDIT_MODELS
    terms = TERMS
    newest = NEWER_PLAN

    def __init__(self, *, reloads: random.Random | None = None) -> None:
        self.number = itertools.count(1).__next__
        self.now = START + DAY
        self.events: dict[int, Recorded] = {}
        self._keys = itertools.count(1)
        self._reloads = reloads
        ref = CustomerRef(RefKind.REFERENCE, "acme")
        customer = Customer(number=1, id=ref.customer_id(), reference="acme", stripe_id=None, created_at=START)
        self.account = Account(customer, known=True)
        self._due_written = NEVER
        self.works: list[Work] = []
        self._begin(customer)

    def _begin(self, customer: Customer) -> None:
        """Write what is there before anything happens, and put the customer on a plan."""
        self.works.append(Work(rows=_fixed_rows(customer)))
        joined = enrolment(PLAN, starts_at=START, anchor_day=1).subscription
        new = msgspec.structs.replace(joined, created_at=self.now, renewed_to=-1)
        self.do(lambda draft: self._subscribe(draft, new, PLAN))

    def _subscribe(self, draft: Draft, new: Subscription, plan: PricedPlan) -> None:
        changing.subscribe(draft, new, plan)
        for included in plan.credits:
            joined = draft.enrolment_at(new.number, draft.now)
            granting.include(draft, joined, included, self.models[included.credit_model])

    def wait(self, micros: int) -> None:
        """Let time pass."""
        self.now += micros

    def do(self, decide: Callable[[Draft], Any]) -> Any:
        """Change credits; nothing is changed where it is refused."""
        self._let_time_pass()
        draft = Draft(self.account, self.now, self.number)
        try:
            answer = decide(draft)
        except ProblemError:
            return None
        if draft.changed:
            self._keep(draft.changes())
            self._let_time_pass()
        return answer

    def _let_time_pass(self) -> None:
        """Write what time has done."""
        while (changes := pass_time(self.account, self.now, self.number)) is not None:
            self._keep(changes)

    def _keep(self, changes: Changes) -> None:
        apply(self.account, changes)
        work = Work(1, [changes])
        if self.account.due_at != self._due_written:
            work.due_at = self._due_written = self.account.due_at
        self.works.append(work)
        if self._reloads is not None and self.account.credits is not None and self._reloads.random() < 0.3:
            book = self.account.credits
            book.pools = {key: credit_rows.pool_of(credit_rows.pool_row(each)) for key, each in book.pools.items()}
            book.holds = {key: credit_rows.hold_of(credit_rows.hold_row(each)) for key, each in book.holds.items()}
            for pool, grants in book.grants.items():
                book.grants[pool] = {
                    key: credit_rows.grant_of(credit_rows.grant_row(each)) for key, each in grants.items()
                }

    # Credits

    def pool(self, model: str) -> Pool:
        """The customer's pool of a credit model."""
        assert self.account.credits is not None, "the plan includes credits"
        return next(pool for pool in self.account.credits.pools.values() if pool.model.key == model)

    def open(self, model: str, **fields: Any) -> None:
        """Open a pool."""
        rules = msgspec.structs.replace(self.models[model], **fields)
        self.do(lambda draft: granting.open_pool(draft, rules, key=self._key()))

    def _key(self) -> str:
        return f"key-{next(self._keys)}"

    def give(self, model: str, amount: str, **terms: Any) -> int | None:
        """Grant credits by hand; return the grant's number."""
        number = self.pool(model).number
        given = GrantTerms(type=terms.pop("type", GrantType.PURCHASED), **terms)
        grant = self.do(
            lambda draft: giving.give(
                draft, number, Decimal(amount), given, Cause.PURCHASE, at=draft.now, key=self._key()
            )
        )
        return grant.number if grant else None

    def deduct(self, model: str, amount: str) -> int | None:
        """Take credits out by hand; return the entry's number."""
        number = self.pool(model).number
        answer: int | None = self.do(
            lambda draft: granting.deduct(
                draft, draft.pool(number), Decimal(amount), description="spent", metadata={"who": 1.5}
            )
        )
        return answer

    def freeze(self, model: str, *, frozen: bool) -> None:
        """Freeze or unfreeze a pool."""
        number = self.pool(model).number
        self.do(lambda draft: granting.freeze(draft, draft.pool(number), frozen=frozen))

    def change(self, model: str, **fields: Any) -> None:
        """Change a pool's rules."""
        number = self.pool(model).number

        def decide(draft: Draft) -> None:
            pool = draft.pool(number)
            rules = msgspec.structs.replace(pool.model, **fields)
            granting.change_pool(draft, pool, name="changed", model=rules)

        self.do(decide)

    def archive(self, model: str) -> None:
        """Archive a pool."""
        number = self.pool(model).number
        self.do(
            lambda draft: granting.change_pool(draft, draft.pool(number), name=None, model=None, archived=True)
        )

    def link(self, model: str, draw_limit: str | None) -> None:
        """Say how the subscription draws from a pool."""
        number, joined = self.pool(model).number, self.account.enrolments[0]
        limit = None if draw_limit is None else Decimal(draw_limit)
        self.do(lambda draft: granting.link_pool(draft, draft.pool(number), joined, priority=3, draw_limit=limit))

    def entries(self) -> list[Entry]:
        """All entries so far."""
        return [entry for work in self.works for each in work.changes for entry in each.entries]

    def reverse(self, number: int) -> None:
        """Reverse an entry."""
        made = self.entries()
        if any(entry.reverses == number for entry in made):
            return
        entry = next(each for each in made if each.id == number)
        self._let_time_pass()
        touched = {grant for grant, _ in msgspec.json.decode(entry.grants)}
        done = [each.credits for work in self.works for each in work.changes if each.credits is not None]
        grants = {key: grant for each in done for key, grant in each.grants.items() if key in touched}
        self.do(lambda draft: granting.reverse(draft, entry, _as_they_stand(draft, grants), description="mistake"))

    # Usage

    def use(self, feature: str | None, units: str | None = None, *, late: int = 0, **fields: Any) -> int | None:
        """Record an event; return its number, or None when it is refused."""
        return self._record(recording.record, self._event(feature, units, late, fields))

    def _event(self, feature: str | None, units: str | None, late: int, fields: dict[str, Any]) -> Any:
        asked: dict[str, Any] = {"usage_units": units} if units is not None else {}
        return event(
            fields.pop("name", "call"),
            self._key(),
            at=self.now - late,
            feature_key=feature,
            customer_reference_id="acme",
            **asked,
            **fields,
        )

    def _record(self, act: Callable[..., Any], asked: Any, **how: Any) -> int | None:
        self._let_time_pass()
        try:
            decided = act(self.account, asked, number=self.number, now=self.now, terms=self.terms, **how)
        except ProblemError:
            return None
        if not isinstance(decided, Recorded):
            return None
        self.events[decided.row.id] = decided
        self._keep(decided.changes)
        return decided.row.id

    def reserve(self, feature: str, units: str | None = None, *, ttl: int = DAY, **fields: Any) -> int | None:
        """Hold credits and units; return the hold's number, or None when it is refused."""
        asked = self._event(feature, units, 0, fields)
        self._let_time_pass()
        how = {"number": self.number, "now": self.now, "terms": self.terms}
        decided = reserving.reserve(self.account, asked, ttl=ttl, **how)
        if not isinstance(decided, Reserved):
            return None
        self._keep(decided.changes)
        return decided.hold.number

    def settle(
        self, hold: int, feature: str, units: str | None = None, *, final: bool = True, **fields: Any
    ) -> int | None:
        """Settle a hold by an event."""
        asked = self._event(feature, units, 0, fields)
        return self._record(recording.settle, asked, hold=hold, final=final, written=self._status(hold))

    def _status(self, hold: int) -> HoldStatus:
        assert self.account.credits is not None, "it has holds"
        return self.account.credits.closed.get(hold, HoldStatus.HELD)

    def release(self, hold: int) -> None:
        """Give back what a hold has set aside."""

        def decide(draft: Draft) -> None:
            held = draft.hold(hold)
            if held is not None:
                holding.release(draft, held)

        self.do(decide)

    def rerate(self) -> None:
        """Price what lacked a price by a newer plan."""
        for number, recorded in self.events.items():
            changes = rerating.decide(
                self.account,
                recorded.row,
                recorded.charges,
                now=self.now,
                terms=self.terms,
                latest=lambda _: self.newest,
            )
            if changes is not None and changes.rerated is not None:
                rerated = changes.rerated
                self._keep(changes)
                self.events[number] = msgspec.structs.replace(recorded, row=rerated.event, charges=rerated.charges)

    def write(self, path: Path) -> Path:
        """Write the books, each decision committed on its own; every one must balance (P3)."""
        connection = sqlite.open_writer(path)
        try:
            for work in self.works:
                assert sqlite.commit(connection, merge([work])) == []
        finally:
            connection.close()
        with sqlite3.connect(path) as checkpointing:
            checkpointing.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        checkpointing.close()
        return path


def _as_they_stand(draft: Draft, grants: dict[int, Any]) -> dict[int, Any]:
    return {number: draft.grants.get(number, grant) for number, grant in grants.items()}


def _fixed_rows(customer: Customer) -> list[tuple[tables.Table, Any]]:
    rows: list[tuple[tables.Table, Any]] = [(tables.CUSTOMERS, msgspec.structs.astuple(customer))]
    for version, text in enumerate((CATALOG, NEWER), start=1):
        plan = _encode(read_catalog(text, "test.toml").plans[0]).decode()
        rows.append((tables.PLAN_VERSIONS, ("plan", version, plan, "[]", NOW, "catalog", "{}")))
    for model in DEFINITIONS.credit_models:
        stored = catalog_rows.StoredCreditModel(
            key=model.key,
            id=f"id-{model.key}",
            source="catalog",
            definition=model,
            created_at=START,
            updated_at=START,
        )
        rows.append((tables.CREDIT_MODELS, catalog_rows.credit_model_row(stored)))
    rows += [(tables.CREDIT_WEIGHTS, catalog_rows.weight_row(weight)) for weight in WEIGHTS]
    rows += [(tables.CREDIT_PRICES, catalog_rows.price_row(price)) for price in PRICES]
    return rows


def verify(path: Path) -> AuditReport:
    """Audit a file."""
    connection = sqlite.open_reader(path)
    try:
        return audit(connection, MODELS, lambda _done, _total: None)
    finally:
        connection.close()


def everything() -> Bookkeeper:
    """Books with every kind of entry, by every cause."""
    books = Bookkeeper()
    for model in ("open", "usd", "wallet"):
        books.open(model)
    books.give("wallet", "7.5", expires_at=books.now + 3 * DAY, metadata={"note": 1.5}, description="gift")
    spent = books.deduct("wallet", "2.25")
    granted = books.give("wallet", "4")
    books.use("api", "20")
    books.use("api", "5", model="big")
    books.use("chat", model="known", input_tokens=1000, output_tokens=700)
    books.use("chat", model="unknown", input_tokens=12_000)
    books.use("money", "3", late=DAY // 2)
    books.use("api", "3", revenue_amount="9")
    hold = books.reserve("money", "4")
    books.settle(hold or 0, "money", "9")  # a hard pool runs short: the rest is waived
    held = books.reserve("capped", "5", ttl=3 * DAY)
    books.use("capped", "2")
    books.settle(held or 0, "capped", "3", final=False)
    books.settle(held or 0, "capped", "4")  # past the cap by now: what was held counts all the same
    books.use("capped", "1")
    books.release(books.reserve("api", "2") or 0)
    late = books.reserve("api", "1", ttl=DAY // 24)
    books.reverse(spent or 0)
    books.reverse(granted or 0)
    books.freeze("wallet", frozen=True)
    books.freeze("wallet", frozen=False)
    books.link("open", "500")
    books.wait(DAY)
    books.settle(late or 0, "api", "1")  # it has ended: a plain fact
    books.wait(4 * DAY)
    books.reverse(spent or 0)
    drawn = books.use("api", "2")
    books.reverse(next(entry.id for entry in books.entries() if entry.event == drawn))
    books.rerate()
    books.change("open", low_at=Decimal(1))
    books.wait(30 * DAY)  # a period ends: carried over, forfeited, overage charged, recurring credits
    books.use("api", "4")
    repaying = Overage(limit=Decimal(25), behavior="carry_deficit_auto_repay")
    books.change("open", overage=repaying)
    books.use("chat", model="known", input_tokens=3000)
    books.give("open", "30", priority=2)
    forgiving = msgspec.structs.replace(repaying, behavior="forgive_at_reset")
    books.change("open", overage=forgiving, top_up=None)
    books.use("chat", model="known", input_tokens=12_000, output_tokens=600)
    books.deduct("wallet", "0.25")
    spare = books.give("wallet", "1", expires_at=books.now + DAY)
    books.wait(2 * DAY)
    books.reverse(next(entry.id for entry in books.entries() if f"[{spare}," in entry.grants))
    books.wait(30 * DAY)
    books.use("api", "1")
    books.reserve("api", "6", ttl=5 * DAY)  # stays open
    return books


def anything(seed: int, steps: int = 60) -> Bookkeeper:
    """Books after whatever chance does with one customer's credits; the same for the same seed."""
    chance = random.Random(seed)  # noqa: S311 - to be the same again is what is wanted
    books = Bookkeeper(reloads=chance)
    models = ["tokens", "open", "usd", "wallet"]
    for model in models[1:]:
        books.open(model, **_chosen_rules(chance, model))
    holds: list[tuple[int, str, dict[str, Any]]] = []
    for _ in range(steps):
        books.wait(
            chance.choice([0, 1, DAY // 24, DAY, 3 * DAY, 9 * DAY, 40 * DAY]) if chance.random() < 0.4 else 1
        )
        _step(books, chance, models, holds)
    return books


def _chosen_rules(chance: random.Random, model: str) -> dict[str, Any]:
    given: dict[str, Any] = {
        "hard_limit": chance.random() < 0.4,
        "on_shortfall": chance.choice(["bill", "waive", "refuse"]),
        "burn_order": chance.choice(["expiry", "fifo"]),
        "precision": chance.choice([None, 0, 2]),
        "expires_after_days": chance.choice([None, 5, 50]),
    }
    if model == "usd" and chance.random() < 0.5:
        every = chance.choice(["day", "week", "month"])
        given["recurring"] = chance.choice([None, Recurring(amount=Decimal(7), every=every, expires=False)])
    if model == "open":
        below = Decimal(chance.choice([1, 30]))
        given["top_up"] = chance.choice([None, TopUp(below=below, amount=Decimal("2.5"), most_a_month=3)])
        behaviors = ("forgive_at_reset", "invoice_at_billing", "carry_deficit", "carry_deficit_auto_repay")
        limit = chance.choice([None, Decimal(25)])
        given["overage"] = Overage(limit=limit, behavior=chance.choice(behaviors))
        given["features"] = chance.choice([[], ["chat", "capped"]])
    return given


def _usage(chance: random.Random) -> tuple[str, dict[str, Any]]:
    feature = chance.choice(["api", "chat", "capped", "money"])
    model = chance.choice([None, "known", "big", "unknown"])
    if feature == "chat":
        tokens = {"input_tokens": chance.randint(0, 9_000), "output_tokens": chance.randint(0, 900)}
        return feature, {"model": model, **tokens}
    units = str(Decimal(chance.randint(0, 300)) / chance.choice([1, 10, 16]))
    return feature, {"units": units} | ({"model": model} if feature == "api" else {})


def _step(
    books: Bookkeeper, chance: random.Random, models: list[str], holds: list[tuple[int, str, dict[str, Any]]]
) -> None:
    """Do one thing: what happens often stands there often."""
    model, (feature, fields) = chance.choice(models), _usage(chance)
    amount = str(Decimal(chance.randint(1, 400)) / chance.choice([1, 4, 100]))
    hold, held_feature, held_fields = chance.choice(holds) if holds else (0, feature, fields)

    def use() -> None:
        sent = {"revenue_amount": "3"} if chance.random() < 0.1 else {}
        books.use(feature, late=chance.choice([0, 0, DAY, -DAY // 2]), **fields, **sent)

    def reserve() -> None:
        made = books.reserve(feature, ttl=chance.choice([1_000_000, DAY, 6 * DAY]), **fields)
        holds.extend([] if made is None else [(made, feature, fields)])

    def settle() -> None:
        if hold:
            books.settle(hold, held_feature, final=chance.random() < 0.6, **held_fields)

    def give() -> None:
        expires_at = books.now + chance.choice([1, 3, 30]) * DAY if chance.random() < 0.6 else None
        books.give(model, amount, expires_at=expires_at, priority=chance.randint(0, 2))

    deeds: dict[str, Callable[[], Any]] = {
        "u": use,
        "h": reserve,
        "s": settle,
        "r": lambda: books.release(hold),
        "g": give,
        "d": lambda: books.deduct(model, amount),
        "f": lambda: books.freeze(model, frozen=chance.random() < 0.5),
        "v": lambda: books.reverse(chance.choice([entry.id for entry in books.entries()])),
        "c": lambda: books.change(model, **_chosen_rules(chance, model)),
        "l": lambda: books.link(model, chance.choice([None, "20", "300"])),
        "a": lambda: books.archive("wallet"),
        "R": books.rerate,
    }
    deeds[chance.choice("uuuuuuhhhssssrgggdfvclaR")]()


__all__ = ["DAY", "START", "Bookkeeper", "anything", "everything", "verify"]
