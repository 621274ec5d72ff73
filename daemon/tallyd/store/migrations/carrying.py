"""Carrying subscriptions over from books that knew no invoices: each gets a ledger entry that says how it stands.

Periods that have begun are as good as invoiced, and so is the usage of those that are over; the next period is the
first that is invoiced, with the usage of the running one.
"""

import sqlite3
from decimal import Decimal
from typing import Final

import msgspec

from tallyd.engine import chain
from tallyd.engine.account import renewal_at
from tallyd.engine.chain import GENESIS
from tallyd.engine.counters import LIFETIME, CounterKey
from tallyd.engine.counting import added
from tallyd.engine.credits.book import NEVER
from tallyd.model.ledger_entries import Cause, DeductionDetails, Entry, EntryKind, json_text
from tallyd.model.moments import SECOND_US
from tallyd.model.money import ZERO, plain
from tallyd.model.periods import Cycle
from tallyd.model.subscription import Phase, Subscription
from tallyd.store.subscription_rows import subscription_row

_encode: Final = msgspec.json.Encoder(order="deterministic").encode
_decode: Final = msgspec.json.Decoder(DeductionDetails).decode


def carry_over(connection: sqlite3.Connection) -> None:
    """Fill `lives` from `subscriptions`, write the entries, and bring counters and what is due up to date."""
    (seconds,) = connection.execute("SELECT unixepoch()").fetchone()
    now = seconds * SECOND_US
    number = _highest(connection)
    for row in connection.execute("SELECT * FROM subscriptions ORDER BY number").fetchall():
        number += 1
        subscription = _as_it_stands(row, now)
        marks = ",".join("?" * len(subscription_row(subscription)))
        connection.execute(f"INSERT INTO lives VALUES ({marks})", subscription_row(subscription))
        _write_entry(connection, number, subscription, now)
        _note_billed(connection, subscription)
        _note_due(connection, subscription)
    _note_paid_by_credits(connection)


def _highest(connection: sqlite3.Connection) -> int:
    columns = (("id", "events"), ("id", "ledger_entries"), ("number", "outbox"))
    highest = [
        connection.execute(f"SELECT coalesce(max({column}), 0) FROM {table}").fetchone()[0]
        for column, table in columns
    ]
    return int(max(highest))


def _as_it_stands(row: tuple[object, ...], now: int) -> Subscription:
    number, subscription_id, customer, plan, version, starts_at, ends_at, anchor, months, created_at = row
    raw = {
        "number": number,
        "id": subscription_id,
        "customer": customer,
        "starts_at": starts_at,
        "ends_at": ends_at,
        "created_at": created_at,
        "phases": [Phase(starts_at, plan, version, Cycle(starts_at, anchor, months))],  # type: ignore[arg-type]
    }
    subscription = msgspec.convert(raw, Subscription)
    if subscription.starts_at <= now:
        renewed_to = subscription.period_at(now).start
        subscription = msgspec.structs.replace(subscription, renewed_to=renewed_to)
    return subscription


def _write_entry(connection: sqlite3.Connection, number: int, subscription: Subscription, now: int) -> None:
    customer = subscription.customer
    ledger = connection.execute("SELECT position, chain FROM ledgers WHERE customer = ?", (customer,)).fetchone()
    position, link = ledger or (0, GENESIS)
    entry = Entry(
        id=number,
        customer=customer,
        position=position + 1,
        kind=EntryKind.SUBSCRIPTION,
        cause=Cause.CARRIED_OVER,
        pool=None,
        amount=None,
        balance_before=None,
        balance_after=None,
        overage_before=None,
        overage_after=None,
        at=now,
        written_at=now,
        grants="[]",
        event=None,
        feature=None,
        hold=None,
        reverses=None,
        key_space="",
        key=None,
        details=json_text(subscription),
        chain=b"",
    )
    *fields, _ = msgspec.structs.astuple(entry)
    link = chain.link(link, tuple(fields))
    marks = ",".join("?" * (len(fields) + 1))
    connection.execute(f"INSERT INTO ledger_entries VALUES ({marks})", (*fields, link))
    connection.execute(
        "INSERT INTO ledgers VALUES (?, ?, ?) ON CONFLICT (customer) DO UPDATE SET"
        " position = excluded.position, chain = excluded.chain",
        (customer, position + 1, link),
    )


def _note_billed(connection: sqlite3.Connection, subscription: Subscription) -> None:
    """Note that the usage of the periods that are over is billed."""
    connection.execute(
        "UPDATE counters SET billed = charged,"
        " billed_to = (SELECT position FROM ledgers WHERE ledgers.customer = counters.customer)"
        " WHERE customer = ? AND subscription = ? AND period_start >= 0 AND period_start < ?",
        (subscription.customer, subscription.number, subscription.renewed_to),
    )


def _note_due(connection: sqlite3.Connection, subscription: Subscription) -> None:
    """Note when the running period ends, for the timekeeper."""
    due = renewal_at(subscription, {})
    if due < NEVER:
        connection.execute(
            "INSERT INTO dues VALUES (?, ?) ON CONFLICT (customer) DO UPDATE SET"
            " due_at = min(due_at, excluded.due_at)",
            (subscription.customer, due),
        )


def _note_paid_by_credits(connection: sqlite3.Connection) -> None:
    """Fill in what credits have paid of each counter: the sum of its events' deductions."""
    paid: dict[tuple[int, CounterKey], tuple[dict[str, Decimal], Decimal]] = {}
    for customer, subscription, feature, start, text in connection.execute(
        "SELECT charges.customer, subscription, charges.feature, period_start, details FROM ledger_entries"
        " JOIN charges ON charges.event = ledger_entries.event AND charges.feature = ledger_entries.feature"
        " WHERE kind = 'DEDUCTION'"
    ):
        details = _decode(text)
        for period_start in (start, LIFETIME):
            key = customer, CounterKey(subscription, feature, period_start)
            covered, credited = paid.get(key, ({}, ZERO))
            paid[key] = added(covered, details.covered), credited + details.credited
    connection.executemany(
        "UPDATE counters SET covered = ?, credited = ?"
        " WHERE customer = ? AND subscription = ? AND feature = ? AND period_start = ?",
        (
            (_encode(covered).decode(), plain(credited), customer, *key)
            for (customer, key), (covered, credited) in paid.items()
        ),
    )
