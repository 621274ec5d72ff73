"""How rows of each table are written: many rows a statement, so that one commit is few steps."""

import sqlite3
from collections.abc import Iterable, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

import msgspec

from tallyd.model.ledger_entries import Entry
from tallyd.model.money import plain

VARIABLES_MAX: Final = 8192
"""Bound values a statement; SQLite allows 32,766."""
CHUNKS: Final = (256, 64, 16, 4, 1)
"""Rows a statement: a handful of fixed sizes, so that prepared statements are found again."""

Row = tuple[Any, ...]


class Table(msgspec.Struct, frozen=True, eq=False):
    """Where rows go and what happens when one is there already."""

    name: str
    columns: tuple[str, ...]
    on_conflict: str = ""

    def statement(self, rows: int) -> str:
        """Return the statement that writes this many rows."""
        marks = "(" + ",".join("?" * len(self.columns)) + ")"
        values = ",".join([marks] * rows)
        return f"INSERT INTO {self.name} ({','.join(self.columns)}) VALUES {values} {self.on_conflict}"


class Removal(Table, frozen=True, eq=False):
    """Rows that go: those whose columns have the values, or with `before` whose one column has a lesser one."""

    before: bool = False

    def statement(self, rows: int) -> str:
        """Return the statement that removes by this many values."""
        marks = ",".join("?" * rows)
        if self.before:
            return f"DELETE FROM {self.name} WHERE {self.columns[0]} < max({marks},0)"
        values = ",".join(["(" + ",".join("?" * len(self.columns)) + ")"] * rows)
        return f"DELETE FROM {self.name} WHERE ({','.join(self.columns)}) IN (VALUES {values})"


class Update(Table, frozen=True, eq=False):
    """Rows that are there already and change: the first column says which."""

    def statement(self, rows: int) -> str:
        """Return the statement that changes a row: one at a time."""
        assert rows == 1, "they are changed one by one"
        key, *changing = self.columns
        changed = ",".join(f"{column} = ?{place}" for place, column in enumerate(changing, start=2))
        return f"UPDATE {self.name} SET {changed} WHERE {key} = ?1"


def _replace(columns: Iterable[str]) -> str:
    return ",".join(f"{column} = excluded.{column}" for column in columns)


def _columns(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _add_exact(columns: Iterable[str], table: str) -> str:
    return ",".join(f"{column} = add_exact({table}.{column}, excluded.{column})" for column in columns)


CUSTOMERS: Final = Table("customers", _columns("number id reference stripe_id created_at profile"))
CHANGED_CUSTOMERS: Final = Table(
    "customers", CUSTOMERS.columns, "ON CONFLICT (number) DO UPDATE SET profile = excluded.profile"
)
FEATURES: Final = Table(
    "features",
    _columns("key id name description created_at"),
    "ON CONFLICT (key) DO UPDATE SET name = coalesce(excluded.name, name),"
    " description = coalesce(excluded.description, description)",
)
CHANGED_FEATURES: Final = Table(
    "features", FEATURES.columns, "ON CONFLICT (key) DO UPDATE SET " + _replace(("name", "description"))
)
DELETED_FEATURES: Final = Removal("features", ("key",))
METERS: Final = Table(
    "meters",
    _columns("id key definition created_at updated_at archived_at"),
    "ON CONFLICT (id) DO UPDATE SET " + _replace(("definition", "updated_at", "archived_at")),
)
PLAN_VERSIONS: Final = Table("plan_versions", _columns("key version plan meters created_at source extra"))
DELETED_PLANS: Final = Removal("plan_versions", ("key",))
PRICE_VERSIONS: Final = Table("price_versions", ("id", "content"), "ON CONFLICT (id) DO NOTHING")
CREDIT_MODELS: Final = Table(
    "credit_models",
    _columns("key id source definition extra created_at updated_at deleted_at"),
    "ON CONFLICT (key) DO UPDATE SET " + _replace(_columns("source definition extra updated_at deleted_at")),
)
CREDIT_WEIGHTS: Final = Table("credit_weights", _columns("id feature model kind weight effective_from created_at"))
CREDIT_PRICES: Final = Table("credit_prices", _columns("id credit_model price currency effective_from created_at"))
DELETED_WEIGHTS: Final = Removal("credit_weights", ("id",))
DELETED_PRICES: Final = Removal("credit_prices", ("id",))
API_KEYS: Final = Table("api_keys", _columns("hash name hint scopes created_at"))
REPLAYS: Final = Table(
    "replays",
    _columns("place key body_hash status content created_at"),
    "ON CONFLICT (place, key) DO UPDATE SET " + _replace(_columns("body_hash status content created_at")),
)
OLD_REPLAYS: Final = Removal("replays", ("created_at",), before=True)
EVENTS: Final = Table(
    "events",
    _columns(
        "id customer position key_space key source name feature occurred_at received_at subscription units"
        " cost cost_source cost_version revenue revenue_source currency no_price capped model provider body"
        " chain"
    ),
)
CHARGES: Final = Table(
    "charges",
    _columns(
        "event customer feature subscription period_start plan_key plan_version used_before units before"
        " quantity amount currency no_price"
    ),
)
RERATED_EVENTS: Final = Table(
    "events",
    EVENTS.columns,
    "ON CONFLICT (id) DO UPDATE SET "
    + _replace(_columns("cost cost_source cost_version revenue revenue_source no_price")),
)
RERATED_CHARGES: Final = Table(
    "charges",
    CHARGES.columns,
    "ON CONFLICT (event, feature) DO UPDATE SET " + _replace(_columns("plan_version quantity amount no_price")),
)
RERATES: Final = Table("rerates", _columns("customer position event rated_at before after chain"))
LEDGERS: Final = Table(
    "ledgers",
    ("customer", "position", "chain"),
    "ON CONFLICT (customer) DO UPDATE SET " + _replace(("position", "chain")),
)
_COUNTED = _columns("used rated charged sent events unpriced latest_at covered credited billed billed_to")
COUNTERS: Final = Table(
    "counters",
    ("customer", "subscription", "feature", "period_start", *_COUNTED),
    "ON CONFLICT (customer, subscription, feature, period_start) DO UPDATE SET " + _replace(_COUNTED),
)
SEEN_VALUES: Final = Table("seen_values", _columns("customer subscription feature period_start value"))
UNSEEN_VALUES: Final = Removal("seen_values", SEEN_VALUES.columns)
_SUMMED = _columns("units input_tokens output_tokens cost revenue")
_ROLLUP_KEY = _columns("hour customer feature model provider name currency")
ROLLUPS: Final = Table(
    "rollups",
    (*_ROLLUP_KEY, "events", *_SUMMED, "unpriced"),
    f"ON CONFLICT ({','.join(_ROLLUP_KEY)}) DO UPDATE SET "
    + _add_exact(_SUMMED, "rollups")
    + ", events = rollups.events + excluded.events, unpriced = rollups.unpriced + excluded.unpriced",
)

LEDGER_ENTRIES: Final = Table("ledger_entries", Entry.__struct_fields__)


def _latest(name: str, columns: str, key: str, fixed: str = "") -> Table:
    """Return a table whose rows keep their last value; what is fixed, its indexes are left alone."""
    every = _columns(columns)
    changing = (column for column in every if column not in key.split(",") and column not in fixed.split())
    return Table(name, every, f"ON CONFLICT ({key}) DO UPDATE SET {_replace(changing)}")


POOLS: Final = _latest(
    "pools",
    "number customer model_key model name balance overage held overage_held granted consumed expired reversed"
    " frozen archived opened_at modified_at recurred_at topped_up topped_up_in",
    "number",
    "customer model_key opened_at",
)
GRANTS: Final = _latest(
    "grants",
    "number pool customer amount remaining held created_at terms",
    "number",
    "pool customer amount created_at terms",
)
MOVED_POOLS: Final = Update(
    "pools",
    _columns(
        "number balance overage held overage_held granted consumed expired reversed frozen modified_at recurred_at"
        " topped_up topped_up_in"
    ),
)
MOVED_GRANTS: Final = Update("grants", _columns("number remaining held"))
POOL_LINKS: Final = _latest(
    "pool_links",
    "pool subscription customer priority draw_limit drawn drawn_in allocated_in withheld included",
    "pool,subscription",
    "customer",
)
HOLDS: Final = _latest("holds", "number customer status opened_at closed_at parts units event key terms", "number")
DUES: Final = _latest("dues", "customer due_at", "customer")
SUBSCRIPTIONS: Final = _latest(
    "subscriptions",
    "number id customer starts_at ends_at created_at phases trial_ends_at grace_days renewed_to charged_to pauses"
    " waived change cancellation metadata",
    "number",
    "id customer created_at",
)
INVOICES: Final = _latest(
    "invoices",
    "number customer subscription serial kind status currency period_start period_end issued_at due_at overdue_at"
    " amount lines position settled_at",
    "number",
    "customer subscription serial kind currency period_start issued_at",
)
CHECKOUTS: Final = _latest(
    "checkouts",
    "id customer invoice provider amount currency created_at status provider_session url expires_at completed_at"
    " payment problem",
    "id",
    "customer invoice provider amount currency created_at",
)
TEST_CLOCKS: Final = _latest("test_clocks", "customer now", "customer")
ENDED_TEST_CLOCKS: Final = Removal("test_clocks", ("customer",))
OUTBOX: Final = Table("outbox", _columns("number customer type at body"))

IN_ORDER: Final = (
    CUSTOMERS,
    CHANGED_CUSTOMERS,
    FEATURES,
    CHANGED_FEATURES,
    DELETED_FEATURES,
    METERS,
    PLAN_VERSIONS,
    DELETED_PLANS,
    PRICE_VERSIONS,
    CREDIT_MODELS,
    CREDIT_WEIGHTS,
    CREDIT_PRICES,
    DELETED_WEIGHTS,
    DELETED_PRICES,
    API_KEYS,
    REPLAYS,
    OLD_REPLAYS,
    SUBSCRIPTIONS,
    INVOICES,
    EVENTS,
    CHARGES,
    RERATED_EVENTS,
    RERATED_CHARGES,
    RERATES,
    LEDGERS,
    COUNTERS,
    SEEN_VALUES,
    UNSEEN_VALUES,
    ROLLUPS,
    LEDGER_ENTRIES,
    POOLS,
    GRANTS,
    MOVED_POOLS,
    MOVED_GRANTS,
    POOL_LINKS,
    HOLDS,
    DUES,
    CHECKOUTS,
    TEST_CLOCKS,
    ENDED_TEST_CLOCKS,
    OUTBOX,
)
"""Parents before children."""


def add_exact(left: str, right: str) -> str:
    """SQL function: the exact sum of two decimals kept as text (P9)."""
    return plain(Decimal(left) + Decimal(right))


@lru_cache(maxsize=256)
def _statement(table: Table, rows: int) -> str:
    return table.statement(rows)


def write_rows(connection: sqlite3.Connection, table: Table, rows: Sequence[Row]) -> None:
    """Write rows in as few statements as the chunk sizes allow."""
    if isinstance(table, Update):
        connection.executemany(_statement(table, 1), rows)
        return
    start, total, width = 0, len(rows), len(table.columns)
    for chunk in CHUNKS:
        if chunk * width > VARIABLES_MAX:
            continue
        while total - start >= chunk:
            values = [value for row in rows[start : start + chunk] for value in row]
            connection.execute(_statement(table, chunk), values)
            start += chunk
