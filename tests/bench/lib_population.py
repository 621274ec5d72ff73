"""Many customers in a real file: one that the daemon wrote, multiplied with raw SQL."""

import sqlite3
import uuid
from pathlib import Path
from typing import Final

from lib_client import customer, rpc
from lib_process import connect, daemon, read_line
from lib_report import BenchError

from tallyd.model.customer import CustomerRef, RefKind

MULTIPLIED: Final = ("customers", "subscriptions", "ledgers", "counters", "dues")
PER_INSERT: Final = 50_000


def populate(home: Path, customers: int) -> None:
    """Make books in which this many customers each have a subscription and two counters.

    The daemon writes customer 1; its rows are copied for customers 2 and on, so that they are what it expects.
    """
    with daemon(home) as first:
        first.call("subscribe", customerReferenceId=customer(1), planKey="bench")
        for feature in ("calls", "assistant"):
            body = {"eventName": "call", "featureKey": feature, "usageUnits": 1}
            _ingest(first.path, {"customerReferenceId": customer(1), **body})
    connection = sqlite3.connect(home / "tallyd.db", isolation_level=None)
    for pragma in ("journal_mode = WAL", "synchronous = OFF", "cache_size = -500000"):
        connection.execute(f"PRAGMA {pragma}")
    connection.create_function("reference_of", 1, customer, deterministic=True)
    connection.create_function("id_of", 1, _customer_id, deterministic=True)
    connection.create_function("new_id", 0, lambda: str(uuid.uuid4()))
    for start in range(2, customers + 1, PER_INSERT):
        connection.execute("BEGIN")
        for table in MULTIPLIED:
            _multiply(connection, table, start, min(start + PER_INSERT, customers + 1))
        connection.execute("COMMIT")
    for table, each in (("customers", 1), ("subscriptions", 1), ("counters", 2)):
        (rows,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
        if rows != customers * each:
            raise BenchError(f"{table} has {rows} rows for {customers} customers")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def _ingest(path: str, body: dict[str, object]) -> None:
    with connect(path) as peer:
        peer.sendall(rpc("ingest", {"events": [body]}))
        if b'"created"' not in read_line(peer):
            raise BenchError("the first customer's event was refused")


def _customer_id(number: int) -> str:
    return CustomerRef(RefKind.REFERENCE, customer(number)).customer_id()


def _multiply(connection: sqlite3.Connection, table: str, start: int, end: int) -> None:
    """Copy customer 1's rows to the customers numbered `[start, end)`."""
    columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    new = {"customer": "n", "number": "n", "reference": "reference_of(n)", "id": "new_id()"}
    if table == "customers":
        new["id"] = "id_of(n)"
    if table in ("counters", "charges"):
        new["subscription"] = "CASE subscription WHEN 1 THEN n ELSE subscription END"
    values = ",".join(new.get(column, column) for column in columns)
    mine = "number" if table == "customers" else "customer"
    connection.execute(
        f"WITH RECURSIVE numbers(n) AS (VALUES (?) UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < ?)"
        f" INSERT INTO {table} ({','.join(columns)}) SELECT {values} FROM numbers CROSS JOIN"
        f" (SELECT * FROM {table} WHERE {mine} = 1)",
        (start, end),
    )
