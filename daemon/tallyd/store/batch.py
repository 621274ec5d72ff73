"""A batch: everything that waits to be written, merged into rows for one transaction."""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

import msgspec

from tallyd.engine.account import Changes, Counter, CounterKey
from tallyd.engine.rows import RollupDelta, RollupKey
from tallyd.model.money import plain
from tallyd.store import tables
from tallyd.store.credit_rows import Latest
from tallyd.store.subscription_rows import invoice_row, subscription_row
from tallyd.store.tables import Row, Table

Rows = Mapping[Table, list[Row]]

_encode = msgspec.json.Encoder(order="deterministic").encode
_astuple = msgspec.structs.astuple


class Work(msgspec.Struct, gc=False):
    """One thing to be written whole: a customer's changes, or rows of the catalog.

    `due_at`: when time alone changes something for the customer next, where that is no longer what was written.
    """

    customer: int = 0
    changes: list[Changes] = []
    rows: list[tuple[Table, Row]] = []
    due_at: int | None = None


def merge(waiting: Iterable[Work]) -> dict[Table, list[Row]]:
    """Merge work into rows by table: counters keep their last value, roll-ups are summed."""
    rows: dict[Table, list[Row]] = {table: [] for table in tables.IN_ORDER}
    counters: dict[tuple[int, CounterKey], Counter] = {}
    rollups: dict[RollupKey, RollupDelta] = {}
    ledgers: dict[int, Row] = {}
    versions: dict[int, str] = {}
    credit = Latest()
    subscriptions: dict[int, Row] = {}
    invoices: dict[int, Row] = {}
    dues: dict[int, Row] = {}
    for work in waiting:
        if work.due_at is not None:
            dues[work.customer] = (work.customer, work.due_at)
        for table, row in work.rows:
            rows[table].append(row)
        for changes in work.changes:
            _collect(rows, work.customer, changes)
            for key, counter in changes.counters.items():
                counters[work.customer, key] = counter
            for rollup, delta in changes.rollups:
                held = rollups.get(rollup)
                if held is None:
                    rollups[rollup] = msgspec.structs.replace(delta)
                else:
                    held.add(delta)
            versions.update(changes.price_versions)
            if changes.credits is not None:
                credit.take(changes.credits, changes.entries)
            if changes.subscriptions or changes.invoices:
                subscriptions.update(
                    (key, subscription_row(each)) for key, (each, _) in changes.subscriptions.items()
                )
                invoices.update((key, invoice_row(each)) for key, each in changes.invoices.items())
            ledgers[work.customer] = (work.customer, changes.position, changes.chain)
    rows[tables.COUNTERS] = [_counter_row(customer, key, held) for (customer, key), held in counters.items()]
    rows[tables.ROLLUPS] = [_rollup_row(key, delta) for key, delta in rollups.items()]
    rows[tables.PRICE_VERSIONS].extend(versions.items())
    rows[tables.LEDGERS] = list(ledgers.values())
    rows[tables.SUBSCRIPTIONS].extend(subscriptions.values())
    rows[tables.INVOICES].extend(invoices.values())
    rows[tables.DUES] = list(dues.values())
    rows.update(credit.rows())
    return {table: some for table, some in rows.items() if some}


def _collect(rows: dict[Table, list[Row]], customer: int, changes: Changes) -> None:
    if changes.customer is not None:
        rows[tables.CUSTOMERS].append(_astuple(changes.customer))
    if changes.event is not None:
        rows[tables.EVENTS].append(_astuple(changes.event))
        rows[tables.CHARGES].extend([_astuple(charge) for charge in changes.charges])
    if changes.rerated is not None:
        rows[tables.RERATES].append(_astuple(changes.rerated.row))
        rows[tables.RERATED_EVENTS].append(_astuple(changes.rerated.event))
        rows[tables.RERATED_CHARGES].extend([_astuple(charge) for charge in changes.rerated.charges])
    if changes.entries:
        rows[tables.LEDGER_ENTRIES].extend([_astuple(entry) for entry in changes.entries])
    if changes.credits is not None and changes.credits.alerts:
        rows[tables.OUTBOX].extend([_astuple(alert) for alert in changes.credits.alerts])
    for key, value in changes.seen:
        rows[tables.SEEN_VALUES].append((customer, *key, value))
    for key, value in changes.unseen:
        rows[tables.UNSEEN_VALUES].append((customer, *key, value))


def _counter_row(customer: int, key: CounterKey, counter: Counter) -> Row:
    return (
        customer,
        *key,
        plain(counter.used),
        _encode(counter.rated).decode(),
        plain(counter.charged),
        plain(counter.sent),
        counter.events,
        counter.unpriced,
        counter.latest_at,
        _quantities(counter.covered),
        plain(counter.credited),
        plain(counter.billed),
        counter.billed_to,
    )


def _quantities(quantities: dict[str, Decimal]) -> str:
    return _encode(quantities).decode() if quantities else "{}"


def _rollup_row(key: RollupKey, delta: RollupDelta) -> tuple[Any, ...]:
    return (
        *key,
        delta.events,
        plain(delta.units),
        plain(delta.input_tokens),
        plain(delta.output_tokens),
        plain(delta.cost),
        plain(delta.revenue),
        delta.unpriced,
    )
