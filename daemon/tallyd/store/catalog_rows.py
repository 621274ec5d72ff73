"""Reading the catalog as it is kept: features, meters, plan versions, API keys."""

import sqlite3
from decimal import Decimal
from typing import Any

import msgspec

from tallyd.model.catalog import Meter, Plan

_decode_plan = msgspec.json.Decoder(Plan).decode
_decode_meter = msgspec.json.Decoder(Meter, float_hook=Decimal).decode
_decode_meters = msgspec.json.Decoder(list[Meter]).decode


class StoredFeature(msgspec.Struct, frozen=True):
    """A feature's row. Fields are the columns of `features`, in order."""

    key: str
    id: str
    name: str | None
    description: str | None
    created_at: int


class StoredMeter(msgspec.Struct, frozen=True):
    """A meter with its identity. `key` is set for meters of the catalog file."""

    id: str
    key: str | None
    definition: Meter
    created_at: int
    updated_at: int
    archived_at: int | None


class StoredPlan(msgspec.Struct, frozen=True):
    """A version of a plan with the meters it was written with."""

    key: str
    version: int
    plan: Plan
    meters: list[Meter]


class StoredKey(msgspec.Struct, frozen=True):
    """An API key at rest: its SHA-256, never itself."""

    hash: str
    name: str
    hint: str
    scopes: frozenset[str]
    created_at: int


class StoredCatalog(msgspec.Struct, kw_only=True):
    """All of it."""

    features: list[StoredFeature]
    meters: list[StoredMeter]
    plans: list[StoredPlan]
    keys: list[StoredKey]


def meter_of(number: str, key: str | None, definition: str, *times: Any) -> StoredMeter:
    """Read a row of `meters`."""
    return StoredMeter(number, key, _decode_meter(definition), *times)


def plan_of(key: str, version: int, plan: str, meters: str) -> StoredPlan:
    """Read a row of `plan_versions`, without its time."""
    return StoredPlan(key, version, _decode_plan(plan), _decode_meters(meters))


def load_catalog(connection: sqlite3.Connection) -> StoredCatalog:
    """Read the whole catalog and the API keys."""
    features = connection.execute("SELECT * FROM features ORDER BY created_at, key")
    meters = connection.execute("SELECT * FROM meters ORDER BY created_at, id")
    plans = connection.execute("SELECT key, version, plan, meters FROM plan_versions ORDER BY key, version")
    keys = connection.execute("SELECT * FROM api_keys ORDER BY created_at, name")
    return StoredCatalog(
        features=[StoredFeature(*row) for row in features],
        meters=[meter_of(*row) for row in meters],
        plans=[plan_of(*row) for row in plans],
        keys=[
            StoredKey(hashed, name, hint, frozenset(scopes.split()), created)
            for hashed, name, hint, scopes, created in keys
        ],
    )
