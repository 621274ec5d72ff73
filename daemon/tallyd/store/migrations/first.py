"""Version 1: customers, the catalog, events, charges, counters, roll-ups."""

from typing import Final

TABLES: Final = """
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
