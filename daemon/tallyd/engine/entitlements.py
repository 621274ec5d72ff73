"""Entitlements: may this customer use this feature? Decided here, for the instant asked (P4, P7)."""

from decimal import Decimal
from enum import StrEnum
from typing import Final

import msgspec

from tallyd.engine.account import Account, Counter, Denial, Enrolment
from tallyd.engine.credits.burning import Server, serving, spendable
from tallyd.engine.credits.covering import Cover
from tallyd.engine.credits.draft import Draft
from tallyd.engine.passing import as_of, current
from tallyd.engine.rating import PricedFeature
from tallyd.model.credits import Pool
from tallyd.model.money import ZERO


class Reason(StrEnum):
    """Why the answer is what it is: a closed list."""

    INCLUDED = "included"  # the plan has the feature and sets no limit
    WITHIN_LIMIT = "within_limit"
    LIMIT_REACHED = "limit_reached"
    CREDIT_LIMIT_REACHED = "credit_limit_reached"
    INSUFFICIENT_CREDITS = "insufficient_credits"
    CREDITS_UNPRICED = "credits_unpriced"
    WOULD_EXCEED_LIMIT = "would_exceed_limit"
    NO_SUBSCRIPTION = "no_subscription"
    NOT_IN_PLAN = "feature_not_in_plan"
    NOT_COUNTED = "event_not_counted"
    UNPAID = "unpaid"
    PAST_DUE = "past_due"
    PAUSED = "paused"


DESCRIPTIONS: Final = {
    Reason.INCLUDED: "The plan includes the feature without a limit",
    Reason.WITHIN_LIMIT: "Usage is within the limit",
    Reason.LIMIT_REACHED: "Usage limit exceeded",
    Reason.CREDIT_LIMIT_REACHED: "Credit limit reached",
    Reason.INSUFFICIENT_CREDITS: "Credit limit reached",
    Reason.CREDITS_UNPRICED: "Nobody knows a price for this usage, so no credits can pay for it",
    Reason.WOULD_EXCEED_LIMIT: "Proposed usage would exceed limit",
    Reason.NO_SUBSCRIPTION: "The customer has no active subscription",
    Reason.NOT_IN_PLAN: "No active plan of the customer has the feature",
    Reason.NOT_COUNTED: "The event counts no units of the feature: send usageUnits, or what its meter reads",
    Reason.UNPAID: "Entitlement is revoked",
    Reason.PAST_DUE: "Entitlement is revoked",
    Reason.PAUSED: "Entitlement is revoked",
}
ADVICE: Final = {
    Reason.UNPAID: "The subscription's first invoice is not paid; access begins when it is",
    Reason.PAST_DUE: "An invoice was not paid within its grace days; access comes back when it is",
    Reason.PAUSED: "The subscription is paused; access comes back when it is resumed",
}
_REVOKED: Final = {
    Denial.UNPAID: Reason.UNPAID,
    Denial.PAST_DUE: Reason.PAST_DUE,
    Denial.PAUSED: Reason.PAUSED,
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


class CreditState(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The credits that pay for a feature, as they stand.

    Attributes:
        pool: the pool drawn first.
        available: what it could give now; None for any amount.
        pools: how many pools pay for the feature.
        depleted: a hard limit applies and nothing is left in any of them.
    """

    pool: Pool
    available: Decimal | None
    pools: int
    depleted: bool


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
        held: units that open holds set aside of the limit.
        credit: the credits that pay for the feature, if any do.
        cover: what the units asked for come to in credits, and who would pay.
    """

    allowed: bool
    reason: Reason
    used: Decimal | None = None
    limit: Decimal | None = None
    remaining: Decimal | None = None
    position: int
    price_version: str | None = None
    simulation: Simulation | None = None
    held: Decimal = ZERO
    credit: CreditState | None = None
    cover: Cover | None = None


def decide(
    account: Account,
    feature_key: str,
    now: int,
    requested: Decimal | None = None,
    draft: Draft | None = None,
) -> Entitlement:
    """Answer for an instant, with `requested` more units when given (must be positive).

    `draft` is the customer's credits as of that instant, where somebody has them already.
    """
    if draft is None:
        account = current(account, now)
    granted = account.granting(feature_key, now)
    if granted is None:
        active = any(each.active_at(now) for each in account.enrolments)
        return Entitlement(
            allowed=False,
            reason=Reason.NOT_IN_PLAN if active else Reason.NO_SUBSCRIPTION,
            position=account.position,
        )
    answer = decide_granted(account, *granted, now, requested, draft)
    denial = account.denied(granted[0].subscription, now)
    return answer if denial is None else revoked(answer, denial)


def decide_granted(
    account: Account,
    enrolment: Enrolment,
    feature: PricedFeature,
    now: int,
    requested: Decimal | None = None,
    draft: Draft | None = None,
) -> Entitlement:
    """Answer for an instant as one subscription grants the feature."""
    key = enrolment.counter_key(feature, now)
    used, held, credit = account.counter(key).used, ZERO, None
    if account.credits is not None:
        draft = draft or as_of(account, now)
        held = draft.held_units(*key)
        credit = _credit(draft, serving(draft, enrolment, feature), now)
    version = enrolment.plan.price_version
    limit = feature.limit
    if limit is None:
        depleted = credit is not None and credit.depleted
        return Entitlement(
            allowed=not depleted,
            reason=Reason.CREDIT_LIMIT_REACHED if depleted else _INCLUDED,
            used=used,
            position=account.position,
            price_version=version,
            held=held,
            credit=credit,
        )
    reason, simulation = _within(used + held, limit, requested)
    if credit is not None and credit.depleted and reason is not _LIMIT_REACHED:
        reason = Reason.CREDIT_LIMIT_REACHED
    return Entitlement(
        allowed=reason is _WITHIN_LIMIT,
        reason=reason,
        used=used,
        limit=limit,
        remaining=max(ZERO, limit - used - held),
        position=account.position,
        price_version=version,
        simulation=simulation,
        held=held,
        credit=credit,
    )


def revoked(answer: Entitlement, denial: Denial) -> Entitlement:
    """Return the answer for a subscription that runs and gives no access (CONTRACTS C1)."""
    return msgspec.structs.replace(answer, allowed=False, reason=_REVOKED[denial])


def _credit(draft: Draft, servers: list[Server], now: int) -> CreditState | None:
    if not servers:
        return None
    left = [spendable(draft, server, now) for server in servers]
    hard = any(server.pool.model.hard_limit for server in servers)
    return CreditState(
        pool=servers[0].pool,
        available=left[0],
        pools=len(servers),
        depleted=hard and all(each is not None and each <= ZERO for each in left),
    )


def with_cover(answer: Entitlement, cover: Cover | None) -> Entitlement:
    """Return the answer once it is known who would pay for what is asked: an event then finds the same."""
    if cover is None:
        return answer
    refused = cover.short or cover.unsure
    if refused and (answer.allowed or answer.reason is Reason.WOULD_EXCEED_LIMIT):
        return without_credits(answer, cover)
    if answer.reason is Reason.CREDIT_LIMIT_REACHED and not refused:  # it costs nothing, or comes to nothing
        exceeds = answer.simulation is not None and answer.simulation.would_exceed_limit
        reason = Reason.WOULD_EXCEED_LIMIT if exceeds else granted_reason(answer)
        return msgspec.structs.replace(answer, allowed=not exceeds, reason=reason, cover=cover)
    return msgspec.structs.replace(answer, cover=cover)


def granted_reason(answer: Entitlement) -> Reason:
    """Return the reason for a yes, given how things stand after what was granted."""
    return _INCLUDED if answer.limit is None else _WITHIN_LIMIT


def without_credits(answer: Entitlement, cover: Cover) -> Entitlement:
    """Return the answer for usage that a hard pool should pay for and cannot."""
    reason = Reason.INSUFFICIENT_CREDITS if cover.short else Reason.CREDITS_UNPRICED
    if answer.reason is Reason.CREDIT_LIMIT_REACHED:
        reason = answer.reason
    return msgspec.structs.replace(answer, allowed=False, reason=reason, cover=cover)


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


def admits(feature: PricedFeature, counter: Counter, units: Decimal, held: Decimal = ZERO) -> bool:
    """Whether `units` more fit under the feature's limit beside those held: the test of `consume` (P4)."""
    return feature.limit is None or counter.used + held + units <= feature.limit


def capped(feature: PricedFeature, counter: Counter) -> bool:
    """Whether the limit was already reached, so that an event is kept but not counted (CONTRACTS 1.4)."""
    return feature.limit is not None and counter.used >= feature.limit


__all__ = [
    "ADVICE",
    "DESCRIPTIONS",
    "CreditState",
    "Entitlement",
    "Reason",
    "Simulation",
    "admits",
    "capped",
    "decide",
    "decide_granted",
    "granted_reason",
    "revoked",
    "with_cover",
    "without_credits",
]
