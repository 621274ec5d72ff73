"""Products in Dodo's shapes (CONTRACTS 2.4)."""

from typing import Any, Final

from tallyd.api.http.dodo_credits import DODO, entitlement_fields
from tallyd.api.http.dodo_ledger import shown
from tallyd.api.http.dodo_prices import (
    ONE_TIME,
    derived_price,
    digits,
    minor_units,
    price_defaults,
    with_meter_names,
)
from tallyd.api.http.dodo_subscription_views import meters_by_key, sent_price
from tallyd.core import Core
from tallyd.model.catalog import PlanCredits
from tallyd.model.moments import iso
from tallyd.store.catalog_rows import StoredPlan

TAX_CATEGORY: Final = "saas"
"""Of plans that were made otherwise: tallyd computes no tax."""

_MAPPED: Final[tuple[str, ...]] = (
    "overage_behavior",
    "overage_enabled",
    "rollover_enabled",
    "rollover_percentage",
    "rollover_timeframe_count",
    "rollover_timeframe_interval",
    "max_rollover_count",
    "expires_after_days",
    "price_per_unit",
    "currency",
)


def is_recurring(stored: StoredPlan) -> bool:
    """Whether a product can be subscribed to; the others are paid once."""
    return sent_price(stored).get("type") != ONE_TIME


def made_at(core: Core, stored: StoredPlan) -> int:
    """Return when a product was made, microseconds UTC; its versions came later."""
    first = core.catalogue.versions.version(stored.key, 1)
    return stored.created_at if first is None else first.created_at


def product_view(core: Core, stored: StoredPlan) -> dict[str, Any]:
    """Return a product."""
    view = {
        **_shared(core, stored),
        "brand_id": core.config.account.business_id,
        "price": price_of(core, stored),
        "credit_entitlements": [_credits(core, stored.key, each) for each in stored.plan.credits],
        "addons": [],
        "license_key_enabled": False,
    }
    return {name: value for name, value in view.items() if value is not None}


def listed_view(core: Core, stored: StoredPlan) -> dict[str, Any]:
    """Return a product as lists show it."""
    price = price_of(core, stored)
    view = {
        **_shared(core, stored),
        "price": minor_units(stored.plan.price_amount, stored.plan.currency),
        "currency": stored.plan.currency,
        "tax_inclusive": price["tax_inclusive"],
        "price_detail": price,
    }
    return {name: value for name, value in view.items() if value is not None}


def _shared(core: Core, stored: StoredPlan) -> dict[str, Any]:
    plan, sent = stored.plan, stored.extra if stored.source == DODO else {}
    return {
        "product_id": plan.key,
        "business_id": core.config.account.business_id,
        "name": plan.name,
        "description": plan.description,
        "is_recurring": is_recurring(stored),
        "tax_category": sent.get("tax_category", TAX_CATEGORY),
        "entitlements": [],
        "metadata": sent.get("metadata", plan.metadata),
        "created_at": iso(made_at(core, stored)),
        "updated_at": iso(stored.created_at),
    }


def price_of(core: Core, stored: StoredPlan) -> dict[str, Any]:
    """Return a product's price: as sent, else as near as can be."""
    price = sent_price(stored)
    if not price:
        price = derived_price(stored.plan, meters_by_key(core))
    return {**price_defaults(), **with_meter_names(price, core.catalogue.meters)}


def _credits(core: Core, product: str, each: PlanCredits) -> dict[str, Any]:
    model = core.catalogue.credits.stored[each.credit_model]
    fields = entitlement_fields(model)
    view: dict[str, Any] = {
        "id": f"{product}-{model.id}",
        "credit_entitlement_id": model.id,
        "credit_entitlement_name": fields["name"],
        "credit_entitlement_unit": fields["unit"],
        "credits_amount": digits(each.amount),
        "overage_behavior": "forgive_at_reset",
        "proration_behavior": "no_prorate",
        "trial_credits_expire_after_trial": False,
        **{name: fields[name] for name in _MAPPED if name in fields},
    }
    if "overage_limit" in fields:
        view["overage_limit"] = shown(fields["overage_limit"])
    return view
