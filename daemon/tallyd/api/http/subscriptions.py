"""Subscriptions, plans and features over the native API (CONTRACTS 1.3, 1.6, 1.8)."""

from decimal import Decimal
from typing import Any

from quart import Response
from quart_trio import QuartTrio

from tallyd.api.credit_views import allocation_view
from tallyd.api.http import tanso
from tallyd.api.http.family import Family, body_bytes
from tallyd.api.subscribing import subscribe
from tallyd.core import Core
from tallyd.model.catalog import PlanCredits
from tallyd.model.moments import iso
from tallyd.model.problems import not_found


class Subscriptions:
    """Handlers of `/api/v1/client/subscriptions`, `/plans` and `/features`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def register(self, app: QuartTrio, family: Family) -> None:
        """Serve them."""
        family.route(app, f"{tanso.CLIENT}/subscriptions", "POST", "admin", self.create)
        family.route(app, f"{tanso.CLIENT}/plans", "GET", "read", self.plans)
        family.route(app, f"{tanso.CLIENT}/features", "GET", "read", self.features)
        family.route(app, f"{tanso.CLIENT}/features/<key>", "GET", "read", self.feature)

    async def create(self) -> Response:
        """Subscribe: 201."""
        return tanso.success(await subscribe(self._core, await body_bytes()), 201)

    async def plans(self) -> Response:
        """List the plans of the catalog, newest versions."""
        return tanso.success(tanso.listed([self._plan(key) for key in self._core.catalogue.listed]))

    async def features(self) -> Response:
        """List the features."""
        return tanso.success(tanso.listed([self._feature(key) for key in self._core.catalogue.features]))

    async def feature(self, key: str) -> Response:
        """Return one feature."""
        if key not in self._core.catalogue.features:
            raise not_found(f"there is no feature {key!r}")
        return tanso.success(self._feature(key))

    def _plan(self, key: str) -> dict[str, Any]:
        version, plan, _ = self._core.catalogue.definitions[key]
        return {
            "plan": {
                "id": plan.key,
                "key": plan.key,
                "version": version,
                "name": plan.name,
                "description": plan.description,
                "priceAmount": plan.price_amount,
                "currency": plan.currency,
                "intervalMonths": plan.interval_months,
                "billingTiming": plan.billing_timing,
            },
            "features": [{**self._feature(each.feature), **pricing_view(each.pricing)} for each in plan.features],
            "creditAllocations": [self._allocation(each) for each in plan.credits],
        }

    def _allocation(self, included: PlanCredits) -> dict[str, Any]:
        model = self._core.catalogue.credits.stored[included.credit_model]
        return allocation_view(included, model.definition, model.id)

    def _feature(self, key: str) -> dict[str, Any]:
        feature = self._core.catalogue.features[key]
        return {
            "id": feature.id,
            "key": feature.key,
            "name": feature.name or feature.key,
            "description": feature.description,
            "isEnabled": True,
            "createdAt": iso(feature.created_at),
        }


_PRICING_TYPE = {"usage": "usage_based"}
_CAMEL = {"usage_unit_type": "unitLabel"}


def pricing_view(pricing: dict[str, Any]) -> dict[str, Any]:
    """Return a plan feature's pricing as clients see it: camelCase, included without terms (CONTRACTS 1.6)."""
    model = pricing.get("model", "included")
    kind = _PRICING_TYPE.get(model, model)
    if kind == "included":
        return {"pricingType": kind}
    return {"pricingType": kind, "pricing": _camel(pricing)}


def _camel(value: Any) -> Any:
    if isinstance(value, dict):
        return {_CAMEL.get(key) or _camel_key(key): _camel(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_camel(item) for item in value]
    return _as_number(value)


def _camel_key(key: str) -> str:
    head, *rest = key.split("_")
    return head + "".join(word.capitalize() for word in rest)


def _as_number(value: Any) -> Any:
    """Return a numeric string as a number: plans may write prices either way, clients read numbers."""
    if isinstance(value, str) and value.replace(".", "", 1).isdigit():
        return Decimal(value)
    return value
