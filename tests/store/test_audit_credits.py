"""`tallyd verify` on credits: true books balance whatever happened; every changed byte is found and named."""

import shutil
import sqlite3
from pathlib import Path
from typing import Any, Final

import pytest

from store.credit_books import Bookkeeper, anything, everything, verify
from store.spoiling import flipped, found
from tallyd.model.ledger_entries import EntryKind
from tallyd.store import tables

KINDS: Final = {
    "ledger_entries": "ledger entry",
    "pools": "pool",
    "grants": "grant",
    "pool_links": "pool link",
    "holds": "hold",
    "dues": "due",
    "outbox": "outbox",
    "credit_weights": "credit weight",
    "credit_prices": "credit price",
}
KEYS: Final = {
    "ledger_entries": ("id",),
    "pool_links": ("pool", "subscription"),
    "dues": ("customer",),
    "credit_weights": ("id",),
    "credit_prices": ("id",),
}
# A due that is early is no harm and is kept so; a schedule's rows may have been published at any time before.
ONLY_LATER: Final = {("dues", "due_at"), ("credit_weights", "created_at"), ("credit_prices", "created_at")}
COLUMNS: Final = [
    (table.name, column)
    for table in tables.IN_ORDER
    if table.name in KINDS and not isinstance(table, tables.Removal)
    for column in table.columns
]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Books with every kind of entry."""
    path = everything().write(tmp_path_factory.mktemp("books") / "t.db")
    assert verify(path).findings == []
    return path


@pytest.fixture
def books(original: Path, tmp_path: Path) -> Path:
    """A copy that may be spoilt."""
    return Path(shutil.copy(original, tmp_path / "t.db"))


def key_columns(table: str) -> tuple[str, ...]:
    """The columns that name a row."""
    return KEYS.get(table, ("number",))


def place_of(table: str, keys: tuple[Any, ...]) -> tuple[str, str]:
    """How a finding names a row."""
    shapes = {"pool_links": "pool {} subscription {}", "dues": "customer {}"}
    return KINDS[table], shapes.get(table, "{}").format(*keys)


def kinds_of_rows(table: str) -> str:
    """What makes rows of a table different in kind."""
    return {"ledger_entries": "kind, cause", "holds": "status", "grants": "remaining <> '0'"}.get(
        table, key_columns(table)[0]
    )


@pytest.mark.parametrize(("table", "column"), COLUMNS)
def test_a_changed_byte_is_found(books: Path, table: str, column: str) -> None:
    """Any column of any kind of row: verify names the table and the row."""
    names = key_columns(table)
    where = " AND ".join(f"{name} = ?" for name in names)
    connection = sqlite3.connect(books, isolation_level=None)
    rows = connection.execute(f"SELECT {column}, {','.join(names)} FROM {table} GROUP BY {kinds_of_rows(table)}")
    for value, *keys in rows.fetchall():
        changed = flipped(value)
        try:
            connection.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", (changed, *keys))
        except sqlite3.IntegrityError:
            continue  # another row has that number already
        named = tuple(changed if name == column else key for name, key in zip(names, keys, strict=True))
        assert place_of(table, named) in found(books), (column, keys, value)
        undo = " AND ".join(f"{name} = ?" for name in names)
        connection.execute(f"UPDATE {table} SET {column} = ? WHERE {undo}", (value, *named))
    connection.close()
    assert found(books) == set()


@pytest.mark.parametrize("table", [table for table in KINDS if table != "outbox"])
def test_a_deleted_row_is_found(books: Path, table: str) -> None:
    """Each row that goes missing is missed: by its own name, or where the ledger or an entry rests on it."""
    connection = sqlite3.connect(books, isolation_level=None)
    rows = connection.execute(f"SELECT * FROM {table} GROUP BY {kinds_of_rows(table)}").fetchall()
    names = key_columns(table)
    for row in rows:
        where = " AND ".join(f"{name} = ?" for name in names)
        keys = row[: len(names)]
        if table in {"credit_weights", "credit_prices"}:
            continue  # an entry may rest on none of it; see the test of weights
        connection.execute(f"DELETE FROM {table} WHERE {where}", keys)
        places = found(books)
        assert places
        if table != "ledger_entries":
            assert place_of(table, keys) in places
        connection.execute(f"INSERT INTO {table} VALUES ({','.join('?' * len(row))})", row)
    connection.close()
    assert found(books) == set()


def test_a_weight_that_deductions_rest_on_is_missed(books: Path) -> None:
    """Without the row of a weight the charges it led to do not follow."""
    with sqlite3.connect(books) as connection:
        (entry, weight) = connection.execute(
            "SELECT min(id), json_extract(details, '$.weight_id') FROM ledger_entries"
            " WHERE json_extract(details, '$.weight_match') = 'MODEL' AND details LIKE '%weight_id%'"
        ).fetchone()
        connection.execute("DELETE FROM credit_weights WHERE id = ?", (weight,))
    connection.close()
    assert ("ledger entry", str(entry)) in found(books)


INSERTED: Final = {
    "pools": "INSERT INTO pools SELECT 9999, {} FROM pools LIMIT 1",
    "grants": "INSERT INTO grants SELECT 9999, {} FROM grants LIMIT 1",
    "holds": "INSERT INTO holds SELECT 9999, {} FROM holds LIMIT 1",
    "ledger_entries": "INSERT INTO ledger_entries SELECT 9999, {} FROM ledger_entries WHERE key IS NULL LIMIT 1",
    "outbox": "INSERT INTO outbox SELECT 9999, {} FROM outbox LIMIT 1",
    "pool_links": "INSERT INTO pool_links SELECT 8, {} FROM pool_links LIMIT 1",
}


@pytest.mark.parametrize("table", INSERTED)
def test_an_added_row_is_found(books: Path, table: str) -> None:
    """A row that no entry explains, however much it looks like another."""
    columns = next(each for each in tables.IN_ORDER if each.name == table).columns
    with sqlite3.connect(books) as connection:
        connection.execute(INSERTED[table].format(", ".join(columns[1:])))
    connection.close()
    added = (8, 1) if table == "pool_links" else (9999,)
    assert place_of(table, added) in found(books)


@pytest.mark.parametrize("table", ["pools", "grants", "holds", "ledger_entries"])
def test_swapped_rows_are_found(books: Path, table: str) -> None:
    """Two rows that change places are both named."""
    name = key_columns(table)[0]
    with sqlite3.connect(books) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        (left,), *_, (right,) = connection.execute(f"SELECT {name} FROM {table} ORDER BY 1").fetchall()
        for old, new in ((left, -1), (right, left), (-1, right)):
            connection.execute(f"UPDATE {table} SET {name} = ? WHERE {name} = ?", (new, old))
    connection.close()
    assert {place_of(table, (left,)), place_of(table, (right,))} <= found(books)


def test_the_books_have_every_kind_of_entry() -> None:
    """The books that these tests spoil have each kind of entry of credits; for the causes see those of billing."""
    of_billing = {"SUBSCRIPTION", "INVOICE_MADE", "INVOICE_CHANGED", "EVENT_VOIDED"}
    assert {entry.kind for entry in everything().entries()} >= set(EntryKind) - of_billing


def test_what_was_read_is_counted(original: Path) -> None:
    """The report says how much of credits was recomputed."""
    report, made = verify(original), everything()
    assert report.ledger_entries == len(made.entries())
    assert (report.pools, report.holds) == (4, 5)
    assert report.grants == sum(entry.kind == "GRANT" or entry.cause == "rollover" for entry in made.entries())


def test_a_charge_that_forgets_what_credits_paid_is_found(books: Path) -> None:
    """Covered usage that is billed as well would be billed twice (P5)."""
    with sqlite3.connect(books) as connection:
        (event,) = connection.execute("SELECT min(event) FROM charges WHERE feature = 'api'").fetchone()
        connection.execute(
            """UPDATE charges SET quantity = '{"units":"20"}', amount = '2.00' WHERE event = ?""", (event,)
        )
    connection.close()
    assert ("charge", f"event {event} feature api") in found(books)


def test_damage_is_a_finding(books: Path) -> None:
    """Rows that cannot be read are reported, and the audit goes on to its end."""
    with sqlite3.connect(books) as connection:
        connection.execute("UPDATE ledger_entries SET details = '{' WHERE id = 2")
        connection.execute("UPDATE grants SET remaining = 'sNaN', terms = '['")
        connection.execute("UPDATE holds SET parts = 'x', terms = ''")
        connection.execute("UPDATE outbox SET body = '['")
        connection.execute("UPDATE pools SET model = '{', balance = ''")
    connection.close()
    places = found(books)
    assert {"ledger entry", "grant", "hold", "outbox", "pool"} <= {kind for kind, _ in places}


@pytest.mark.parametrize("seed", range(12))
def test_true_books_balance(tmp_path: Path, seed: int) -> None:
    """Whatever happens to a customer's credits, in whatever order: verify finds nothing (P3, P5, P10)."""
    books: Bookkeeper = anything(seed)
    assert verify(books.write(tmp_path / "t.db")).findings == []
