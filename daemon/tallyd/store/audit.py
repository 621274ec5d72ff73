"""Feeding the auditor: the whole of the books, in one consistent view, streamed."""

import heapq
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from decimal import Decimal
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec

from tallyd.engine.audit.auditor import Auditor, Basis, Finding, Findings
from tallyd.engine.audit.counters import place_of
from tallyd.engine.catalog import Models, price_plan
from tallyd.engine.counters import CounterKey
from tallyd.engine.rows import ChargeRow, EventRow, RerateRow, RollupDelta, RollupKey
from tallyd.model.customer import Customer
from tallyd.model.ledger_entries import Entry
from tallyd.model.subscription import Subscription
from tallyd.store import catalog_rows
from tallyd.store.accounts import counter_of
from tallyd.store.audit_streams import Beside, BookShelf
from tallyd.store.tables import Row

PROGRESS_EVERY = 1_000
_EVENT_COLUMN: Final = Entry.__struct_fields__.index("event")
_CAUSED: Final = (
    "SELECT * FROM ledger_entries WHERE event IS NOT NULL AND kind IN ('DEDUCTION', 'HOLD_DRAWN', 'HOLD_CLOSED')"
    " ORDER BY event, id"
)
_CARRIED_OVER: Final = (
    "SELECT details FROM ledger_entries WHERE kind = 'SUBSCRIPTION' AND cause = 'carried_over' ORDER BY id"
)


class AuditReport(msgspec.Struct, kw_only=True):
    """What was read and what was found; no findings: the books follow from the events."""

    customers: int
    events: int
    charges: int
    counters: int
    rollups: int
    subscriptions: int
    invoices: int
    ledger_entries: int
    pools: int
    grants: int
    holds: int
    findings: list[Finding]


def audit(connection: sqlite3.Connection, models: Models, progress: Callable[[int, int], None]) -> AuditReport:
    """Recompute everything from the events and compare.

    Args:
        connection: a reading connection; a running daemon is not held up.
        models: the pricing models.
        progress: called now and then with (events done, events in all).
    """
    connection.execute("BEGIN")
    connection.text_factory = _text
    try:
        return _Audit(connection, models).run(progress)
    finally:
        connection.text_factory = str
        with suppress(
            sqlite3.Error
        ):  # only read: there is nothing to lose, and a damaged file may refuse this too
            connection.execute("ROLLBACK")


def _text(raw: bytes) -> str:
    """Read text; bytes that are none do not end the audit, they make the row differ."""
    return raw.decode("utf-8", "replace")


class _Audit:
    """One run over all tables. Each row is handed over under a guard; a table that breaks off is a finding."""

    def __init__(self, connection: sqlite3.Connection, models: Models) -> None:
        self._connection = connection
        self._models = models
        self._findings = Findings()

    def run(self, progress: Callable[[int, int], None]) -> AuditReport:
        self._integrity()
        basis, rerates = self._basis(), self._rerates()
        shelf = BookShelf(self._connection, self._rows, self._findings)
        auditor = Auditor(basis, rerates, self._findings, shelf)
        self._replay(auditor, progress)
        shelf.finish()
        customers = counters = rollups = 0
        for row in self._rows("ledgers", "SELECT * FROM ledgers"):
            customers += 1
            with self._findings.guard("ledger", f"customer {row[0]}"):
                auditor.ledger(*row)
        for row in self._rows("pool_links", "SELECT * FROM pool_links"):
            with self._findings.guard("pool link", f"pool {row[0]} subscription {row[1]}"):
                auditor.credits.link(row)
        auditor.due(self._rows("dues", "SELECT * FROM dues"))
        subscriptions = self._stand(auditor)
        for row in self._rows("counters", "SELECT * FROM counters"):
            counters += 1
            key = CounterKey(*row[1:4])
            with self._findings.guard("counter", place_of(row[0], key)):
                auditor.counters.compare(row[0], key, counter_of(row[4:]))
        for row in self._rows("seen_values", "SELECT * FROM seen_values"):
            with self._findings.guard("seen value", f"{row}"):
                auditor.counters.compare_seen(row[0], CounterKey(*row[1:4]), row[4])
        for row in self._rows("rollups", "SELECT * FROM rollups"):
            rollups += 1
            with self._findings.guard("rollup", row[:7]):
                auditor.rollup(RollupKey(*row[:7]), _delta(row[7:]))
        auditor.finish()
        credit = auditor.credits
        return AuditReport(
            customers=customers,
            events=auditor.events,
            charges=auditor.charges,
            counters=counters,
            rollups=rollups,
            subscriptions=subscriptions,
            invoices=auditor.invoices.invoices,
            ledger_entries=auditor.entries,
            pools=credit.pools,
            grants=credit.grants,
            holds=credit.holds,
            findings=self._findings.all,
        )

    def _stand(self, auditor: Auditor) -> int:
        """Hand over where subscriptions and pools stand; return how many subscriptions there are."""
        subscriptions = 0
        for row in self._rows("subscriptions", "SELECT * FROM subscriptions"):
            subscriptions += 1
            with self._findings.guard("subscription", row[0]):
                auditor.subscriptions.row(row)
        for row in self._rows("pools", "SELECT * FROM pools"):
            with self._findings.guard("pool", row[0]):
                auditor.credits.pool(row)
        return subscriptions

    def _rows(self, table: str, sql: str) -> Iterator[tuple[Any, ...]]:
        """Read rows; where SQLite cannot read on is a finding."""
        try:
            yield from self._connection.execute(sql)
        except sqlite3.Error as error:
            self._findings.add("file", table, f"cannot be read: {error}")

    def _integrity(self) -> None:
        """Let SQLite check its own structure first."""
        for (message,) in self._rows("tallyd.db", "PRAGMA quick_check(10)"):
            if message != "ok":
                self._findings.add("file", "tallyd.db", message)
        for table, row, parent, _ in self._rows("tallyd.db", "PRAGMA foreign_key_check"):
            self._findings.add("file", f"{table} row {row}", f"refers to a missing row of {parent}")

    def _basis(self) -> Basis:
        basis = Basis(self._findings)
        for row in self._rows("customers", "SELECT * FROM customers"):
            with self._findings.guard("customer", row[0]):
                basis.customer(Customer(**dict(zip(Customer.__struct_fields__, row, strict=True))))
        for row in self._rows("meters", "SELECT * FROM meters"):
            with self._findings.guard("meter", row[0]):
                catalog_rows.meter_of(*row)
        for row in self._rows("plan_versions", "SELECT key, version, plan, meters FROM plan_versions"):
            with self._findings.guard("plan", f"{row[0]}@{row[1]}"):
                self._plan(basis, row)
        for row in self._rows("ledger_entries", _CARRIED_OVER):
            with suppress(msgspec.MsgspecError):  # a finding, when its turn comes
                basis.subscription(msgspec.json.decode(row[0], type=Subscription))
        self._schedules(basis)
        for row in self._rows("price_versions", "SELECT id, content FROM price_versions"):
            with self._findings.guard("price version", row[0]):
                basis.price_version(*row)
        return basis

    def _schedules(self, basis: Basis) -> None:
        for row in self._rows("credit_models", "SELECT * FROM credit_models"):
            with self._findings.guard("credit model", row[0]):
                model = catalog_rows.credit_model_of(*row)
                self._findings.same("credit model", row[0], "the row", row, catalog_rows.credit_model_row(model))
                self._findings.same("credit model", row[0], "the key inside", model.definition.key, row[0])
        for row in self._rows("credit_weights", "SELECT * FROM credit_weights"):
            with self._findings.guard("credit weight", row[0]):
                weight = catalog_rows.weight_of(*row)
                self._findings.same("credit weight", row[0], "the row", row, catalog_rows.weight_row(weight))
                basis.weight(weight)
        for row in self._rows("credit_prices", "SELECT * FROM credit_prices"):
            with self._findings.guard("credit price", row[0]):
                price = catalog_rows.price_of(*row)
                self._findings.same("credit price", row[0], "the row", row, catalog_rows.price_row(price))
                basis.price(price)
        basis.close_weights()

    def _plan(self, basis: Basis, row: tuple[Any, ...]) -> None:
        stored = catalog_rows.plan_of(*row)
        where = f"{stored.key}@{stored.version}"
        self._findings.same("plan", where, "the key inside", stored.plan.key, stored.key)
        meters = {meter.key: meter for meter in stored.meters}
        plan = price_plan(stored.plan, stored.version, meters, self._models)
        basis.plan(plan)

    def _rerates(self) -> dict[int, list[RerateRow]]:
        rerates: dict[int, list[RerateRow]] = {}
        for row in self._rows("rerates", "SELECT * FROM rerates ORDER BY customer, position"):
            with self._findings.guard("ledger", f"customer {row[0]} position {row[1]}"):
                rerates.setdefault(row[0], []).append(RerateRow(*row))
        return rerates

    def _replay(self, auditor: Auditor, progress: Callable[[int, int], None]) -> None:
        """Hand over events, ledger entries and alerts in the order in which they were decided."""
        total = sum(row[0] for row in self._rows("events", "SELECT count(*) FROM events"))
        charges = Beside(
            self._rows("charges", "SELECT * FROM charges ORDER BY event, feature"), self._stray_charge
        )
        caused = Beside(self._rows("ledger_entries", _CAUSED), self._stray_entry, place=_EVENT_COLUMN)

        def event(row: Row) -> None:
            its_charges = [ChargeRow(*each) for each in charges.of(row[0])]
            auditor.event(EventRow(*row), its_charges, [Entry(*each) for each in caused.of(row[0])])
            if auditor.events % PROGRESS_EVERY == 0:
                progress(auditor.events, total)

        steps: list[tuple[str, Callable[[Row], None], Iterator[Row]]] = [
            ("event", event, self._rows("events", "SELECT * FROM events ORDER BY id")),
            (
                "ledger entry",
                lambda row: auditor.entry(Entry(*row)),
                self._rows("ledger_entries", "SELECT * FROM ledger_entries ORDER BY id"),
            ),
            ("outbox", auditor.credits.alert, self._rows("outbox", "SELECT * FROM outbox ORDER BY number")),
        ]
        streams = [map(partial(_Step, kind, act), rows) for kind, act, rows in steps]
        last = 0
        for step in heapq.merge(*streams, key=_number):
            number = _number(step)
            if number == last:
                self._findings.add(step.kind, number, "another row has the same number")
            last = number
            with self._findings.guard(step.kind, number):
                step.act(step.row)
        charges.finish()
        caused.finish()
        progress(total, total)

    def _stray_charge(self, row: Row) -> None:
        self._findings.add("charge", f"event {row[0]} feature {row[2]}", "there is no such event")

    def _stray_entry(self, row: Row) -> None:
        self._findings.add("ledger entry", row[0], f"there is no event {row[_EVENT_COLUMN]}")


class _Step(NamedTuple):
    """A row to hand over, and to whom."""

    kind: str
    act: Callable[[Row], None]
    row: Row


def _number(step: _Step) -> int:
    number: int = step.row[0]
    return number


def _delta(row: tuple[int, str, str, str, str, str, int]) -> RollupDelta:
    events, *sums, unpriced = row
    units, input_tokens, output_tokens, cost, revenue = (Decimal(value) for value in sums)
    return RollupDelta(events, units, input_tokens, output_tokens, cost, revenue, int(unpriced))
