"""Version 3: invoices, checkouts, test clocks; subscriptions with phases; what counters have billed."""

from typing import Final

TABLES: Final = """
DROP INDEX credit_entries_by_pool;
DROP INDEX credit_entries_by_event;
DROP INDEX credit_entries_by_key;
DROP INDEX credit_entries_once_reversed;
ALTER TABLE credit_entries RENAME TO ledger_entries;
CREATE INDEX ledger_entries_by_pool ON ledger_entries (pool, id) WHERE pool IS NOT NULL;
CREATE INDEX ledger_entries_by_event ON ledger_entries (event, id) WHERE event IS NOT NULL;
CREATE UNIQUE INDEX ledger_entries_by_key ON ledger_entries (key, key_space) WHERE key IS NOT NULL;
CREATE UNIQUE INDEX ledger_entries_once_reversed ON ledger_entries (reverses) WHERE reverses IS NOT NULL;
CREATE UNIQUE INDEX events_once_voided ON ledger_entries (event) WHERE kind = 'EVENT_VOIDED';

DROP INDEX credit_dues_by_time;
ALTER TABLE credit_dues RENAME TO dues;
CREATE INDEX dues_by_time ON dues (due_at);

ALTER TABLE counters ADD COLUMN covered TEXT NOT NULL DEFAULT '{}';
ALTER TABLE counters ADD COLUMN credited TEXT NOT NULL DEFAULT '0';
ALTER TABLE counters ADD COLUMN billed TEXT NOT NULL DEFAULT '0';
ALTER TABLE counters ADD COLUMN billed_to INTEGER NOT NULL DEFAULT 0;
ALTER TABLE pool_links ADD COLUMN withheld INTEGER NOT NULL DEFAULT 0;
ALTER TABLE pool_links ADD COLUMN included TEXT NOT NULL DEFAULT '0';
ALTER TABLE plan_versions ADD COLUMN source TEXT NOT NULL DEFAULT 'catalog';
ALTER TABLE plan_versions ADD COLUMN extra TEXT NOT NULL DEFAULT '{}';

CREATE INDEX charges_by_counter ON charges (subscription, feature, period_start, event);

CREATE TABLE invoices (
    number       INTEGER PRIMARY KEY,
    customer     INTEGER NOT NULL REFERENCES customers,
    subscription INTEGER NOT NULL,
    serial       INTEGER NOT NULL,
    kind         TEXT NOT NULL,
    status       TEXT NOT NULL,
    currency     TEXT NOT NULL,
    period_start INTEGER NOT NULL,
    period_end   INTEGER NOT NULL,
    issued_at    INTEGER NOT NULL,
    due_at       INTEGER NOT NULL,
    overdue_at   INTEGER NOT NULL,
    amount       TEXT NOT NULL,
    lines        TEXT NOT NULL,
    position     INTEGER NOT NULL,
    settled_at   INTEGER
) STRICT;
CREATE UNIQUE INDEX invoices_by_serial ON invoices (customer, serial);
CREATE INDEX invoices_open ON invoices (customer) WHERE status IN ('PENDING', 'DUE', 'PAST_DUE');
CREATE UNIQUE INDEX invoices_one_a_period ON invoices (subscription, period_start, (kind = 'IN_ARREARS'))
    WHERE kind IN ('IN_ADVANCE_INITIAL', 'IN_ADVANCE', 'IN_ARREARS') AND status NOT IN ('VOID', 'CANCELLED');

CREATE TABLE checkouts (
    id               TEXT PRIMARY KEY,
    customer         INTEGER NOT NULL REFERENCES customers,
    invoice          INTEGER NOT NULL REFERENCES invoices,
    provider         TEXT NOT NULL,
    amount           INTEGER NOT NULL,
    currency         TEXT NOT NULL,
    created_at       INTEGER NOT NULL,
    status           TEXT NOT NULL,
    provider_session TEXT,
    url              TEXT,
    expires_at       INTEGER,
    completed_at     INTEGER,
    payment          TEXT,
    problem          TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX checkouts_open ON checkouts (invoice) WHERE status = 'PENDING';

CREATE TABLE test_clocks (
    customer TEXT PRIMARY KEY,
    now      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE lives (
    number        INTEGER PRIMARY KEY,
    id            TEXT NOT NULL UNIQUE,
    customer      INTEGER NOT NULL REFERENCES customers,
    starts_at     INTEGER NOT NULL,
    ends_at       INTEGER,
    created_at    INTEGER NOT NULL,
    phases        TEXT NOT NULL,
    trial_ends_at INTEGER,
    grace_days    INTEGER NOT NULL,
    renewed_to    INTEGER NOT NULL,
    charged_to    INTEGER NOT NULL,
    pauses        TEXT NOT NULL,
    waived        TEXT NOT NULL,
    change        TEXT,
    cancellation  TEXT,
    metadata      TEXT NOT NULL
) STRICT;
"""

SUBSCRIPTIONS: Final = """
DROP TABLE subscriptions;
ALTER TABLE lives RENAME TO subscriptions;
CREATE INDEX subscriptions_by_customer ON subscriptions (customer);
"""
