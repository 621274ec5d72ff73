"""What the daemon wrote, written again with plain `sqlite3`: the same rows, tables and transactions."""

import sqlite3
import time
from pathlib import Path
from typing import Any, Final

import msgspec

PRAGMAS: Final = (
    "journal_mode = WAL",
    "synchronous = FULL",
    "foreign_keys = ON",
    "cache_size = -65536",
    "temp_store = MEMORY",
)
GROWING: Final = {"events": "id", "charges": "event"}
"""Tables that are only added to, in the order of this column, which is an event's number."""

SCHEMA: Final = "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' ORDER BY rowid"

Rows = list[tuple[Any, ...]]


class Table(msgspec.Struct, frozen=True):
    """A table as the daemon's file has it."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]

    @property
    def insert(self) -> str:
        """The statement that writes one row, whether or not it is there."""
        marks = ",".join("?" * len(self.columns))
        statement = f"INSERT INTO {self.name} ({','.join(self.columns)}) VALUES ({marks})"
        if self.name in GROWING:
            return statement
        changed = ",".join(f"{column} = excluded.{column}" for column in self.columns if column not in self.key)
        action = f"UPDATE SET {changed}" if changed else "NOTHING"
        return f"{statement} ON CONFLICT ({','.join(self.key)}) DO {action}"


class Replay:
    """Copies a running daemon's rows, a round at a time.

    Args:
        source: the daemon's file; only read.
        target: a fresh file with the same tables.
    """

    def __init__(self, source: Path, target: Path) -> None:
        self._source = sqlite3.connect(f"file:{source}?mode=ro", uri=True, isolation_level=None)
        self._target = sqlite3.connect(target, isolation_level=None)
        for pragma in PRAGMAS:
            self._target.execute(f"PRAGMA {pragma}")
        for (statement,) in self._source.execute(SCHEMA):
            self._target.execute(statement)
        self._tables = [_table(self._source, name) for name in _names(self._source)]
        self._held: dict[str, set[tuple[Any, ...]]] = {table.name: set() for table in self._tables}
        self._last = 0

    def close(self) -> None:
        """Close both files."""
        self._source.close()
        self._target.close()

    def fetch(self, events: int) -> list[list[tuple[str, Rows]]]:
        """Read what is new, as transactions of this many events: statements and their rows.

        Counters, roll-ups and the like are taken as they now stand, once for every transaction.
        """
        self._source.execute("BEGIN")
        fresh = {table.name: self._new(table) for table in self._tables}
        self._source.execute("COMMIT")
        added = fresh["events"]
        transactions = []
        for start in range(0, len(added) or 1, events):
            part = added[start : start + events]
            numbers = {row[0] for row in part}
            statements = []
            for table in self._tables:
                rows = fresh[table.name]
                if table.name in GROWING:
                    place = table.columns.index(GROWING[table.name])
                    rows = [row for row in rows if row[place] in numbers]
                if rows:
                    statements.append((table.insert, rows))
            transactions.append(statements)
        if added:
            self._last = added[-1][0]
        return transactions

    def _new(self, table: Table) -> Rows:
        order = GROWING.get(table.name)
        if order is not None:
            where = f"WHERE {order} > ? ORDER BY {order}"
            return self._source.execute(f"SELECT * FROM {table.name} {where}", (self._last,)).fetchall()
        rows = self._source.execute(f"SELECT * FROM {table.name}").fetchall()
        held = self._held[table.name]
        changed = [row for row in rows if row not in held]
        self._held[table.name] = set(rows)
        return changed

    def write(self, transaction: list[tuple[str, Rows]]) -> float:
        """Write one transaction; return the seconds it took."""
        started = time.perf_counter()
        self._target.execute("BEGIN IMMEDIATE")
        for statement, rows in transaction:
            self._target.executemany(statement, rows)
        self._target.execute("COMMIT")
        return time.perf_counter() - started


def _names(connection: sqlite3.Connection) -> list[str]:
    query = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY rowid"
    return [name for (name,) in connection.execute(query)]


def _table(connection: sqlite3.Connection, name: str) -> Table:
    columns = connection.execute(f"PRAGMA table_info({name})").fetchall()
    key = sorted((place, column) for _, column, _, _, _, place in columns if place)
    return Table(name, tuple(column[1] for column in columns), tuple(column for _, column in key))
