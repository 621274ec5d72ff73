"""The catalog: features, meters and plans, in the shape they have in `catalog.toml`.

Field names here are the TOML keys. Numbers may be TOML numbers or strings; both are read exactly.
"""

from decimal import Decimal
from typing import Any, Literal

import msgspec

Operator = Literal[
    "equals",
    "not_equals",
    "greater_than",
    "greater_than_or_equals",
    "less_than",
    "less_than_or_equals",
    "contains",
    "does_not_contain",
]
AggregationType = Literal["count", "sum", "max", "last", "unique"]


class _Definition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An unknown key is an error, so that a misspelt one is noticed."""


class Clause(_Definition, frozen=True, kw_only=True):
    """One comparison of a metadata value. An event that lacks `key` does not match."""

    key: str
    operator: Operator
    value: Any


class Filter(_Definition, frozen=True, kw_only=True):
    """Clauses, or further filters, joined by and/or; at most three levels deep (CONTRACTS 2.3)."""

    conjunction: Literal["and", "or"]
    clauses: list[dict[str, Any]]


class Aggregation(_Definition, frozen=True, kw_only=True):
    """How a meter turns events into a quantity. `key` names a metadata field, or is `usageUnits`."""

    type: AggregationType
    key: str | None = None


class Feature(_Definition, frozen=True, kw_only=True):
    """Something a plan prices and an entitlement gates."""

    key: str
    name: str | None = None
    description: str | None = None


class Meter(_Definition, frozen=True, kw_only=True):
    """Counts the events named `event_name` that pass `filter`."""

    key: str
    event_name: str
    aggregation: Aggregation
    name: str | None = None
    description: str | None = None
    measurement_unit: str = "units"
    filter: Filter | None = None


class PlanFeature(_Definition, frozen=True, kw_only=True):
    """One feature of a plan: how it is counted, priced and what it costs us.

    `pricing` is `{model = "...", ...terms}`; which terms a model takes is the model's own affair
    (see plugins/). Absent pricing means included. `cost` has the shapes of CONTRACTS 1.6.
    """

    feature: str
    meter: str | None = None
    pricing: dict[str, Any] = {}
    cost: dict[str, Any] | None = None


class Plan(_Definition, frozen=True, kw_only=True):
    """A pricing bundle. Editing one makes a new version; subscribers stay on theirs."""

    key: str
    name: str
    description: str | None = None
    currency: str = "USD"
    price_amount: Decimal = Decimal(0)
    interval_months: int = 1
    billing_timing: Literal["IN_ADVANCE", "IN_ARREARS"] = "IN_ADVANCE"
    features: list[PlanFeature] = []


class ModelPrice(_Definition, frozen=True, kw_only=True):
    """What a provider charges for a model, per million tokens, from an instant on.

    Wins over the global table. A kind without a price takes its parent's: cache reads and writes are
    input, reasoning is output.
    """

    model: str
    provider: str | None = None
    input_per_million: Decimal
    output_per_million: Decimal
    cache_read_per_million: Decimal | None = None
    cache_write_per_million: Decimal | None = None
    reasoning_per_million: Decimal | None = None
    valid_from: str | None = None


class Definitions(_Definition, frozen=True, kw_only=True):
    """The whole of `catalog.toml`."""

    features: list[Feature] = []
    meters: list[Meter] = []
    plans: list[Plan] = []
    model_prices: list[ModelPrice] = []
    default_cost: dict[str, Any] | None = None
