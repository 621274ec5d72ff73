"""Streams of the audit: rows that come beside others in the same order, so that few are ever in memory."""

import sqlite3
from collections.abc import Callable, Iterator

from tallyd.engine.audit.findings import Findings
from tallyd.model.credit_entries import Entry
from tallyd.store.tables import Row

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
        row = self._find("SELECT * FROM credit_entries WHERE id = ?", number)
        return None if row is None else Entry(*row)

    def subscription_of(self, event: int) -> int | None:
        """See `Shelf`."""
        row = self._find("SELECT subscription FROM events WHERE id = ?", event)
        subscription: int | None = row[0] if row else None
        return subscription

    def finish(self) -> None:
        """Report rows that come after the last entry."""
        self._grants.finish()
        self._holds.finish()

    def _find(self, statement: str, number: int) -> Row | None:
        row: Row | None = self._connection.execute(statement, (number,)).fetchone()
        return row
