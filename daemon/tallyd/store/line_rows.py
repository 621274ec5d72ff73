"""What an invoice line rests on: every ledger row that moved the counter it bills (P5, P10)."""

import heapq
import sqlite3
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from typing import Final, Literal

import msgspec

from tallyd.engine.rerating import decode_state
from tallyd.engine.rows import EventRow
from tallyd.engine.voiding import VoidTerms
from tallyd.model.invoice import Invoice, Line
from tallyd.model.ledger_entries import Entry, EntryKind
from tallyd.model.money import ZERO
from tallyd.store.tables import Row

_decode_void: Final = msgspec.json.Decoder(VoidTerms).decode


class Movement(msgspec.Struct, frozen=True, kw_only=True):
    """A ledger row that moved what a counter has charged.

    Attributes:
        kind: an event came; one that had come was taken back; one got the price it lacked.
        position: of the row, in the customer's ledger.
        at: when it was written, microseconds UTC.
        event: row number of the event.
        amount: what the charge changed by, exact; None: the event has no price yet.
        reason: why the event was taken back.
    """

    kind: Literal["event", "void", "rerate"]
    position: int
    at: int
    event: int
    amount: Decimal | None
    reason: str = ""


class Movements(msgspec.Struct, frozen=True, kw_only=True):
    """A page of what moved a counter while it was not billed, in order.

    Attributes:
        page: the page.
        total: how many there are in all.
        charged: sum of all their amounts, exact: what the invoice's lines of this counter sum to.
        events: the events of the page, by row number.
        deductions: what the events of the page drew from credits for the feature, and what of it was reversed.
    """

    page: list[Movement]
    total: int
    charged: Decimal
    events: dict[int, EventRow]
    deductions: list[Entry]


_COUNTER: Final = "charges.subscription = ? AND charges.feature = ? AND charges.period_start = ?"
_EVENTS: Final = (
    "SELECT events.position, received_at, events.id, amount,"
    " (SELECT rerates.before FROM rerates WHERE rerates.customer = events.customer AND rerates.event = events.id"
    " ORDER BY rerates.position LIMIT 1)"
    f" FROM charges CROSS JOIN events ON events.id = charges.event WHERE {_COUNTER}"
    " AND events.position >= ? AND events.position < ? ORDER BY charges.event"
)
_VOIDS: Final = (
    "SELECT voids.position, voids.written_at, voids.event, voids.details FROM charges"
    " CROSS JOIN ledger_entries AS voids ON voids.event = charges.event AND voids.kind = 'EVENT_VOIDED'"
    f" WHERE {_COUNTER} AND voids.position >= ? AND voids.position < ? ORDER BY voids.position"
)
_RERATES: Final = (
    "SELECT rerates.position, rated_at, rerates.event, rerates.before, rerates.after FROM rerates"
    " CROSS JOIN charges ON charges.event = rerates.event"
    " WHERE rerates.customer = ? AND rerates.position >= ? AND rerates.position < ?"
    f" AND {_COUNTER} ORDER BY rerates.position"
)


def movements_of_line(
    connection: sqlite3.Connection, *, invoice: Invoice, line: Line, limit: int, offset: int
) -> Movements:
    """Return what a line of usage bills: the ledger rows of its counter between two positions."""
    page: list[Movement] = []
    total, charged = 0, ZERO
    for movement in _movements(connection, invoice, line):  # one at a time: a line may bill millions
        if offset <= total < offset + limit:
            page.append(movement)
        total += 1
        charged += movement.amount or ZERO
    numbers = [each.event for each in page]
    return Movements(
        page=page,
        total=total,
        charged=charged,
        events=_events(connection, numbers),
        deductions=_deductions(connection, numbers, line.feature),
    )


def _movements(connection: sqlite3.Connection, invoice: Invoice, line: Line) -> Iterator[Movement]:
    counter = (invoice.subscription, line.feature, line.counter_start)
    span = (line.after, line.until)
    came = map(partial(_came, line.feature), connection.execute(_EVENTS, (*counter, *span)))
    voided = map(partial(_voided, line.feature), connection.execute(_VOIDS, (*counter, *span)))
    rerated = map(
        partial(_rerated, line.feature), connection.execute(_RERATES, (invoice.customer, *span, *counter))
    )
    return heapq.merge(came, voided, rerated, key=lambda each: each.position)


def _came(feature: str, row: Row) -> Movement:
    position, at, event, amount, first = row
    if first is not None:  # priced since: what it charged when it came is what was billed then
        amount = _charged_in(first, feature)
    return Movement(kind="event", position=position, at=at, event=event, amount=_exact(amount))


def _voided(feature: str, row: Row) -> Movement:
    position, at, event, details = row
    terms = _decode_void(details)
    gone = sum((part.amount for part in terms.parts if part.feature == feature), ZERO)
    return Movement(kind="void", position=position, at=at, event=event, amount=-gone, reason=terms.reason)


def _rerated(feature: str, row: Row) -> Movement:
    position, at, event, before, after = row
    more = (_exact(_charged_in(after, feature)) or ZERO) - (_exact(_charged_in(before, feature)) or ZERO)
    return Movement(kind="rerate", position=position, at=at, event=event, amount=more)


def _charged_in(state: str, feature: str) -> str | None:
    return next((each.amount for each in decode_state(state).charges if each.feature == feature), None)


def _exact(amount: str | None) -> Decimal | None:
    return None if amount is None else Decimal(amount)


def _events(connection: sqlite3.Connection, numbers: list[int]) -> dict[int, EventRow]:
    rows = connection.execute(
        "SELECT events.* FROM json_each(?) AS wanted CROSS JOIN events ON events.id = wanted.value",
        (msgspec.json.encode(numbers).decode(),),
    )
    return {row[0]: EventRow(*row) for row in rows}


def _deductions(connection: sqlite3.Connection, numbers: list[int], feature: str) -> list[Entry]:
    rows = connection.execute(
        "SELECT ledger_entries.* FROM (SELECT DISTINCT value FROM json_each(?)) AS wanted"
        " CROSS JOIN ledger_entries ON event = wanted.value"
        " WHERE ledger_entries.feature = ? AND kind IN (?, ?) ORDER BY ledger_entries.id",
        (msgspec.json.encode(numbers).decode(), feature, EntryKind.DEDUCTION, EntryKind.REVERSAL),
    )
    return [Entry(*row) for row in rows]
