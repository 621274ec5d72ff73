"""Bringing older books up to date."""

import sqlite3
from pathlib import Path

from tallyd.store import sqlite
from tallyd.store.accounts import load_account
from tallyd.store.schema import APPLICATION_ID, MIGRATIONS


def books_of_version(path: Path, version: int) -> sqlite3.Connection:
    """Books as an older tallyd left them."""
    connection = sqlite3.connect(path, isolation_level=None)
    for migration in MIGRATIONS[:version]:
        migration(connection)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {version}")
    return connection


def test_books_without_credits_get_the_tables_and_keep_their_rows(tmp_path: Path) -> None:
    """A file of version 1 is brought to today's version when it is opened; its customers have no credits."""
    path = tmp_path / sqlite.FILE_NAME
    old = books_of_version(path, 1)
    old.execute("INSERT INTO customers VALUES (1, 'id-1', 'acme', NULL, 0, NULL)")
    old.close()
    writer = sqlite.open_writer(path)
    assert writer.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
    assert writer.execute("SELECT count(*) FROM credit_entries").fetchone() == (0,)
    rows = load_account(writer, "id-1")
    assert rows is not None
    assert rows.customer.reference == "acme"
    assert rows.credits is None
    writer.close()


def test_each_step_leads_to_the_same_tables(tmp_path: Path) -> None:
    """Books brought up step by step have the same tables as new ones."""
    old = books_of_version(tmp_path / "old.db", 1)
    old.close()
    schemas = []
    for name in ("old.db", "new.db"):
        connection = sqlite.open_writer(tmp_path / name)
        schemas.append(connection.execute("SELECT sql FROM sqlite_schema ORDER BY name").fetchall())
        connection.close()
    assert schemas[0] == schemas[1]
