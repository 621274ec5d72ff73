"""Feeding the auditor: the whole of the books, in one consistent view, streamed."""

import sqlite3
from collections.abc import Callable, Iterator
from decimal import Decimal

import msgspec

from tallyd.engine.account import ChargeRow, CounterKey, EventRow, RerateRow, RollupDelta, RollupKey
from tallyd.engine.audit import Auditor, Finding
from tallyd.engine.catalog import CatalogError, Models, price_plan
from tallyd.engine.rating import PricedPlan
from tallyd.model.subscription import Subscription
from tallyd.store.accounts import counter_of
from tallyd.store.catalog_rows import load_catalog

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
    try:
        return _audit(connection, models, progress)
    finally:
        connection.execute("COMMIT")


def _audit(connection: sqlite3.Connection, models: Models, progress: Callable[[int, int], None]) -> AuditReport:
    plans, problems = _plans(connection, models)
    auditor = Auditor(plans, _subscriptions(connection), _price_versions(connection), _rerates(connection))
    auditor.findings.extend(problems)
    _integrity(connection, auditor)
    (total,) = connection.execute("SELECT count(*) FROM events").fetchone()
    charges = _Charges(connection)
    for row in connection.execute("SELECT * FROM events ORDER BY id"):
        event = EventRow(*row)
        auditor.event(event, charges.of(event.id))
        if auditor.events % PROGRESS_EVERY == 0:
            progress(auditor.events, total)
    progress(total, total)
    customers = 0
    for customer, position, link in connection.execute("SELECT * FROM ledgers"):
        customers += 1
        auditor.ledger(customer, position, link)
    counters = 0
    for row in connection.execute("SELECT * FROM counters"):
        counters += 1
        auditor.counter(row[0], CounterKey(*row[1:4]), counter_of(row[4:]))
    rollups = 0
    for row in connection.execute("SELECT * FROM rollups"):
        rollups += 1
        auditor.rollup(RollupKey(*row[:7]), _delta(row[7:]))
    auditor.finish()
    return AuditReport(
        customers=customers,
        events=auditor.events,
        charges=auditor.charges,
        counters=counters,
        rollups=rollups,
        findings=auditor.findings,
    )


def _integrity(connection: sqlite3.Connection, auditor: Auditor) -> None:
    """Let SQLite check its own structure first."""
    for (message,) in connection.execute("PRAGMA quick_check(10)"):
        if message != "ok":
            auditor.findings.append(Finding("file", "tallyd.db", message))
    for table, row, parent, _ in connection.execute("PRAGMA foreign_key_check"):
        auditor.findings.append(Finding("file", f"{table} row {row}", f"refers to a missing row of {parent}"))
    orphans = connection.execute("SELECT count(*) FROM charges WHERE event NOT IN (SELECT id FROM events)")
    (number,) = orphans.fetchone()
    if number:
        auditor.findings.append(Finding("charge", "all", f"{number} charges have no event"))


def _plans(
    connection: sqlite3.Connection, models: Models
) -> tuple[dict[tuple[str, int], PricedPlan], list[Finding]]:
    plans, problems = {}, []
    for stored in load_catalog(connection).plans:
        try:
            meters = {meter.key: meter for meter in stored.meters}
            plans[stored.key, stored.version] = price_plan(stored.plan, stored.version, meters, models)
        except CatalogError as error:
            problems.append(Finding("plan", f"{stored.key}@{stored.version}", str(error)))
    return plans, problems


def _subscriptions(connection: sqlite3.Connection) -> dict[int, Subscription]:
    names = Subscription.__struct_fields__
    rows = connection.execute("SELECT * FROM subscriptions")
    subscriptions = (Subscription(**dict(zip(names, row, strict=True))) for row in rows)
    return {subscription.number: subscription for subscription in subscriptions}


def _price_versions(connection: sqlite3.Connection) -> dict[int, str]:
    return dict(connection.execute("SELECT id, content FROM price_versions"))


def _rerates(connection: sqlite3.Connection) -> dict[int, list[RerateRow]]:
    rerates: dict[int, list[RerateRow]] = {}
    for row in connection.execute("SELECT * FROM rerates ORDER BY customer, position"):
        rerates.setdefault(row[0], []).append(RerateRow(*row))
    return rerates


class _Charges:
    """Charges beside their events: both come in order of the event's id."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        rows = connection.execute("SELECT * FROM charges ORDER BY event, feature")
        self._rows: Iterator[ChargeRow] = (ChargeRow(*row) for row in rows)
        self._next: ChargeRow | None = next(self._rows, None)

    def of(self, event: int) -> list[ChargeRow]:
        charges = []
        while self._next is not None and self._next.event <= event:
            if self._next.event == event:
                charges.append(self._next)
            self._next = next(self._rows, None)
        return charges


def _delta(row: tuple[int, str, str, str, str, str, int]) -> RollupDelta:
    events, *sums, unpriced = row
    units, input_tokens, output_tokens, cost, revenue = (Decimal(value) for value in sums)
    return RollupDelta(events, units, input_tokens, output_tokens, cost, revenue, int(unpriced))
