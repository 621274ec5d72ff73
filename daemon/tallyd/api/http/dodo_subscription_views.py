"""Subscriptions in Dodo's shapes (CONTRACTS 2.5).

A plan is a product. Its quantity is always 1, and nothing is known of cards: payment is collected elsewhere.
"""

from collections.abc import Callable, Iterable
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

import msgspec

from tallyd.api.http.dodo_credits import DODO, entitlement_fields
from tallyd.api.http.dodo_customers import customer_view
from tallyd.api.http.dodo_ledger import shown
from tallyd.api.http.dodo_prices import (
    digits,
    frequency_fields,
    meter_words,
    minor_units,
    unit_price,
)
from tallyd.core import Core
from tallyd.engine.account import Account, Denial, denial
from tallyd.engine.passing import as_of
from tallyd.model.catalog import Plan
from tallyd.model.customer import Customer
from tallyd.model.invoice import Invoice
from tallyd.model.moments import DAY_US, iso
from tallyd.model.money import ONE
from tallyd.model.subscription import Subscription
from tallyd.store.catalog_rows import StoredMeter, StoredPlan

_decode_object: Final = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal).decode
_LIMITED: Final = ("customer_id", "name", "email", "phone_number", "metadata")


class Status(StrEnum):
    """Where a subscription stands. `failed` is Dodo's and never comes: an unpaid one stays pending."""

    PENDING = "pending"  # the first invoice is to be paid, or it begins later
    ACTIVE = "active"
    ON_HOLD = "on_hold"  # an invoice is past due
    PAUSED = "paused"
    CANCELLED = "cancelled"
    FAILED = "failed"
    EXPIRED = "expired"  # it has ended as it was to end from the beginning


_DENIED: Final = {
    Denial.UNPAID: Status.PENDING,
    Denial.PAST_DUE: Status.ON_HOLD,
    Denial.PAUSED: Status.PAUSED,
}


def status_of(subscription: Subscription, open_invoices: Callable[[], Iterable[Invoice]], now: int) -> Status:
    """Return where a subscription stands at an instant.

    Args:
        subscription: as it is then.
        open_invoices: returns the customer's invoices that may still change; asked only where it matters.
        now: the instant, microseconds UTC.
    """
    if subscription.ends_at is not None and subscription.ends_at <= now:
        return Status.EXPIRED if subscription.cancellation is None else Status.CANCELLED
    if now < subscription.starts_at:
        return Status.PENDING
    denied = denial(open_invoices(), subscription, now)
    return Status.ACTIVE if denied is None else _DENIED[denied]


def ends_with_period(subscription: Subscription, now: int) -> bool:
    """Whether a cancellation waits for the end of the period."""
    return subscription.cancellation is not None and (subscription.ends_at or 0) > now


def sent_price(stored: StoredPlan) -> dict[str, Any]:
    """Return the price of a product as it was sent; empty for a plan made otherwise."""
    price: dict[str, Any] = stored.extra["price"] if stored.source == DODO else {}
    return price


def meters_by_key(core: Core) -> dict[str, StoredMeter]:
    """Return the meters by the key of their definition, which is what plans name."""
    return {meter.definition.key: meter for meter in core.catalogue.meters.values()}


def meter_of(core: Core, plan: Plan, feature: str) -> StoredMeter | None:
    """Return the meter that counts a feature of a plan, if one does."""
    key = next((each.meter for each in plan.features if each.feature == feature), None)
    return None if key is None else meters_by_key(core).get(key)


def plan_at(core: Core, subscription: Subscription, moment: int) -> StoredPlan:
    """Return the version of the plan that a subscription is on at an instant."""
    phase = subscription.phase_at(moment)
    stored = core.catalogue.versions.version(phase.plan_key, phase.plan_version)
    assert stored is not None, "a plan with subscribers is not removed"
    return stored


def shown_moment(subscription: Subscription, now: int) -> int:
    """Return the instant whose period and plan a subscription shows: now, or the first or the last it has."""
    moment = now if subscription.ends_at is None else min(now, subscription.ends_at - 1)
    return max(moment, subscription.starts_at)


def listed_view(core: Core, account: Account, subscription: Subscription, now: int) -> dict[str, Any]:
    """Return a subscription as lists show it.

    Args:
        core: the daemon.
        account: the customer's books as they are at `now`.
        subscription: one of its subscriptions.
        now: microseconds UTC.
    """
    moment = shown_moment(subscription, now)
    stored, period = plan_at(core, subscription, moment), subscription.period_at(moment)
    plan, price = stored.plan, sent_price(stored)
    trial = (subscription.trial_ends_at or subscription.starts_at) - subscription.starts_at
    next_date = period.end if subscription.ends_at is None else min(period.end, subscription.ends_at)
    cancelled = subscription.cancellation
    view: dict[str, Any] = {
        "subscription_id": subscription.id,
        "status": status_of(subscription, account.invoices.values, now),
        "customer": limited_customer(account.customer),
        "product_id": plan.key,
        "product_name": plan.name,
        "quantity": 1,
        "currency": plan.currency,
        "recurring_pre_tax_amount": minor_units(plan.price_amount, plan.currency),
        "tax_inclusive": bool(price.get("tax_inclusive")),
        **frequency_fields(plan, price),
        "trial_period_days": trial // DAY_US,
        "previous_billing_date": iso(period.start),
        "next_billing_date": iso(next_date),
        "cancel_at_next_billing_date": ends_with_period(subscription, now),
        "cancelled_at": None if cancelled is None else iso(cancelled.requested_at),
        "paused_at": iso(subscription.pauses[-1][0]) if subscription.paused_at(now) else None,
        "scheduled_change": _scheduled(core, subscription, now),
        "billing": _billing(account.customer),
        "discounts": [],
        "on_demand": False,
        "has_payment_method": False,
        "brand_id": core.config.account.business_id,
        "metadata": _decode_object(subscription.metadata),
        "created_at": iso(subscription.created_at),
    }
    return {name: value for name, value in view.items() if value is not None}


def subscription_view(core: Core, account: Account, subscription: Subscription, now: int) -> dict[str, Any]:
    """Return a subscription with its meters and credits; arguments as for `listed_view`."""
    plan = plan_at(core, subscription, shown_moment(subscription, now)).plan
    view = listed_view(core, account, subscription, now)
    del view["product_name"]
    view["addons"] = []
    if subscription.ends_at is not None and subscription.cancellation is None:
        view["expires_at"] = iso(subscription.ends_at)
    meters = meters_by_key(core)
    view["meters"] = _meters(plan, meters)
    view["meter_credit_entitlement_cart"] = _meter_credits(core, plan, meters)
    view["credit_entitlement_cart"] = _credits(core, account, plan, now)
    return view


def limited_customer(customer: Customer) -> dict[str, Any]:
    """Return what a subscription says of its customer."""
    view = customer_view(customer, "")
    return {name: view[name] for name in _LIMITED if name in view}


def address_of(profile: str | None) -> dict[str, Any]:
    """Return the address in a customer's profile."""
    held: dict[str, Any] = _decode_object(profile) if profile else {}
    address = held.get("address")
    return address if isinstance(address, dict) else {}


def _billing(customer: Customer) -> dict[str, Any]:
    return {"country": "", **address_of(customer.profile)}


def _scheduled(core: Core, subscription: Subscription, now: int) -> dict[str, Any] | None:
    change = subscription.change
    if change is None or change.cancelled or change.effective_at <= now:
        return None
    plan = plan_at(core, subscription, change.effective_at).plan
    view: dict[str, Any] = {
        "id": change.id,
        "product_id": change.to_plan,
        "product_name": plan.name,
        "product_description": plan.description,
        "quantity": 1,
        "addons": [],
        "effective_at": iso(change.effective_at),
        "created_at": iso(change.created_at),
    }
    return {name: value for name, value in view.items() if value is not None}


def _meters(plan: Plan, meters: dict[str, StoredMeter]) -> list[dict[str, Any]]:
    views = []
    for each in plan.features:
        meter = meters.get(each.meter or "")
        if meter is None:
            continue
        found = unit_price(each.pricing, plan.currency)
        view: dict[str, Any] = {"meter_id": meter.id, "currency": plan.currency, "free_threshold": 0}
        if found is not None:
            view |= {"free_threshold": found.free, "price_per_unit": digits(found.price)}
        views.append({**view, **meter_words(meter.definition)})
    return views


def _meter_credits(core: Core, plan: Plan, meters: dict[str, StoredMeter]) -> list[dict[str, Any]]:
    views = []
    for each in plan.features:
        meter = meters.get(each.meter or "")
        model = core.catalogue.credits.find(each.credit_model or "")
        if meter is not None and model is not None:
            views.append(
                {
                    "credit_entitlement_id": model.id,
                    "meter_id": meter.id,
                    "meter_name": meter_words(meter.definition)["name"],
                    "meter_units_per_credit": digits(each.units_per_credit or ONE),
                    "product_id": plan.key,
                }
            )
    return views


def _credits(core: Core, account: Account, plan: Plan, now: int) -> list[dict[str, Any]]:
    views: list[dict[str, Any]] = []
    pools = [pool for pool in as_of(account, now).all_pools() if not pool.archived]
    for each in plan.credits:
        model = core.catalogue.credits.find(each.credit_model)
        if model is None:
            continue
        pool = next((pool for pool in pools if pool.model.key == model.key), None)
        fields = entitlement_fields(model)
        view = {name: fields[name] for name in _CART if name in fields}
        if "overage_limit" in view:
            view["overage_limit"] = shown(view["overage_limit"])
        views.append(
            {
                "credit_entitlement_id": model.id,
                "credit_entitlement_name": fields["name"],
                "credits_amount": digits(each.amount),
                "remaining_balance": shown(pool.balance if pool else None),
                "overage_balance": shown(pool.overage if pool else None),
                "product_id": plan.key,
                "overage_behavior": "forgive_at_reset",
                **view,
            }
        )
    return views


_CART: Final[tuple[str, ...]] = (
    "unit",
    "overage_enabled",
    "overage_behavior",
    "overage_limit",
    "rollover_enabled",
    "rollover_percentage",
    "rollover_timeframe_count",
    "rollover_timeframe_interval",
    "max_rollover_count",
    "expires_after_days",
)
"""Fields of a credit entitlement that a subscription repeats."""
