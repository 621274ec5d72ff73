"""The tables, as numbered migrations that only go forward."""

import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Final

from tallyd.store.migrations import billing, crediting, first
from tallyd.store.migrations.carrying import carry_over

APPLICATION_ID: Final = 0x7A11D001
"""In the file's header, so that no other program's database is taken for the books."""


class SchemaError(Exception):
    """The file is not tallyd's, or was written by a newer tallyd."""


def _subscriptions_with_lives(connection: sqlite3.Connection) -> None:
    """Carry subscriptions over: nothing of what has been is invoiced, the next period is."""
    _run(billing.TABLES, connection)
    carry_over(connection)
    _run(billing.SUBSCRIPTIONS, connection)


def _run(statements: str, connection: sqlite3.Connection) -> None:
    for statement in statements.split(";\n"):
        if statement.strip():
            connection.execute(statement)


MIGRATIONS: Final[tuple[Callable[[sqlite3.Connection], None], ...]] = (
    partial(_run, first.TABLES),
    partial(_run, crediting.TABLES),
    _subscriptions_with_lives,
)
"""Migration N brings a file from `user_version` N to N + 1. Never edited once released; only added to."""


def migrate(connection: sqlite3.Connection) -> None:
    """Bring a new or older file to today's tables, each step in its own transaction.

    Raises:
        SchemaError: the file belongs to another program or a newer tallyd.
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (objects,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application != APPLICATION_ID and (objects or application):
        raise SchemaError("the file is a database of another program; choose another --data-dir")
    if version > len(MIGRATIONS):
        raise SchemaError(
            f"the books have version {version}, this tallyd knows {len(MIGRATIONS)}; run a newer one"
        )
    for number in range(version, len(MIGRATIONS)):
        connection.execute("BEGIN IMMEDIATE")
        MIGRATIONS[number](connection)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {number + 1}")
        connection.execute("COMMIT")
