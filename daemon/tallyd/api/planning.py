"""Plans made over the native API: what may be sent, and what their lives are like (CONTRACTS 1.8).

DRAFT when made, then ACTIVE, ARCHIVED and ACTIVE again. Every change writes a new version; subscribers stay on
theirs. What an ACTIVE plan costs, how often and when is not changed any more: make another plan.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from tallyd.api.plan_views import UNSET as LACKING
from tallyd.api.wire import Decoder
from tallyd.core import Core
from tallyd.engine.catalog import CatalogError
from tallyd.engine.events import check_identifier
from tallyd.model.catalog import BillingTiming, Plan, PlanCredits, PlanStatus
from tallyd.model.problems import invalid, not_found
from tallyd.store.catalog_rows import StoredFeature, StoredPlan

TANSO: Final = "tanso"
TEXT_CHARACTERS_MAX: Final = 1_000
_NEXT: Final = {"DRAFT": "ACTIVE", "ACTIVE": "ARCHIVED", "ARCHIVED": "ACTIVE"}
_FIELDS: Final = {
    "name": "name",
    "description": "description",
    "price_amount": "priceAmount",
    "currency": "currency",
    "interval_months": "intervalMonths",
    "interval_days": "intervalDays",
    "billing_timing": "billingTiming",
    "trial_days": "trialDays",
    "grace_days": "gracePeriodDays",
    "status": "status",
    "metadata": "metadata",
}
"""Fields of a plan, as they are sent."""
_LINKED: Final = {
    "feature": "featureId",
    "credit_model": "creditModelId",
    "units_per_credit": "unitsPerCredit",
    "late_events": "lateEvents",
}
_INCLUDED: Final = {"amount": "creditAmount", "expires_after_months": "grantExpiresMonths"}
_FROZEN: Final = ("price_amount", "currency", "interval_months", "interval_days", "billing_timing")
_PRICE: Final = "priceAmount"


class PlanInput(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Body of POST and PATCH /plans; of a PATCH what is not sent stays, and null takes a field back."""

    key: str | UnsetType = UNSET
    name: str | UnsetType | None = UNSET
    description: str | UnsetType | None = UNSET
    price_amount: Decimal | UnsetType | None = UNSET
    currency: str | UnsetType | None = UNSET
    interval_months: int | UnsetType | None = UNSET
    interval_days: int | UnsetType | None = UNSET
    billing_timing: BillingTiming | UnsetType | None = UNSET
    trial_days: int | UnsetType | None = UNSET
    grace_period_days: int | UnsetType | None = UNSET
    status: PlanStatus | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType | None = UNSET


_decode: Final = Decoder(PlanInput)

Written = tuple[Plan, Mapping[str, Any]]
"""A plan, and what of it the rules do not know."""


async def make(core: Core, body: bytes) -> StoredPlan:
    """Make a plan: a DRAFT.

    Raises:
        ProblemError: a bad field, or a key that is taken.
    """
    sent: PlanInput = _decode(body)
    if sent.key is UNSET:
        raise invalid("key", "is required")
    if sent.status not in (UNSET, "DRAFT"):
        raise invalid("status", "must be DRAFT, or left out: a plan is made ACTIVE by a PATCH")
    blank = Plan(key=check_identifier("key", sent.key), name="", interval_months=0, status="DRAFT")
    plan, extra = _with(blank, {LACKING: [_PRICE]}, sent)
    with named_as_sent():
        return await core.catalogue.versions.make(plan, core.writer, source=TANSO, extra=extra)


async def change(core: Core, key: str, body: bytes) -> StoredPlan:
    """Change a plan that was made over the API, or where it stands.

    Raises:
        ProblemError: there is none, it is the catalog file's, or the change is refused.
    """
    sent: PlanInput = _decode(body)

    def edit(held: StoredPlan) -> Written:
        if sent.key is not UNSET and sent.key != held.key:
            raise invalid("key", "cannot be changed: plans are known by it; make another plan")
        plan, extra = _with(held.plan, held.extra, sent)
        _check_life(held, plan, extra)
        return plan, extra

    with named_as_sent():
        return await core.catalogue.versions.change(key, edit, core.writer)


def find(core: Core, key: str) -> StoredPlan:
    """Return a plan as it is now.

    Raises:
        ProblemError: there is none.
    """
    found = core.catalogue.versions.find(key)
    if found is None:
        raise not_found(f"there is no plan {key!r}")
    return found


def find_feature(core: Core, name: str) -> StoredFeature:
    """Return a feature by its id or key.

    Raises:
        ProblemError: there is none.
    """
    features = core.catalogue
    found = features.features.get(name) or features.features_by_id.get(name.lower())
    if found is None:
        raise not_found(f"there is no feature {name!r}")
    return found


# A plan as it would be


def _with(plan: Plan, extra: Mapping[str, Any], sent: PlanInput) -> Written:
    """Return a plan with the fields that were sent; null takes a field back to what a draft begins with."""
    blank: dict[str, Any] = {
        **{field.name: field.default for field in msgspec.structs.fields(Plan) if field.name in _FIELDS},
        "name": "",
        "interval_months": 0,
        "metadata": {},
    }
    changed: dict[str, Any] = {}
    for name, wire in _FIELDS.items():
        value = getattr(sent, "grace_period_days" if name == "grace_days" else name)
        if value is not UNSET:
            changed[name] = blank[name] if value is None else value
            _check_text(wire, value)
    if changed.get("interval_days") and not changed.get("interval_months"):
        changed["interval_months"] = 1  # means nothing where days are counted
    elif changed.get("interval_months") and plan.interval_days:
        changed.setdefault("interval_days", 0)
    elif "interval_days" in changed and plan.interval_days:
        changed.setdefault("interval_months", 0)
    lacking = set(extra.get(LACKING, ()))
    if sent.price_amount is None:
        lacking.add(_PRICE)
    elif sent.price_amount is not UNSET:
        lacking.discard(_PRICE)
    rest = {name: value for name, value in extra.items() if name != LACKING}
    return msgspec.structs.replace(plan, **changed), {**rest, **({LACKING: sorted(lacking)} if lacking else {})}


def _check_text(field: str, value: object) -> None:
    if isinstance(value, str) and field in ("name", "description"):
        check_identifier(field, value, TEXT_CHARACTERS_MAX)


def _check_life(held: StoredPlan, plan: Plan, extra: Mapping[str, Any]) -> None:
    before, after = held.plan.status, plan.status
    if after != before and after != _NEXT[before]:
        raise invalid("status", f"a {before} plan can only become {_NEXT[before]}")
    if before == "ACTIVE":
        for name in _FROZEN:
            if getattr(plan, name) != getattr(held.plan, name):
                raise invalid(_FIELDS[name], "is fixed while the plan is ACTIVE; make another plan")
    if after == "ACTIVE":
        for field, lack in _lacks(plan, extra):
            raise invalid(field, f"is needed to make the plan ACTIVE: {lack}")


def _lacks(plan: Plan, extra: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what a plan must have before anybody subscribes to it (CONTRACTS D3)."""
    if not plan.name:
        yield "name", "what people call it"
    if not plan.description:
        yield "description", "what people get"
    if not plan.interval_days and plan.interval_months < 1:
        yield "intervalMonths", "1 or more, or intervalDays"
    if _PRICE in extra.get(LACKING, ()):
        yield _PRICE, "0 for a free plan"
    if not plan.features:
        yield "features", "at least one; link it with POST /rules/plan-features"


@contextmanager
def named_as_sent(*, listed: bool = False) -> Iterator[None]:
    """Turn what the catalog finds wrong with a plan into a problem that names the field as it was sent.

    `listed` says whether features were sent as a list, so that their place in it counts.
    """
    try:
        yield
    except CatalogError as error:
        place, message = error.issues[0].where, error.issues[0].message
        raise invalid(_wire_name(place, listed=listed), message) from None


def _wire_name(place: str, *, listed: bool) -> str:
    head, _, rest = place.partition(".")
    if head.startswith("credits["):
        return _INCLUDED.get(rest, rest)
    if not head.startswith("features["):
        return _FIELDS.get(head, head)
    name = f"value.{rest}" if rest.startswith(("pricing", "cost")) else _LINKED.get(rest, rest)
    return f"{head}.{name}" if listed else name


# Credits that a plan includes


async def include(core: Core, key: str, included: PlanCredits) -> StoredPlan:
    """Have a plan include credits of a model; so many instead, if it does already."""

    def edit(held: StoredPlan) -> Written:
        others = [each for each in held.plan.credits if each.credit_model != included.credit_model]
        return msgspec.structs.replace(held.plan, credits=[*others, included]), held.extra

    with named_as_sent():
        return await core.catalogue.versions.change(key, edit, core.writer)


async def exclude(core: Core, key: str, credit_model: str) -> StoredPlan:
    """Have a plan include no credits of a model.

    Raises:
        ProblemError: it includes none.
    """

    def edit(held: StoredPlan) -> Written:
        others = [each for each in held.plan.credits if each.credit_model != credit_model]
        if len(others) == len(held.plan.credits):
            raise not_found(f"plan {key!r} includes no credits of {credit_model!r}")
        return msgspec.structs.replace(held.plan, credits=others), held.extra

    with named_as_sent():
        return await core.catalogue.versions.change(key, edit, core.writer)
