"""Dodo's prices: what a plan costs, in minor units of its currency, read and shown (CONTRACTS 2.4).

A price is read into the terms of a plan, every digit kept: `price_per_unit` may be a fraction of a cent. What was
sent is kept beside the plan, so that a product shows what its maker wrote; the price of any other plan is shown as
near as Dodo's shapes come to it.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, Literal

import msgspec

from tallyd.engine.events import check_number
from tallyd.model.catalog import Meter, Plan, PlanFeature
from tallyd.model.money import ONE, ZERO, currency_exponent, currency_problem, plain, round_to_currency, tidy
from tallyd.model.problems import invalid
from tallyd.store.catalog_rows import StoredMeter

Interval = Literal["Day", "Week", "Month", "Year"]

ONE_TIME: Final = "one_time_price"
RECURRING: Final = "recurring_price"
USAGE_BASED: Final = "usage_based_price"
METERS_MAX: Final = 10
PRICE_INTEGER_DIGITS_MAX: Final = 5
PRICE_FRACTION_DIGITS_MAX: Final = 12
AMOUNT_MAX: Final = 10**12
FREE_MAX: Final = 10**15
DISCOUNT_MAX: Final = 100
BASIS_POINTS: Final = 10_000
TERM_YEARS_MAX: Final = 20
"""A subscription period of so many years means: until somebody cancels it."""
MONTHS_A_YEAR: Final = 12
DAYS_A_YEAR: Final = 365
DAYS_A_WEEK: Final = 7
FREQUENCY: Final = (
    "payment_frequency_count",
    "payment_frequency_interval",
    "subscription_period_count",
    "subscription_period_interval",
)
_MONTHS: Final = {"Month": 1, "Year": MONTHS_A_YEAR}
_DAYS: Final = {"Day": 1, "Week": DAYS_A_WEEK}


class MeterPrice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a meter's units cost; with a credit entitlement, how many of them a credit pays for."""

    meter_id: str
    price_per_unit: Decimal | None = None
    free_threshold: int | None = None
    credit_entitlement_id: str | None = None
    meter_units_per_credit: Decimal | None = None


class _Price(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """What all prices have. `discount_bps`, in hundredths of a percent, wins over `discount`, in percent."""

    currency: str
    discount: int | None = None
    discount_bps: int | None = None
    purchasing_power_parity: bool | None = None
    tax_inclusive: bool | None = None


class OneTimePrice(_Price, frozen=True, kw_only=True, omit_defaults=True, tag=ONE_TIME):
    """Paid once; nothing that can be subscribed to."""

    price: int
    pay_what_you_want: bool | None = None
    suggested_price: int | None = None


class _Repeated(_Price, frozen=True, kw_only=True, omit_defaults=True):
    """Paid again and again: how often, and for how long."""

    payment_frequency_count: int
    payment_frequency_interval: Interval
    subscription_period_count: int
    subscription_period_interval: Interval


class RecurringPrice(_Repeated, frozen=True, kw_only=True, omit_defaults=True, tag=RECURRING):
    """A fixed price a period."""

    price: int
    trial_period_days: int | None = None
    trial_amount: int | None = None


class UsagePrice(_Repeated, frozen=True, kw_only=True, omit_defaults=True, tag=USAGE_BASED):
    """A fixed price a period, and what meters count in it."""

    fixed_price: int
    meters: list[MeterPrice] | None = None


Price = OneTimePrice | RecurringPrice | UsagePrice


class UnitPrice(msgspec.Struct, frozen=True):
    """What each unit costs beyond those that are free, in minor units."""

    free: int
    price: Decimal


# Amounts


def minor_units(amount: Decimal, currency: str) -> int:
    """Return an amount in minor units: cents of USD, yen of JPY; rounded half up."""
    return int(round_to_currency(amount, currency).scaleb(currency_exponent(currency)))


def from_minor(amount: Decimal | int, currency: str) -> Decimal:
    """Return an exact amount of the currency for so many minor units, which may be a fraction of one."""
    return Decimal(amount).scaleb(-currency_exponent(currency))


def digits(amount: Decimal) -> str:
    """Return a quantity or a unit price as a decimal string, without zeros at its end."""
    return plain(tidy(amount))


def fixed_amount(price: Price) -> Decimal:
    """Return what a whole period costs before usage, the discount taken off, rounded half up to the currency."""
    sent = price.fixed_price if isinstance(price, UsagePrice) else price.price
    taken = price.discount_bps
    if taken is None:
        taken = (price.discount or 0) * (BASIS_POINTS // DISCOUNT_MAX)
    left = Decimal(BASIS_POINTS - taken).scaleb(-4)
    return round_to_currency(from_minor(sent, price.currency) * left, price.currency)


def as_sent(price: Price) -> dict[str, Any]:
    """Return a price as it was sent, its decimals as strings without an exponent."""
    fields: dict[str, Any] = msgspec.to_builtins(price, builtin_types=(Decimal,))
    for each in fields.get("meters") or []:
        each.update({name: plain(value) for name, value in each.items() if isinstance(value, Decimal)})
    return fields


# Reading


def check_price(price: Price) -> None:
    """Hold a price to its bounds.

    Raises:
        ProblemError: names the field.
    """
    problem = currency_problem(price.currency)
    if problem:
        raise invalid("price.currency", problem)
    name = "fixed_price" if isinstance(price, UsagePrice) else "price"
    _within(f"price.{name}", getattr(price, name), 0, AMOUNT_MAX)
    _within("price.discount", price.discount, 0, DISCOUNT_MAX)
    _within("price.discount_bps", price.discount_bps, 0, BASIS_POINTS)
    if not isinstance(price, OneTimePrice):
        _within("price.payment_frequency_count", price.payment_frequency_count, 1)
        _within("price.subscription_period_count", price.subscription_period_count, 1)
        term_of(price)
    if isinstance(price, RecurringPrice):
        _within("price.trial_period_days", price.trial_period_days, 0)
        if price.trial_amount:
            raise invalid("price.trial_amount", "a trial is free here; leave it out")


def _within(field: str, value: int | None, least: int, most: int | None = None) -> None:
    if value is None:
        return
    if value < least:
        raise invalid(field, f"must be {least} or more")
    if most is not None and value > most:
        raise invalid(field, f"must be {least} to {most}")


def rhythm_of(price: RecurringPrice | UsagePrice) -> tuple[int, int]:
    """Return the months and the days of a payment period, one of which is 0."""
    return _length(price.payment_frequency_count, price.payment_frequency_interval)


def _length(count: int, interval: Interval) -> tuple[int, int]:
    return count * _MONTHS.get(interval, 0), count * _DAYS.get(interval, 0)


def term_of(price: RecurringPrice | UsagePrice) -> int | None:
    """Return how many payment periods a subscription has; None: as many as it lives, until it is cancelled.

    Raises:
        ProblemError: the subscription period is no whole number of them.
    """
    count, interval = price.subscription_period_count, price.subscription_period_interval
    months, days = _length(count, interval)
    if months >= TERM_YEARS_MAX * MONTHS_A_YEAR or days >= TERM_YEARS_MAX * DAYS_A_YEAR:
        return None
    each_months, each_days = rhythm_of(price)
    whole, each = (months, each_months) if months else (days, each_days)
    if not each or whole % each:
        every = f"{price.payment_frequency_count} {price.payment_frequency_interval}"
        advice = f"{TERM_YEARS_MAX} Year for one that runs until it is cancelled"
        text = f"{count} {interval} is no whole number of payments, one every {every}; {advice}"
        raise invalid("price.subscription_period_count", text)
    return whole // each


def check_meter_price(field: str, sent: MeterPrice) -> None:
    """Hold what a meter's units cost to its bounds; `field` is where it stands in the request.

    Raises:
        ProblemError: names the field.
    """
    _within(f"{field}.free_threshold", sent.free_threshold, 0, FREE_MAX)
    by_credits, units = sent.credit_entitlement_id is not None, sent.meter_units_per_credit
    if by_credits is (units is None):
        raise invalid(f"{field}.meter_units_per_credit", "and credit_entitlement_id must be sent together")
    if units is not None and not check_number(f"{field}.meter_units_per_credit", units):
        raise invalid(f"{field}.meter_units_per_credit", "must be more than 0")
    if sent.price_per_unit is not None:
        _check_unit_price(f"{field}.price_per_unit", sent.price_per_unit)
    elif not by_credits:
        raise invalid(f"{field}.price_per_unit", "is required, or credit_entitlement_id")


def metered_feature(sent: MeterPrice, meter: StoredMeter, currency: str) -> PlanFeature:
    """Return the plan feature that charges a meter's units beyond the free ones; its key is the meter's id.

    Args:
        sent: the price, checked; its credit entitlement is named by key.
        meter: the meter it names.
        currency: of the price.
    """
    pricing: dict[str, Any] = {"model": "included"}
    if sent.price_per_unit is not None:
        price = plain(from_minor(sent.price_per_unit, currency))
        pricing = _pricing(price, sent.free_threshold or 0, meter.definition.measurement_unit)
    return PlanFeature(
        feature=meter.id,
        meter=meter.definition.key,
        pricing=pricing,
        credit_model=sent.credit_entitlement_id,
        units_per_credit=sent.meter_units_per_credit,
    )


def _check_unit_price(field: str, price: Decimal) -> None:
    check_number(field, price)
    exponent = price.as_tuple().exponent
    too_fine = isinstance(exponent, int) and -exponent > PRICE_FRACTION_DIGITS_MAX
    if not ZERO < price < ONE.scaleb(PRICE_INTEGER_DIGITS_MAX) or too_fine:
        whole, fraction = PRICE_INTEGER_DIGITS_MAX, PRICE_FRACTION_DIGITS_MAX
        text = f"must be more than 0, with at most {whole} digits before the decimal point and {fraction} after it"
        raise invalid(field, text)


def _pricing(price: str, free: int, unit: str) -> dict[str, Any]:
    """Return max(0, units - free) x price in the terms of the pricing models there are."""
    if not free:
        return {"model": "usage", "usage_unit_type": unit, "price_per_unit": price}
    tiers = [{"up_to": free, "price_per_unit": "0"}, {"up_to": "inf", "price_per_unit": price}]
    return {"model": "graduated", "usage_unit_type": unit, "tiers": tiers}


# Showing


def unit_price(pricing: Mapping[str, Any], currency: str) -> UnitPrice | None:
    """Return the one price that a plan feature's units have; None where it depends on how many there are."""
    model = pricing.get("model", "included")
    if model == "included":
        return UnitPrice(0, ZERO)
    if model == "usage":
        return UnitPrice(0, _in_minor(pricing["price_per_unit"], currency))
    return _beyond_free(pricing["tiers"], currency) if model == "graduated" else None


def _beyond_free(tiers: list[dict[str, Any]], currency: str) -> UnitPrice | None:
    """Return the price beyond a tier that is free, where there are no more steps than that."""
    *before, last = tiers
    if any(_number(tier.get("flat_fee", 0)) for tier in tiers):
        return None
    price = _in_minor(last["price_per_unit"], currency)
    if not before:
        return UnitPrice(0, price)
    first, *more = before
    free = _number(first["up_to"])
    if more or _number(first["price_per_unit"]) or free != free.to_integral_value():
        return None
    return UnitPrice(int(free), price)


def _number(value: Any) -> Decimal:
    return Decimal(str(value))


def _in_minor(value: Any, currency: str) -> Decimal:
    return _number(value).scaleb(currency_exponent(currency))


def frequency_of(plan: Plan) -> tuple[int, Interval]:
    """Return how often a plan is paid, in Dodo's largest interval that fits."""
    if plan.interval_days:
        weeks, days = divmod(plan.interval_days, DAYS_A_WEEK)
        return (plan.interval_days, "Day") if days else (weeks, "Week")
    years, months = divmod(plan.interval_months, MONTHS_A_YEAR)
    return (plan.interval_months, "Month") if months or not years else (years, "Year")


def frequency_fields(plan: Plan, sent: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return how often and for how long a plan is paid: as sent, else as the plan says, without an end."""
    if sent is not None and FREQUENCY[0] in sent:
        return {name: sent[name] for name in FREQUENCY}
    return dict(zip(FREQUENCY, (*frequency_of(plan), TERM_YEARS_MAX, "Year"), strict=True))


def derived_price(plan: Plan, meters: Mapping[str, StoredMeter]) -> dict[str, Any]:
    """Return the price of a plan that was not made as a product; `meters` are by key of their definition.

    A unit price that depends on how many units there are is left out.
    """
    metered = [each for each in plan.features if each.meter in meters]
    fixed = minor_units(plan.price_amount, plan.currency)
    price: dict[str, Any] = {"type": USAGE_BASED, "fixed_price": fixed}
    if not metered:
        price = {"type": RECURRING, "price": fixed, "trial_period_days": plan.trial_days}
    price |= {"currency": plan.currency, **frequency_fields(plan, None), **price_defaults()}
    if metered:
        price["meters"] = [_derived_meter(each, meters, plan.currency) for each in metered]
    return price


def price_defaults() -> dict[str, Any]:
    """Return what a price says where nothing was sent."""
    return {"discount": 0, "purchasing_power_parity": False, "tax_inclusive": False}


def _derived_meter(each: PlanFeature, meters: Mapping[str, StoredMeter], currency: str) -> dict[str, Any]:
    found = unit_price(each.pricing, currency)
    view: dict[str, Any] = {"meter_id": meters[each.meter or ""].id, "free_threshold": found.free if found else 0}
    if found is not None:
        view["price_per_unit"] = digits(found.price)
    if each.credit_model is not None:
        view["credit_entitlement_id"] = each.credit_model
    if each.units_per_credit is not None:
        view["meter_units_per_credit"] = digits(each.units_per_credit)
    return view


def with_meter_names(price: Mapping[str, Any], meters: Mapping[str, StoredMeter]) -> dict[str, Any]:
    """Return a price whose meters say what they are called and what they count; `meters` are by id."""
    if not price.get("meters"):
        return dict(price)
    named = []
    for each in price["meters"]:
        meter = meters.get(each["meter_id"])
        named.append({**each, **(meter_words(meter.definition) if meter else {})})
    return {**price, "meters": named}


def meter_words(meter: Meter) -> dict[str, Any]:
    """Return what a meter is called, for people."""
    words = {"name": meter.name or meter.key, "measurement_unit": meter.measurement_unit}
    return words if meter.description is None else {**words, "description": meter.description}
