"""What a product says, read into a plan, and what of it tallyd does not have (CONTRACTS 2.4)."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, Literal

import msgspec

from tallyd.api.http.dodo_credits import find_any, find_live
from tallyd.api.http.dodo_prices import (
    METERS_MAX,
    MeterPrice,
    OneTimePrice,
    Price,
    RecurringPrice,
    UsagePrice,
    as_sent,
    check_meter_price,
    check_price,
    fixed_amount,
    metered_feature,
    rhythm_of,
)
from tallyd.api.http.dodo_subscription_inputs import refuse_what_is_not_here
from tallyd.core import Core
from tallyd.engine.events import check_identifier, check_number
from tallyd.model.catalog import Plan, PlanCredits, PlanFeature, PlanStatus
from tallyd.model.money import floor_to
from tallyd.model.problems import ProblemError, invalid

NAME_CHARACTERS_MAX: Final = 100
DESCRIPTION_CHARACTERS_MAX: Final = 1_000
CREDITS_MAX: Final = 5


class CreditInput(msgspec.Struct, frozen=True, kw_only=True):
    """Credits included with a product, each period."""

    credit_entitlement_id: str
    credits_amount: Decimal
    expires_after_days: int | None = None
    overage_enabled: bool | None = None
    overage_behavior: str | None = None
    overage_limit: str | None = None
    price_per_unit: str | None = None
    rollover_enabled: bool | None = None
    rollover_percentage: int | None = None
    rollover_timeframe_count: int | None = None
    max_rollover_count: int | None = None
    trial_credits: Decimal | None = None


class ProductInput(msgspec.Struct, frozen=True, kw_only=True):
    """Body of POST /products; that of PATCH has some of the fields. There is one brand, so none is asked for."""

    name: str
    price: Price
    tax_category: Literal["digital_products", "saas", "e_book", "edtech", "live_tutoring"]
    description: str | None = None
    metadata: dict[str, Any] | None = None
    credit_entitlements: list[CreditInput] | None = None
    entitlements: list[Any] | None = None
    addons: list[Any] | None = None
    digital_product_delivery: dict[str, Any] | None = None
    license_key_enabled: bool | None = None
    pricing_mode: Any = None


FIELDS: Final = ProductInput.__struct_fields__
_NOT_HERE: Final[Mapping[str, str]] = {
    "entitlements": "nothing is delivered here; a plan's features are what its meters count",
    "addons": "there are no add-ons here; make a product that has all of it",
    "digital_product_delivery": "nothing is delivered here; leave it out",
    "license_key_enabled": "there are no licence keys here; leave it out",
    "pricing_mode": "there are no localized prices here; make a product for each currency",
}
_OF_THE_ENTITLEMENT: Final = tuple(CreditInput.__struct_fields__[2:-1])


def read_product(core: Core, key: str, sent: ProductInput, held: Plan | None = None) -> Plan:
    """Return the plan of a product as sent.

    The fixed price is charged when a period begins, its usage when it ends. What is paid once cannot be subscribed
    to, so it stays a draft.

    Args:
        core: the daemon.
        key: the product's id.
        sent: the product, its metadata checked.
        held: what it was so far: archived stays archived, and what it has may be archived or deleted by now.

    Raises:
        ProblemError: names the field.
    """
    check_identifier("name", sent.name, NAME_CHARACTERS_MAX)
    if sent.description is not None and len(sent.description) > DESCRIPTION_CHARACTERS_MAX:
        raise invalid("description", f"must have at most {DESCRIPTION_CHARACTERS_MAX} characters")
    refuse_what_is_not_here(sent, _NOT_HERE)
    price = sent.price
    check_price(price)
    once = isinstance(price, OneTimePrice)
    archived = held is not None and held.status == "ARCHIVED"
    status: PlanStatus = "ARCHIVED" if archived else "DRAFT" if once else "ACTIVE"
    months, days = (1, 0) if isinstance(price, OneTimePrice) else rhythm_of(price)
    return Plan(
        key=key,
        name=sent.name,
        description=sent.description,
        currency=price.currency,
        price_amount=fixed_amount(price),
        interval_months=months or 1,
        interval_days=days,
        trial_days=(price.trial_period_days or 0) if isinstance(price, RecurringPrice) else 0,
        status=status,
        features=_metered(core, price, held) if isinstance(price, UsagePrice) else [],
        credits=_credits(core, sent.credit_entitlements or [], held),
        metadata=sent.metadata or {},
    )


def sent_fields(sent: ProductInput) -> dict[str, Any]:
    """Return what of a product is kept as it was sent."""
    fields = {"price": as_sent(sent.price), "tax_category": sent.tax_category}
    return {**fields, "metadata": sent.metadata or {}}


def _metered(core: Core, price: UsagePrice, held: Plan | None) -> list[PlanFeature]:
    sent = price.meters or []
    if len(sent) > METERS_MAX:
        raise invalid("price.meters", f"must be at most {METERS_MAX} meters")
    had = {each.feature for each in held.features} if held else set()
    seen: set[str] = set()
    found = []
    for index, each in enumerate(sent):
        field = f"price.meters[{index}]"
        meter = core.catalogue.meters.get(each.meter_id)
        if meter is None or (meter.archived_at is not None and meter.id not in had):
            raise invalid(f"{field}.meter_id", f"there is no meter {each.meter_id!r}, or it is archived")
        if each.meter_id in seen:
            raise invalid(f"{field}.meter_id", "stands in the product twice")
        seen.add(each.meter_id)
        check_meter_price(field, each)
        found.append(metered_feature(_with_model(core, field, each, held), meter, price.currency))
    return found


def _with_model(core: Core, field: str, sent: MeterPrice, held: Plan | None) -> MeterPrice:
    """Return a meter's price that names its credit entitlement by key."""
    name = sent.credit_entitlement_id
    if name is None:
        return sent
    key = _model_key(core, f"{field}.credit_entitlement_id", name, held)
    return msgspec.structs.replace(sent, credit_entitlement_id=key)


def _model_key(core: Core, field: str, name: str, held: Plan | None) -> str:
    try:
        found = find_any(core, name)
        if held is None or not _has_credits(held, found.key):
            found = find_live(core, name)
    except ProblemError as error:
        raise invalid(field, error.problem.message) from None
    return found.key


def _has_credits(plan: Plan, model: str) -> bool:
    paying = (each.credit_model for each in plan.features)
    return model in {*paying, *(each.credit_model for each in plan.credits)}


def _credits(core: Core, sent: list[CreditInput], held: Plan | None) -> list[PlanCredits]:
    if len(sent) > CREDITS_MAX:
        raise invalid("credit_entitlements", f"must be at most {CREDITS_MAX}")
    seen: set[str] = set()
    found = []
    for index, each in enumerate(sent):
        field = f"credit_entitlements[{index}]"
        key = _model_key(core, f"{field}.credit_entitlement_id", each.credit_entitlement_id, held)
        if key in seen:
            raise invalid(f"{field}.credit_entitlement_id", "stands in the product twice")
        seen.add(key)
        for name in _OF_THE_ENTITLEMENT:
            if getattr(each, name) is not None:
                raise invalid(f"{field}.{name}", f"is the credit entitlement's: PATCH /credit-entitlements/{key}")
        if each.trial_credits is not None:
            raise invalid(f"{field}.trial_credits", "a trial has the credits of any period; leave it out")
        check_number(f"{field}.credits_amount", each.credits_amount)
        precision = core.catalogue.credits.stored[key].definition.precision
        exact = precision is None or each.credits_amount == floor_to(each.credits_amount, precision)
        if not each.credits_amount or not exact:
            raise invalid(f"{field}.credits_amount", "must be more than 0, and as precise as the credits are")
        found.append(PlanCredits(credit_model=key, amount=each.credits_amount))
    return found
