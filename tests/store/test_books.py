"""The books: one transaction, exact sums, and the same for both implementations."""

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from support import NOW, Ledger, account_on, event, plan_of
from tallyd.engine.account import Changes
from tallyd.engine.rows import EventRow
from tallyd.model.customer import Customer
from tallyd.store import accounts, sqlite, tables
from tallyd.store.batch import Work, merge
from tallyd.store.books import Books, InlineBooks, open_books
from tallyd.store.lock import DataDirBusyError, own_data_dir
from tallyd.store.schema import APPLICATION_ID, MIGRATIONS, SchemaError

Opener = Callable[[Path], AbstractAsyncContextManager[Books]]


@asynccontextmanager
async def open_inline(path: Path) -> AsyncIterator[InlineBooks]:
    """The simulator's books."""
    books = InlineBooks(path)
    try:
        yield books
    finally:
        books.close()


@pytest.fixture(params=[open_books, open_inline], ids=["threaded", "inline"])
def opener(request: pytest.FixtureRequest) -> Opener:
    """Both kinds of books, one after the other."""
    kind: Opener = request.param
    return kind


def ledger(count: int = 5) -> Ledger:
    """A customer with some events on a priced plan."""
    pricing = '{ model = "usage", usage_unit_type = "u", price_per_unit = "0.1" }'
    played = Ledger(account_on(plan_of(pricing)))
    for number in range(count):
        played.record(event(key=f"k{number}", feature_key="api", usage_units="0.1"))
    return played


def customer_row() -> tuple[object, ...]:
    """The customer of these events."""
    return msgspec.structs.astuple(Customer(number=1, id="c", reference="acme", stripe_id=None, created_at=NOW))


def works(changes: list[Changes], *, known: bool = False) -> list[Work]:
    """Each change as work of its own, the customer first."""
    first = [] if known else [Work(rows=[(tables.CUSTOMERS, customer_row())])]
    return [*first, *(Work(1, [each]) for each in changes)]


async def query(books: Books, sql: str) -> list[tuple[object, ...]]:
    """Read."""
    found: list[tuple[object, ...]] = await books.read(lambda reader: reader.execute(sql).fetchall())
    return found


async def test_a_group_commit_keeps_the_last_counter_and_sums_the_rollups(opener: Opener, tmp_path: Path) -> None:
    """Five events in one transaction: five rows, one counter with its last value, one exact sum."""
    played = ledger()
    async with opener(tmp_path / "t.db") as books:
        await books.commit(merge(works(played.changes)))
        assert await query(books, "SELECT count(*) FROM events") == [(5,)]
        assert await query(books, "SELECT used, charged, events FROM counters") == [("0.5", "0.05", 5)]
        assert await query(books, "SELECT units, revenue, events FROM rollups") == [("0.5", "0.05", 5)]
        assert await query(books, "SELECT position, chain FROM ledgers") == [(5, played.account.chain)]


async def test_commits_one_by_one_leave_the_same_books_as_one_group(opener: Opener, tmp_path: Path) -> None:
    """How work was grouped cannot be seen afterwards: roll-ups are added exactly, not replaced."""
    played, dumps = ledger(), []
    for name, groups in (
        ("one", [works(played.changes)]),
        ("many", [[work] for work in works(played.changes)]),
    ):
        async with opener(tmp_path / name) as books:
            for group in groups:
                await books.commit(merge(group))
            dumps.append([await query(books, f"SELECT * FROM {table.name}") for table in tables.IN_ORDER])
    assert dumps[0] == dumps[1]


async def test_an_account_is_loaded_as_it_was(opener: Opener, tmp_path: Path) -> None:
    """Counters, position and chain read back equal those in memory."""
    played = ledger()
    async with opener(tmp_path / "t.db") as books:
        await books.commit(merge(works(played.changes)))
        loaded = await books.read(lambda reader: accounts.load_account(reader, "c"))
        assert loaded is not None
        assert loaded.counters == played.account.counters
        assert (loaded.position, loaded.chain) == (5, played.account.chain)
        assert await books.read(lambda reader: accounts.load_account(reader, "nobody")) is None
        sequences = await books.read(accounts.load_sequences)
        assert (next(sequences.events), next(sequences.customers)) == (6, 2)


async def test_the_unique_index_is_the_backstop(opener: Opener, tmp_path: Path) -> None:
    """Two rows with one key fail the whole transaction: nothing of it is in the books (P2)."""
    played = ledger(2)
    twice = msgspec.structs.replace(played.rows[1], key="k0")
    played.changes[1].event = twice
    async with opener(tmp_path / "t.db") as books:
        with pytest.raises(sqlite3.IntegrityError):
            await books.commit(merge(works(played.changes)))
        assert await query(books, "SELECT count(*) FROM events") == [(0,)]
    async with opener(tmp_path / "t.db") as books:
        assert await query(books, "SELECT count(*) FROM customers") == [(0,)]


async def test_a_key_space_has_its_own_keys(opener: Opener, tmp_path: Path) -> None:
    """The same key in two spaces is two events."""
    played = ledger(2)
    played.changes[1].event = msgspec.structs.replace(played.rows[1], key="k0", key_space="subscription")
    async with opener(tmp_path / "t.db") as books:
        await books.commit(merge(works(played.changes)))
        assert await query(books, "SELECT count(*) FROM events") == [(2,)]


@pytest.mark.parametrize(
    "sql", ["DELETE FROM events", "INSERT INTO features VALUES ('a','b',NULL,NULL,1)", "DROP TABLE events"]
)
async def test_readers_cannot_write(opener: Opener, tmp_path: Path, sql: str) -> None:
    """A reading connection refuses every change."""
    async with opener(tmp_path / "t.db") as books:
        for read in (books.read, books.scan):
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                await read(lambda reader: reader.execute(sql))


async def test_a_commit_is_fsynced_and_only_the_writer_checkpoints(opener: Opener, tmp_path: Path) -> None:
    """The writer is in WAL with `synchronous=FULL`, the readers never checkpoint (P1)."""
    async with opener(tmp_path / "t.db") as books:
        assert await query(books, "PRAGMA wal_autocheckpoint") == [(0,)]
        assert await query(books, "PRAGMA journal_mode") == [("wal",)]
    writer = sqlite.open_writer(tmp_path / "t.db")
    try:
        assert writer.execute("PRAGMA synchronous").fetchone() == (2,)
        assert writer.execute("PRAGMA foreign_keys").fetchone() == (1,)
        assert writer.execute("PRAGMA wal_autocheckpoint").fetchone() != (0,)
    finally:
        writer.close()


async def test_an_orphan_is_refused(opener: Opener, tmp_path: Path) -> None:
    """An event of a customer who is not in the books cannot be written."""
    played = ledger(1)
    async with opener(tmp_path / "t.db") as books:
        with pytest.raises(sqlite3.IntegrityError):
            await books.commit(merge(works(played.changes, known=True)))


async def test_a_file_of_another_program_is_refused(opener: Opener, tmp_path: Path) -> None:
    """A database that is not ours is left as it is, and the message says what to do."""
    path = tmp_path / "t.db"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE theirs (x)")
    other.commit()
    other.close()
    with pytest.raises(SchemaError, match="another program"):
        async with opener(path):
            pass
    again = sqlite3.connect(path)
    assert again.execute("SELECT name FROM sqlite_schema").fetchall() == [("theirs",)]
    again.close()


async def test_books_of_a_newer_tallyd_are_refused(opener: Opener, tmp_path: Path) -> None:
    """An older program does not touch what it does not understand."""
    path = tmp_path / "t.db"
    newer = sqlite3.connect(path)
    newer.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    newer.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    newer.commit()
    newer.close()
    with pytest.raises(SchemaError, match="run a newer one"):
        async with opener(path):
            pass


async def test_a_file_that_is_no_database_is_refused(opener: Opener, tmp_path: Path) -> None:
    """Rubbish in place of the books is an error in words of SQLite, not a new empty file."""
    path = tmp_path / "t.db"
    path.write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(sqlite3.DatabaseError):
        async with opener(path):
            pass


async def test_many_rows_of_every_count_are_all_written(opener: Opener, tmp_path: Path) -> None:
    """Statements carry rows in fixed sizes: no count around a size loses or doubles one."""
    for count in (1, 3, 4, 5, 63, 64, 65, 255, 256, 257, 1_000):
        async with opener(tmp_path / f"{count}.db") as books:
            await books.commit(merge(works(ledger(count).changes)))
            assert await query(books, "SELECT count(*), count(DISTINCT id), max(position) FROM events") == [
                (count, count, count)
            ]


def test_the_columns_are_the_fields() -> None:
    """Rows are written by position, so the Structs' fields stand in the order of the columns."""
    assert tables.EVENTS.columns == EventRow.__struct_fields__
    assert tables.CUSTOMERS.columns == Customer.__struct_fields__


def test_sums_in_sql_are_exact() -> None:
    """Ten times a tenth is one, also in the largest sums."""
    total = "0"
    for _ in range(10):
        total = tables.add_exact(total, "0.1")
    assert Decimal(total) == 1
    assert tables.add_exact("1" + "0" * 60, "0." + "0" * 60 + "1").count("0") == 120


def test_a_data_directory_has_one_owner(tmp_path: Path) -> None:
    """A second owner is refused with the first one's address; when that has left, the directory is free."""
    with own_data_dir(tmp_path, "/run/first.sock"):
        with pytest.raises(DataDirBusyError, match=r"/run/first\.sock") as refused, own_data_dir(tmp_path, None):
            pass
        assert refused.value.socket == "/run/first.sock"
    with own_data_dir(tmp_path, None):
        pass
