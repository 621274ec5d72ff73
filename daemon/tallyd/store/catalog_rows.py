"""Reading the catalog as it is kept: features, meters, plan versions, rules and schedules of credits, API keys."""

import sqlite3
from decimal import Decimal
from typing import Any, Final

import msgspec

from tallyd.engine.credits.prices import Price
from tallyd.engine.credits.weights import Weight
from tallyd.model.catalog import CreditModel, Meter, Plan
from tallyd.model.money import plain
from tallyd.store.tables import Row

_decode_plan = msgspec.json.Decoder(Plan).decode
_decode_meter = msgspec.json.Decoder(Meter, float_hook=Decimal).decode
_decode_credit_model = msgspec.json.Decoder(CreditModel).decode
_encode = msgspec.json.Encoder(order="deterministic").encode
_encode_extra = msgspec.json.Encoder(order="deterministic", decimal_format="number").encode
_decode_extra = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal).decode
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


CATALOG: Final = "catalog"
"""The source of what the catalog file says."""


class StoredPlan(msgspec.Struct, frozen=True):
    """A version of a plan. Fields are the columns of `plan_versions`, in order.

    Attributes:
        key: the plan.
        version: counts from 1.
        plan: as it was written.
        meters: those it was written with.
        created_at: when it was written, microseconds UTC.
        source: who wrote it: `catalog`, `tanso` or `dodo`.
        extra: fields of the API it was made over that the rules do not know, as sent.
    """

    key: str
    version: int
    plan: Plan
    meters: list[Meter]
    created_at: int = 0
    source: str = CATALOG
    extra: dict[str, Any] = {}


class StoredCreditModel(msgspec.Struct, frozen=True, kw_only=True):
    """A credit model with its identity. Fields are the columns of `credit_models`, in order.

    Attributes:
        key: its name; never changes.
        id: public.
        source: who made it: `catalog`, `tanso` or `dodo`.
        definition: its rules.
        extra: fields of the API it was made over that the rules do not know, as sent.
        created_at: when it was made.
        updated_at: when it was last changed.
        deleted_at: when it was deleted; pools of it stay.
    """

    key: str
    id: str
    source: str
    definition: CreditModel
    extra: dict[str, Any] = {}
    created_at: int
    updated_at: int
    deleted_at: int | None = None


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
    credit_models: list[StoredCreditModel] = []
    credit_weights: list[Weight] = []
    credit_prices: list[Price] = []


def meter_of(number: str, key: str | None, definition: str, *times: Any) -> StoredMeter:
    """Read a row of `meters`."""
    return StoredMeter(number, key, _decode_meter(definition), *times)


def plan_of(key: str, version: int, plan: str, meters: str, *rest: Any) -> StoredPlan:
    """Read a row of `plan_versions`; all after its meters may be left out."""
    created_at, source, extra = rest or (0, CATALOG, "{}")
    stored = _decode_plan(plan), _decode_meters(meters), created_at, source, _decode_extra(extra)
    return StoredPlan(key, version, *stored)


def plan_row(stored: StoredPlan) -> Row:
    """Return the columns of a version of a plan."""
    plan, meters = (_encode(each).decode() for each in (stored.plan, stored.meters))
    extra = _encode_extra(stored.extra).decode()
    return (stored.key, stored.version, plan, meters, stored.created_at, stored.source, extra)


def credit_model_row(model: StoredCreditModel) -> Row:
    """Return a credit model's columns."""
    definition, extra = _encode(model.definition).decode(), _encode(model.extra).decode()
    times = (model.created_at, model.updated_at, model.deleted_at)
    return (model.key, model.id, model.source, definition, extra, *times)


def credit_model_of(
    key: str, number: str, source: str, definition: str, extra: str, *times: Any
) -> StoredCreditModel:
    """Read a row of `credit_models`."""
    created_at, updated_at, deleted_at = times
    return StoredCreditModel(
        key=key,
        id=number,
        source=source,
        definition=_decode_credit_model(definition),
        extra=msgspec.json.decode(extra),
        created_at=created_at,
        updated_at=updated_at,
        deleted_at=deleted_at,
    )


def weight_row(weight: Weight) -> Row:
    """Return a weight's columns."""
    return msgspec.structs.astuple(msgspec.structs.replace(weight, weight=plain(weight.weight)))


def weight_of(number: str, feature: str, model: str, kind: str, weight: str, *times: int) -> Weight:
    """Read a row of `credit_weights`."""
    effective_from, created_at = times
    return Weight(
        id=number,
        feature=feature,
        model=model,
        kind=kind,
        weight=Decimal(weight),
        effective_from=effective_from,
        created_at=created_at,
    )


def price_row(price: Price) -> Row:
    """Return a price's columns."""
    return msgspec.structs.astuple(msgspec.structs.replace(price, price=plain(price.price)))


def price_of(number: str, credit_model: str, price: str, currency: str, *times: int) -> Price:
    """Read a row of `credit_prices`."""
    effective_from, created_at = times
    return Price(
        id=number,
        credit_model=credit_model,
        price=Decimal(price),
        currency=currency,
        effective_from=effective_from,
        created_at=created_at,
    )


def load_weights(connection: sqlite3.Connection) -> list[Weight]:
    """Read the whole schedule of weights."""
    rows = connection.execute("SELECT * FROM credit_weights ORDER BY effective_from, id")
    return [weight_of(*row) for row in rows]


def load_catalog(connection: sqlite3.Connection) -> StoredCatalog:
    """Read the whole catalog and the API keys."""
    features = connection.execute("SELECT * FROM features ORDER BY created_at, key")
    meters = connection.execute("SELECT * FROM meters ORDER BY created_at, id")
    plans = connection.execute("SELECT * FROM plan_versions ORDER BY key, version")
    models = connection.execute("SELECT * FROM credit_models ORDER BY created_at, key")
    prices = connection.execute("SELECT * FROM credit_prices ORDER BY effective_from, id")
    keys = connection.execute("SELECT * FROM api_keys ORDER BY created_at, name")
    return StoredCatalog(
        features=[StoredFeature(*row) for row in features],
        meters=[meter_of(*row) for row in meters],
        plans=[plan_of(*row) for row in plans],
        keys=[
            StoredKey(hashed, name, hint, frozenset(scopes.split()), created)
            for hashed, name, hint, scopes, created in keys
        ],
        credit_models=[credit_model_of(*row) for row in models],
        credit_weights=load_weights(connection),
        credit_prices=[price_of(*row) for row in prices],
    )
