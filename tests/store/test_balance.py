"""The check of P3 that stays on: after each commit the pools it touched are read back from the file."""

import shutil
import sqlite3
from pathlib import Path

import pytest
import trio

from harness import running
from store.credit_books import Bookkeeper, everything
from support import PATIENCE_S
from tallyd.model.event import event_uuid
from tallyd.store import balance, sqlite, tables
from tallyd.store.batch import merge
from tallyd.store.books import open_books
from tallyd.store.writer import Writer

SPOILT = [
    "UPDATE pools SET balance = '77'",
    "UPDATE pools SET overage = '77'",
    "UPDATE pools SET held = '77'",
    "UPDATE pools SET granted = '77'",
    "UPDATE pools SET consumed = '77'",
    "UPDATE pools SET expired = '77'",
    "UPDATE pools SET reversed = '77'",
    "UPDATE pools SET balance = 'much'",
    "UPDATE pools SET customer = 2",
    "UPDATE grants SET remaining = '77' WHERE pool = {pool} AND remaining <> '0'",
    "UPDATE grants SET held = remaining || '1' WHERE pool = {pool} AND remaining <> '0'",
    "UPDATE grants SET pool = {other} WHERE pool = {pool} AND remaining <> '0'",
    "DELETE FROM grants WHERE pool = {pool}",
    "UPDATE ledger_entries SET balance_after = '77' WHERE pool = {pool}",
    "UPDATE ledger_entries SET overage_after = '77' WHERE pool = {pool}",
    "DELETE FROM ledger_entries WHERE pool = {pool}",
    "DELETE FROM pools",
]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Books with credits, for all tests to copy."""
    return everything().write(tmp_path_factory.mktemp("written") / "t.db")


@pytest.fixture
def books(written: Path, tmp_path: Path) -> Path:
    """Books with credits."""
    return Path(shutil.copy(written, tmp_path))


def spoil(path: Path, statement: str) -> None:
    """Change the books behind the daemon's back."""
    with sqlite3.connect(path) as connection:
        assert connection.execute(statement).rowcount
    connection.close()


@pytest.mark.parametrize("statement", SPOILT)
def test_a_pool_that_does_not_balance_is_named(books: Path, statement: str) -> None:
    """Balance, totals, grants, holds and the last entry must agree; what cannot be read does not."""
    connection = sqlite.open_reader(books)
    pools = dict(connection.execute("SELECT model_key, number FROM pools WHERE NOT archived").fetchall())
    pool, other = pools["tokens"], pools["open"]
    assert balance.unbalanced_pools(connection, [pool, other]) == []
    spoil(books, statement.format(pool=pool, other=other))
    assert pool in balance.unbalanced_pools(connection, [pool])
    connection.close()


def test_a_commit_says_which_pools_do_not_balance(tmp_path: Path) -> None:
    """Only pools that the commit touched are looked at, in the file and not in what was to be written."""
    books = Bookkeeper()
    books.open("wallet")
    books.open("open")
    path = books.write(tmp_path / "t.db")
    done = len(books.works)
    spoil(path, f"UPDATE pools SET granted = '1' WHERE number = {books.pool('open').number}")
    books.give("wallet", "5")
    books.give("open", "5")
    connection = sqlite.open_writer(path)
    wallet, opened = (merge([work]) for work in books.works[done:])
    assert sqlite.commit(connection, wallet) == []
    del opened[tables.GRANTS]  # a write that went missing
    assert sqlite.commit(connection, opened) == [books.pool("open").number]
    connection.close()


def test_all_pools_are_looked_at_in_parts(books: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at all pools goes on where the last part ended, and ends."""
    monkeypatch.setattr(balance, "POOLS_A_SCAN", 2)
    spoil(books, "UPDATE pools SET held = '1' WHERE number = (SELECT max(number) FROM pools)")
    connection = sqlite.open_reader(books)
    parts: list[tuple[int, list[int]]] = []
    after: int | None = 0
    while after is not None:
        after, looked_at, unbalanced = balance.unbalanced_after(connection, after)
        parts.append((looked_at, unbalanced))
    connection.close()
    assert [looked_at for looked_at, _ in parts] == [2, 2, 0]
    assert parts[1][1] == [max(pool for _, some in parts for pool in some)]


async def test_the_writer_remembers_what_does_not_balance(tmp_path: Path, nursery: trio.Nursery) -> None:
    """A damaged file is noticed by a look at all pools; a pool that balances again is forgotten."""
    books = Bookkeeper()
    path = books.write(tmp_path / "t.db")
    done = len(books.works)
    number = books.pool("tokens").number
    spoil(path, "UPDATE pools SET balance = '1'")
    books.give("tokens", "5")
    with trio.fail_after(PATIENCE_S):
        async with open_books(path) as opened:
            writer = Writer(opened)
            nursery.start_soon(writer.run)
            await writer.check_pools()
            assert (writer.unbalanced, writer.pools_checked) == ({number}, 1)
            for work in books.works[done:]:
                await writer.write(work)
            assert (writer.unbalanced, writer.pools_checked) == (set(), 2)
            nursery.cancel_scope.cancel()


async def test_readyz_and_metrics_say_that_the_books_do_not_balance(tmp_path: Path) -> None:
    """Not ready, with the pools named as the API names them; a gauge says how many (P3)."""
    async with running(tmp_path) as daemon:
        assert (await daemon.http.get("/readyz")).status_code == 200
        daemon.core.writer.unbalanced.add(5)
        reply = await daemon.http.get("/readyz")
        assert reply.status_code == 503
        assert reply.json() == {"status": "unbalanced", "count": 1, "pools": [event_uuid(5)]}
        assert "tallyd_pools_unbalanced 1.0" in (await daemon.http.get("/metrics")).text
