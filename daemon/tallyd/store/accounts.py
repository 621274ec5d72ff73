"""Loading one customer's books, and what the daemon must know at start."""

import sqlite3
import sys
from collections.abc import Iterator, Mapping
from decimal import Decimal
from itertools import count
from typing import Any

import msgspec

from tallyd.engine.account import Account, Counter, CounterKey, Enrolled, enrolments_of
from tallyd.engine.chain import GENESIS
from tallyd.engine.credits.book import NEVER, CreditBook
from tallyd.engine.rating import PricedPlan
from tallyd.model.customer import Customer
from tallyd.model.invoice import Invoice
from tallyd.model.money import ZERO
from tallyd.model.subscription import Subscription
from tallyd.store.credit_rows import load_credits
from tallyd.store.subscription_rows import load_open_invoices, subscription_of

_decode_rated = msgspec.json.Decoder(dict[str, Decimal]).decode


class AccountRows(msgspec.Struct, kw_only=True, gc=False):
    """A customer's rows, before its plans are put beside its subscriptions."""

    customer: Customer
    subscriptions: list[Subscription]
    counters: dict[CounterKey, Counter]
    seen: dict[CounterKey, set[str]]
    credits: CreditBook | None
    invoices: dict[int, Invoice]
    serial: int
    due_at: int
    position: int
    chain: bytes
    counters_from: int

    def account(self, plans: Mapping[tuple[str, int], PricedPlan]) -> Account:
        """Return the account, with the versions of plans that its subscriptions are on."""
        return Account(
            self.customer,
            known=True,
            enrolments=[phase for each in self.subscriptions for phase in enrolments_of(_with_plans(each, plans))],
            counters=self.counters,
            seen=self.seen,
            credits=self.credits,
            invoices=self.invoices,
            serial=self.serial,
            position=self.position,
            chain=self.chain,
            counters_from=self.counters_from,
        )


def _with_plans(subscription: Subscription, plans: Mapping[tuple[str, int], PricedPlan]) -> Enrolled:
    return subscription, tuple(plans[phase.plan_key, phase.plan_version] for phase in subscription.phases)


def load_account(connection: sqlite3.Connection, customer_id: str) -> AccountRows | None:
    """Read a customer's books as of the last commit; None when there is no such customer."""
    connection.execute("BEGIN")
    try:
        row = connection.execute("SELECT * FROM customers WHERE id = ?", (customer_id,)).fetchone()
        return None if row is None else _load(connection, Customer(**_named(Customer, row)))
    finally:
        connection.execute("COMMIT")


def _named(struct: type[msgspec.Struct], row: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(struct.__struct_fields__, row, strict=True))


def _load(connection: sqlite3.Connection, customer: Customer) -> AccountRows:
    mine = (customer.number,)
    ledger = connection.execute("SELECT position, chain FROM ledgers WHERE customer = ?", mine).fetchone()
    rows = connection.execute("SELECT * FROM subscriptions WHERE customer = ? ORDER BY number", mine)
    subscriptions = [subscription_of(row) for row in rows]
    invoices, serial = load_open_invoices(connection, customer.number)
    since = min([*(_before_last(each) for each in subscriptions), *_billed_by(invoices)], default=0)
    seen: dict[CounterKey, set[str]] = {}
    for _, subscription, feature, period_start, value in connection.execute(
        "SELECT * FROM seen_values WHERE customer = ?", mine
    ):
        seen.setdefault(CounterKey(subscription, feature, period_start), set()).add(value)
    due = connection.execute("SELECT due_at FROM dues WHERE customer = ?", mine).fetchone()
    due_at = due[0] if due else NEVER
    return AccountRows(
        customer=customer,
        subscriptions=subscriptions,
        counters=load_counters(connection, customer.number, _running(subscriptions, since)),
        counters_from=since,
        seen=seen,
        credits=load_credits(connection, customer.number, due_at),
        invoices=invoices,
        serial=serial,
        due_at=due_at,
        position=ledger[0] if ledger else 0,
        chain=ledger[1] if ledger else GENESIS,
    )


def _before_last(subscription: Subscription) -> int:
    """Return the start of the period before the one that a subscription was renewed for."""
    return subscription.period_at(max(subscription.starts_at, subscription.renewed_to - 1)).start


def _running(subscriptions: list[Subscription], moment: int) -> int:
    """Return the start of the earliest period that runs at an instant: what happens from then on counts."""
    starts = (each.period_at(max(each.starts_at, moment)).start for each in subscriptions)
    return min([moment, *starts])


def _billed_by(invoices: dict[int, Invoice]) -> Iterator[int]:
    """Return the starts of the counters that open invoices bill: to void one, they must be there."""
    for invoice in invoices.values():
        yield from (line.counter_start for line in invoice.lines if line.counter_start is not None)


def load_counters(connection: sqlite3.Connection, customer: int, since: int = 0) -> dict[CounterKey, Counter]:
    """Read a customer's counters: of periods from `since` on, of all time, and those not wholly billed."""
    rows = connection.execute(
        "SELECT * FROM counters WHERE customer = ?"
        " AND (period_start >= ? OR period_start < 0 OR billed_to = 0 OR charged <> billed)",
        (customer, since),
    )
    return {CounterKey(row[1], sys.intern(row[2]), row[3]): counter_of(row[4:]) for row in rows}


def _amount(text: str) -> Decimal:
    """Read an amount; most are 0, and all of those are one."""
    return ZERO if text == "0" else Decimal(text)


def counter_of(row: tuple[Any, ...]) -> Counter:
    """Read a counter from its columns after the key."""
    used, rated, charged, sent, events, unpriced, latest_at, covered, credited, billed, billed_to = row
    return Counter(
        used=_amount(used),
        rated=_decode_rated(rated),
        charged=_amount(charged),
        sent=_amount(sent),
        events=events,
        unpriced=unpriced,
        latest_at=latest_at,
        covered=_decode_rated(covered) if covered != "{}" else {},
        credited=_amount(credited),
        billed=_amount(billed),
        billed_to=billed_to,
    )


def load_test_clocks(connection: sqlite3.Connection) -> dict[str, int]:
    """Read the test clocks, by customer id; under the empty text, the whole daemon's."""
    return dict(connection.execute("SELECT customer, now FROM test_clocks").fetchall())


class Sequences:
    """The next row numbers. One process writes, so they are simply counted."""

    def __init__(self, *, events: int, customers: int, subscriptions: int) -> None:
        self.events = count(events + 1)
        self.customers = count(customers + 1)
        self.subscriptions = count(subscriptions + 1)


def load_sequences(connection: sqlite3.Connection) -> Sequences:
    """Read where each sequence stands."""

    def highest(column: str, table: str) -> int:
        number: int = connection.execute(f"SELECT coalesce(max({column}), 0) FROM {table}").fetchone()[0]
        return number

    return Sequences(
        events=max(highest("id", "events"), highest("id", "ledger_entries"), highest("number", "outbox")),
        customers=highest("number", "customers"),
        subscriptions=highest("number", "subscriptions"),
    )
