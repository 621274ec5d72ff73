"""Plans and features in the native API's shapes (CONTRACTS 1.3, 1.6, 1.8). A plan's id is its key."""

from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from tallyd.api.consuming import without_nothing
from tallyd.api.credit_views import allocation_view
from tallyd.core import Core
from tallyd.model.catalog import Plan, PlanCredits, PlanFeature
from tallyd.model.moments import iso
from tallyd.store.catalog_rows import StoredFeature, StoredPlan

UNSET: Final = "unset"
"""Where `extra` of a plan says what a draft lacks that its definition cannot be without: `priceAmount`."""

_PRICING_TYPE: Final = {"usage": "usage_based"}
_CAMEL: Final = {"usage_unit_type": "unitLabel"}


def plan_view(core: Core, stored: StoredPlan) -> dict[str, Any]:
    """Return a plan with its features and credits, as clients see it."""
    return {
        "plan": without_nothing(_plan(stored)),
        "features": [_priced_feature(core, each) for each in stored.plan.features],
        "creditAllocations": [_allocation(core, each) for each in stored.plan.credits],
    }


def admin_plan_view(core: Core, stored: StoredPlan) -> dict[str, Any]:
    """Return a plan as the operator sees it: with where it stands and who made it."""
    view = {
        **_plan(stored),
        "status": stored.plan.status,
        "source": stored.source,
        "creditAllocations": [_allocation(core, each) for each in stored.plan.credits],
        "createdAt": iso(core.catalogue.versions.made_at[stored.key]),
        "modifiedAt": iso(stored.created_at),
    }
    return without_nothing(view)


def _plan(stored: StoredPlan) -> dict[str, Any]:
    plan = stored.plan
    return {
        "id": plan.key,
        "key": plan.key,
        "version": stored.version,
        "name": plan.name or None,
        "description": plan.description,
        "priceAmount": None if "priceAmount" in stored.extra.get(UNSET, ()) else plan.price_amount,
        "currency": plan.currency,
        "intervalMonths": None if plan.interval_days else plan.interval_months or None,
        "intervalDays": plan.interval_days or None,
        "billingTiming": plan.billing_timing,
        "trialDays": plan.trial_days or None,
        "gracePeriodDays": plan.grace_days,
        "metadata": plan.metadata,
    }


def _priced_feature(core: Core, linked: PlanFeature) -> dict[str, Any]:
    return {**feature_view(core.catalogue.features[linked.feature]), **pricing_view(linked.pricing)}


def _allocation(core: Core, included: PlanCredits) -> dict[str, Any]:
    model = core.catalogue.credits.stored[included.credit_model]
    return allocation_view(included, model.definition, model.id)


def feature_view(feature: StoredFeature) -> dict[str, Any]:
    """Return a feature."""
    view = {
        "id": feature.id,
        "key": feature.key,
        "name": feature.name or feature.key,
        "description": feature.description,
        "isEnabled": True,
        "createdAt": iso(feature.created_at),
        "modifiedAt": iso(feature.created_at),
    }
    return without_nothing(view)


def rule_view(core: Core, plan: Plan, linked: PlanFeature) -> dict[str, Any]:
    """Return how a plan has a feature, as the operator writes it: in snake_case, with numbers (CONTRACTS 1.6)."""
    value: dict[str, Any] = {"pricing": linked.pricing} if linked.pricing else {}
    if linked.cost is not None:
        value["cost"] = linked.cost
    credit_model = None if linked.credit_model is None else core.catalogue.credits.stored.get(linked.credit_model)
    view = {
        "id": f"{plan.key}/{linked.feature}",
        "planId": plan.key,
        "featureId": core.catalogue.features[linked.feature].id,
        "featureKey": linked.feature,
        "type": "BASE",
        "value": _renamed(value, lambda name: name) or None,
        "enabled": True,
        "meter": linked.meter,
        "creditModelId": None if credit_model is None else credit_model.id,
        "unitsPerCredit": linked.units_per_credit,
        "lateEvents": linked.late_events,
    }
    return without_nothing(view)


def pricing_view(pricing: dict[str, Any]) -> dict[str, Any]:
    """Return a plan feature's pricing as clients see it: camelCase, included without terms (CONTRACTS 1.6)."""
    model = pricing.get("model", "included")
    kind = _PRICING_TYPE.get(model, model)
    if kind == "included":
        return {"pricingType": kind}
    return {"pricingType": kind, "pricing": _renamed(pricing, lambda name: _CAMEL.get(name) or _camel_key(name))}


def _renamed(value: Any, rename: Callable[[str], str]) -> Any:
    """Return terms with their fields renamed, and numbers as numbers: plans may write prices either way."""
    if isinstance(value, dict):
        return {rename(key): _renamed(item, rename) for key, item in value.items()}
    if isinstance(value, list):
        return [_renamed(item, rename) for item in value]
    return _as_number(value)


def _camel_key(key: str) -> str:
    head, *rest = key.split("_")
    return head + "".join(word.capitalize() for word in rest)


def _as_number(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        number = Decimal(value)
    except InvalidOperation:
        return value
    return number if number.is_finite() else value
