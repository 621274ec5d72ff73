"""Loading one customer's books, and what the daemon must know at start."""

import sqlite3
from collections.abc import Mapping
from decimal import Decimal
from itertools import count
from typing import Any

import msgspec

from tallyd.engine.account import Account, Counter, CounterKey, Enrolment
from tallyd.engine.chain import GENESIS
from tallyd.engine.credits.book import CreditBook
from tallyd.engine.rating import PricedPlan
from tallyd.model.customer import Customer
from tallyd.model.subscription import Subscription
from tallyd.store.credit_rows import load_credits

_decode_rated = msgspec.json.Decoder(dict[str, Decimal]).decode


class AccountRows(msgspec.Struct, kw_only=True, gc=False):
    """A customer's rows, before its plans are put beside its subscriptions."""

    customer: Customer
    subscriptions: list[Subscription]
    counters: dict[CounterKey, Counter]
    seen: dict[CounterKey, set[str]]
    credits: CreditBook | None
    position: int
    chain: bytes

    def account(self, plans: Mapping[tuple[str, int], PricedPlan]) -> Account:
        """Return the account, with the versions of plans that its subscriptions are on."""
        return Account(
            self.customer,
            known=True,
            enrolments=[Enrolment(each, plans[each.plan_key, each.plan_version]) for each in self.subscriptions],
            counters=self.counters,
            seen=self.seen,
            credits=self.credits,
            position=self.position,
            chain=self.chain,
        )


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
    subscriptions = connection.execute("SELECT * FROM subscriptions WHERE customer = ? ORDER BY number", mine)
    counters = connection.execute("SELECT * FROM counters WHERE customer = ?", mine)
    seen: dict[CounterKey, set[str]] = {}
    for _, subscription, feature, period_start, value in connection.execute(
        "SELECT * FROM seen_values WHERE customer = ?", mine
    ):
        seen.setdefault(CounterKey(subscription, feature, period_start), set()).add(value)
    return AccountRows(
        customer=customer,
        subscriptions=[Subscription(**_named(Subscription, row)) for row in subscriptions],
        counters={CounterKey(*row[1:4]): counter_of(row[4:]) for row in counters},
        seen=seen,
        credits=load_credits(connection, customer.number),
        position=ledger[0] if ledger else 0,
        chain=ledger[1] if ledger else GENESIS,
    )


def counter_of(row: tuple[Any, ...]) -> Counter:
    """Read a counter from its columns after the key."""
    used, rated, charged, sent, events, unpriced, latest_at = row
    return Counter(
        used=Decimal(used),
        rated=_decode_rated(rated),
        charged=Decimal(charged),
        sent=Decimal(sent),
        events=events,
        unpriced=unpriced,
        latest_at=latest_at,
    )


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
        events=max(highest("id", "events"), highest("id", "credit_entries"), highest("number", "outbox")),
        customers=highest("number", "customers"),
        subscriptions=highest("number", "subscriptions"),
    )
