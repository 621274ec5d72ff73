"""`tallyd verify` on subscriptions, invoices, voids and what is billed: every changed byte is found and named."""

import shutil
import sqlite3
from collections.abc import Callable
from decimal import ROUND_DOWN, Context, Decimal
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from store import credit_books
from store.billing_books import DAY, Biller, anything, everything
from store.credit_books import verify
from store.spoiling import flipped, found
from tallyd.engine import voiding
from tallyd.engine.billing import changing, invoicing, lines, overage, renewing, revising
from tallyd.engine.credits import passing
from tallyd.model.invoice import InvoiceKind, InvoiceStatus, LineKind
from tallyd.model.ledger_entries import Cause, EntryKind
from tallyd.store import tables

KINDS: Final = {
    "subscriptions": "subscription",
    "invoices": "invoice",
    "dues": "due",
    "counters": "counter",
    "pool_links": "pool link",
    "ledger_entries": "ledger entry",
    "seen_values": "seen value",
}
KEYS: Final = {
    "dues": ("customer",),
    "counters": ("customer", "subscription", "feature", "period_start"),
    "pool_links": ("pool", "subscription"),
    "ledger_entries": ("id",),
    "seen_values": ("customer", "subscription", "feature", "period_start"),
}
PLACES: Final = {
    "dues": "customer {}",
    "counters": "customer {} {2} subscription {1} period {3}",
    "pool_links": "pool {} subscription {}",
    "seen_values": "customer {} {2} subscription {1} period {3}",
}
ROWS: Final = {  # what makes rows of a table different in kind
    "subscriptions": "number",
    "invoices": "kind, status",
    "counters": "feature, billed <> charged, covered <> '{}', period_start < 0",
    "pool_links": "withheld, pool",
    "ledger_entries": "kind",
}
KINDS_EACH: Final = 5
COLUMNS: Final = [
    (table.name, column)
    for table in tables.IN_ORDER
    if table.name in KINDS and not isinstance(table, tables.Removal)
    for column in table.columns
]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Books with every kind of entry of subscriptions and invoices."""
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
    shape = PLACES.get(table, "{}")
    if "{2}" in shape:
        shape = shape.replace("{}", "{0}")
    return KINDS[table], shape.format(*keys)


@pytest.mark.parametrize(("table", "column"), COLUMNS)
def test_a_changed_byte_is_found(books: Path, table: str, column: str) -> None:
    """Any column, in some kinds of rows, each kind in its turn: verify names the table and the row."""
    names = key_columns(table)
    where = " AND ".join(f"{name} = ?" for name in names)
    connection = sqlite3.connect(books, isolation_level=None)
    kinds = ROWS.get(table, ", ".join(names))
    some = "WHERE pool IS NULL AND hold IS NULL" if table == "ledger_entries" else ""  # the others: see credits
    rows = connection.execute(f"SELECT {column}, {','.join(names)} FROM {table} {some} GROUP BY {kinds}")
    some_kinds = rows.fetchall()
    step = -(-len(some_kinds) // KINDS_EACH)
    for value, *keys in some_kinds[COLUMNS.index((table, column)) % step :: step]:
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


@pytest.mark.parametrize("table", [table for table in KINDS if table != "ledger_entries"])
def test_a_deleted_row_is_found(books: Path, table: str) -> None:
    """Each row that goes missing is missed by its name."""
    connection = sqlite3.connect(books, isolation_level=None)
    rows = connection.execute(f"SELECT * FROM {table}").fetchall()
    columns = next(each for each in tables.IN_ORDER if each.name == table).columns
    where = " AND ".join(f"{name} IS ?" for name in columns)
    for row in rows:
        connection.execute(f"DELETE FROM {table} WHERE {where}", row)
        assert place_of(table, row[: len(key_columns(table))]) in found(books), row
        connection.execute(f"INSERT INTO {table} VALUES ({','.join('?' * len(row))})", row)
    connection.close()
    assert found(books) == set()


def test_a_deleted_entry_is_found(books: Path) -> None:
    """Without one of its entries a customer's ledger does not go on."""
    connection = sqlite3.connect(books, isolation_level=None)
    rows = connection.execute("SELECT * FROM ledger_entries GROUP BY kind, cause").fetchall()
    for row in rows:
        connection.execute("DELETE FROM ledger_entries WHERE id = ?", row[:1])
        assert ("ledger", f"customer 1 position {row[2] + 1}") in found(books), row
        connection.execute(f"INSERT INTO ledger_entries VALUES ({','.join('?' * len(row))})", row)
    connection.close()
    assert found(books) == set()


INSERTED: Final = {
    "subscriptions": "INSERT INTO subscriptions SELECT 99, 'id-99', {} FROM subscriptions LIMIT 1",
    "invoices": "INSERT INTO invoices SELECT 99, customer, subscription, 99, {} FROM invoices"
    " WHERE status = 'VOID' LIMIT 1",
    "dues": "INSERT INTO dues SELECT 99, due_at FROM dues LIMIT 1",
    "counters": "INSERT INTO counters SELECT customer, 99, {} FROM counters LIMIT 1",
}


@pytest.mark.parametrize("table", INSERTED)
def test_an_added_row_is_found(books: Path, table: str) -> None:
    """A row that no entry explains, however much it looks like another."""
    columns = next(each for each in tables.IN_ORDER if each.name == table).columns
    rest = {"subscriptions": columns[2:], "invoices": columns[4:], "counters": columns[2:]}.get(table, ())
    with sqlite3.connect(books) as connection:
        connection.execute(INSERTED[table].format(", ".join(rest)))
    connection.close()
    places = found(books)
    assert any(kind == KINDS[table] and "99" in where for kind, where in places), places


@pytest.mark.parametrize("table", ["subscriptions", "invoices"])
def test_swapped_rows_are_found(books: Path, table: str) -> None:
    """Two rows that change places are both named."""
    with sqlite3.connect(books) as connection:
        (left,), *_, (right,) = connection.execute(f"SELECT number FROM {table} ORDER BY 1").fetchall()
        for old, new in ((left, -1), (right, left), (-1, right)):
            connection.execute(f"UPDATE {table} SET number = ? WHERE number = ?", (new, old))
    connection.close()
    assert {(KINDS[table], str(left)), (KINDS[table], str(right))} <= found(books)


def test_damage_is_a_finding(books: Path) -> None:
    """Rows that cannot be read are reported, and the audit goes on to its end."""
    with sqlite3.connect(books) as connection:
        connection.execute("UPDATE subscriptions SET phases = '{', pauses = 'x', change = '[', metadata = ''")
        connection.execute("UPDATE invoices SET lines = '[', amount = 'sNaN', kind = 'often'")
        connection.execute("UPDATE counters SET covered = '{', billed = 'much'")
        connection.execute(
            "UPDATE ledger_entries SET details = '{' WHERE kind = 'INVOICE_MADE' AND cause = 'period'"
        )
        connection.execute("UPDATE ledger_entries SET details = '[]' WHERE kind = 'EVENT_VOIDED'")
    connection.close()
    kinds = {kind for kind, _ in found(books)}
    assert {"subscription", "invoice", "counter", "ledger entry"} <= kinds


def test_the_books_have_every_kind_of_entry() -> None:
    """The books that these tests and those of credits spoil have each kind of entry and cause between them."""
    books = everything()
    made = [*books.entries(), *credit_books.everything().entries()]
    assert {entry.kind for entry in made} == set(EntryKind)
    assert {entry.cause for entry in made} == set(Cause)
    assert {invoice.kind for invoice in books.kept.values()} == set(InvoiceKind)
    assert {invoice.status for invoice in books.kept.values()} == set(InvoiceStatus)
    assert {line.kind for invoice in books.kept.values() for line in invoice.lines} == set(LineKind)


def test_what_was_read_is_counted(original: Path) -> None:
    """The report says how many subscriptions and invoices were recomputed."""
    report, books = verify(original), everything()
    assert (report.subscriptions, report.invoices) == (8, len(books.kept))
    assert report.ledger_entries == len(books.entries())


@pytest.mark.parametrize("seed", range(12))
def test_true_books_balance(tmp_path: Path, seed: int) -> None:
    """Whatever becomes of a customer's subscriptions, in whatever order: verify finds nothing (P5, P6, P10)."""
    books: Biller = anything(seed)
    assert verify(books.write(tmp_path / "t.db")).findings == []


# Mistakes of the biller: each is made on purpose, and must be found in books that are whole and well chained


def _as_it_is(given: Any, *_: Any, **__: Any) -> Any:
    return given


def _nothing(*_: Any, **__: Any) -> None:
    return None


def _no_lines(*_: Any, **__: Any) -> list[Any]:
    return []


def _billed_again(draft: Any, number: int, at: int) -> list[Any]:
    """Bill usage, and forget that it was billed."""
    before = dict(draft.counters_of(number))
    made = _usage_until(draft, number, at)
    for key, counter in before.items():
        draft.put_counter(key, counter)
    return made


_change: Final = invoicing.change
_usage_until: Final = invoicing.usage_until
_charge_overage: Final = overage.lines
_overdue: Final = invoicing.overdue_at
_renewed: Final = renewing._charged


def _overage_for_nothing(*given: Any, **how: Any) -> list[Any]:
    """Charge overage, and leave it off the invoice."""
    _charge_overage(*given, **how)
    return []


def _charged_without_access(draft: Any, subscription: Any, at: int, **_: Any) -> Any:
    return _renewed(draft, subscription, at, at_once=True)


def _rounded_down(exact: Decimal, _: str) -> Decimal:
    return exact.quantize(Decimal("0.01"), context=Context(prec=60, rounding=ROUND_DOWN, traps=[]))


def _changed(draft: Any, invoice: Any, update: Any, cause: Cause, **how: Any) -> Any:
    """Let an invoice fall overdue without a word in the ledger."""
    if cause is not Cause.OVERDUE:
        return _change(draft, invoice, update, cause, **how)
    draft.put_invoice(msgspec.structs.replace(invoice, status=InvoiceStatus.PAST_DUE))
    return invoice


MISTAKES: Final[dict[str, tuple[object, str, Callable[..., Any], str]]] = {
    "no proration": (lines, "part_of", _as_it_is, "invoice"),
    "usage is billed twice": (invoicing, "usage_until", _billed_again, "invoice"),
    "usage is not billed": (invoicing, "usage_until", _no_lines, "invoice"),
    "a rounding goes wrong": (lines, "round_to_currency", _rounded_down, "invoice"),
    "grace lasts too long": (invoicing, "overdue_at", lambda *given: _overdue(*given) + DAY, "invoice"),
    "charged without access": (renewing, "_charged", _charged_without_access, "ledger entry"),
    "withheld for ever": (renewing, "give_withheld", _nothing, "pool link"),
    "no more after an upgrade": (changing, "include_more", _nothing, "pool link"),
    "credits outlive the end": (changing, "forfeit_included", _nothing, "grant"),
    "overage for nothing": (overage, "lines", _overage_for_nothing, "ledger entry"),
    "overdue in silence": (invoicing, "change", _changed, "invoice"),
    "too late, and taken": (revising, "late_counts", lambda _enrolment, counts, _event: counts, "event"),
    "a void leaves the charge": (voiding._Voiding, "_amount", lambda *_: Decimal(0), "ledger entry"),
    "pauses are charged": (renewing, "_paused", lambda *_: 0, "invoice"),
    "trials are charged": (invoicing, "without_trial_usage", lambda _s, _p, found: found, "invoice"),
    "no invoice after a pause": (changing.renewing, "restore", _nothing, "subscription"),
    "unused time is kept": (changing, "_credit", _nothing, "subscription"),
    "nothing at the end": (renewing, "make_final", _nothing, "subscription"),
    "voids take nothing off": (credit_books.granting, "reverse", _nothing, "ledger entry"),
    "no credits at a period's begin": (passing, "_grant_included", _nothing, "pool link"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_of_the_biller_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistake: str) -> None:
    """Verify does its own sums: what the engine gets wrong is found, although nobody has changed a byte."""
    where, name, wrong, kind = MISTAKES[mistake]
    monkeypatch.setattr(where, name, wrong)
    findings = verify(everything().write(tmp_path / "t.db")).findings
    assert kind in {finding.kind for finding in findings}, findings
