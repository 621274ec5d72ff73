"""Subscribing over the native API: a customer is put on a plan, active at once (CONTRACTS 1.3, 1.8)."""

from decimal import Decimal
from typing import Any

import msgspec
from quart import Response
from quart_trio import QuartTrio

from tallyd.actors.messages import Subscribe
from tallyd.api import commands
from tallyd.api.http import tanso
from tallyd.api.http.family import Family, body_bytes
from tallyd.api.wire import Decoder
from tallyd.core import Core
from tallyd.engine.events import occurred_at
from tallyd.engine.rating import PricedPlan
from tallyd.model.moments import DAY_US, from_micros, iso
from tallyd.model.problems import invalid, not_found
from tallyd.model.subscription import Subscription


class SubscribeInput(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Body of POST /subscriptions. `planId` takes a plan's key as well; `startsAt` may lie in the past."""

    customer_reference_id: str
    plan_id: str | None = None
    plan_key: str | None = None
    starts_at: str | None = None
    billing_anchor_day: int | None = None
    grace_period: int | None = None
    payment_method_id: str | None = None


_decode = Decoder(SubscribeInput)
_DAYS = range(1, 32)


async def subscribe(core: Core, body: bytes | msgspec.Raw) -> dict[str, Any]:
    """Put a customer on the newest version of a plan; return `{subscription, metadata}`.

    Without `startsAt` the subscription starts at 00:00 UTC today, so that today's usage counts.

    Raises:
        ProblemError: unknown plan, bad time or day, or the customer is on the plan already.
    """
    request: SubscribeInput = _decode(body)
    ref = commands.by_reference(request.customer_reference_id)
    field, key = ("planKey", request.plan_key) if request.plan_id is None else ("planId", request.plan_id)
    if key is None:
        raise invalid("planKey", "is required, or planId")
    plan = core.catalogue.latest(key)
    if plan is None or key not in core.catalogue.listed:
        raise invalid(field, f"there is no plan {key!r} in the catalog")
    now = core.clock.now()
    starts_at = now - now % DAY_US
    if request.starts_at is not None:
        starts_at = occurred_at(request.starts_at, now, "startsAt")
    anchor_day = request.billing_anchor_day
    if anchor_day is None:
        anchor_day = from_micros(starts_at).day
    if anchor_day not in _DAYS:
        raise invalid("billingAnchorDay", "must be 1 to 31")
    message = Subscribe(plan, starts_at=starts_at, anchor_day=anchor_day)
    await core.intake.ask(ref, message)
    assert message.subscription is not None, "a subscription was made"
    return {
        "subscription": subscription_view(message.subscription, plan, max(now, starts_at)),
        "metadata": {},
    }


def subscription_view(subscription: Subscription, plan: PricedPlan, moment: int) -> dict[str, Any]:
    """Return a subscription with the period that contains the moment."""
    period = subscription.period_at(max(moment, subscription.starts_at))
    return {
        "id": subscription.id,
        "isActive": subscription.active_at(moment),
        "intervalMonths": subscription.interval_months,
        "plan": {"id": plan.key, "key": plan.key, "name": plan.name, "version": plan.version},
        "startsAt": iso(subscription.starts_at),
        "currentPeriodStart": iso(period.start),
        "currentPeriodEnd": iso(period.end),
        "billingAnchorDay": subscription.anchor_day,
    }


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
            "creditAllocations": [],
        }

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
