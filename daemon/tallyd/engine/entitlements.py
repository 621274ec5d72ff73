"""Entitlements: may this customer use this feature? Decided here, for the instant asked (P4, P7)."""

from decimal import Decimal
from enum import StrEnum
from typing import Final

import msgspec

from tallyd.engine.account import Account, Counter, Enrolment
from tallyd.engine.rating import PricedFeature
from tallyd.model.money import ZERO


class Reason(StrEnum):
    """Why the answer is what it is: a closed list."""

    INCLUDED = "included"  # the plan has the feature and sets no limit
    WITHIN_LIMIT = "within_limit"
    LIMIT_REACHED = "limit_reached"
    WOULD_EXCEED_LIMIT = "would_exceed_limit"
    NO_SUBSCRIPTION = "no_subscription"
    NOT_IN_PLAN = "feature_not_in_plan"
    NOT_COUNTED = "event_not_counted"


DESCRIPTIONS: Final = {
    Reason.INCLUDED: "The plan includes the feature without a limit",
    Reason.WITHIN_LIMIT: "Usage is within the limit",
    Reason.LIMIT_REACHED: "Usage limit exceeded",
    Reason.WOULD_EXCEED_LIMIT: "Proposed usage would exceed limit",
    Reason.NO_SUBSCRIPTION: "The customer has no active subscription",
    Reason.NOT_IN_PLAN: "No active plan of the customer has the feature",
    Reason.NOT_COUNTED: "The event does not count towards the feature's limit: see the feature's meter",
}
# Looking a member up on its class costs a call in Python 3.11; these are asked for every check.
_INCLUDED: Final = Reason.INCLUDED
_WITHIN_LIMIT: Final = Reason.WITHIN_LIMIT
_LIMIT_REACHED: Final = Reason.LIMIT_REACHED


class Simulation(msgspec.Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    """What asking for some units would lead to."""

    requested_usage: Decimal
    projected_usage: Decimal
    projected_remaining: Decimal
    would_exceed_limit: bool


class Entitlement(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An answer with its evidence.

    Attributes:
        allowed: the answer; closed when in doubt.
        reason: why.
        used: units used in the period, or ever; None when the feature is not granted.
        limit: None when there is none.
        remaining: never negative; None when there is no limit.
        position: the customer's ledger position the answer rests on.
        price_version: `plan@version`, None when the feature is not granted.
        simulation: present when units were asked for and a limit exists.
    """

    allowed: bool
    reason: Reason
    used: Decimal | None = None
    limit: Decimal | None = None
    remaining: Decimal | None = None
    position: int
    price_version: str | None = None
    simulation: Simulation | None = None


def decide(account: Account, feature_key: str, now: int, requested: Decimal | None = None) -> Entitlement:
    """Answer for an instant, with `requested` more units when given (must be positive)."""
    granted = account.granting(feature_key, now)
    if granted is None:
        active = any(each.subscription.active_at(now) for each in account.enrolments)
        return Entitlement(
            allowed=False,
            reason=Reason.NOT_IN_PLAN if active else Reason.NO_SUBSCRIPTION,
            position=account.position,
        )
    return decide_granted(account, *granted, now, requested)


def decide_granted(
    account: Account, enrolment: Enrolment, feature: PricedFeature, now: int, requested: Decimal | None = None
) -> Entitlement:
    """Answer for an instant as one subscription grants the feature."""
    used = account.counter(enrolment.counter_key(feature, now)).used
    version = enrolment.plan.price_version
    limit = feature.limit
    if limit is None:
        return Entitlement(
            allowed=True,
            reason=_INCLUDED,
            used=used,
            position=account.position,
            price_version=version,
        )
    reason, simulation = _within(used, limit, requested)
    return Entitlement(
        allowed=reason is _WITHIN_LIMIT,
        reason=reason,
        used=used,
        limit=limit,
        remaining=max(ZERO, limit - used),
        position=account.position,
        price_version=version,
        simulation=simulation,
    )


def _within(used: Decimal, limit: Decimal, requested: Decimal | None) -> tuple[Reason, Simulation | None]:
    reason = _LIMIT_REACHED if used >= limit else _WITHIN_LIMIT
    if requested is None:
        return reason, None
    projected = used + requested
    exceeds = projected > limit
    if exceeds and reason is _WITHIN_LIMIT:
        reason = Reason.WOULD_EXCEED_LIMIT
    simulation = Simulation(
        requested_usage=requested,
        projected_usage=projected,
        projected_remaining=max(ZERO, limit - projected),
        would_exceed_limit=exceeds,
    )
    return reason, simulation


def admits(feature: PricedFeature, counter: Counter, units: Decimal) -> bool:
    """Whether `units` more fit under the feature's limit: the test of `consume` (P4)."""
    return feature.limit is None or counter.used + units <= feature.limit


def capped(feature: PricedFeature, counter: Counter) -> bool:
    """Whether the limit was already reached, so that an event is kept but not counted (CONTRACTS 1.4)."""
    return feature.limit is not None and counter.used >= feature.limit


__all__ = ["DESCRIPTIONS", "Entitlement", "Reason", "Simulation", "admits", "capped", "decide", "decide_granted"]
