"""Streams of the audit: rows that come beside others in the same order, so that few are ever in memory."""

import sqlite3
from collections.abc import Callable, Iterator
from typing import Final

from tallyd.engine.audit.findings import Findings
from tallyd.engine.rows import ChargeRow, EventRow
from tallyd.model.ledger_entries import Entry
from tallyd.store.tables import Row

_BESIDE: Final = (
    "SELECT events.* FROM charges CROSS JOIN events ON events.id = charges.event"
    " WHERE charges.subscription = ? AND charges.feature = ? AND (? OR charges.period_start = ?)"
    " AND charges.event <> ? AND charges.event < ?"
    " AND NOT (charges.units = '0' AND charges.amount = '0' AND charges.quantity = '{}')"
    " AND NOT EXISTS (SELECT 1 FROM ledger_entries AS voids"
    " WHERE voids.event = events.id AND voids.kind = 'EVENT_VOIDED' AND voids.id < ?)"
    " ORDER BY events.id"
)
ReadRows = Callable[[str, str], Iterator[Row]]
"""Reads a table with a statement; where SQLite cannot read on is a finding."""


class Beside:
    """Rows that belong to others; both come in order of the others' number.

    Args:
        rows: in order of the column at `place`.
        missed: told of a row whose other does not come.
        place: the column with the other's number.
    """

    def __init__(self, rows: Iterator[Row], missed: Callable[[Row], None], place: int = 0) -> None:
        self._rows = rows
        self._missed = missed
        self._place = place
        self._next: Row | None = next(rows, None)

    def of(self, number: int) -> list[Row]:
        """Return the rows that belong to one number; asked in ascending order."""
        found: list[Row] = []
        while self._next is not None and self._next[self._place] <= number:
            if self._next[self._place] == number:
                found.append(self._next)
            else:
                self._missed(self._next)
            self._next = next(self._rows, None)
        return found

    def one(self, number: int) -> Row | None:
        """Return the one row of a number, or None."""
        found = self.of(number)
        return found[0] if found else None

    def finish(self) -> None:
        """Report what comes after the last number asked for."""
        while self._next is not None:
            self._missed(self._next)
            self._next = next(self._rows, None)


class BookShelf:
    """What the replay of credits takes from the books; see `Shelf`."""

    def __init__(self, connection: sqlite3.Connection, read: ReadRows, findings: Findings) -> None:
        self._connection = connection

        def nothing_explains(kind: str) -> Callable[[Row], None]:
            return lambda row: findings.add(kind, row[0], "no entry explains it")

        self._grants = Beside(read("grants", "SELECT * FROM grants ORDER BY number"), nothing_explains("grant"))
        self._holds = Beside(read("holds", "SELECT * FROM holds ORDER BY number"), nothing_explains("hold"))
        invoices = read("invoices", "SELECT * FROM invoices ORDER BY number")
        self._invoices = Beside(invoices, nothing_explains("invoice"))

    def grant(self, number: int) -> Row | None:
        """See `Shelf`."""
        return self._grants.one(number)

    def hold(self, number: int) -> Row | None:
        """See `Shelf`."""
        return self._holds.one(number)

    def grant_again(self, number: int) -> Row | None:
        """See `Shelf`."""
        return self._find("SELECT * FROM grants WHERE number = ?", number)

    def hold_again(self, number: int) -> Row | None:
        """See `Shelf`."""
        return self._find("SELECT * FROM holds WHERE number = ?", number)

    def entry(self, number: int) -> Entry | None:
        """See `Shelf`."""
        row = self._find("SELECT * FROM ledger_entries WHERE id = ?", number)
        return None if row is None else Entry(*row)

    def invoice(self, number: int) -> Row | None:
        """See `Shelf`."""
        return self._invoices.one(number)

    def event(self, number: int) -> EventRow | None:
        """See `Shelf`."""
        row = self._find("SELECT * FROM events WHERE id = ?", number)
        return None if row is None else EventRow(*row)

    def charges(self, event: int) -> list[ChargeRow]:
        """See `Shelf`."""
        statement = "SELECT * FROM charges WHERE event = ? ORDER BY feature"
        return [ChargeRow(*row) for row in self._connection.execute(statement, (event,))]

    def entries_of(self, event: int) -> list[Entry]:
        """See `Shelf`."""
        statement = "SELECT * FROM ledger_entries WHERE event = ? ORDER BY id"
        return [Entry(*row) for row in self._connection.execute(statement, (event,))]

    def beside(self, charge: ChargeRow, *, before: int, ever: bool) -> Iterator[EventRow]:
        """See `Shelf`."""
        counted = (charge.subscription, charge.feature, ever, charge.period_start)
        for row in self._connection.execute(_BESIDE, (*counted, charge.event, before, before)):
            yield EventRow(*row)

    def finish(self) -> None:
        """Report rows that come after the last entry."""
        self._grants.finish()
        self._holds.finish()
        self._invoices.finish()

    def _find(self, statement: str, number: int) -> Row | None:
        row: Row | None = self._connection.execute(statement, (number,)).fetchone()
        return row
