"""Putting a customer on a plan, over HTTP and the socket alike: active at once (CONTRACTS 1.3, 1.8)."""

from typing import Any

import msgspec

from tallyd.actors.messages import Subscribe
from tallyd.api import entitling
from tallyd.api.wire import Decoder
from tallyd.core import Core
from tallyd.engine.events import occurred_at
from tallyd.engine.rating import PricedPlan
from tallyd.model.moments import DAY_US, from_micros, iso
from tallyd.model.problems import invalid
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
    ref = entitling.by_reference(request.customer_reference_id)
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
