"""Version 2: credit models, pools, grants, holds, and their ledger entries."""

from typing import Final

TABLES: Final = """
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
