"""Feeding the auditor: the whole of the books, in one consistent view, streamed."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from decimal import Decimal
from typing import Any

import msgspec

from tallyd.engine.account import ChargeRow, CounterKey, EventRow, RerateRow, RollupDelta, RollupKey
from tallyd.engine.audit.auditor import Auditor, Basis, Finding, Findings
from tallyd.engine.catalog import Models, price_plan
from tallyd.model.customer import Customer
from tallyd.model.subscription import Subscription
from tallyd.store import catalog_rows
from tallyd.store.accounts import counter_of

PROGRESS_EVERY = 1_000


class AuditReport(msgspec.Struct, kw_only=True):
    """What was read and what was found; no findings: the books follow from the events."""

    customers: int
    events: int
    charges: int
    counters: int
    rollups: int
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
        auditor = Auditor(self._basis(), self._rerates(), self._findings)
        self._events(auditor, progress)
        customers = counters = rollups = 0
        for row in self._rows("ledgers", "SELECT * FROM ledgers"):
            customers += 1
            with self._findings.guard("ledger", f"customer {row[0]}"):
                auditor.ledger(*row)
        for row in self._rows("counters", "SELECT * FROM counters"):
            counters += 1
            with self._findings.guard("counter", f"{row[:4]}"):
                auditor.counter(row[0], CounterKey(*row[1:4]), counter_of(row[4:]))
        for row in self._rows("seen_values", "SELECT * FROM seen_values"):
            with self._findings.guard("seen value", f"{row}"):
                auditor.seen_value(row[0], CounterKey(*row[1:4]), row[4])
        for row in self._rows("rollups", "SELECT * FROM rollups"):
            rollups += 1
            with self._findings.guard("rollup", row[:7]):
                auditor.rollup(RollupKey(*row[:7]), _delta(row[7:]))
        auditor.finish()
        return AuditReport(
            customers=customers,
            events=auditor.events,
            charges=auditor.charges,
            counters=counters,
            rollups=rollups,
            findings=self._findings.all,
        )

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
        for row in self._rows("subscriptions", "SELECT * FROM subscriptions"):
            with self._findings.guard("subscription", row[0]):
                basis.subscription(Subscription(**dict(zip(Subscription.__struct_fields__, row, strict=True))))
        for row in self._rows("price_versions", "SELECT id, content FROM price_versions"):
            with self._findings.guard("price version", row[0]):
                basis.price_version(*row)
        return basis

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

    def _events(self, auditor: Auditor, progress: Callable[[int, int], None]) -> None:
        total = sum(row[0] for row in self._rows("events", "SELECT count(*) FROM events"))
        charges = _Charges(self._rows("charges", "SELECT * FROM charges ORDER BY event, feature"), self._findings)
        for row in self._rows("events", "SELECT * FROM events ORDER BY id"):
            with self._findings.guard("event", row[0]):
                event = EventRow(*row)
                auditor.event(event, charges.of(event.id))
            if auditor.events % PROGRESS_EVERY == 0:
                progress(auditor.events, total)
        charges.finish()
        progress(total, total)


class _Charges:
    """Charges beside their events: both come in order of the event's id."""

    def __init__(self, rows: Iterator[tuple[Any, ...]], findings: Findings) -> None:
        self._rows = rows
        self._findings = findings
        self._next: tuple[Any, ...] | None = next(rows, None)

    def of(self, event: int) -> list[ChargeRow]:
        charges = []
        while self._next is not None and self._next[0] <= event:
            if self._next[0] == event:
                charges.append(ChargeRow(*self._next))
            else:
                self._orphan(self._next)
            self._next = next(self._rows, None)
        return charges

    def finish(self) -> None:
        """Report what comes after the last event."""
        while self._next is not None:
            self._orphan(self._next)
            self._next = next(self._rows, None)

    def _orphan(self, row: tuple[Any, ...]) -> None:
        self._findings.add("charge", f"event {row[0]} feature {row[2]}", "there is no such event")


def _delta(row: tuple[int, str, str, str, str, str, int]) -> RollupDelta:
    events, *sums, unpriced = row
    units, input_tokens, output_tokens, cost, revenue = (Decimal(value) for value in sums)
    return RollupDelta(events, units, input_tokens, output_tokens, cost, revenue, int(unpriced))
