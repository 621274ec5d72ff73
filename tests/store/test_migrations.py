"""Bringing older books up to date."""

import sqlite3
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import trio

from harness import NOW, PATIENCE_S, Running, running
from support import MODELS, at
from tallyd.engine import chain
from tallyd.engine.audit.findings import Finding
from tallyd.engine.rows import EventRow
from tallyd.model.ledger_entries import Entry
from tallyd.model.moments import DAY_US, SECOND_US
from tallyd.model.periods import Cycle
from tallyd.model.subscription import Phase
from tallyd.store import schema, sqlite
from tallyd.store.accounts import load_account
from tallyd.store.audit import audit
from tallyd.store.schema import APPLICATION_ID, MIGRATIONS
from tallyd.store.subscription_rows import subscription_by_number

OLDER: Final = (Path(__file__).parent / "books_of_version_2.sql").read_text(encoding="utf-8")
CATALOG: Final = """
[[features]]
key = "api"
[[features]]
key = "chat"
[[plans]]
key = "pro"
name = "Pro"
price_amount = "30.00"
[[plans.features]]
feature = "api"
pricing = { model = "usage", price_per_unit = "0.10", usage_unit_type = "call" }
[[plans.features]]
feature = "chat"
pricing = { model = "usage", price_per_unit = 1, usage_unit_type = "call" }
units_per_credit = 1
credit_model = "t"
[[plans.credits]]
credit_model = "t"
amount = 10
[[credit_models]]
key = "t"
hard_limit = false
features = ["chat"]
"""
"""What the daemon that wrote `OLDER` was given."""
MORE: Final = """
[[plans]]
key = "more"
name = "More"
price_amount = "60.00"
[[plans.credits]]
credit_model = "t"
amount = 25
"""

BEGAN: Final = at("2026-08-31T00:00:00Z")
RUNS_SINCE: Final = at("2026-10-31T00:00:00Z")
RUNS_UNTIL: Final = at("2026-11-30T00:00:00Z")
NEXT_UNTIL: Final = at("2026-12-31T00:00:00Z")


def books_of_version(path: Path, version: int) -> sqlite3.Connection:
    """Books as an older tallyd left them."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    for migration in MIGRATIONS[:version]:
        migration(connection)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {version}")
    return connection


@pytest.fixture
def older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Books of version 2 that are brought up to date at the harness's time; return their path."""

    def migrate_at_now(connection: sqlite3.Connection) -> None:
        connection.create_function("unixepoch", 0, lambda: NOW // SECOND_US)
        schema.migrate(connection)

    monkeypatch.setattr(sqlite, "migrate", migrate_at_now)
    path = tmp_path / "data" / sqlite.FILE_NAME
    path.parent.mkdir()
    connection = books_of_version(path, 2)
    connection.executescript(OLDER)
    connection.close()
    return path


def test_books_without_credits_get_the_tables_and_keep_their_rows(tmp_path: Path) -> None:
    """A file of version 1 is brought to today's version when it is opened; its customers have no credits."""
    path = tmp_path / sqlite.FILE_NAME
    old = books_of_version(path, 1)
    old.execute("INSERT INTO customers VALUES (1, 'id-1', 'acme', NULL, 0, NULL)")
    old.close()
    writer = sqlite.open_writer(path)
    assert writer.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
    assert writer.execute("SELECT count(*) FROM ledger_entries").fetchone() == (0,)
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


def test_the_books_keep_what_refers_to_a_subscription(older: Path) -> None:
    """Rows of today's tables refer to each other as they did, and do so under guard."""
    before = sqlite3.connect(older)
    linked = before.execute("SELECT * FROM pool_links").fetchall()
    before.close()
    assert linked
    writer = sqlite.open_writer(older)
    assert [row[:-2] for row in writer.execute("SELECT * FROM pool_links")] == linked
    assert writer.execute("PRAGMA foreign_key_check").fetchall() == []
    with pytest.raises(sqlite3.IntegrityError):
        writer.execute("DELETE FROM subscriptions")
    writer.close()


def test_a_subscription_is_carried_over(older: Path) -> None:
    """It has one phase from its start on, and was renewed for the period that runs; that one is due to end."""
    writer = sqlite.open_writer(older)
    subscription = subscription_by_number(writer, 1)
    due = writer.execute("SELECT * FROM dues").fetchall()
    writer.close()
    assert subscription is not None
    assert subscription.phases == [Phase(BEGAN, "pro", 1, Cycle(BEGAN, 31, 1))]
    assert (subscription.starts_at, subscription.ends_at, subscription.created_at) == (BEGAN, None, NOW)
    assert subscription.renewed_to == RUNS_SINCE
    assert subscription.period_at(NOW) == (RUNS_SINCE, RUNS_UNTIL)
    assert due == [(1, RUNS_UNTIL)]


def test_the_ledger_goes_on_with_one_entry_a_subscription(older: Path) -> None:
    """The chain that the older books had is continued by what is written down of the subscription (P10)."""
    before = sqlite3.connect(older)
    ((position, link),) = before.execute("SELECT position, chain FROM ledgers").fetchall()
    before.close()
    writer = sqlite.open_writer(older)
    made = Entry(*writer.execute("SELECT * FROM ledger_entries ORDER BY id DESC LIMIT 1").fetchone())
    assert (made.kind, made.cause, made.customer, made.position) == (
        "SUBSCRIPTION",
        "carried_over",
        1,
        position + 1,
    )
    assert (made.at, made.written_at) == (NOW, NOW)
    *fields, hashed = msgspec.structs.astuple(made)
    assert hashed == chain.link(link, tuple(fields))
    assert writer.execute("SELECT * FROM ledgers").fetchall() == [(1, position + 1, hashed)]
    assert chain_of(writer) == hashed
    (kinds,) = writer.execute("SELECT count(*) FROM ledger_entries WHERE kind = 'SUBSCRIPTION'").fetchone()
    assert kinds == 1
    writer.close()


def test_usage_of_periods_that_are_over_is_as_good_as_invoiced(older: Path) -> None:
    """Their counters are billed; those of the running period are not, and know what credits have paid (P5)."""
    writer = sqlite.open_writer(older)
    rows = load_account(writer, writer.execute("SELECT id FROM customers").fetchone()[0])
    assert rows is not None
    counters = {
        (key.feature, key.period_start): (str(counter.charged), str(counter.billed), counter.unbilled)
        for key, counter in rows.counters.items()
    }
    writer.close()
    assert counters == {
        ("api", at("2026-09-30T00:00:00Z")): ("0.70", "0.70", False),
        ("api", RUNS_SINCE): ("1.10", "0", True),
        ("chat", RUNS_SINCE): ("5", "0", True),
    }
    (chat,) = [counter for key, counter in rows.counters.items() if key.feature == "chat"]
    assert (chat.used, chat.covered, chat.credited) == (15, {"units": 10}, 0)


def test_subscriptions_that_have_ended_or_not_begun_are_carried_over(older: Path) -> None:
    """What had ended in an earlier period is over and owes nothing; what is to begin is due when it does."""
    begins = NOW + 3 * DAY_US
    connection = sqlite3.connect(older, isolation_level=None)
    for number, starts_at, ends_at in ((2, BEGAN, BEGAN + DAY_US), (3, begins, None), (4, BEGAN, NOW - DAY_US)):
        connection.execute(
            "INSERT INTO customers VALUES (?, ?, ?, NULL, 0, NULL)", (number, str(number), str(number))
        )
        connection.execute(
            "INSERT INTO subscriptions VALUES (?, ?, ?, 'pro', 1, ?, ?, 31, 1, 0)",
            (number, f"subscription-{number}", number, starts_at, ends_at),
        )
    connection.execute(
        "INSERT INTO counters VALUES (2, 2, 'api', ?, '5', '{\"units\":\"5\"}', '0.5', '0', 1, 0, ?)",
        (BEGAN, BEGAN),
    )
    connection.close()
    writer = sqlite.open_writer(older)
    dues = dict(writer.execute("SELECT * FROM dues").fetchall())
    assert dues == {1: RUNS_UNTIL, 3: begins, 4: NOW - DAY_US}
    assert writer.execute("SELECT billed, billed_to FROM counters WHERE customer = 2").fetchall() == [("0.5", 1)]
    renewed = writer.execute("SELECT number, renewed_to FROM subscriptions").fetchall()
    assert dict(renewed) == {1: RUNS_SINCE, 2: RUNS_SINCE, 3: -1, 4: RUNS_SINCE}
    assert writer.execute("SELECT customer, position FROM ledgers WHERE customer > 1").fetchall() == [
        (2, 1),
        (3, 1),
        (4, 1),
    ]
    writer.close()


def test_books_that_were_carried_over_are_true(older: Path) -> None:
    """What `tallyd verify` recomputes is what the migration has made of the older books (P10)."""
    sqlite.open_writer(older).close()
    assert findings(older) == []


async def test_a_daemon_on_older_books_charges_and_renews(older: Path) -> None:
    """Usage is charged in the period that runs; at its end it is invoiced, with the base price of the next."""
    async with running(older.parents[1], catalog=CATALOG) as daemon:
        before = await daemon.position("acme")
        sent = await send(daemon, usageUnits=1)
        assert (sent["position"], sent["revenueAmount"], sent["priceVersion"]) == (before + 1, 0.1, "pro@1")
        await send(daemon, usageUnits=1, occurredAt="2026-09-16T00:00:00Z")
        checked = await daemon.http.get("/api/v1/client/entitlements/acme/api?record=false")
        assert checked.json()["data"]["usage"]["used"] == 12
        assert await made_invoices(daemon) == []
        daemon.clock.move(RUNS_UNTIL - NOW)
        daemon.core.runtime.due.wake()
        with trio.fail_after(PATIENCE_S):
            while not (made := await made_invoices(daemon)):
                await trio.lowlevel.checkpoint()
        ((serial, kind, status, start, end, amount, lines),) = made
        assert (serial, kind, status, start, end) == (1, "IN_ADVANCE", "DUE", RUNS_UNTIL, NEXT_UNTIL)
        assert amount == "36.30"
        assert [
            (line["kind"], line.get("feature", ""), line["exact"], line["period_start"]) for line in lines
        ] == [
            ("late", "api", "0.10", BEGAN),
            ("usage", "api", "1.20", RUNS_SINCE),
            ("usage", "chat", "5", RUNS_SINCE),
            ("covered", "chat", "0", RUNS_SINCE),
            ("base", "", "30.00", RUNS_UNTIL),
        ]
        stands = await daemon.core.books.read(lambda books: books.execute("SELECT chain FROM ledgers").fetchone())
        assert await daemon.core.books.read(chain_of) == stands[0]
    assert findings(older) == []


async def test_an_upgrade_on_older_books_brings_the_difference_once(older: Path) -> None:
    """They do not say what the running period has brought: it is what the plan before includes."""
    async with running(older.parents[1], catalog=CATALOG + MORE) as daemon:
        known = "SELECT id FROM subscriptions"
        ((name,),) = await daemon.core.books.read(lambda books: books.execute(known).fetchall())
        for plan in ("more", "pro", "more"):
            body = {"changeToPlanId": plan, "changeType": "UPGRADE"}
            reply = await daemon.http.post(f"/api/v1/client/subscriptions/{name}/plan-change", json=body)
            assert reply.status_code == 200, reply.text
            daemon.clock.move(SECOND_US)
        amounts = "SELECT amount FROM ledger_entries WHERE kind = 'GRANT' AND cause = 'upgraded'"
        assert await daemon.core.books.read(lambda books: books.execute(amounts).fetchall()) == [("15",)]
    assert findings(older) == []


def findings(path: Path) -> list[Finding]:
    """Audit books; return what is wrong with them."""
    connection = sqlite.open_reader(path)
    try:
        return audit(connection, MODELS, lambda _done, _total: None).findings
    finally:
        connection.close()


async def send(daemon: Running, **fields: Any) -> dict[str, Any]:
    """Send usage of `api`; return what it came to."""
    body = {"eventName": "x", "customerReferenceId": "acme", "featureKey": "api", **fields}
    reply = await daemon.http.post("/api/v1/client/events", json=body)
    assert reply.status_code == 201, reply.text
    found: dict[str, Any] = reply.json()["data"]
    return found


async def made_invoices(daemon: Running) -> list[Any]:
    """Return all invoices that are written, with their lines."""
    columns = "serial, kind, status, period_start, period_end, amount, lines"
    found = await daemon.core.books.read(lambda books: books.execute(f"SELECT {columns} FROM invoices").fetchall())
    return [(*fields, msgspec.json.decode(lines)) for *fields, lines in found]


def chain_of(connection: sqlite3.Connection) -> bytes:
    """Recompute the only customer's chain from all rows of its ledger."""
    rows: list[Any] = []
    for table, row in (("events", EventRow), ("ledger_entries", Entry)):
        columns = ",".join(row.__struct_fields__)
        rows += [row(*each) for each in connection.execute(f"SELECT {columns} FROM {table}")]
    link = chain.GENESIS
    for position, row in enumerate(sorted(rows, key=lambda each: int(each.position)), start=1):
        assert row.position == position
        *fields, hashed = msgspec.structs.astuple(row)
        link = chain.link(link, tuple(fields))
        assert hashed == link
    return link
