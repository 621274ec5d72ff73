"""What is said to SQLite, whichever thread says it: opening, one transaction, reading."""

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tallyd.store import tables
from tallyd.store.balance import unbalanced_pools
from tallyd.store.schema import migrate
from tallyd.store.tables import Row, Table, add_exact, write_rows

FILE_NAME: Final = "tallyd.db"
CACHE_KIB: Final = 65_536
READER_CACHE_KIB: Final = 16_384
"""Look-ups go all over the file and gain little from a cache beside the system's own."""


def open_writer(path: Path) -> sqlite3.Connection:
    """Open the one connection that writes and checkpoints, and bring the tables up to date.

    WAL with `synchronous=FULL`: a commit has been fsynced when it returns (P1).

    Raises:
        SchemaError: not our file, or a newer one.
        sqlite3.Error: cannot be opened.
    """
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = OFF",
        "trusted_schema = OFF",
        f"cache_size = -{CACHE_KIB}",
        "temp_store = MEMORY",
    ):
        connection.execute(f"PRAGMA {pragma}")
    connection.create_function("add_exact", 2, add_exact, deterministic=True)
    migrate(connection)  # it replaces tables that others refer to, which foreign keys would forbid
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """Open a connection that cannot write and never checkpoints."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    for pragma in (
        "query_only = ON",
        "wal_autocheckpoint = 0",
        "trusted_schema = OFF",
        f"cache_size = -{READER_CACHE_KIB}",
    ):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def commit(connection: sqlite3.Connection, rows: Mapping[Table, list[Row]]) -> list[int]:
    """Write rows in one transaction; they are durable when this returns (P1).

    Returns the numbers of the pools among them that do not balance in the file now (P3).

    Raises:
        sqlite3.Error: the outcome is unknown: the rows may be there or not.
    """
    connection.execute("BEGIN IMMEDIATE")
    for table in tables.IN_ORDER:
        some = rows.get(table)
        if some:
            write_rows(connection, table, some)
    unbalanced = unbalanced_pools(connection, pools_among(rows))
    connection.execute("COMMIT")
    return unbalanced


def pools_among(rows: Mapping[Table, list[Row]]) -> list[int]:
    """Return the numbers of the pools that rows are about."""
    return [row[0] for table in (tables.POOLS, tables.MOVED_POOLS) for row in rows.get(table, ())]


def touch(connection: sqlite3.Connection) -> None:
    """Take and release the write lock: proof that the writer still answers, for the watchdog."""
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("COMMIT")
