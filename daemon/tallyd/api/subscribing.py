"""Putting a customer on a plan, over HTTP and the socket alike (CONTRACTS 1.3, 1.8)."""

import re
from datetime import date
from typing import Any, Final

import msgspec

from tallyd.actors.messages import Subscribe, SubscribeTerms
from tallyd.api import entitling
from tallyd.api.billing_views import invoice_view, subscription_view
from tallyd.api.whatif import no_plan
from tallyd.api.wire import Decoder
from tallyd.core import Core
from tallyd.engine.catalog import GRACE_DAYS_MAX, METADATA_BYTES_MAX, TRIAL_DAYS_MAX
from tallyd.engine.events import occurred_at
from tallyd.engine.rating import PricedPlan
from tallyd.model.customer import CustomerRef
from tallyd.model.moments import occurrence_problem
from tallyd.model.periods import midnight, zone_problem
from tallyd.model.problems import invalid


class SubscribeInput(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Body of POST /subscriptions. `planId` takes a plan's key as well; `startsAt` may lie in the past.

    A `startsAt` that is a bare date means its 00:00 in `timeZone`, else the customer's, else the account's.
    """

    customer_reference_id: str
    plan_id: str | None = None
    plan_key: str | None = None
    starts_at: str | None = None
    billing_anchor_day: int | None = None
    grace_period: int | None = None
    trial_days: int | None = None
    time_zone: str | None = None
    payment_method_id: str | None = None
    metadata: dict[str, Any] = {}


class _Profile(msgspec.Struct, frozen=True, rename="camel"):
    """What of a customer's profile matters here."""

    time_zone: str | None = None


_decode = Decoder(SubscribeInput)
_decode_profile = msgspec.json.Decoder(_Profile).decode
_DAYS = range(1, 32)
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


async def subscribe(core: Core, body: bytes | msgspec.Raw) -> dict[str, Any]:
    """Put a customer on the newest version of a plan; return `{subscription, invoice, metadata}`.

    Without `startsAt` it starts at 00:00 today, where the subscriber is, so that today's usage counts.

    Raises:
        ProblemError: unknown plan, bad time or day, or the customer is on the plan already.
    """
    request: SubscribeInput = _decode(body)
    ref = entitling.by_reference(request.customer_reference_id)
    field, key = ("planKey", request.plan_key) if request.plan_id is None else ("planId", request.plan_id)
    if key is None:
        raise invalid("planKey", "is required, or planId")
    return await put_on(core, ref, find_plan(core, key, field), request)


def find_plan(core: Core, key: str, field: str) -> PricedPlan:
    """Return the newest version of a plan that may be subscribed to.

    Raises:
        ProblemError: there is none, or it is not ACTIVE (CONTRACTS D3).
    """
    found = core.catalogue.versions.find(key)
    if found is None:
        raise no_plan(field, key, _open_plans(core))
    if found.plan.status != "ACTIVE":
        raise invalid(field, f"{key!r} is {found.plan.status}; only an ACTIVE plan can be subscribed to")
    return core.catalogue.plans[key, found.version]


def _open_plans(core: Core) -> list[str]:
    return [each.key for each in core.catalogue.versions.listed() if each.plan.status == "ACTIVE"]


async def put_on(core: Core, ref: CustomerRef, plan: PricedPlan, request: SubscribeInput) -> dict[str, Any]:
    """Put a customer on a plan as asked; return `{subscription, invoice, metadata}`.

    Raises:
        ProblemError: a bad field, or the customer is on the plan already.
    """
    now = core.clock.of(ref.customer_id())
    if request.billing_anchor_day is not None and request.billing_anchor_day not in _DAYS:
        raise invalid("billingAnchorDay", "must be 1 to 31")
    zone = request.time_zone or await _zone_of(core, ref) or core.config.account.timezone
    problem = zone_problem(zone)
    if problem:
        raise invalid("timeZone", problem)
    starts_at = None if request.starts_at is None else _start(request.starts_at, now, zone)
    _check_days("gracePeriod", request.grace_period, GRACE_DAYS_MAX)
    _check_days("trialDays", request.trial_days, TRIAL_DAYS_MAX)
    metadata = msgspec.json.encode(request.metadata, order="deterministic")
    if len(metadata) > METADATA_BYTES_MAX:
        raise invalid("metadata", f"must have at most {METADATA_BYTES_MAX} bytes, as JSON")
    message = Subscribe(
        SubscribeTerms(
            plan=plan,
            starts_at=starts_at,
            anchor_day=request.billing_anchor_day,
            zone=zone,
            grace_days=request.grace_period,
            trial_days=request.trial_days,
            metadata=metadata.decode(),
        )
    )
    await core.intake.ask(ref, message)
    made = message.subscription
    assert made is not None, "a subscription was made"
    account = await core.directory.account(ref)
    view: dict[str, Any] = {"subscription": subscription_view(account, made, now), "metadata": request.metadata}
    if message.invoices:
        view["invoice"] = invoice_view(message.invoices[-1], made.id, items=True)
    return view


def _start(text: str, now: int, zone: str) -> int:
    """Read `startsAt`; a bare date is its 00:00 where the subscriber is."""
    if _DATE.fullmatch(text) is None:
        return occurred_at(text, now, "startsAt")
    try:
        moment = midnight(date.fromisoformat(text), zone)
    except (ValueError, OverflowError):
        raise invalid("startsAt", "must be a date that exists, such as 2026-11-21") from None
    problem = occurrence_problem(moment, now)
    if problem:
        raise invalid("startsAt", problem)
    return moment


async def _zone_of(core: Core, ref: CustomerRef) -> str | None:
    """Return the time zone that a customer was made known with, if it was."""
    account = await core.directory.account(ref)
    return None if account.customer.profile is None else _decode_profile(account.customer.profile).time_zone


def _check_days(field: str, days: int | None, most: int) -> None:
    if days is not None and not 0 <= days <= most:
        raise invalid(field, f"must be 0 to {most}")
