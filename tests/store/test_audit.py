"""`tallyd verify`: true books balance whatever happened; every changed row and all damage is found and named."""

import itertools
import shutil
import sqlite3
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support import MODELS, NOW, Ledger, enrolment, event, provider_prices, terms
from tallyd.cli.verify import _printable
from tallyd.engine import rerating
from tallyd.engine.account import Account, apply
from tallyd.engine.billing import changing
from tallyd.engine.catalog import check_catalog, price_plan, read_catalog
from tallyd.engine.costs import CostRule, Rates
from tallyd.engine.credits.draft import Draft
from tallyd.model.customer import Customer, CustomerRef, RefKind
from tallyd.store import sqlite, tables
from tallyd.store.audit import AuditReport, audit
from tallyd.store.batch import Work, merge

START: Final = 1_788_220_800_000_000  # 2026-09-01
DAY: Final = 86_400_000_000
CATALOG: Final = """
[[meters]]
key = "seats"
event_name = "seat"
aggregation = { type = "unique", key = "who" }
[[meters]]
key = "level"
event_name = "level"
aggregation = { type = "last", key = "n" }
[[meters]]
key = "calls"
event_name = "call"
aggregation = { type = "count" }
[[meters]]
key = "peak"
event_name = "level"
aggregation = { type = "max", key = "n" }
[[features]]
key = "api"
[[features]]
key = "capped"
[[features]]
key = "seats"
[[features]]
key = "level"
[[features]]
key = "peak"
[[features]]
key = "calls"
[[features]]
key = "chat"
[[features]]
key = "own"
[[plans]]
key = "plan"
name = "Plan"
[[plans.features]]
feature = "api"
pricing = { model = "usage", usage_unit_type = "c", price_per_unit = "0.10", reset_mode = "accumulate" }
[[plans.features]]
feature = "capped"
pricing = { model = "usage", usage_unit_type = "c", price_per_unit = 1, max_usage = 5 }
[[plans.features]]
feature = "seats"
meter = "seats"
pricing = { model = "usage", usage_unit_type = "c", price_per_unit = 2, max_usage = 3 }
[[plans.features]]
feature = "level"
meter = "level"
pricing = { model = "usage", usage_unit_type = "c", price_per_unit = 2, reset_mode = "accumulate" }
[[plans.features]]
feature = "peak"
meter = "peak"
pricing = { model = "included", max_usage = 7 }
[[plans.features]]
feature = "calls"
meter = "calls"
pricing = { model = "graduated", usage_unit_type = "c", tiers = [
    { up_to = 3, price_per_unit = 0, flat_fee = 1 }, { up_to = "inf", price_per_unit = "0.5" } ] }
[[plans.features]]
feature = "chat"
pricing = { model = "llm_tokens", markup_percent = 30 }
[[plans.features]]
feature = "own"
pricing = { model = "llm_tokens", rates = { known = { input = 1, output = 2 } } }
cost = { model = "simple", cost_per_unit = "0.01" }
"""
DEFINITIONS: Final = read_catalog(CATALOG, "test.toml")
check_catalog(DEFINITIONS, MODELS, "test.toml")
METERS: Final = {meter.key: meter for meter in DEFINITIONS.meters}
PLAN: Final = price_plan(DEFINITIONS.plans[0], 1, METERS, MODELS)
NEWER: Final = CATALOG.replace("rates = { known =", 'rates = { "*" = { input = 3, output = 4 }, known =')
NEWER_PLAN: Final = price_plan(read_catalog(NEWER, "test.toml").plans[0], 2, METERS, MODELS)
KNOWN: Final = {("known", None): provider_prices("known", input=2, output=4)}
LATER: Final = {**KNOWN, ("late", None): provider_prices("late", input=10, output=20)}
DEFAULT: Final = CostRule(model="model_aware", model_costs={"rule": Rates(input=Decimal("0.001"))})

_directories = itertools.count(1)


def play(happened: list[dict[str, Any]], rerate_at: int | None = None, ends_at: int | None = None) -> list[Work]:
    """What would be written after these events of one customer, with a re-rating of all of them in between."""
    ref = CustomerRef(RefKind.REFERENCE, "acme")
    customer = Customer(number=1, id=ref.customer_id(), reference="acme", stripe_id=None, created_at=NOW)
    ledger = Ledger(Account(customer, known=True), terms(dict(KNOWN), DEFAULT))
    encode = msgspec.json.Encoder(order="deterministic")
    rows: list[tuple[tables.Table, Any]] = [(tables.CUSTOMERS, msgspec.structs.astuple(customer))]
    for version, text in enumerate((CATALOG, NEWER), start=1):
        read = read_catalog(text, "test.toml")
        plan, meters = encode.encode(read.plans[0]).decode(), encode.encode(read.meters).decode()
        rows.append((tables.PLAN_VERSIONS, ("plan", version, plan, meters, NOW, "catalog", "{}")))
    definition = encode.encode(DEFINITIONS.meters[0]).decode()
    rows.append((tables.METERS, ("m1", "seats", definition, NOW, NOW, None)))
    works = [Work(rows=rows), subscribe(ledger, ends_at)]
    current: dict[int, Any] = {}
    for index in range(len(happened) + 1):
        if index == rerate_at:
            works.extend(rerate_all(ledger, current))
        if index == len(happened):
            break
        fields = {**happened[index], "customer_reference_id": "acme"}
        asked = event(fields.pop("name"), f"k{index}", at=START + fields.pop("day") * DAY, **fields)
        before = len(ledger.changes)
        recorded = ledger.record(asked)
        current[recorded.row.id] = (recorded.row, recorded.charges)
        works += [Work(1, [changes], due_at=ledger.account.due_at) for changes in ledger.changes[before:]]
    return works


def subscribe(ledger: Ledger, ends_at: int | None) -> Work:
    """Put the customer on the plan, long ago: its periods are lived through."""
    joined = enrolment(PLAN, starts_at=START, ends_at=ends_at).subscription
    draft = Draft(ledger.account, NOW, ledger.number)
    changing.subscribe(draft, msgspec.structs.replace(joined, renewed_to=-1), PLAN)
    changes = draft.changes()
    apply(ledger.account, changes)
    return Work(1, [changes], due_at=ledger.account.due_at)


def rerate_all(ledger: Ledger, current: dict[int, Any]) -> list[Work]:
    """Prices of the model `late` and a newer plan are known now: what lacked a price gets it."""
    works = []
    for number, (row, charges) in current.items():
        changes = rerating.decide(
            ledger.account, row, charges, now=NOW, terms=terms(dict(LATER), DEFAULT), latest=lambda _: NEWER_PLAN
        )
        if changes is not None:
            assert changes.rerated is not None
            apply(ledger.account, changes)
            current[number] = (changes.rerated.event, changes.rerated.charges)
            works.append(Work(1, [changes], due_at=ledger.account.due_at))
    return works


def write(path: Path, works: list[Work]) -> Path:
    """A file of books, each work committed on its own."""
    connection = sqlite.open_writer(path)
    try:
        for work in works:
            sqlite.commit(connection, merge([work]))
    finally:
        connection.close()
    return path


def verify(path: Path) -> AuditReport:
    """Audit a file."""
    connection = sqlite.open_reader(path)
    try:
        return audit(connection, MODELS, lambda _done, _total: None)
    finally:
        connection.close()


def change(path: Path, *statements: str) -> list[tuple[str, str, str]]:
    """Change the books behind the daemon's back, and return what verify finds."""
    connection = sqlite3.connect(path)
    changed = sum(connection.execute(statement).rowcount for statement in statements)
    connection.commit()
    connection.close()
    assert changed, "a change that changes nothing would test nothing"
    return [(each.kind, each.where, each.message) for each in verify(path).findings]


def assert_found(findings: list[tuple[str, str, str]], kind: str, place: str) -> None:
    """At least one finding is of this kind and names this place."""
    assert any(kind == found and place in where for found, where, _ in findings), findings


happenings = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["call", "seat", "level", "chat"]),
        "day": st.integers(-5, 100),
    },
    optional={
        "feature_key": st.sampled_from(["api", "capped", "seats", "chat", "own", "elsewhere"]),
        "usage_units": st.one_of(st.integers(0, 9), st.decimals(0, 9, places=3)),
        "revenue_amount": st.decimals(0, 99, places=2),
        "cost_amount": st.decimals(0, 9, places=4),
        "model": st.sampled_from(["known", "late", "rule", "nobody"]),
        "input_tokens": st.integers(0, 10**6),
        "output_tokens": st.integers(0, 10**6),
        "meta": st.fixed_dictionaries({"who": st.sampled_from("abcde"), "n": st.integers(0, 9)}),
    },
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    happened=st.lists(happenings, max_size=25),
    rerate_at=st.none() | st.integers(0, 25),
    ends_at=st.none() | st.integers(1, 80),
)
def test_true_books_balance(
    tmp_path: Path, happened: list[dict[str, Any]], rerate_at: int | None, ends_at: int | None
) -> None:
    """Whatever is sent, capped, metered, unpriced or re-rated in the middle: verify finds nothing (P10)."""
    works = play(happened, rerate_at, None if ends_at is None else START + ends_at * DAY)
    report = verify(write(tmp_path / f"{next(_directories)}.db", works))
    assert report.findings == []
    assert report.events == len(happened)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Books with a row of everything: events 11 and 12 lacked a price and were re-rated."""
    seat = {"name": "seat", "meta": {"who": "a", "n": 1}}
    happened = [
        {"name": "x", "feature_key": "api", "usage_units": 2, "day": 1},
        {"name": "x", "feature_key": "capped", "usage_units": 6, "day": 1},
        {"name": "x", "feature_key": "capped", "usage_units": 1, "day": 2},
        {**seat, "day": 3},
        {"name": "x", "feature_key": "chat", "model": "late", "input_tokens": 9, "day": 3},
        {"name": "x", "feature_key": "own", "model": "late", "usage_units": 9, "day": 3},
        {"name": "x", "feature_key": "api", "usage_units": 1, "revenue_amount": 7, "day": 4},
        {"name": "level", "meta": {"who": "b", "n": 5}, "day": 40},
        {"name": "x", "feature_key": "chat", "model": "known", "input_tokens": 9, "day": 41},
    ]
    path = write(tmp_path_factory.mktemp("books") / "t.db", play(happened, rerate_at=8))
    assert verify(path).findings == []
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT event FROM rerates").fetchall() == [(11,), (12,)]
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return path


@pytest.fixture
def books(original: Path, tmp_path: Path) -> Path:
    """A copy that may be spoilt."""
    return Path(shutil.copy(original, tmp_path / "t.db"))


EVENT_COLUMNS: Final = {
    "position": "99",
    "key_space": "'x'",
    "key": "'x'",
    "source": "'dodo'",
    "name": "'y'",
    "feature": "'level'",
    "occurred_at": "occurred_at + 1",
    "received_at": "received_at + 1",
    "subscription": "NULL",
    "units": "'77'",
    "cost": "'77'",
    "cost_source": "'sent'",
    "cost_version": "1",
    "revenue": "'77'",
    "revenue_source": "'sent'",
    "currency": "'EUR'",
    "no_price": "'no_price'",
    "capped": "1",
    "model": "'other'",
    "provider": "'other'",
    "body": "replace(body, 'acme', 'emca')",
    "chain": "zeroblob(32)",
}
RERATED_COLUMNS: Final = ("cost", "cost_source", "cost_version", "revenue", "revenue_source", "no_price")


ADDED_CHARGE: Final = (
    "INSERT INTO charges SELECT event, customer, 'level', subscription, period_start, plan_key, plan_version,"
    " '0', '0', '{}', '{}', '0', currency, NULL FROM charges WHERE event = 7"
)
ADDED_COUNTER: Final = (
    "INSERT INTO counters SELECT customer, subscription, 'ghost', period_start, '5', '{}', '0', '0', 0, 0, 0,"
    " '{}', '0', '0', 0"
    " FROM counters LIMIT 1"
)
ADDED_ROLLUP: Final = (
    "INSERT INTO rollups SELECT hour, customer, 'ghost', model, provider, name, currency,"
    " 0, '0', '0', '0', '0', '0', 0 FROM rollups LIMIT 1"
)


@pytest.mark.parametrize("column", EVENT_COLUMNS)
def test_a_changed_event_breaks_the_chain(books: Path, column: str) -> None:
    """Any column of an event that was never re-rated is covered by its hash."""
    findings = change(books, f"UPDATE events SET {column} = {EVENT_COLUMNS[column]} WHERE id = 7")
    assert_found(findings, "ledger", "customer 1 position")


@pytest.mark.parametrize("column", EVENT_COLUMNS)
def test_a_changed_rerated_event_is_found(books: Path, column: str) -> None:
    """What re-rating filled in is held against the last re-rating, all else against the hash."""
    findings = change(books, f"UPDATE events SET {column} = {EVENT_COLUMNS[column]} WHERE id = 11")
    rerated = column in RERATED_COLUMNS
    assert_found(findings, *(("event", "11") if rerated else ("ledger", "customer 1 position")))


@pytest.mark.parametrize("number", [7, 9, 10, 11, 12, 13])
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("customer", "2"),
        ("feature", "'other'"),
        ("subscription", "2"),
        ("period_start", "period_start + 1"),
        ("plan_key", "'other'"),
        ("plan_version", "3 - plan_version"),
        ("used_before", "'77'"),
        ("units", "'77'"),
        ("before", """'{"units":"77"}'"""),
        ("quantity", """'{"units":"77"}'"""),
        ("amount", "'77'"),
        ("currency", "'EUR'"),
        ("no_price", "'no_price'"),
    ],
)
def test_a_changed_charge_is_found(books: Path, number: int, column: str, value: str) -> None:
    """Any column of any kind of charge: priced, capped, metered, re-rated, with revenue sent."""
    assert_found(
        change(books, f"UPDATE charges SET {column} = {value} WHERE event = {number}"), "charge", f"event {number}"
    )


@pytest.mark.parametrize(
    ("sql", "kind", "place"),
    [
        ("UPDATE customers SET reference = 'other'", "customer", "1"),
        ("UPDATE customers SET stripe_id = 'other'", "customer", "1"),
        ("UPDATE customers SET id = 'other'", "customer", "1"),
        ("UPDATE customers SET number = 2", "event", "7"),
        ("UPDATE subscriptions SET number = 2", "subscription", "2"),
        ("UPDATE subscriptions SET number = 2", "subscription", "1"),
        ("DELETE FROM ledger_entries WHERE kind = 'SUBSCRIPTION'", "event", "7"),
        ("UPDATE plan_versions SET plan = replace(plan, '0.10', '0.20') WHERE version = 1", "charge", "event 7"),
        ("UPDATE plan_versions SET plan = replace(plan, '\"plan\"', '\"nalp\"')", "plan", "plan@1"),
        ("UPDATE plan_versions SET meters = replace(meters, 'seat\"', 'taes\"')", "charge", "event 10"),
        ("DELETE FROM plan_versions WHERE version = 2", "plan", "event 12 feature own"),
        ("UPDATE price_versions SET id = id + 1", "price version", ""),
        ("UPDATE price_versions SET content = replace(content, 'test', 'tset')", "price version", ""),
        ("DELETE FROM price_versions", "event", "15"),
        ("UPDATE rerates SET position = 99 WHERE event = 12", "ledger", "customer 1 position 99"),
        ("UPDATE rerates SET event = 10 WHERE event = 12", "ledger", "customer 1 position 16"),
        ("UPDATE rerates SET rated_at = 1 WHERE event = 12", "ledger", "customer 1 position 16"),
        ("UPDATE rerates SET before = replace(before, 'null', '\"1\"') WHERE event = 12", "event", "12"),
        ("UPDATE rerates SET after = replace(after, 'null', '\"1\"') WHERE event = 12", "event", "12"),
        ("DELETE FROM rerates", "ledger", "customer 1"),
        ("DELETE FROM rerates WHERE event = 12", "ledger", "customer 1"),
        ("UPDATE ledgers SET position = 1", "ledger", "customer 1"),
        ("UPDATE ledgers SET chain = zeroblob(32)", "ledger", "customer 1"),
        ("DELETE FROM ledgers", "ledger", "customer 1"),
        ("DELETE FROM events WHERE id = 15", "charge", "event 15 feature chat"),
        ("DELETE FROM events WHERE id = 8", "ledger", "customer 1 position 9"),
        ("DELETE FROM charges WHERE event = 7", "charge", "event 7"),
        ("DELETE FROM charges WHERE event = 12", "charge", "event 12"),
        (
            ADDED_CHARGE,
            "charge",
            "event 7",
        ),
        ("DELETE FROM counters WHERE feature = 'chat'", "counter", "customer 1 chat"),
        (
            ADDED_COUNTER,
            "counter",
            "customer 1 ghost",
        ),
        (
            ADDED_COUNTER.replace("'5'", "'0'"),
            "counter",
            "customer 1 ghost",
        ),
        ("UPDATE seen_values SET value = 'z'", "seen value", "customer 1 seats"),
        ("UPDATE seen_values SET feature = 'api'", "seen value", "customer 1 api"),
        ("UPDATE seen_values SET period_start = -1", "seen value", "customer 1 seats"),
        ("DELETE FROM seen_values", "seen value", "customer 1 seats"),
        (
            "INSERT INTO seen_values SELECT customer, subscription, feature, period_start, 'z' FROM seen_values",
            "seen value",
            "customer 1 seats",
        ),
        ("DELETE FROM rollups WHERE feature = 'chat'", "rollup", "'chat'"),
        (
            ADDED_ROLLUP,
            "rollup",
            "'ghost'",
        ),
    ],
)
def test_a_changed_row_is_found(books: Path, sql: str, kind: str, place: str) -> None:
    """Changed, removed and added rows of every table that verify covers are found where they are."""
    assert_found(change(books, sql), kind, place)


COUNTED: Final = ("used", "charged", "sent", "events", "unpriced", "latest_at", "credited", "billed", "billed_to")
SUMMED: Final = ("events", "units", "input_tokens", "output_tokens", "cost", "revenue", "unpriced")


@pytest.mark.parametrize("column", COUNTED)
def test_a_changed_counter_is_found(books: Path, column: str) -> None:
    """Any sum of a counter."""
    findings = change(books, f"UPDATE counters SET {column} = '77' WHERE feature = 'chat'")
    assert_found(findings, "counter", "customer 1 chat")


@pytest.mark.parametrize("column", SUMMED)
def test_a_changed_rollup_is_found(books: Path, column: str) -> None:
    """Any sum of a roll-up row."""
    assert_found(change(books, f"UPDATE rollups SET {column} = '77' WHERE feature = 'chat'"), "rollup", "'chat'")


@pytest.mark.parametrize(
    ("sql", "kind", "place"),
    [
        ("UPDATE plan_versions SET plan = '{' WHERE version = 1", "plan", "plan@1"),
        ("UPDATE plan_versions SET plan = '[]'", "plan", "plan@1"),
        ("UPDATE plan_versions SET meters = 'x'", "plan", "plan@2"),
        ("UPDATE plan_versions SET plan = replace(plan, 'graduated', 'gone')", "plan", "plan@1"),
        ("UPDATE meters SET definition = '{'", "meter", "m1"),
        ("UPDATE meters SET definition = replace(definition, 'unique', 'often')", "meter", "m1"),
        ("UPDATE rerates SET before = '{' WHERE event = 11", "ledger", "customer 1 position 15"),
        ("UPDATE rerates SET after = '{}' WHERE event = 11", "ledger", "customer 1 position 15"),
        ("UPDATE price_versions SET content = '{'", "price version", ""),
        ('UPDATE price_versions SET content = \'{"kind":"often","basis":{}}\'', "price version", ""),
        ("UPDATE charges SET quantity = '{' WHERE event = 7", "charge", "event 7 feature api"),
        ("UPDATE charges SET before = '[1]' WHERE event = 11", "charge", "event 11 feature chat"),
        ("UPDATE charges SET quantity = '{' WHERE event = 11", "charge", "event 11 feature chat"),
        ("UPDATE charges SET amount = 'much' WHERE event = 7", "charge", "event 7 feature api"),
        ("UPDATE charges SET amount = 'sNaN' WHERE event = 12", "charge", "event 12 feature own"),
        ("UPDATE charges SET units = '' WHERE event = 7", "charge", "event 7 feature api"),
        ("UPDATE charges SET no_price = 'often' WHERE event = 7", "charge", "event 7 feature api"),
        ("UPDATE events SET body = '{' WHERE id = 7", "event", "7"),
        ("UPDATE events SET body = '{}' WHERE id = 11", "event", "11"),
        ("UPDATE events SET source = 'often' WHERE id = 7", "event", "7"),
        ("UPDATE events SET no_price = 'often' WHERE id = 7", "event", "7"),
        ("UPDATE events SET units = 'many' WHERE id = 7", "event", "7"),
        ("UPDATE events SET cost = 'sNaN' WHERE id = 15", "event", "15"),
        ("UPDATE events SET occurred_at = 1 << 62 WHERE id = 7", "ledger", "customer 1 position 7"),
        ("UPDATE events SET name = CAST(x'ff' AS TEXT) WHERE id = 7", "ledger", "customer 1 position 7"),
        ("UPDATE events SET chain = x'' WHERE id = 7", "ledger", "customer 1 position 7"),
        ("DELETE FROM subscriptions", "subscription", "1"),
        ("UPDATE subscriptions SET phases = '{'", "subscription", "1"),
        ("UPDATE ledger_entries SET details = '{' WHERE id = 1", "ledger entry", "1"),
        ("DELETE FROM plan_versions", "subscription", "1"),
        ("DELETE FROM customers", "event", "7"),
        ("UPDATE counters SET used = 'many' WHERE feature = 'chat'", "counter", "chat subscription 1"),
        ("UPDATE counters SET used = 'sNaN' WHERE feature = 'chat'", "counter", "chat subscription 1"),
        ("UPDATE counters SET rated = '{' WHERE feature = 'chat'", "counter", "chat subscription 1"),
        ("UPDATE rollups SET cost = 'many' WHERE feature = 'chat'", "rollup", "'chat'"),
        ("UPDATE rollups SET units = 'sNaN' WHERE feature = 'chat'", "rollup", "'chat'"),
    ],
)
def test_damage_is_a_finding(books: Path, sql: str, kind: str, place: str) -> None:
    """What cannot be read is reported with its place, and the audit goes on to its end."""
    assert_found(change(books, sql), kind, place)


@pytest.mark.parametrize("table", [table.name for table in tables.IN_ORDER if table.name != "features"])
def test_a_table_that_is_gone_is_a_finding(books: Path, table: str) -> None:
    """Without one of its tables the rest is still audited; keys, names and clocks are not verify's affair."""
    with sqlite3.connect(books) as connection:
        connection.execute(f"DROP TABLE {table}")
    connection.close()
    covered = table not in {"api_keys", "replays", "checkouts", "test_clocks"}
    assert bool(verify(books).findings) is covered


def test_pages_of_rubbish_are_findings(books: Path) -> None:
    """Where SQLite itself cannot read on, that is a finding too."""
    with sqlite3.connect(books) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'counters'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    content = bytearray(books.read_bytes())
    content[(page - 1) * size : page * size] = b"\xa5" * size
    books.write_bytes(content)
    findings = [(each.kind, each.where, each.message) for each in verify(books).findings]
    assert_found(findings, "file", "counters")
    assert_found(findings, "counter", "customer 1 chat")


def test_findings_are_shown_as_they_are() -> None:
    """Damaged names are neither markup nor control characters to a terminal."""
    assert _printable("[/red]\x1b[2J").plain == "[/red]\\x1b[2J"
