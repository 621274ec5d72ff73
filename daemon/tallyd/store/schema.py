"""The tables, as numbered migrations that only go forward."""

import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Final

APPLICATION_ID: Final = 0x7A11D001
"""In the file's header, so that no other program's database is taken for the books."""


class SchemaError(Exception):
    """The file is not tallyd's, or was written by a newer tallyd."""


_V1 = """
CREATE TABLE customers (
    number     INTEGER PRIMARY KEY,
    id         TEXT NOT NULL UNIQUE,
    reference  TEXT,
    stripe_id  TEXT,
    created_at INTEGER NOT NULL,
    profile    TEXT
) STRICT;
CREATE INDEX customers_by_reference ON customers (reference) WHERE reference IS NOT NULL;

CREATE TABLE features (
    key         TEXT PRIMARY KEY,
    id          TEXT NOT NULL UNIQUE,
    name        TEXT,
    description TEXT,
    created_at  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE meters (
    id          TEXT PRIMARY KEY,
    key         TEXT UNIQUE,
    definition  TEXT NOT NULL,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    archived_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE plan_versions (
    key        TEXT NOT NULL,
    version    INTEGER NOT NULL,
    plan       TEXT NOT NULL,
    meters     TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (key, version)
) STRICT, WITHOUT ROWID;

CREATE TABLE price_versions (
    id      INTEGER PRIMARY KEY,
    content TEXT NOT NULL
) STRICT;

CREATE TABLE api_keys (
    hash       TEXT PRIMARY KEY,
    name       TEXT NOT NULL,
    hint       TEXT NOT NULL,
    scopes     TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE replays (
    place      TEXT NOT NULL,
    key        TEXT NOT NULL,
    body_hash  TEXT NOT NULL,
    status     INTEGER NOT NULL,
    content    TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (place, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX replays_by_time ON replays (created_at);

CREATE TABLE subscriptions (
    number          INTEGER PRIMARY KEY,
    id              TEXT NOT NULL UNIQUE,
    customer        INTEGER NOT NULL REFERENCES customers,
    plan_key        TEXT NOT NULL,
    plan_version    INTEGER NOT NULL,
    starts_at       INTEGER NOT NULL,
    ends_at         INTEGER,
    anchor_day      INTEGER NOT NULL,
    interval_months INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    FOREIGN KEY (plan_key, plan_version) REFERENCES plan_versions
) STRICT;
CREATE INDEX subscriptions_by_customer ON subscriptions (customer);

CREATE TABLE events (
    id             INTEGER PRIMARY KEY,
    customer       INTEGER NOT NULL REFERENCES customers,
    position       INTEGER NOT NULL,
    key_space      TEXT NOT NULL,
    key            TEXT NOT NULL,
    source         TEXT NOT NULL,
    name           TEXT NOT NULL,
    feature        TEXT,
    occurred_at    INTEGER NOT NULL,
    received_at    INTEGER NOT NULL,
    subscription   INTEGER,
    units          TEXT NOT NULL,
    cost           TEXT,
    cost_source    TEXT,
    cost_version   INTEGER,
    revenue        TEXT,
    revenue_source TEXT,
    currency       TEXT NOT NULL,
    no_price       TEXT,
    capped         INTEGER NOT NULL,
    model          TEXT,
    provider       TEXT,
    body           TEXT NOT NULL,
    chain          BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX events_by_key ON events (key, key_space);
CREATE INDEX events_by_customer ON events (customer, occurred_at);
CREATE INDEX events_by_name ON events (name, occurred_at);
CREATE INDEX events_by_time ON events (occurred_at);
CREATE INDEX events_of_retempo ON events (occurred_at) WHERE source = 'retempo';
CREATE INDEX events_unpriced ON events (id) WHERE no_price IS NOT NULL;

CREATE TABLE charges (
    event        INTEGER NOT NULL REFERENCES events,
    customer     INTEGER NOT NULL,
    feature      TEXT NOT NULL,
    subscription INTEGER NOT NULL,
    period_start INTEGER NOT NULL,
    plan_key     TEXT NOT NULL,
    plan_version INTEGER NOT NULL,
    used_before  TEXT NOT NULL,
    units        TEXT NOT NULL,
    before       TEXT NOT NULL,
    quantity     TEXT NOT NULL,
    amount       TEXT,
    currency     TEXT NOT NULL,
    no_price     TEXT,
    PRIMARY KEY (event, feature)
) STRICT, WITHOUT ROWID;

CREATE TABLE rerates (
    customer INTEGER NOT NULL REFERENCES customers,
    position INTEGER NOT NULL,
    event    INTEGER NOT NULL REFERENCES events,
    rated_at INTEGER NOT NULL,
    before   TEXT NOT NULL,
    after    TEXT NOT NULL,
    chain    BLOB NOT NULL,
    PRIMARY KEY (customer, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE ledgers (
    customer INTEGER PRIMARY KEY REFERENCES customers,
    position INTEGER NOT NULL,
    chain    BLOB NOT NULL
) STRICT;

CREATE TABLE counters (
    customer     INTEGER NOT NULL REFERENCES customers,
    subscription INTEGER NOT NULL,
    feature      TEXT NOT NULL,
    period_start INTEGER NOT NULL,
    used         TEXT NOT NULL,
    rated        TEXT NOT NULL,
    charged      TEXT NOT NULL,
    sent         TEXT NOT NULL,
    events       INTEGER NOT NULL,
    unpriced     INTEGER NOT NULL,
    latest_at    INTEGER NOT NULL,
    PRIMARY KEY (customer, subscription, feature, period_start)
) STRICT, WITHOUT ROWID;

CREATE TABLE seen_values (
    customer     INTEGER NOT NULL REFERENCES customers,
    subscription INTEGER NOT NULL,
    feature      TEXT NOT NULL,
    period_start INTEGER NOT NULL,
    value        TEXT NOT NULL,
    PRIMARY KEY (customer, subscription, feature, period_start, value)
) STRICT, WITHOUT ROWID;

CREATE TABLE rollups (
    hour          INTEGER NOT NULL,
    customer      INTEGER NOT NULL REFERENCES customers,
    feature       TEXT NOT NULL,
    model         TEXT NOT NULL,
    provider      TEXT NOT NULL,
    name          TEXT NOT NULL,
    currency      TEXT NOT NULL,
    events        INTEGER NOT NULL,
    units         TEXT NOT NULL,
    input_tokens  TEXT NOT NULL,
    output_tokens TEXT NOT NULL,
    cost          TEXT NOT NULL,
    revenue       TEXT NOT NULL,
    unpriced      INTEGER NOT NULL,
    PRIMARY KEY (hour, customer, feature, model, provider, name, currency)
) STRICT, WITHOUT ROWID;
"""

_V2 = """
CREATE TABLE credit_models (
    key        TEXT PRIMARY KEY,
    id         TEXT NOT NULL UNIQUE,
    source     TEXT NOT NULL,
    definition TEXT NOT NULL,
    extra      TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    deleted_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE credit_weights (
    id             TEXT PRIMARY KEY,
    feature        TEXT NOT NULL,
    model          TEXT NOT NULL,
    kind           TEXT NOT NULL,
    weight         TEXT NOT NULL,
    effective_from INTEGER NOT NULL,
    created_at     INTEGER NOT NULL,
    UNIQUE (feature, model, kind, effective_from)
) STRICT, WITHOUT ROWID;

CREATE TABLE credit_prices (
    id             TEXT PRIMARY KEY,
    credit_model   TEXT NOT NULL,
    price          TEXT NOT NULL,
    currency       TEXT NOT NULL,
    effective_from INTEGER NOT NULL,
    created_at     INTEGER NOT NULL,
    UNIQUE (credit_model, currency, effective_from)
) STRICT, WITHOUT ROWID;

CREATE TABLE credit_entries (
    id             INTEGER PRIMARY KEY,
    customer       INTEGER NOT NULL REFERENCES customers,
    position       INTEGER NOT NULL,
    kind           TEXT NOT NULL,
    cause          TEXT NOT NULL,
    pool           INTEGER,
    amount         TEXT,
    balance_before TEXT,
    balance_after  TEXT,
    overage_before TEXT,
    overage_after  TEXT,
    at             INTEGER NOT NULL,
    written_at     INTEGER NOT NULL,
    grants         TEXT NOT NULL,
    event          INTEGER,
    feature        TEXT,
    hold           INTEGER,
    reverses       INTEGER,
    key_space      TEXT NOT NULL,
    key            TEXT,
    details        TEXT NOT NULL,
    chain          BLOB NOT NULL
) STRICT;
CREATE INDEX credit_entries_by_pool ON credit_entries (pool, id) WHERE pool IS NOT NULL;
CREATE INDEX credit_entries_by_event ON credit_entries (event, id) WHERE event IS NOT NULL;
CREATE UNIQUE INDEX credit_entries_by_key ON credit_entries (key, key_space) WHERE key IS NOT NULL;
CREATE UNIQUE INDEX credit_entries_once_reversed ON credit_entries (reverses) WHERE reverses IS NOT NULL;

CREATE TABLE pools (
    number       INTEGER PRIMARY KEY,
    customer     INTEGER NOT NULL REFERENCES customers,
    model_key    TEXT NOT NULL,
    model        TEXT NOT NULL,
    name         TEXT NOT NULL,
    balance      TEXT NOT NULL,
    overage      TEXT NOT NULL,
    held         TEXT NOT NULL,
    overage_held TEXT NOT NULL,
    granted      TEXT NOT NULL,
    consumed     TEXT NOT NULL,
    expired      TEXT NOT NULL,
    reversed     TEXT NOT NULL,
    frozen       INTEGER NOT NULL,
    archived     INTEGER NOT NULL,
    opened_at    INTEGER NOT NULL,
    modified_at  INTEGER NOT NULL,
    recurred_at  INTEGER NOT NULL,
    topped_up    INTEGER NOT NULL,
    topped_up_in INTEGER NOT NULL
) STRICT;
CREATE INDEX pools_by_customer ON pools (customer);
CREATE INDEX pools_by_model ON pools (model_key, customer);

CREATE TABLE grants (
    number     INTEGER PRIMARY KEY,
    pool       INTEGER NOT NULL REFERENCES pools,
    customer   INTEGER NOT NULL REFERENCES customers,
    amount     TEXT NOT NULL,
    remaining  TEXT NOT NULL,
    held       TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    terms      TEXT NOT NULL
) STRICT;
CREATE INDEX grants_by_pool ON grants (pool);
CREATE INDEX grants_alive ON grants (customer) WHERE remaining <> '0';

CREATE TABLE pool_links (
    pool         INTEGER NOT NULL REFERENCES pools,
    subscription INTEGER NOT NULL REFERENCES subscriptions,
    customer     INTEGER NOT NULL REFERENCES customers,
    priority     INTEGER NOT NULL,
    draw_limit   TEXT,
    drawn        TEXT NOT NULL,
    drawn_in     INTEGER NOT NULL,
    allocated_in INTEGER NOT NULL,
    PRIMARY KEY (pool, subscription)
) STRICT, WITHOUT ROWID;
CREATE INDEX pool_links_by_customer ON pool_links (customer);

CREATE TABLE holds (
    number    INTEGER PRIMARY KEY,
    customer  INTEGER NOT NULL REFERENCES customers,
    status    TEXT NOT NULL,
    opened_at INTEGER NOT NULL,
    closed_at INTEGER,
    parts     TEXT NOT NULL,
    units     TEXT NOT NULL,
    event     INTEGER,
    key       TEXT,
    terms     TEXT NOT NULL
) STRICT;
CREATE INDEX holds_by_customer ON holds (customer, number);
CREATE INDEX holds_open ON holds (customer) WHERE status = 'HELD';

CREATE TABLE credit_dues (
    customer INTEGER PRIMARY KEY REFERENCES customers,
    due_at   INTEGER NOT NULL
) STRICT;
CREATE INDEX credit_dues_by_time ON credit_dues (due_at);

CREATE TABLE outbox (
    number   INTEGER PRIMARY KEY,
    customer INTEGER NOT NULL REFERENCES customers,
    type     TEXT NOT NULL,
    at       INTEGER NOT NULL,
    body     TEXT NOT NULL
) STRICT;
"""


def _run(statements: str, connection: sqlite3.Connection) -> None:
    for statement in statements.split(";\n"):
        if statement.strip():
            connection.execute(statement)


MIGRATIONS: Final[tuple[Callable[[sqlite3.Connection], None], ...]] = (partial(_run, _V1), partial(_run, _V2))
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
